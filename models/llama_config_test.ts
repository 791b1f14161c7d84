/** LLaMA's configurations: the GaLore paper's sizes, Hugging Face's keys, and what is refused. */
import assert from "node:assert/strict";
import { readJson } from "../core/testing/golden.ts";
import {
  LLAMA_NAMES,
  LLAMA_PROJECTED,
  llamaConfig,
  llamaConfigJson,
  llamaFlopsPerToken,
  llamaWeights,
  parseLlamaConfig,
} from "./llama_config.ts";
import { GOLDEN_LLAMAS, readLlama } from "./testing/llama_goldens.ts";

function count(config: Parameters<typeof llamaWeights>[0], only = /(?:)/): number {
  let total = 0;
  for (const [name, { shape }] of llamaWeights(config)) {
    if (only.test(name)) total += shape.reduce((product, extent) => product * extent, 1);
  }
  return total;
}

/** Parameters in millions of the GaLore release's configuration files; `llama-100m` has 32,100 tokens there. */
const PARAMETERS: Record<string, string> = {
  "llama-9m": "8.996",
  "llama-20m": "19.548",
  "llama-35m": "35.198",
  "llama-40m": "42.392",
  "llama-60m": "58.074",
  "llama-71m": "70.579",
  "llama-100m": "100.117",
  "llama-130m": "134.106",
  "llama-250m": "247.370",
  "llama-350m": "367.969",
  "llama-1b": "1339.083",
  "llama-3b": "2685.832",
  "llama-7b": "6738.416",
};

Deno.test("llamaConfig() has the parameter counts of the GaLore paper's models", () => {
  assert.deepEqual([...LLAMA_NAMES], Object.keys(PARAMETERS));
  for (const [name, millions] of Object.entries(PARAMETERS)) {
    const config = llamaConfig(name, name === "llama-100m" ? { vocab_size: 32100 } : {});
    assert.equal((count(config) / 1e6).toFixed(3), millions, name);
    assert.equal(config.max_position_embeddings, name === "llama-7b" ? 2048 : 1024, name);
  }
  assert.equal((count(llamaConfig("llama-350m"), LLAMA_PROJECTED) / 1e6).toFixed(2), "302.38");
});

Deno.test("llamaConfig() refuses another name and lists those it knows", () => {
  assert.throws(() => llamaConfig("llama-8b"), (error) => {
    assert.ok(error instanceof RangeError);
    assert.match(error.message, /^Cannot find model "llama-8b": expected one of llama-9m, .*, llama-7b$/);
    return true;
  });
  assert.throws(() => llamaConfig("toString"), RangeError);
});

Deno.test("llamaWeights() names and shapes the weights of stored models", () => {
  for (const folder of GOLDEN_LLAMAS) {
    const { config, weights } = readLlama(folder);
    const expected = [...weights].map(([name, { shape }]) => [name, [...shape]] as const).sort();
    const actual = [...llamaWeights(config)].map(([name, { shape }]) => [name, [...shape]] as const).sort();
    assert.deepEqual(actual, expected, folder);
  }
});

const SMALL = {
  model_type: "llama",
  vocab_size: 100,
  hidden_size: 32,
  intermediate_size: 48,
  num_hidden_layers: 2,
  num_attention_heads: 4,
};

Deno.test("parseLlamaConfig() reads a stored config.json and fills in Hugging Face's defaults", () => {
  const gqa = readJson<Record<string, unknown>>(new URL("testdata/llama/gqa/config.json", import.meta.url));
  const config = parseLlamaConfig(gqa);
  assert.deepEqual(
    [config.num_key_value_heads, config.head_dim, config.tie_word_embeddings, config.rms_norm_eps],
    [2, 12, true, 1e-5],
  );
  const small = parseLlamaConfig(SMALL);
  assert.deepEqual(
    [small.num_key_value_heads, small.head_dim, small.max_position_embeddings, small.rms_norm_eps, small.rope_theta],
    [4, 8, 2048, 1e-6, 10000],
  );
  assert.deepEqual([small.rope_scaling, small.tie_word_embeddings, small.attention_bias], [null, false, false]);
  const nulls = parseLlamaConfig({ ...SMALL, num_key_value_heads: null, head_dim: null, rope_scaling: null });
  assert.deepEqual(nulls, small);
});

Deno.test("parseLlamaConfig() reads what llamaConfigJson() writes", () => {
  const rope_scaling = { rope_type: "linear", factor: 2 } as const;
  const config = llamaConfig("llama-60m", { rope_scaling, num_key_value_heads: 2, eos_token_id: [1, 2] });
  assert.deepEqual(parseLlamaConfig(JSON.parse(JSON.stringify(llamaConfigJson(config)))), config);
});

