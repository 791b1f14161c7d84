/** FLoRA folded into weights: the view's results, dtypes, and an adapter of another model. */
import assert from "node:assert/strict";
import { loopsBackend } from "../backends/cpu/loops/mod.ts";
import { type Backend, fromArray, noGrad, Params, type ParamsView, scope } from "../core/mod.ts";
import { assertRms } from "../core/testing/golden.ts";
import { assertNoLeak } from "../core/testing/leaks.ts";
import { type FloraConfig, initFlora, withFlora } from "./flora.ts";
import { floraMergedWeights, mergeFlora } from "./flora_merge.ts";
import { initLlama, llama } from "./llama.ts";
import { stirredFlora } from "./testing/flora_laws.ts";
import { someTokens, tiny } from "./testing/tiny_lora.ts";

function logits(backend: Backend, view: ParamsView): Float64Array {
  using _ = scope("logits");
  return Float64Array.from(noGrad(() => llama(view, tiny, someTokens(backend))).readSync());
}

const KINDS: Readonly<Record<string, Partial<FloraConfig>>> = {
  "the residual form": {},
  "the product form": { form: "product" },
  "a mean over the parts": { form: "product", reduction: "mean" },
  "whole modules": { modulesToSave: ["lm_head", "layers.1"] },
};

for (const [kind, settings] of Object.entries(KINDS)) {
  Deno.test(`mergeFlora() gives the view's results, and leaves the base alone, with ${kind}`, async () => {
    using backend = loopsBackend();
    await assertNoLeak(kind, backend, () => {
      using base = initLlama(backend, tiny, 1);
      const config: FloraConfig = { r: 3, targets: "all-linear", ...settings };
      const adapter = stirredFlora(base, config, 1);
      const before = logits(backend, base);
      using merged = mergeFlora(base, adapter.params, config);
      assert.deepEqual(merged.names(), base.names());
      const view = logits(backend, withFlora(base, [adapter]));
      assert.ok(before.some((value, i) => Math.abs(value - view[i]) > 1e-3));
      assertRms("merged", logits(backend, merged), view, { tolerance: 2e-6 });
      assert.deepEqual(logits(backend, base), before);
      adapter.params.dispose();
    });
  });
}

Deno.test("floraMergedWeights() makes a weight when asked, in the base's dtype; without a change it is the base's, to the bit", async () => {
  using backend = loopsBackend();
  using base = initLlama(backend, tiny, 1, "bf16");
  const config: FloraConfig = { r: 3, targets: ["q_proj"], modulesToSave: ["lm_head"] };
  using adapter = initFlora(base, config, { seed: 1 });
  await assertNoLeak("merged weights", backend, () => {
    const start = backend.memory().inUse;
    for (const { name, shape, dtype, make } of floraMergedWeights(base, adapter, config)) {
      assert.equal(backend.memory().inUse, start);
      using weight = make();
      assert.deepEqual([weight.shape, weight.dtype, dtype], [shape, "bf16", "bf16"], name);
      assert.deepEqual(weight.readSync(), base.get(name).readSync(), name);
    }
  });
});

Deno.test("mergeFlora() refuses an adapter whose modules the model lacks", () => {
  using backend = loopsBackend();
  using base = initLlama(backend, tiny, 1);
  using other = new Params(backend);
  other.set("roberta.query.flora_A", fromArray(backend, [1, 2], [1, 2]));
  assert.throws(() => mergeFlora(base, other, { r: 1, targets: ["query"] }), {
    name: "RangeError",
    message: "Cannot merge the adapter: the model must have its modules: got roberta.query.flora_A",
  });
});
