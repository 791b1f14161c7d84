/** Fira against its formulas in plain f64 loops, what it keeps of a gradient, and what it costs. */
import assert from "node:assert/strict";
import { loopsBackend } from "../backends/cpu/loops/mod.ts";
import { cpuBackend } from "../backends/cpu/mod.ts";
import { rmsError } from "../core/testing/golden.ts";
import { assertNoLeak } from "../core/testing/leaks.ts";
import {
  fira,
  firaAdamW,
  type FiraOptions,
  galore,
  identity,
  type ProjType,
  scaleByAdam,
  type Side,
  stateBytes,
} from "./mod.ts";
import { GradientBench } from "./testing/bench.ts";
import { byChannel, lengthOf, plus, project, projectBack } from "./testing/channel_reference.ts";
import { ReferenceAdam, ReferenceLimiter } from "./testing/channel_reference.ts";
import type { HostMatrix } from "./testing/given_basis.ts";

const RANK = 3;
const STEPS = 7;
const CASES: readonly (readonly [ProjType, readonly [number, number], Side])[] = [
  ["std", [6, 11], "left"],
  ["std", [11, 6], "right"],
  ["right", [6, 11], "right"],
  ["reverse_std", [11, 6], "left"],
];

/** The basis in use, on the host. */
async function basisOf(bench: GradientBench, side: Side): Promise<HostMatrix> {
  return { shape: [RANK, bench.shapes.w[side === "left" ? 0 : 1]], data: await bench.read("w", side) };
}

for (const [projType, shape, side] of CASES) {
  for (const residual of ["orthogonal", "released"] as const) {
    for (const growthLimit of [1.01, Infinity]) {
      Deno.test(`fira() follows its formula: ${projType} of [${shape}], ${residual}, growth up to ${growthLimit}`, async () => {
        using backend = loopsBackend();
        await assertNoLeak("fira()", backend, async () => {
          const scale = 0.5;
          const options: FiraOptions = { rank: RANK, updateProjGap: 3, projType, scale, residual, growthLimit };
          const clip = 5;
          using bench = new GradientBench(backend, { w: shape }, fira(scaleByAdam(), options), { dtype: "f64", clip });
          const adam = new ReferenceAdam(RANK * shape[side === "left" ? 1 : 0]);
          const limiter = new ReferenceLimiter(growthLimit);
          let weights: HostMatrix = { shape, data: (await bench.weights()).w };
          for (let step = 1; step <= STEPS; step++) {
            const gradients = bench.gradients(step);
            await bench.step(gradients);
            const factor = Math.min(1, clip / (lengthOf(gradients.w) + 1e-6));
            assert.ok(factor < 1);
            const g: HostMatrix = { shape, data: Float64Array.from(gradients.w, (x) => factor * x) };
            const basis = await basisOf(bench, side);
            const r = project(g, basis, side);
            const direction = adam.direction(r);
            const rest = plus(g, residual === "released" ? -scale : -1, projectBack(r, basis, side));
            const limited = limiter.limited(byChannel(rest, direction, r, side));
            weights = plus(plus(weights, scale, projectBack(direction, basis, side)), 1, limited);
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

Deno.test("fira() adds nothing in the subspace to GaLore's change, and with the released residual it does", async () => {
  using backend = loopsBackend();
  for (const [projType, shape, side] of CASES) {
    for (const [scale, residual] of [[0.5, "orthogonal"], [0.5, "released"], [1, "released"]] as const) {
      const options: FiraOptions = { rank: RANK, projType, scale, residual };
      using bench = new GradientBench(backend, { w: shape }, fira(scaleByAdam(), options), { dtype: "f64" });
      using plain = new GradientBench(backend, { w: shape }, galore(scaleByAdam(), options), { dtype: "f64" });
      const start = (await bench.weights()).w;
      for (const each of [bench, plain]) await each.step(bench.gradients(1));
      const [a, b] = [(await bench.weights()).w, (await plain.weights()).w];
      const added: HostMatrix = { shape, data: Float64Array.from(a, (x, i) => x - b[i]) };
      const inside = lengthOf(project(added, await basisOf(bench, side), side).data) / lengthOf(added.data);
      assert.ok(lengthOf(added.data) > 0.1 * lengthOf(Float64Array.from(b, (x, i) => x - start[i])));
      if (residual === "orthogonal" || scale === 1) assert.ok(inside < 1e-6, `${inside} of it lies inside`);
      else assert.ok(inside > 0.1, `${inside} of it lies inside`);
    }
  }
});

Deno.test("fira() keeps GaLore's state and one number a matrix", async () => {
  using backend = loopsBackend();
  const options = { rank: RANK };
  using bench = new GradientBench(backend, { w: [6, 11], v: [8, 5] }, fira(scaleByAdam(), options));
  using plain = new GradientBench(backend, { w: [6, 11], v: [8, 5] }, galore(scaleByAdam(), options));
  for (const each of [bench, plain]) await each.step(bench.gradients(1));
  for (const name of ["w", "v"]) {
    assert.equal(stateBytes(bench.state(name)), stateBytes(plain.state(name)) + 4, name);
  }
});

Deno.test("fira() leaves a weight without a gradient, and channels without one, as they are", async () => {
  for (const backend of [loopsBackend(), await cpuBackend({ threads: 1, blas: "off" })]) {
    using _ = backend;
    using bench = new GradientBench(backend, { w: [6, 11] }, fira(scaleByAdam(), { rank: RANK }));
    const start = (await bench.weights()).w;
    // column 4 has no gradient, as a token that did not occur
    const without = (values: Float32Array) => values.map((value, i) => i % 11 === 4 ? 0 : value);
    await bench.step({ w: without(bench.gradients(1).w) });
    const after = (await bench.weights()).w;
    after.forEach((value, i) => assert.equal(value === start[i], i % 11 === 4, `element ${i}: ${value}`));
    using idle = new GradientBench(backend, { w: [6, 11] }, fira(scaleByAdam(), { rank: RANK }));
    for (let step = 0; step < 2; step++) await idle.step({ w: new Float32Array(66) });
    assert.deepEqual((await idle.weights()).w, start);
  }
});

Deno.test("fira() refuses both sides, which have no channels, and a rule that projects", () => {
  assert.throws(
    () => fira(scaleByAdam(), { rank: 2, projType: "full" }),
    /^RangeError: Cannot project both sides in fira\(\): channels need one$/,
  );
  assert.throws(() => fira(galore(identity(), { rank: 2 }), { rank: 2 }), /^TypeError: Cannot project galore/);
});

Deno.test("firaAdamW() projects the named matrices and gives plain AdamW to the others", async () => {
  using backend = loopsBackend();
  const rule = firaAdamW({ learningRate: 0.01, projected: /proj/, fira: { rank: 2, scale: 0.25 } });
  using bench = new GradientBench(backend, { "a.proj": [6, 4], "norm": [5] }, rule);
  await bench.step(bench.gradients(1));
  assert.deepEqual(["norm" in bench.state("a.proj"), Object.keys(bench.state("norm"))], [true, ["mu", "nu"]]);
  assert.equal(bench.optimizer.learningRate, 0.01);
});
