/** Bases that are not kept in f32: stored in fewer bits, or drawn when they are used. */
import assert from "node:assert/strict";
import { loopsBackend } from "../backends/cpu/loops/mod.ts";
import { cpuBackend } from "../backends/cpu/mod.ts";
import type { Backend } from "../core/mod.ts";
import { rmsError } from "../core/testing/golden.ts";
import { assertNoLeak } from "../core/testing/leaks.ts";
import {
  affine,
  type BasisStrategy,
  bfloat16,
  blockwise8bit,
  type Codec,
  finish,
  flattenState,
  galore,
  type GaloreOptions,
  galoreShapes,
  type GradientRule,
  gramBasis,
  identity,
  type ProjectionState,
  type ProjType,
  randomBasis,
  scaleByAdam,
  stateBytes,
  storeAs,
} from "./mod.ts";
import { GradientBench, normals } from "./testing/bench.ts";
import { givenBasis, type HostMatrix, product, stacked, transposed } from "./testing/given_basis.ts";
import { store } from "./testing/rules.ts";
import { dot, orthonormal } from "./testing/spectra.ts";

const learningRate = 0.01;
const RANK = 3;
/** Sides of either projection, and of both. */
const CASES: readonly (readonly [ProjType, readonly [number, number]])[] = [
  ["std", [6, 11]],
  ["std", [11, 6]],
  ["full", [6, 11]],
];

const stateOf = (bench: GradientBench, name = "w") => bench.state(name) as ProjectionState;

const PROJECTORS: Readonly<Record<string, { codec: Codec; bytes: (elements: number) => number; error: number }>> = {
  "int4": { codec: affine({ bits: 4, group: 32 }), bytes: (n) => Math.ceil(n / 32) * (16 + 8), error: 0.1 },
  "int8": { codec: affine({ bits: 8, group: 32 }), bytes: (n) => Math.ceil(n / 32) * (32 + 8), error: 0.01 },
  "bfloat16": { codec: bfloat16({ rounding: "nearest" }), bytes: (n) => 4 * Math.ceil(n / 2), error: 0.005 },
};

for (const [name, { codec, bytes, error }] of Object.entries(PROJECTORS)) {
  Deno.test(`a projector in ${name} projects and comes back by the basis that it decodes to`, async () => {
    for (const backend of [loopsBackend(), await cpuBackend({ threads: 1, blas: "off" })]) {
      using _ = backend;
      for (const [projType, shape] of CASES) {
        await assertNoLeak("a stored projector", backend, async () => {
          const rows = (size: number) => orthonormal(`rows ${size}`, RANK, size);
          const options: GaloreOptions = { rank: RANK, updateProjGap: 2, projType, projector: codec };
          const rule = galore(identity(), { ...options, basis: givenBasis((_, size) => rows(size)) });
          using bench = new GradientBench(backend, { w: shape }, rule);
          const gradients = bench.gradients(1);
          const before = Float64Array.from((await bench.weights()).w);
          assert.equal(stateBytes(bench.state("w")), 0, "nothing before the first basis");
          bench.stage(gradients);
          await bench.optimizer.refresh();
          const { bases } = galoreShapes(shape, RANK, projType);
          assert.equal(
            stateBytes(bench.state("w")),
            bases.reduce((total, { shape: [rank, size] }) => total + bytes(rank * size), 0),
          );
          const decoded: Partial<Record<string, HostMatrix>> = {};
          for (const { side, shape: size } of bases) {
            using values = codec.decode(stateOf(bench)[side] as never, "signed");
            decoded[side] = { shape: size as [number, number], data: await values.read() };
            const off = rmsError(decoded[side].data, stacked(rows(size[1])).data);
            assert.ok(off < error && off > 1e-5, `${side}: ${off}`);
          }
          const { left, right } = decoded;
          const g: HostMatrix = { shape: shape as [number, number], data: gradients.w };
          const half = left ? product(left, g) : g;
          const projected = right ? product(half, transposed(right)) : half;
          const staged = bench.optimizer.snapshot().leaves.get("w")!.staged!;
          assert.ok(rmsError(await staged.read(), projected.data) < 1e-5);
          bench.optimizer.commit();
          const up = left ? product(transposed(left), projected) : projected;
          const change = right ? product(up, right) : up;
          assert.ok(
            rmsError(Float64Array.from((await bench.weights()).w, (w, i) => w - before[i]), change.data) < 1e-5,
          );
        });
      }
    }
  });
}

Deno.test("a stored projector hands its decoded basis on as the one to start from", async () => {
  using backend = loopsBackend();
  const starts: (Float32Array | undefined)[] = [];
  const basis: BasisStrategy = {
    ...gramBasis(),
    compute: (gradient, request) => {
      starts.push(request.previous?.readSync() as Float32Array | undefined);
      return gramBasis().compute(gradient, request);
    },
  };
  const projector = affine({ bits: 8 });
  const rule = galore(identity(), { rank: RANK, updateProjGap: 1, basis, projector });
  using bench = new GradientBench(backend, { w: [6, 11] }, rule);
  await bench.step(bench.gradients(1));
  using decoded = projector.decode(stateOf(bench).left as never, "signed");
  await bench.step(bench.gradients(2));
  assert.deepEqual(starts, [undefined, await decoded.read()]);
});

