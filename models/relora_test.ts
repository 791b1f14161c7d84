/** ReLoRA's restarts: what the model computes stays, the base holds it, and the factors begin again. */
import assert from "node:assert/strict";
import { loopsBackend } from "../backends/cpu/loops/mod.ts";
import { cpuBackend } from "../backends/cpu/mod.ts";
import { type Backend, backward, fromArray, noGrad, Params, scope, svd } from "../core/mod.ts";
import { assertClose, assertRms, rms } from "../core/testing/golden.ts";
import { random } from "../core/testing/gradcheck.ts";
import { assertNoLeak, peakBytes } from "../core/testing/leaks.ts";
import { initLlama, llama, llamaLoss } from "./llama.ts";
import { initLora, type LoraConfig, withLora } from "./lora.ts";
import { mergeLora } from "./lora_merge.ts";
import { reloraWeights, restartLora } from "./relora.ts";
import { someTokens, stir, tiny } from "./testing/tiny_lora.ts";

const BACKENDS: Readonly<Record<string, () => Backend | Promise<Backend>>> = {
  "the loops": () => loopsBackend(),
  "the CPU backend": () => cpuBackend({ threads: 1, blas: "off" }),
};

for (const [on, makeBackend] of Object.entries(BACKENDS)) {
  Deno.test(`restartLora() leaves what a LLaMA computes, on ${on}`, async () => {
    using backend = await makeBackend();
    await assertNoLeak("restarts", backend, () => {
      using base = initLlama(backend, tiny, 1);
      base.freeze(base.names());
      const config: LoraConfig = {
        ...{ r: 3, alpha: 6, rslora: true, modulesToSave: ["norm"] },
        targets: ["q_proj", "up_proj", "embed_tokens"],
      };
      using adapter = initLora(base, config, { seed: 2 });
      using frozen = initLlama(backend, tiny, 1);
      const logits = () => {
        using _ = scope("forward");
        return noGrad(() => llama(withLora(base, [{ params: adapter, config }]), tiny, someTokens(backend))).readSync();
      };
      for (const cycle of [1, 2]) {
        stir(adapter, /./, 0.1 * cycle);
        const before = logits();
        using merged = mergeLora(base, adapter, config);
        const whole = adapter.get("model.norm.weight").readSync();
        restartLora(base, adapter, config, { seed: 2, step: cycle });
        assertRms("logits", logits(), before, { tolerance: 1e-6 });
        const changed = new Set(reloraWeights(base, config));
        for (const [name, tensor] of base.entries()) {
          assert.ok(base.isFrozen(name) && tensor.node === undefined);
          const expected = changed.has(name) ? merged : frozen;
          if (changed.has(name) || cycle === 1) {
            assert.deepEqual(tensor.readSync(), expected.get(name).readSync(), name);
          }
        }
        assert.deepEqual(adapter.get("model.norm.weight").readSync(), whole);
        assert.equal(changed.size, 5);
      }
    });
  });
}

Deno.test("restartLora() begins factors as initLora() does, each time by other numbers, and gives gradients to B alone", () => {
  using backend = loopsBackend();
  using base = initLlama(backend, tiny, 1);
  base.freeze(base.names());
  const config: LoraConfig = { r: 4, alpha: 8, targets: "all-linear" };
  using first = initLora(base, config, { seed: 5 });
  using adapter = initLora(base, config, { seed: 5 });
  using again = initLora(base, config, { seed: 5 });
  const A = "model.layers.0.mlp.down_proj.lora_A.weight";
  const drawn: unknown[] = [first.get(A).readSync()];
  for (const [step, seed] of [[1, 5], [2, 5], [1, 6]]) {
    restartLora(base, adapter, config, { seed, step });
    restartLora(base, again, config, { seed, step });
    const values = adapter.get(A).readSync();
    const bound = 1 / Math.sqrt(tiny.intermediate_size);
    assert.ok(Math.max(...values.map(Math.abs)) <= bound && rms(values) > 0.4 * bound);
    for (const other of drawn) assert.notDeepEqual(values, other);
    drawn.push(values);
    for (const [name, tensor] of adapter.entries()) assert.deepEqual(again.get(name).readSync(), tensor.readSync());
    using _ = scope("step");
    const view = withLora(base, [{ params: adapter, config }]);
    backward(llamaLoss(view, tiny, someTokens(backend), someTokens(backend)), (name, gradient) => {
      const size = rms(gradient.readSync());
      if (name.endsWith("lora_A.weight")) assert.equal(size, 0, name);
      else assert.ok(size > 0, name);
    });
  }
});

