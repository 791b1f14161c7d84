/** Moments in bfloat16: right on average, the same bits after a restore, and what the nearest value loses. */
import assert from "node:assert/strict";
import { loopsBackend } from "../backends/cpu/loops/mod.ts";
import { cpuBackend } from "../backends/cpu/mod.ts";
import { foldIn, fromArray, keyOf, normal, own, scope, type Tensor } from "../core/mod.ts";
import { rmsError } from "../core/testing/golden.ts";
import { assertNoLeak } from "../core/testing/leaks.ts";
import { bfloat16, finish, galore, scaleByAdam, storeAs } from "./mod.ts";
import { GradientBench } from "./testing/bench.ts";
import { store } from "./testing/rules.ts";

Deno.test("bfloat16() rounds to a neighbour at random, so that the mean of many is the value", async () => {
  for (const backend of [loopsBackend(), await cpuBackend({ threads: 1, blas: "off" })]) {
    using _ = backend;
    const codec = bfloat16();
    const x = normal(keyOf(1), 500);
    const draws = 4000;
    const sums = new Float64Array(x.length);
    await assertNoLeak("rounding", backend, () => {
      for (let draw = 0; draw < draws; draw++) {
        using _ = scope("draw");
        const stored = codec.encode(fromArray(backend, x, [20, 25]), "signed", foldIn(keyOf(2), draw));
        assert.equal((stored.values as Tensor).dtype, "bf16");
        const back = codec.decode(stored, "signed").readSync();
        for (let i = 0; i < x.length; i++) sums[i] += back[i];
      }
    });
    for (const [i, value] of x.entries()) {
      // a neighbour is at most 2^-7 of the value away; the mean of the draws strays by half of that over their root
      const most = 5 * 0.5 * 2 ** -7 * Math.abs(value) / Math.sqrt(draws);
      assert.ok(Math.abs(sums[i] / draws - value) <= most, `${value}: ${sums[i] / draws}`);
    }
  }
});

Deno.test("bfloat16() gives the same bits for the same key, others for another, and exact values back", () => {
  using backend = loopsBackend();
  using _ = scope("test");
  const x = own(fromArray(backend, normal(keyOf(3), 301), [301]));
  const bits = (seed: number) => (bfloat16().encode(x, "signed", keyOf(seed)).values as Tensor).readSync();
  assert.deepEqual(bits(1), bits(1));
  assert.notDeepEqual(bits(1), bits(2));
  const exact = fromArray(backend, [0, 1, -1.5, 2 ** -100, 3e38 - 3e38 % 2 ** 121], [5]);
  for (const rounding of ["nearest", "stochastic"] as const) {
    const codec = bfloat16({ rounding });
    const back = codec.decode(codec.encode(exact, "signed", keyOf(4)), "signed");
    assert.deepEqual(back.readSync(), exact.readSync());
  }
});

/** Second moments after `steps` of gradients of 1 and then as many of 0, as shares of what f32 has. */
async function decayed(rounding: "nearest" | "stochastic", steps: number): Promise<number[]> {
  using backend = loopsBackend();
  const make = (isStored: boolean) => {
    const adam = scaleByAdam({ beta2: 0.999 });
    const rule = isStored ? storeAs(bfloat16({ rounding }), adam, { minSize: 0 }) : adam;
    return new GradientBench(backend, { w: [600] }, finish(rule, { learningRate: 1e-3 }));
  };
  using exact = make(false);
  using stored = make(true);
  for (let step = 1; step <= 2 * steps; step++) {
    for (const bench of [exact, stored]) await bench.step({ w: new Float32Array(600).fill(step <= steps ? 1 : 0) });
  }
  const expected = await exact.read("w", "nu");
  using values = bfloat16().decode(stored.state("w").nu as { values: Tensor }, "nonnegative");
  return Array.from(await values.read(), (value, i) => value / expected[i]);
}

Deno.test("bfloat16() stochastic lets second moments grow and decay at beta2 0.999, on average", async () => {
  const shares = await decayed("stochastic", 300);
  const mean = shares.reduce((total, share) => total + share, 0) / shares.length;
  assert.ok(Math.abs(mean - 1) < 0.005, `${mean} of the exact moments`);
});

Deno.test("bfloat16() to the nearest lets them stand still", async () => {
  for (const share of await decayed("nearest", 300)) assert.ok(share > 1.25, `${share}: decayed after all`);
});

Deno.test("bfloat16() goes on with the same bits after a restore at every step", async () => {
  using backend = loopsBackend();
  const make = () => {
    const inner = storeAs(bfloat16(), scaleByAdam(), { minSize: 10, seed: 7 });
    const rule = finish(galore(inner, { rank: 2, updateProjGap: 3 }), { learningRate: 0.01 });
    return new GradientBench(backend, { w: [6, 9], v: [4, 3] }, rule, { clip: 1 });
  };
  using whole = make();
  for (let step = 1; step <= 6; step++) await whole.step(whole.gradients(step));
  for (let stopAt = 1; stopAt < 6; stopAt++) {
    using first = make();
    for (let step = 1; step <= stopAt; step++) await first.step(first.gradients(step));
    using second = make();
    await second.resume(first, await store(first.optimizer.snapshot()));
    for (let step = stopAt + 1; step <= 6; step++) await second.step(second.gradients(step));
    assert.deepEqual(await second.weights(), await whole.weights(), `stopped after ${stopAt}`);
    assert.deepEqual(await store(second.optimizer.snapshot()), await store(whole.optimizer.snapshot()));
  }
});

Deno.test("bfloat16() keeps Adam's weights near those of f32 moments, and a seed tells runs apart", async () => {
  using backend = await cpuBackend({ threads: 1, blas: "off" });
  const run = async (seed?: number) => {
    const inner = seed === undefined ? scaleByAdam() : storeAs(bfloat16(), scaleByAdam(), { minSize: 0, seed });
    const start = { w: new Float32Array(64 * 64) };
    using bench = new GradientBench(backend, { w: [64, 64] }, finish(inner, { learningRate: 0.01 }), { start });
    for (let step = 1; step <= 20; step++) await bench.step(bench.gradients(step));
    return (await bench.weights()).w;
  };
  const [exact, one, two] = [await run(), await run(1), await run(2)];
  for (const weights of [one, two]) assert.ok(rmsError(weights, exact) < 0.01, `${rmsError(weights, exact)}`);
  assert.notDeepEqual(one, two);
});