/** What is staged of the same gradient in each step: P G. */
async function sketches(rule: GradientRule, steps: number): Promise<number[][]> {
  using backend = loopsBackend();
  return await assertNoLeak("random bases", backend, () => sketchesOn(backend, rule, steps));
}

async function sketchesOn(backend: Backend, rule: GradientRule, steps: number): Promise<number[][]> {
  using bench = new GradientBench(backend, { w: [6, 11] }, rule);
  const seen: number[][] = [];
  for (let step = 1; step <= steps; step++) {
    bench.stage(bench.gradients(0));
    assert.equal(bench.optimizer.refreshDue, false, "there is nothing to find");
    seen.push([...await bench.optimizer.snapshot().leaves.get("w")!.staged!.read()]);
    bench.optimizer.commit();
  }
  return seen;
}

Deno.test("random bases are drawn anew every gap, from the seed and the name, and never stored", async () => {
  const options: GaloreOptions = { rank: RANK, updateProjGap: 3, basis: randomBasis() };
  const seen = await sketches(galore(identity(), options), 7);
  const [first, , third, fourth, , sixth, seventh] = seen;
  assert.deepEqual([third, sixth], [first, fourth], "the same within a gap");
  const cosine = (a: number[], b: number[]) => dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b));
  for (const other of [fourth, seventh]) assert.ok(Math.abs(cosine(first, other)) < 0.6);
  assert.notDeepEqual(seventh, fourth);
  const [other] = await sketches(galore(identity(), { ...options, seed: 1 }), 1);
  assert.notDeepEqual(other, first);
  assert.deepEqual((await sketches(galore(identity(), options), 1))[0], first);
  const forever = await sketches(galore(identity(), { ...options, updateProjGap: Infinity }), 7);
  assert.deepEqual(forever[6], forever[0]);

  using backend = loopsBackend();
  using bench = new GradientBench(backend, { w: [6, 11] }, galore(scaleByAdam(), options));
  await bench.step(bench.gradients(1));
  assert.deepEqual([...flattenState(bench.state("w")).tensors.keys()], ["inner/mu", "inner/nu"]);
  assert.deepEqual([stateOf(bench).left, stateOf(bench).right], [null, null]);
});

Deno.test("random bases go on with the same bits after a restore at every step of a gap", async () => {
  using backend = loopsBackend();
  for (const projType of ["std", "full"] as const) {
    const make = () => {
      const options: GaloreOptions = {
        rank: 2,
        updateProjGap: 3,
        projType,
        refresh: "staggered",
        basis: randomBasis(),
      };
      const rule = finish(galore(scaleByAdam(), options), { learningRate });
      return new GradientBench(backend, { w: [6, 11], v: [5, 4] }, rule);
    };
    using whole = make();
    for (let step = 1; step <= 7; step++) await whole.step(whole.gradients(step));
    for (let stopAt = 0; stopAt < 7; stopAt++) {
      using first = make();
      for (let step = 1; step <= stopAt; step++) await first.step(first.gradients(step));
      first.stage(first.gradients(stopAt + 1)); // in the middle of a step
      using second = make();
      await second.resume(first, await store(first.optimizer.snapshot()));
      second.optimizer.commit();
      for (let step = stopAt + 2; step <= 7; step++) await second.step(second.gradients(step));
      assert.deepEqual(await second.weights(), await whole.weights(), `stopped in step ${stopAt + 1}`);
    }
  }
});

Deno.test("random bases cannot be stored, renewed lazily or transported to", () => {
  const refused: Partial<GaloreOptions>[] = [{ projector: affine({ bits: 4 }) }, { lazy: {} }, {
    moments: "transport",
  }];
  for (const options of refused) {
    assert.throws(
      () => galore(identity(), { rank: 2, basis: randomBasis(), ...options }),
      /^RangeError: Cannot store, renew lazily or transport to random bases: they are drawn when used$/,
    );
  }
});

Deno.test("transport, lazy renewal and a stored projector go on with the same bits after a restore at every step", async () => {
  using backend = loopsBackend();
  const make = () => {
    const inner = storeAs(blockwise8bit(), scaleByAdam(), { minSize: 20 });
    const options: GaloreOptions = { rank: 2, updateProjGap: 2, lazy: { overlap: 0.1, most: 2 }, moments: "transport" };
    const rule = finish(galore(inner, { ...options, projector: affine({ bits: 4, group: 16 }) }), { learningRate });
    return new GradientBench(backend, { w: [6, 11], v: [5, 4] }, rule, { clip: 1 });
  };
  using whole = make();
  for (let step = 1; step <= 9; step++) await whole.step(whole.gradients(step));
  for (let stopAt = 0; stopAt < 9; stopAt++) {
    using first = make();
    for (let step = 1; step <= stopAt; step++) await first.step(first.gradients(step));
    first.stage({ w: normals([6, 11], "w", "gradient", stopAt + 1) });
    using second = make();
    await second.resume(first, await store(first.optimizer.snapshot()));
    await second.step({ v: normals([5, 4], "v", "gradient", stopAt + 1) });
    for (let step = stopAt + 2; step <= 9; step++) await second.step(second.gradients(step));
    assert.deepEqual(await second.weights(), await whole.weights(), `stopped in step ${stopAt + 1}`);
    assert.deepEqual(await store(second.optimizer.snapshot()), await store(whole.optimizer.snapshot()));
  }
});
