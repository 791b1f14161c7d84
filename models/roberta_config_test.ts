/** RoBERTa's configurations: the released sizes, Hugging Face's keys, labels, and what is refused. */
import assert from "node:assert/strict";
import { readJson } from "../core/testing/golden.ts";
import { parseLlamaConfig } from "./llama_config.ts";
import {
  isRegression,
  isRobertaConfig,
  makeRobertaConfig,
  parseRobertaConfig,
  ROBERTA_NAMES,
  ROBERTA_PROJECTED,
  type RobertaConfig,
  robertaConfig,
  robertaConfigJson,
  type RobertaHead,
  robertaWeights,
  withLabels,
} from "./roberta_config.ts";
import { GOLDEN_ROBERTAS, readRoberta } from "./testing/roberta_goldens.ts";
import { parseVitConfig } from "./vit_config.ts";

function count(config: RobertaConfig, head: RobertaHead, only = /(?:)/): number {
  let total = 0;
  for (const [name, { shape }] of robertaWeights(config, head)) {
    if (only.test(name)) total += shape.reduce((product, extent) => product * extent, 1);
  }
  return total;
}

Deno.test("robertaConfig() has the parameter counts of the released models under each head", () => {
  assert.deepEqual([...ROBERTA_NAMES], ["roberta-2m", "roberta-base", "roberta-large"]);
  const counts = ["roberta-base", "roberta-large"].map((name) => {
    const config = robertaConfig(name);
    return [count(config, "classification"), count(config, "masked-lm")];
  });
  assert.deepEqual(counts, [[124_647_170, 124_697_433], [355_361_794, 355_412_057]]);
  const base = robertaConfig("roberta-base");
  assert.equal(count(base, "classification", ROBERTA_PROJECTED), 12 * (4 * 768 ** 2 + 2 * 768 * 3072));
  assert.equal(count(withLabels(base, ["a", "b", "c"]), "classification"), 124_647_170 + 769);
});

Deno.test("robertaConfig() refuses another name and lists those it knows", () => {
  for (const name of ["roberta-tiny", "toString"]) {
    assert.throws(() => robertaConfig(name), {
      name: "RangeError",
      message: `Cannot find model "${name}": expected one of roberta-2m, roberta-base, roberta-large`,
    });
  }
});

Deno.test("robertaWeights() names and shapes the weights of stored models", () => {
  for (const folder of GOLDEN_ROBERTAS) {
    const { config, head, weights } = readRoberta(folder);
    const expected = [...weights].map(([name, { shape }]) => [name, [...shape]] as const).sort();
    const actual = [...robertaWeights(config, head)].map(([name, { shape }]) => [name, [...shape]] as const).sort();
    assert.deepEqual(actual, expected, folder);
  }
  const untied = { ...readRoberta("mlm").config, tie_word_embeddings: false };
  assert.deepEqual(robertaWeights(untied, "masked-lm").get("lm_head.decoder.weight")!.shape, [113, 48]);
});

Deno.test("ROBERTA_PROJECTED takes the matrices of the blocks alone", () => {
  const names = [...robertaWeights(robertaConfig("roberta-base", { num_hidden_layers: 1 }), "classification").keys()];
  assert.deepEqual(
    names.filter((name) => ROBERTA_PROJECTED.test(name)),
    ["attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"]
      .concat(["intermediate.dense", "output.dense"])
      .map((name) => `roberta.encoder.layer.0.${name}.weight`),
  );
});

const SMALL = {
  model_type: "roberta",
  vocab_size: 100,
  hidden_size: 32,
  intermediate_size: 48,
  num_hidden_layers: 2,
  num_attention_heads: 4,
};

Deno.test("parseRobertaConfig() fills in the defaults of Hugging Face's class, not of the released models", () => {
  const config = parseRobertaConfig(SMALL);
  assert.deepEqual(
    [config.max_position_embeddings, config.type_vocab_size, config.layer_norm_eps, config.pad_token_id],
    [512, 2, 1e-12, 1],
  );
  assert.deepEqual([config.num_labels, config.id2label, config.problem_type], [
    2,
    { 0: "LABEL_0", 1: "LABEL_1" },
    null,
  ]);
  const nulls = { ...SMALL, classifier_dropout: null, hidden_act: null, type_vocab_size: null };
  assert.deepEqual(parseRobertaConfig(nulls), config);
});

Deno.test("parseRobertaConfig() reads stored files, and what robertaConfigJson() writes", () => {
  for (const folder of GOLDEN_ROBERTAS) {
    const json = readJson<Record<string, unknown>>(new URL(`testdata/roberta/${folder}/config.json`, import.meta.url));
    const config = parseRobertaConfig(json);
    const head = folder === "mlm" ? "masked-lm" : "classification";
    const written = JSON.parse(JSON.stringify(robertaConfigJson(config, head)));
    assert.deepEqual(parseRobertaConfig(written), config, folder);
    for (const [key, value] of Object.entries(json)) {
      if (key !== "num_labels" && key !== "is_decoder" && key !== "use_cache") {
        assert.deepEqual(written[key], value, key);
      }
    }
    assert.ok(isRobertaConfig(json) && isRobertaConfig(config));
  }
  assert.ok(!isRobertaConfig({ model_type: "llama" }) && !isRobertaConfig({}));
});

