/** APOLLO against its formulas in plain f64 loops, and what it costs: sketches are drawn again, never kept. */
import assert from "node:assert/strict";
import { loopsBackend } from "../backends/cpu/loops/mod.ts";
import { cpuBackend } from "../backends/cpu/mod.ts";
import { type Backend, foldIn, keyOf } from "../core/mod.ts";
import { rmsError } from "../core/testing/golden.ts";
import { assertNoLeak } from "../core/testing/leaks.ts";
import {
  apollo,
  apolloAdamW,
  type ApolloOptions,
  flattenState,
  galore,
  identity,
  randomBasis,
  scaleByAdam,
  type Side,
  stateBytes,
  subspaceBasis,
} from "./mod.ts";
import { GradientBench } from "./testing/bench.ts";
import { byChannel, byTensor, plus, project, ReferenceAdam, ReferenceLimiter } from "./testing/channel_reference.ts";
import type { HostMatrix } from "./testing/given_basis.ts";

const GAP = 3;
const STEPS = 7;
const SEED = 4;
const SHAPES: readonly (readonly [readonly [number, number], Side])[] = [[[6, 11], "left"], [[11, 6], "right"]];

/** The basis that a step draws: a function of seed, name, gap and side. */
async function drawn(backend: Backend, size: number, side: Side, rank: number, step: number): Promise<HostMatrix> {
  const key = foldIn(keyOf(SEED), "w", 1 + Math.floor((step - 1) / GAP), side);
  using basis = randomBasis().generate!(backend, { side, rank, size, key, dtype: "f64" });
  return { shape: [rank, size], data: await basis.read() };
}

for (const [shape, side] of SHAPES) {
  for (const over of ["channel", "tensor"] as const) {
    for (const growthLimit of [1.01, Infinity]) {
      Deno.test(`apollo() follows its formula: ${side} of [${shape}], over the ${over}, growth up to ${growthLimit}`, async () => {
        using backend = loopsBackend();
        await assertNoLeak("apollo()", backend, async () => {
          const [rank, scale] = over === "tensor" ? [1, 128] : [3, 1];
          const options: ApolloOptions = { rank, updateProjGap: GAP, seed: SEED, over, scale, growthLimit };
          using bench = new GradientBench(backend, { w: shape }, apollo(scaleByAdam(), options), { dtype: "f64" });
          const adam = new ReferenceAdam(rank * shape[side === "left" ? 1 : 0]);
          const limiter = new ReferenceLimiter(growthLimit);
          let weights: HostMatrix = { shape, data: (await bench.weights()).w };
          for (let step = 1; step <= STEPS; step++) {
            const g: HostMatrix = { shape, data: bench.gradients(step).w };
            await bench.step({ w: g.data });
            const r = project(g, await drawn(backend, shape[side === "left" ? 0 : 1], side, rank, step), side);
            const direction = adam.direction(r);
            const scaled = over === "channel" ? byChannel(g, direction, r, side) : byTensor(g, direction, r);
            const change = limiter.limited({ shape, data: Array.from(scaled.data, (x) => x * Math.sqrt(scale)) });
            weights = plus(weights, 1, change);
            assert.ok(rmsError((await bench.weights()).w, weights.data) < 1e-9, `step ${step}`);
            const [norm] = await bench.read("w", "norm");
            assert.ok(Math.abs(norm / limiter.norm - 1) < 1e-9, `${norm}, ${limiter.norm}`);
          }
          assert.equal(limiter.count > 0, growthLimit < 2, "the limiter had something to do");
          assert.ok(limiter.count < STEPS - 1);
        });
      });
    }
  }
}

Deno.test("apollo() keeps the moments of its sketch and one number a matrix, and no basis", async () => {
  for (const [shape, side] of SHAPES) {
    for (const [rank, over] of [[3, "channel"], [1, "tensor"]] as const) {
      using backend = loopsBackend();
      using bench = new GradientBench(backend, { w: shape }, apollo(scaleByAdam(), { rank, over }));
      await bench.step(bench.gradients(1));
      assert.deepEqual([...flattenState(bench.state("w")).tensors.keys()], ["inner/mu", "inner/nu", "norm"]);
      const channels = shape[side === "left" ? 1 : 0];
      assert.equal(stateBytes(bench.state("w")), 4 * (2 * rank * channels + 1));
      assert.equal(backend.memory().inUse, 4 * shape[0] * shape[1] + 4 * (2 * rank * channels + 1));
    }
  }
});