Deno.test("parseLlamaConfig() takes a head size that hidden_size does not give", () => {
  const config = parseLlamaConfig({ ...SMALL, hidden_size: 30, head_dim: 8, num_key_value_heads: 2 });
  assert.equal(config.head_dim, 8);
  assert.deepEqual(llamaWeights(config).get("model.layers.0.self_attn.k_proj.weight")!.shape, [16, 30]);
});

Deno.test("parseLlamaConfig() reads rope_scaling under its old and new names", () => {
  const llama3 = {
    rope_type: "llama3",
    factor: 8,
    low_freq_factor: 1,
    high_freq_factor: 4,
    original_max_position_embeddings: 8192,
  };
  assert.deepEqual(parseLlamaConfig({ ...SMALL, rope_scaling: llama3 }).rope_scaling, llama3);
  const linear = { rope_type: "linear", factor: 4 };
  assert.deepEqual(parseLlamaConfig({ ...SMALL, rope_scaling: { type: "linear", factor: 4 } }).rope_scaling, linear);
  const named = parseLlamaConfig({ ...SMALL, rope_parameters: { rope_theta: 5e5, ...llama3 } });
  assert.deepEqual([named.rope_scaling, named.rope_theta], [llama3, 5e5]);
  const plain = parseLlamaConfig({ ...SMALL, rope_parameters: { rope_theta: 5e5, rope_type: "default" } });
  assert.deepEqual([plain.rope_scaling, plain.rope_theta], [null, 5e5]);
});

Deno.test("parseLlamaConfig() refuses by name what would change results", () => {
  const refused: [Record<string, unknown>, RegExp][] = [
    [{ model_type: "mistral" }, /expected model_type "llama", got "mistral"/],
    [{ hidden_act: "gelu" }, /hidden_act = "gelu" is not implemented/],
    [{ attention_dropout: 0.1 }, /attention_dropout = 0.1 is not implemented/],
    [{ pretraining_tp: 2 }, /pretraining_tp = 2 is not implemented/],
    [{ sliding_window: 4096 }, /sliding_window = 4096 is not implemented/],
    [{ quantization_config: { bits: 4 } }, /quantization_config = \{"bits":4\} is not implemented/],
    [{ rope_scaling: { rope_type: "yarn", factor: 2 } }, /rope_scaling type "yarn" is not implemented/],
    [{ rope_scaling: { type: "dynamic", factor: 2 } }, /rope_scaling type "dynamic" is not implemented/],
    [{ rope_scaling: { type: "linear" } }, /rope_scaling.factor must be a number/],
    [{ hidden_size: undefined }, /hidden_size must be a whole number from 1, got undefined/],
    [{ num_hidden_layers: 2.5 }, /num_hidden_layers must be a whole number from 1, got 2.5/],
    [{ num_key_value_heads: "2" }, /num_key_value_heads must be a whole number from 1, got "2"/],
    [{ max_position_embeddings: 0 }, /max_position_embeddings must be a whole number from 1, got 0/],
    [{ rms_norm_eps: "1e-6" }, /rms_norm_eps must be a number, got "1e-6"/],
    [{ tie_word_embeddings: "yes" }, /tie_word_embeddings must be true or false, got "yes"/],
  ];
  for (const [keys, message] of refused) {
    assert.throws(() => parseLlamaConfig({ ...SMALL, ...keys }), (error) => {
      assert.ok(error instanceof SyntaxError, String(error));
      assert.match(error.message, message);
      assert.match(error.message, /^Cannot load config.json: /);
      return true;
    });
  }
  parseLlamaConfig({ ...SMALL, sliding_window: null, use_sliding_window: false, torch_dtype: "bfloat16" });
});

Deno.test("parseLlamaConfig() refuses heads that do not fit", () => {
  assert.throws(() => parseLlamaConfig({ ...SMALL, num_key_value_heads: 3 }), {
    name: "RangeError",
    message: "Cannot build LLaMA: 4 heads do not divide into 3 key/value heads",
  });
  assert.throws(() => parseLlamaConfig({ ...SMALL, head_dim: 7 }), {
    name: "RangeError",
    message: "Cannot build LLaMA: the head size must be even for rotary positions, got 7",
  });
});

Deno.test("llamaFlopsPerToken() is six times the weights that multiply, and attention", () => {
  const config = llamaConfig("llama-60m");
  const multiplied = count(config, /proj|lm_head/);
  assert.equal(llamaFlopsPerToken(config, 256), 6 * multiplied + 12 * 256 * 512 * 8);
  assert.equal(llamaFlopsPerToken({ ...config, tie_word_embeddings: true }, 256), llamaFlopsPerToken(config, 256));
});
