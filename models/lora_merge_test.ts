/** Merged adapters: PyTorch's weights, the same results as the view, and the way back. */
import assert from "node:assert/strict";
import { loopsBackend } from "../backends/cpu/loops/mod.ts";
import { type Backend, fromArray, noGrad, Params, type ParamsView, scope } from "../core/mod.ts";
import { assertRms, readGolden } from "../core/testing/golden.ts";
import { random } from "../core/testing/gradcheck.ts";
import { takeHost } from "../core/testing/inputs.ts";
import { assertNoLeak } from "../core/testing/leaks.ts";
import { initLlama, llama } from "./llama.ts";
import { initLora, type LoraConfig, withLora } from "./lora.ts";
import { loraMergedWeights, loraRemains, mergeLora, unmergeLora } from "./lora_merge.ts";
import { loadPeft } from "./peft.ts";
import { llamaParams, readLlama } from "./testing/llama_goldens.ts";
import { goldenAdapter, goldenNumbers } from "./testing/lora_goldens.ts";
import { someTokens, tiny } from "./testing/tiny_lora.ts";

/** An adapter with every tensor away from its first values. */
function trained(base: Params, config: LoraConfig): Params {
  const adapter = initLora(base, config, { seed: 1 });
  for (const [name, tensor] of adapter.entries()) {
    const first = tensor.readSync();
    tensor.write(Float32Array.from(random(name, tensor.size), (value, i) => first[i] + 0.05 * value));
  }
  return adapter;
}

function logits(backend: Backend, view: ParamsView): Float64Array {
  using _ = scope("logits");
  return Float64Array.from(noGrad(() => llama(view, tiny, someTokens(backend))).readSync());
}

Deno.test("mergeLora() gives PyTorch's weights for one linear map and for a stored adapter of a LLaMA", async () => {
  using backend = loopsBackend();
  const golden = readGolden(new URL("testdata/adapters/lora_linear.safetensors", import.meta.url));
  await assertNoLeak("merged goldens", backend, async () => {
    using map = new Params(backend);
    using factors = new Params(backend);
    const tensor = (name: string) => fromArray(backend, golden.get(name)!.data, golden.get(name)!.shape);
    map.set("map.weight", tensor("weight"));
    for (const name of ["lora_A", "lora_B"]) factors.set(`map.${name}.weight`, tensor(name));
    using merged = mergeLora(map, factors, { r: 5, alpha: 8, targets: ["map"] });
    assertRms("map", merged.get("map.weight").readSync(), golden.get("merged_weight")!.data, { tolerance: 1e-7 });
    using base = llamaParams(backend, readLlama("mha"));
    using adapter = await loadPeft(goldenAdapter(), base);
    using model = mergeLora(base, adapter.params, adapter.lora);
    const stored = [...goldenNumbers().golden].filter(([name]) => name.startsWith("merged."));
    assert.equal(stored.length, 4);
    for (const [name, { data }] of stored) {
      assertRms(name, model.get(name.slice(7)).readSync(), data, { tolerance: 1e-7 });
    }
  });
});

const KINDS: Readonly<Record<string, Partial<LoraConfig>>> = {
  LoRA: {},
  rsLoRA: { rslora: true },
  DoRA: { dora: true },
  "whole modules": { modulesToSave: ["lm_head", "layers.1"] },
  "an embedding table": { targets: ["embed_tokens", "q_proj"] },
};

for (const [kind, settings] of Object.entries(KINDS)) {
  Deno.test(`a merged model gives the view's results, and unmerged it is the base, with ${kind}`, async () => {
    using backend = loopsBackend();
    await assertNoLeak(kind, backend, () => {
      using base = initLlama(backend, tiny, 1);
      const config: LoraConfig = { r: 3, alpha: 6, targets: "all-linear", ...settings };
      using adapter = trained(base, config);
      using remains = loraRemains(base, adapter, config);
      using merged = mergeLora(base, adapter, config);
      assert.deepEqual(merged.names(), base.names());
      const view = logits(backend, withLora(base, [{ params: adapter, config }]));
      const before = logits(backend, base);
      assert.ok(before.some((value, i) => Math.abs(value - view[i]) > 1e-3));
      assertRms("merged", logits(backend, merged), view, { tolerance: 2e-6 });
      const isWhole = Object.keys(settings).some((key) => key === "dora" || key === "modulesToSave");
      assert.equal(remains.names().length > 0, isWhole);
      using again = unmergeLora(merged, adapter, config, remains);
      for (const [name, tensor] of base.entries()) {
        assertRms(name, again.get(name).readSync(), tensor.readSync(), { tolerance: 1e-6 });
      }
      assertRms("unmerged", logits(backend, again), before, { tolerance: 2e-6 });
      if (isWhole) {
        assert.throws(
          () => unmergeLora(merged, adapter, config),
          /^RangeError: Cannot unmerge .*got no ".*loraRemains/,
        );
      }
    });
  });
}

Deno.test("loraMergedWeights() makes a weight when asked, in the base's dtype, and leaves the base alone", async () => {
  using backend = loopsBackend();
  using base = initLlama(backend, tiny, 1, "bf16");
  const config: LoraConfig = { r: 3, alpha: 6, targets: ["q_proj"], modulesToSave: ["lm_head"] };
  using adapter = initLora(base, config, { seed: 1 });
  const before = await takeHost(base.get("model.layers.0.self_attn.q_proj.weight").retained());
  await assertNoLeak("merged weights", backend, () => {
    const start = backend.memory().inUse;
    for (const { name, shape, dtype, make } of loraMergedWeights(base, adapter, config)) {
      assert.equal(backend.memory().inUse, start);
      using weight = make();
      assert.deepEqual([weight.shape, weight.dtype, dtype], [shape, "bf16", "bf16"], name);
    }
  });
  using merged = mergeLora(base, adapter, config);
  merged.get("lm_head.weight").write(new Uint16Array(40 * 24));
  assert.ok(adapter.get("lm_head.weight").readSync().some((bits) => bits !== 0));
  assert.deepEqual(await takeHost(base.get("model.layers.0.self_attn.q_proj.weight").retained()), before);
});

Deno.test("mergeLora() refuses an adapter whose modules the model lacks", () => {
  using backend = loopsBackend();
  using base = initLlama(backend, tiny, 1);
  using other = new Params(backend);
  other.set("roberta.query.lora_A.weight", fromArray(backend, [1, 2], [1, 2]));
  const config: LoraConfig = { r: 1, alpha: 1, targets: ["query"] };
  for (const run of [mergeLora, unmergeLora]) {
    assert.throws(() => run(base, other, config), {
      name: "RangeError",
      message: "Cannot merge the adapter: the model must have its modules: got roberta.query.lora_A.weight",
    });
  }
});