Deno.test("withLabels() sets classes or a score, which files keep", () => {
  const base = makeRobertaConfig(SMALL);
  const three = withLabels(base, ["entailment", "neutral", "contradiction"]);
  assert.deepEqual([three.num_labels, three.id2label[1], isRegression(three)], [3, "neutral", false]);
  const score = withLabels(three, "score");
  assert.deepEqual([score.num_labels, score.problem_type, isRegression(score)], [1, "regression", true]);
  for (const config of [three, score]) {
    const json = JSON.parse(JSON.stringify(robertaConfigJson(config, "classification")));
    assert.deepEqual(parseRobertaConfig(json), config);
  }
  const { label2id } = robertaConfigJson(three, "classification");
  assert.deepEqual(label2id, { entailment: 0, neutral: 1, contradiction: 2 });
  assert.ok(isRegression(parseRobertaConfig({ ...SMALL, num_labels: 1 })), "as transformers has it without a type");
  assert.ok(isRegression(parseRobertaConfig({ ...SMALL, id2label: { 0: "score" } })));
  assert.equal(parseRobertaConfig({ ...SMALL, num_labels: 5 }).id2label[4], "LABEL_4");
});

/** Keys of an old release's file beside those that decide results, as transformers 2 wrote them, and some of later ones. */
const OLD = {
  ...{ _num_labels: 3, output_past: true, pruned_heads: {}, torchscript: true, use_bfloat16: true, eos_token_ids: 0 },
  ...{ repetition_penalty: 1, length_penalty: 1, num_return_sequences: 1, num_beam_groups: 1, diversity_penalty: 0.5 },
  ...{ do_sample: true, early_stopping: true, no_repeat_ngram_size: 3, encoder_no_repeat_ngram_size: 3, typical_p: 1 },
  ...{
    bad_words_ids: [[3]],
    remove_invalid_values: true,
    exponential_decay_length_penalty: [1, 2],
    suppress_tokens: [1],
  },
  ...{ begin_suppress_tokens: [1], forced_bos_token_id: 0, forced_eos_token_id: 2, output_scores: true },
  ...{ return_dict_in_generate: true, tf_legacy_loss: true, cross_attention_hidden_size: 8, tie_encoder_decoder: true },
  ...{ is_decoder: false, add_cross_attention: false, is_encoder_decoder: false },
};

Deno.test("parseRobertaConfig(), parseVitConfig() and parseLlamaConfig() ignore keys that cannot change results", () => {
  assert.deepEqual(parseRobertaConfig({ ...SMALL, ...OLD }), parseRobertaConfig(SMALL));
  assert.deepEqual(parseVitConfig({ model_type: "vit", ...OLD }), parseVitConfig({ model_type: "vit" }));
  const llama = { ...SMALL, model_type: "llama" };
  assert.deepEqual(parseLlamaConfig({ ...llama, ...OLD }), parseLlamaConfig(llama));
});

const REFUSED: readonly (readonly [Record<string, unknown>, RegExp])[] = [
  [{ model_type: "bert" }, /^SyntaxError: Cannot load config.json: expected model_type "roberta", got "bert"$/],
  [{ vocab_size: null }, /^SyntaxError: .* vocab_size must be a whole number from 1, got null$/],
  [{ hidden_act: "gelu_new" }, /hidden_act = "gelu_new" is not implemented/],
  [{ position_embedding_type: "relative_key" }, /position_embedding_type = "relative_key" is not implemented/],
  [{ is_decoder: true }, /is_decoder = true is not implemented/],
  [{ add_cross_attention: true }, /add_cross_attention = true is not implemented/],
  [{ is_encoder_decoder: true }, /is_encoder_decoder = true is not implemented/],
  [{ pruned_heads: { 0: [1] } }, /pruned_heads = {"0":\[1\]} is not implemented/],
  [{ problem_type: "multi_label_classification" }, /problem_type must be "regression" or .*, got "multi_label/],
  [{ hidden_dropout_prob: 1 }, /hidden_dropout_prob must be a number in \[0, 1\), got 1$/],
  [{ layer_norm_eps: "1e-5" }, /layer_norm_eps must be a number from 0, got "1e-5"$/],
  [{ pad_token_id: -1 }, /pad_token_id must be a whole number from 0, got -1$/],
  [{ tie_word_embeddings: 1 }, /tie_word_embeddings must be true or false, got 1$/],
  [{ id2label: { 0: "a", 2: "b" } }, /id2label must be names by number from 0, got /],
  [{ id2label: { 0: "a", 1: "b" }, num_labels: 3 }, /num_labels must be the 2 of id2label, got 3$/],
  [{ num_attention_heads: 5 }, /^RangeError: Cannot build RoBERTa: hidden_size 32 does not divide into 5 heads$/],
  [{ pad_token_id: 100 }, /pad_token_id 100 is outside the 100 tokens$/],
  [{ max_position_embeddings: 2 }, /max_position_embeddings 2 leave no position after the padding's$/],
  [{ problem_type: "regression" }, /regression is to one number: got num_labels 2$/],
  [{ problem_type: "single_label_classification", num_labels: 1 }, /needs two labels at least: got one$/],
];

for (const [keys, message] of REFUSED) {
  Deno.test(`parseRobertaConfig() refuses ${JSON.stringify(keys)}`, () => {
    assert.throws(() => parseRobertaConfig({ ...SMALL, ...keys }), message);
  });
}