Deno.test("apollo() moves every element along its gradient, each channel by one scale", async () => {
  using backend = loopsBackend();
  for (const [shape, side] of SHAPES) {
    for (const over of ["channel", "tensor"] as const) {
      using bench = new GradientBench(backend, { w: shape }, apollo(scaleByAdam(), { rank: 2, over }), {
        dtype: "f64",
      });
      const start = (await bench.weights()).w;
      const { w: gradient } = bench.gradients(1);
      await bench.step({ w: gradient });
      const after = (await bench.weights()).w;
      const ratios = Array.from(gradient, (g, i) => (after[i] - start[i]) / g);
      assert.ok(ratios.every((ratio) => ratio > 0));
      const channelOf = (i: number) =>
        over === "tensor" ? 0 : side === "left" ? i % shape[1] : Math.floor(i / shape[1]);
      const first = new Map<number, number>();
      ratios.forEach((ratio, i) => {
        const expected = first.get(channelOf(i)) ?? ratio;
        first.set(channelOf(i), expected);
        assert.ok(Math.abs(ratio / expected - 1) < 1e-6);
      });
      assert.equal(new Set([...first.values()].map((ratio) => ratio.toFixed(9))).size, first.size);
    }
  }
});

Deno.test("apollo() takes a basis that is found as well, and renews it", async () => {
  using backend = loopsBackend();
  const options: ApolloOptions = { rank: 3, updateProjGap: 2, basis: subspaceBasis() };
  using bench = new GradientBench(backend, { w: [6, 11] }, apollo(scaleByAdam(), options));
  const renewed: unknown[] = [];
  for (let step = 1; step <= 4; step++) {
    await bench.step(bench.gradients(step));
    renewed.push(bench.state("w").renewedAt);
  }
  assert.deepEqual(renewed, [1, 1, 3, 3]);
  assert.ok("left" in bench.state("w") && bench.state("w").left !== null);
});

Deno.test("apollo() leaves a weight without a gradient as it is", async () => {
  for (const backend of [loopsBackend(), await cpuBackend({ threads: 1, blas: "off" })]) {
    using _ = backend;
    for (const over of ["channel", "tensor"] as const) {
      using bench = new GradientBench(backend, { w: [6, 11] }, apollo(scaleByAdam(), { rank: 2, over }));
      const start = (await bench.weights()).w;
      for (let step = 0; step < 2; step++) await bench.step({ w: new Float32Array(66) });
      assert.deepEqual((await bench.weights()).w, start);
      await bench.step(bench.gradients(1));
      assert.ok(Array.from((await bench.weights()).w).every(Number.isFinite), "a norm of 0 before limits nothing");
      assert.notDeepEqual((await bench.weights()).w, start);
    }
  }
});

Deno.test("apollo() refuses both sides, which have no channels, and a rule that projects", () => {
  assert.throws(
    () => apollo(scaleByAdam(), { rank: 2, projType: "full" }),
    /^RangeError: Cannot project both sides in apollo\(\): channels need one$/,
  );
  assert.throws(() => apollo(galore(identity(), { rank: 2 }), { rank: 2 }), /^TypeError: Cannot project galore/);
});

Deno.test("apolloAdamW() projects the named matrices and gives plain AdamW to the others", async () => {
  using backend = loopsBackend();
  const rule = apolloAdamW({ learningRate: 0.01, projected: /proj/, apollo: { rank: 1, over: "tensor", scale: 128 } });
  using bench = new GradientBench(backend, { "a.proj": [6, 4], "norm": [5] }, rule);
  await bench.step(bench.gradients(1));
  assert.deepEqual(["norm" in bench.state("a.proj"), Object.keys(bench.state("norm"))], [true, ["mu", "nu"]]);
  assert.equal(bench.optimizer.learningRate, 0.01);
});
