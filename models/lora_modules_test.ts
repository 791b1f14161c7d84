/** What an adapter changes: targets, whole modules, embedding tables, 16-bit weights, and several adapters at once. */
import assert from "node:assert/strict";
import { loopsBackend } from "../backends/cpu/loops/mod.ts";
import { backward, fromArray, mul, noGrad, type Params, type ParamsView, scope, type Tensor } from "../core/mod.ts";
import { assertRms, rms } from "../core/testing/golden.ts";
import { random } from "../core/testing/gradcheck.ts";
import { initLlama, llama, llamaLoss } from "./llama.ts";
import { initLora, type LoraConfig, loraWeights, withLora } from "./lora.ts";
import { someTokens, stir, tiny } from "./testing/tiny_lora.ts";

Deno.test("several adapters are loaded at once: each view has the active ones, and their changes add up", () => {
  using backend = loopsBackend();
  using base = initLlama(backend, tiny, 1);
  const config: LoraConfig = { r: 2, alpha: 2, targets: ["q_proj", "up_proj"] };
  const other: LoraConfig = { r: 3, alpha: 6, targets: ["up_proj"], modulesToSave: ["lm_head"] };
  using first = initLora(base, config, { seed: 1 });
  using second = initLora(base, other, { seed: 2 });
  stir(first, /_B/, 0.3);
  stir(second, /_B|lm_head/, 0.3);
  using _ = scope("test");
  const tokens = someTokens(backend);
  const [one, two] = [{ params: first, config }, { params: second, config: other }];
  const logits = (view: ParamsView) => noGrad(() => llama(view, tiny, tokens)).readSync();
  const plain = logits(base);
  assert.deepEqual(logits(withLora(base, [])), plain);
  const results = [[one], [two], [one, two]].map((active) => logits(withLora(base, active)));
  for (const [i, result] of results.entries()) {
    assert.notDeepEqual(result, plain);
    assert.notDeepEqual(result, results[(i + 1) % 3]);
  }
  assert.deepEqual(logits(withLora(base, [one])), results[0]);
  const x = fromArray(backend, Float32Array.from(random("x", 48)), [2, 24]);
  const up = (view: ParamsView) => view.at("model.layers.1.mlp").linear("up_proj", x).readSync();
  const change = (active: typeof one[]) => up(withLora(base, active)).map((value, i) => value - up(base)[i]);
  const apart = change([one]).map((value, i) => value + change([two])[i]);
  assertRms("sum", change([one, two]), apart, { tolerance: 1e-5 });
  assert.throws(
    () => logits(withLora(base, [two, two])),
    /^RangeError: Cannot combine adapters: 2 of them replace "lm_head/,
  );
  const dora = { params: first, config: { ...config, dora: true } };
  assert.throws(
    () => withLora(base, [dora, two]),
    /^RangeError: Cannot combine adapters: .* DoRA must be alone: got 2/,
  );
});

Deno.test("modulesToSave are trained as copies under their own names, and the base stays", () => {
  using backend = loopsBackend();
  using base = initLlama(backend, tiny, 1);
  base.freeze(base.names());
  const config: LoraConfig = { r: 2, alpha: 2, targets: ["q_proj"], modulesToSave: ["lm_head", "layers.1.mlp"] };
  using adapter = initLora(base, config, { seed: 1 });
  const saved = ["down", "gate", "up"].map((part) => `model.layers.1.mlp.${part}_proj.weight`).concat("lm_head.weight");
  assert.deepEqual(adapter.names().filter((name) => !name.includes("lora")).sort(), saved.sort());
  using _ = scope("test");
  const tokens = someTokens(backend);
  const arrived: string[] = [];
  const view = withLora(base, [{ params: adapter, config }]);
  backward(llamaLoss(view, tiny, tokens, tokens, { recompute: true }), (name) => arrived.push(name));
  assert.deepEqual(arrived.sort(), adapter.names().sort());
  const before = noGrad(() => llama(base, tiny, tokens)).readSync();
  stir(adapter, /mlp/);
  assert.notDeepEqual(noGrad(() => llama(view, tiny, tokens)).readSync(), before);
  assert.deepEqual(noGrad(() => llama(base, tiny, tokens)).readSync(), before);
});