Deno.test("restartLora() adds up changes of any rank: two restarts of rank 2 leave one of rank 4", () => {
  using backend = loopsBackend();
  using base = new Params(backend);
  base.set("map.weight", fromArray(backend, random("w", 63), [7, 9], "f64"));
  base.freeze(base.names());
  const before = base.get("map.weight").readSync();
  const config: LoraConfig = { r: 2, alpha: 3, targets: ["map"] };
  using adapter = initLora(base, config, { seed: 1 });
  const expected = Float64Array.from(before);
  for (const cycle of [1, 2]) {
    const [A, B] = ["A", "B"].map((part) => adapter.get(`map.lora_${part}.weight`));
    B.write(random(`B ${cycle}`, 14));
    const [a, b] = [A.readSync(), B.readSync()];
    for (let i = 0; i < 63; i++) {
      for (let k = 0; k < 2; k++) expected[i] += 1.5 * b[2 * Math.floor(i / 9) + k] * a[9 * k + i % 9];
    }
    restartLora(base, adapter, config, { seed: 1, step: cycle });
    assertClose("weight", base.get("map.weight").readSync(), expected, { rtol: 1e-13, atol: 1e-13 });
  }
  const { values } = svd(base.get("map.weight").readSync().map((value, i) => value - before[i]), 7, 9);
  assert.ok(values[3] > 1e-3 && values[4] < 1e-14, `${values}`);
});

Deno.test("restartLora() needs no more memory than one weight and what it is made of", () => {
  using backend = loopsBackend();
  using base = new Params(backend);
  for (let i = 0; i < 6; i++) {
    base.set(`layer.${i}.map.weight`, fromArray(backend, new Float32Array(64 * 64), [64, 64]));
  }
  base.freeze(base.names());
  const config: LoraConfig = { r: 2, alpha: 2, targets: ["map"] };
  using adapter = initLora(base, config, { seed: 1 });
  const held = backend.memory().inUse;
  const more = peakBytes(backend, () => restartLora(base, adapter, config, { seed: 1, step: 1 }));
  assert.ok(more <= 3 * 64 * 64 * 4, `${more} bytes more`); // the product, scaled, and the sum; six weights are more
  assert.equal(backend.memory().inUse, held);
});

Deno.test("restartLora() restarts 16-bit factors beside 16-bit weights in their dtype", () => {
  using backend = loopsBackend();
  using base = new Params(backend);
  base.set("map.weight", fromArray(backend, new Uint16Array(30).fill(0x3f80), [5, 6], "bf16")); // ones
  base.freeze(base.names());
  const config: LoraConfig = { r: 2, alpha: 2, targets: ["map"] };
  using adapter = initLora(base, config, { seed: 1, dtype: "bf16" });
  adapter.get("map.lora_A.weight").write(new Uint16Array(12).fill(0x3f80));
  adapter.get("map.lora_B.weight").write(new Uint16Array(10).fill(0x3f80));
  restartLora(base, adapter, config, { seed: 1, step: 1 });
  assert.deepEqual([...base.get("map.weight").readSync()], Array(30).fill(0x4040)); // 1 + 2
  assert.deepEqual([...adapter.get("map.lora_B.weight").readSync()], Array(10).fill(0));
  assert.ok(new Set(adapter.get("map.lora_A.weight").readSync()).size > 8);
});

Deno.test("restartLora() refuses DoRA", () => {
  using backend = loopsBackend();
  using base = new Params(backend);
  base.set("map.weight", fromArray(backend, new Float32Array(6), [2, 3]));
  const config: LoraConfig = { r: 1, alpha: 1, targets: ["map"], dora: true };
  using adapter = initLora(base, config, { seed: 1 });
  assert.throws(() => restartLora(base, adapter, config, { seed: 1, step: 1 }), {
    name: "RangeError",
    message: "Cannot restart an adapter with DoRA: only a sum of products can be folded in",
  });
});
