/** ViT's configurations: the released sizes, Hugging Face's keys, labels, weights, and what is refused. */
import assert from "node:assert/strict";
import { readJson } from "../core/testing/golden.ts";
import {
  isVitConfig,
  makeVitConfig,
  parseVitConfig,
  patchGrid,
  VIT_NAMES,
  VIT_PROJECTED,
  type VitConfig,
  vitConfig,
  vitConfigJson,
  vitFlopsPerImage,
  vitWeights,
  withVitLabels,
} from "./vit_config.ts";
import { readVit } from "./testing/vit_goldens.ts";

function count(config: VitConfig, only = /(?:)/): number {
  let total = 0;
  for (const [name, { shape }] of vitWeights(config)) {
    if (only.test(name)) total += shape.reduce((product, extent) => product * extent, 1);
  }
  return total;
}

Deno.test("vitConfig() has the parameter counts of the released models", () => {
  assert.deepEqual(VIT_NAMES.slice(0, 4), ["vit-0.2m", "vit-tiny-16", "vit-small-16", "vit-base-16"]);
  const base = vitConfig("vit-base-16");
  assert.equal(count(base, /^vit\./), 85_798_656);
  assert.equal(count(base, /embeddings/), 742_656);
  assert.equal(count(base, /\.layer\.7\./), 7_087_872);
  assert.equal(count(base, VIT_PROJECTED), 12 * (4 * 768 ** 2 + 2 * 768 * 3072));
  // with the head of the 1,000 classes of ImageNet
  const counts = VIT_NAMES.map((name) => count(withVitLabels(vitConfig(name), 1000)));
  assert.deepEqual(counts.slice(1), [5_717_416, 22_050_664, 86_567_656, 88_224_232, 304_326_632]);
  assert.equal(count(withVitLabels(vitConfig("vit-0.2m"), 10)), 205_066);
});

Deno.test("vitConfig() refuses another name and lists those it knows", () => {
  for (const name of ["vit-b", "toString"]) {
    assert.throws(() => vitConfig(name), {
      name: "RangeError",
      message: `Cannot find model "${name}": expected one of ${VIT_NAMES.join(", ")}`,
    });
  }
});

Deno.test("vitWeights() names and shapes the weights of the stored model", () => {
  const { config, weights } = readVit();
  const sorted = (entries: Iterable<readonly [string, { readonly shape: readonly number[] }]>) =>
    [...entries].map(([name, { shape }]) => [name, [...shape]] as const).sort();
  assert.deepEqual(sorted(vitWeights(config)), sorted(weights));
  const bare = vitWeights({ ...config, qkv_bias: false });
  assert.equal(bare.size, weights.size - 3 * config.num_hidden_layers);
  assert.ok(!bare.has("vit.encoder.layer.0.attention.attention.key.bias"));
});

Deno.test("VIT_PROJECTED takes the matrices of the blocks alone", () => {
  const names = [...vitWeights(vitConfig("vit-base-16", { num_hidden_layers: 1 })).keys()];
  assert.deepEqual(
    names.filter((name) => VIT_PROJECTED.test(name)),
    ["attention.attention.query", "attention.attention.key", "attention.attention.value", "attention.output.dense"]
      .concat(["intermediate.dense", "output.dense"])
      .map((name) => `vit.encoder.layer.0.${name}.weight`),
  );
});

Deno.test("vitFlopsPerImage() counts six a weight and token, attention, and what prompts add", () => {
  const base = vitConfig("vit-base-16");
  // 17.6 GFLOP forward is the published number of multiply-adds; training is three times two of those
  assert.ok(Math.abs(vitFlopsPerImage(base) / 6 / 17.56e9 - 1) < 0.01, `${vitFlopsPerImage(base)}`);
  const share = vitFlopsPerImage(base, 50) / vitFlopsPerImage(base);
  assert.ok(share > 247 / 197 && share < (247 / 197) ** 2, `${share}`);
});