Deno.test("an embedding table is adapted where the output matrix is its own, and refused where it is shared", () => {
  using backend = loopsBackend();
  using base = initLlama(backend, tiny, 1);
  base.freeze(base.names());
  const config: LoraConfig = { r: 3, alpha: 6, targets: ["embed_tokens"] };
  using adapter = initLora(base, config, { seed: 1 });
  assert.deepEqual(adapter.names(), ["model.embed_tokens.lora_embedding_A", "model.embed_tokens.lora_embedding_B"]);
  const [A, B] = adapter.names().map((name) => adapter.get(name));
  assert.deepEqual([A.shape, B.shape], [[3, 40], [24, 3]]);
  assert.deepEqual([rms(A.readSync()) === 0, rms(B.readSync()) > 0.7], [true, true]);
  stir(adapter, /_A/);
  using _ = scope("test");
  const view = withLora(base, [{ params: adapter, config }]);
  const [table, a, b] = [base.get("model.embed_tokens.weight"), A, B].map((tensor) => tensor.readSync());
  const expected = Float64Array.from(table, (w, i) => {
    const [row, column] = [Math.floor(i / 24), i % 24];
    return w + 2 * [0, 1, 2].reduce((total, k) => total + b[3 * column + k] * a[40 * k + row], 0);
  });
  assertRms("table", view.at("model").get("embed_tokens.weight").readSync(), expected, { tolerance: 1e-6 });
  const arrived: string[] = [];
  const tokens = someTokens(backend);
  backward(llamaLoss(view, tiny, tokens, tokens, { recompute: true }), (name) => arrived.push(name));
  assert.deepEqual(arrived.sort(), adapter.names());
  const tied = [...base.entries()].filter(([name]) => name !== "lm_head.weight");
  const refused = /^TypeError: Cannot adapt "model.embed_tokens": .* output matrix/;
  assert.throws(() => loraWeights(tied, config), refused);
  const whole: LoraConfig = { r: 2, alpha: 2, targets: ["q_proj"], modulesToSave: ["embed_tokens"] };
  assert.ok(loraWeights(base.entries(), whole).has("model.embed_tokens.weight"));
  assert.throws(() => loraWeights(tied, whole), refused);
});

Deno.test("the output matrix can be a target, and no model reads past an adapter in silence", () => {
  using backend = loopsBackend();
  using base = initLlama(backend, tiny, 1);
  base.freeze(base.names());
  const config: LoraConfig = { r: 2, alpha: 4, targets: ["lm_head"] };
  using adapter = initLora(base, config, { seed: 1 });
  using _ = scope("test");
  const tokens = someTokens(backend);
  const view = withLora(base, [{ params: adapter, config }]);
  const heard: string[] = [];
  backward(llamaLoss(view, tiny, tokens, tokens), (name) => heard.push(name));
  assert.deepEqual(heard.sort(), adapter.names().sort());
  assert.throws(() => view.get("lm_head.weight"), {
    name: "TypeError",
    message: 'Cannot read "lm_head.weight": a map with an adapter has no weight of its own; apply it by linear()',
  });
});

Deno.test("targets are ends of names, whole expressions, or every linear map but heads and whole modules", () => {
  using backend = loopsBackend();
  using base = initLlama(backend, tiny, 1);
  const modules = (config: Partial<LoraConfig>) => {
    const weights = loraWeights(base.entries(), { r: 2, alpha: 2, targets: [], ...config });
    return [...weights.keys()].filter((name) => name.endsWith("lora_A.weight")).map((name) => name.slice(0, -14));
  };
  const q = ["model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"];
  assert.deepEqual(modules({ targets: ["q_proj"] }), q);
  assert.deepEqual(modules({ targets: ["1.self_attn.q_proj", q[0]] }), q);
  assert.deepEqual(modules({ targets: /model\.layers\.\d+\..*q_proj/ }), q);
  assert.equal(modules({ targets: "all-linear" }).length, 14);
  assert.equal(modules({ targets: "all-linear", modulesToSave: ["layers.0"] }).length, 7);
  assert.throws(
    () => modules({ targets: ["_proj"] }),
    /^RangeError: Cannot fit the adapter to the model: .*got "_proj"/,
  );
  assert.throws(() => modules({ targets: /q_proj/ }), /^RangeError: .*targets must match a module: got "\/q_proj\/"/);
  assert.throws(() => modules({ targets: ["q_proj"], modulesToSave: ["score"] }), /must be there: got "score"/);
  assert.throws(() => modules({ targets: ["norm"] }), /^TypeError: Cannot adapt "model.norm": .*: got shape \[24\]/);
  assert.throws(
    () => modules({ targets: ["q_proj"], r: 0 }),
    /^RangeError: Cannot make an adapter: r must be .*: got 0$/,
  );
  assert.throws(() => modules({ targets: ["q_proj"], dropout: 1 }), /dropout must be in \[0, 1\): got 1$/);
  assert.throws(() => modules({ targets: ["q_proj"], alpha: NaN }), /alpha must be a number above 0: got NaN$/);
});

Deno.test("f32 adapters of a 16-bit base keep its dtype in the results, and theirs in the gradients", () => {
  using backend = loopsBackend();
  using base = initLlama(backend, tiny, 1, "bf16");
  base.freeze(base.names());
  for (const dora of [false, true]) {
    const config: LoraConfig = { r: 2, alpha: 2, targets: ["q_proj", "down_proj"], modulesToSave: ["lm_head"], dora };
    using adapter = initLora(base, config, { seed: 1 });
    using _ = scope("test");
    const tokens = someTokens(backend);
    const view = withLora(base, [{ params: adapter, config }]);
    assert.equal(view.linear("model.layers.0.self_attn.q_proj", noGrad(() => hidden(base))).dtype, "bf16");
    backward(llamaLoss(view, tiny, tokens, tokens), (name, gradient) => assert.equal(gradient.dtype, "f32", name));
  }
});

function hidden(base: Params): Tensor {
  return mul(base.get("model.embed_tokens.weight"), 1);
}