Deno.test("parseVitConfig() fills in the defaults of Hugging Face's class", () => {
  const least = parseVitConfig({ model_type: "vit" });
  assert.deepEqual(least, vitConfig("vit-base-16"));
  assert.deepEqual([least.layer_norm_eps, least.num_labels, least.id2label], [1e-12, 2, {
    0: "LABEL_0",
    1: "LABEL_1",
  }]);
  assert.deepEqual(parseVitConfig({ model_type: "vit", hidden_act: null, id2label: null, patch_size: null }), least);
  assert.deepEqual(patchGrid(least), [14, 14]);
});

Deno.test("parseVitConfig() reads stored files, and what vitConfigJson() writes", () => {
  const json = readJson<Record<string, unknown>>(new URL("testdata/vit/config.json", import.meta.url));
  const config = parseVitConfig(json);
  assert.deepEqual([config.image_size, config.num_labels, patchGrid(config)], [[24, 40], 5, [3, 5]]);
  const written = JSON.parse(JSON.stringify(vitConfigJson(config)));
  assert.deepEqual(parseVitConfig(written), config);
  for (const [key, value] of Object.entries(json)) {
    if (key !== "num_labels" && key !== "encoder_stride") assert.deepEqual(written[key], value, key);
  }
  assert.deepEqual(vitConfigJson(config, { isBackbone: true }).architectures, ["ViTModel"]);
  assert.ok(isVitConfig(json) && isVitConfig(config));
  assert.ok(!isVitConfig({ model_type: "llama" }) && !isVitConfig({}));
});

Deno.test("withVitLabels() sets classes, which files keep", () => {
  const three = withVitLabels(vitConfig("vit-0.2m"), ["cat", "dog", "fox"]);
  assert.deepEqual([three.num_labels, three.id2label[1]], [3, "dog"]);
  const json = JSON.parse(JSON.stringify(vitConfigJson(three)));
  assert.deepEqual(parseVitConfig(json), three);
  assert.deepEqual(json.label2id, { cat: 0, dog: 1, fox: 2 });
  assert.equal(withVitLabels(three, 7).id2label[6], "LABEL_6");
  assert.equal(makeVitConfig(three, { num_labels: 4 }).id2label[3], "LABEL_3");
});

const REFUSED: readonly (readonly [Record<string, unknown>, RegExp])[] = [
  [{ model_type: "deit" }, /^SyntaxError: Cannot load config.json: expected model_type "vit", got "deit"$/],
  [{ hidden_size: 1.5 }, /^SyntaxError: .* hidden_size must be a whole number from 1, got 1.5$/],
  [{ hidden_act: "gelu_new" }, /hidden_act = "gelu_new" is not implemented/],
  [{ problem_type: "multi_label_classification" }, /problem_type = "multi_label_classification" is not implemented/],
  [{ use_mask_token: true }, /use_mask_token = true is not implemented/],
  [{ hidden_dropout_prob: 1 }, /hidden_dropout_prob must be a number in \[0, 1\), got 1$/],
  [{ layer_norm_eps: "1e-12" }, /layer_norm_eps must be a number from 0, got "1e-12"$/],
  [{ qkv_bias: 1 }, /qkv_bias must be true or false, got 1$/],
  [{ patch_size: [16, 16] }, /patch_size must be a whole number from 1, got \[16,16\]$/],
  [{ image_size: [224] }, /image_size must be a whole number from 1, or a height and a width, got \[224\]$/],
  [{ id2label: { 0: "a", 2: "b" } }, /id2label must be names by number from 0, got /],
  [{ id2label: { 0: "a", 1: "b" }, num_labels: 3 }, /num_labels must be the 2 of id2label, got 3$/],
  [{ num_attention_heads: 5 }, /^RangeError: Cannot build ViT: hidden_size 768 does not divide into 5 heads$/],
  [{ image_size: [224, 230] }, /^RangeError: Cannot build ViT: patches of 16 pixels do not fill images of 224 x 230$/],
  [{ num_labels: 1 }, /^RangeError: Cannot build ViT: num_labels must be a whole number from 2: got 1$/],
];

for (const [keys, message] of REFUSED) {
  Deno.test(`parseVitConfig() refuses ${JSON.stringify(keys)}`, () => {
    assert.throws(() => parseVitConfig({ model_type: "vit", ...keys }), message);
  });
}
