/** Renewing a basis: what becomes of moments, how often, and when it fails. */
import assert from "node:assert/strict";
import { loopsBackend } from "../backends/cpu/loops/mod.ts";
import { cpuBackend } from "../backends/cpu/mod.ts";
import { OutOfMemoryError } from "../core/mod.ts";
import { rmsError } from "../core/testing/golden.ts";
import { assertNoLeak } from "../core/testing/leaks.ts";
import {
  affine,
  type BasisStrategy,
  blockwise8bit,
  finish,
  flattenState,
  galore,
  type GaloreOptions,
  galoreShapes,
  identity,
  polarBasis,
  type ProjectionState,
  type ProjType,
  scaleByAdam,
  storeAs,
  trace,
} from "./mod.ts";
import { GradientBench } from "./testing/bench.ts";
import { givenBasis, type HostMatrix, product, stacked, transposed } from "./testing/given_basis.ts";
import { guardedBases } from "./testing/guarded_bases.ts";
import { store } from "./testing/rules.ts";
import { orthonormal } from "./testing/spectra.ts";

const learningRate = 0.01;
const RANK = 3;
/** Sides of either projection, and of both. */
const CASES: readonly (readonly [ProjType, readonly [number, number]])[] = [
  ["std", [6, 11]],
  ["std", [11, 6]],
  ["full", [6, 11]],
];

const stateOf = (bench: GradientBench, name = "w") => bench.state(name) as ProjectionState;

/** A tensor of the state as a matrix on the host. */
async function matrix(bench: GradientBench, path: string): Promise<HostMatrix> {
  const data = await bench.read("w", path);
  const { tensors } = flattenState(bench.state("w"));
  return { shape: tensors.get(path)!.shape as [number, number], data };
}

/** Stages a gradient and refreshes, without the commit. */
async function refreshed(bench: GradientBench, step: number): Promise<void> {
  bench.stage(bench.gradients(step));
  await bench.optimizer.refresh();
}

/** mu' = P' P^T mu, mu Q Q'^T, or both. */
function moved(mu: HostMatrix, old: Partial<Record<string, HostMatrix>>, fresh: typeof old): HostMatrix {
  let out = mu;
  if (old.left) out = product(product(fresh.left!, transposed(old.left)), out);
  if (old.right) out = product(out, product(old.right, transposed(fresh.right!)));
  return out;
}

async function basesOf(bench: GradientBench, shape: readonly number[], projType: ProjType) {
  const sides = galoreShapes(shape, RANK, projType).bases.map(({ side }) => side);
  return Object.fromEntries(await Promise.all(sides.map(async (side) => [side, await matrix(bench, side)])));
}

for (const [projType, shape] of CASES) {
  Deno.test(`transport takes first moments to the new basis and leaves second ones: ${projType} of [${shape}]`, async () => {
    for (const backend of [loopsBackend(), await cpuBackend({ threads: 1, blas: "off" })]) {
      using _ = backend;
      await assertNoLeak("transport", backend, async () => {
        const options: GaloreOptions = { rank: RANK, updateProjGap: 2, projType, moments: "transport" };
        using bench = new GradientBench(
          backend,
          { w: shape },
          finish(galore(scaleByAdam(), options), { learningRate }),
        );
        for (let step = 1; step <= 2; step++) await bench.step(bench.gradients(step));
        const mu = await matrix(bench, "inner/mu");
        const nu = await bench.read("w", "inner/nu");
        const old = await basesOf(bench, shape, projType);
        await refreshed(bench, 3);
        const fresh = await basesOf(bench, shape, projType);
        const expected = moved(mu, old, fresh).data;
        assert.ok(rmsError(await bench.read("w", "inner/mu"), expected) < 1e-5);
        assert.ok(rmsError(expected, mu.data) > 0.1, "the basis has turned");
        assert.deepEqual(await bench.read("w", "inner/nu"), nu);
        bench.optimizer.commit();
      });
    }
  });

  Deno.test(`transport decodes and encodes moments of 8 bits: ${projType} of [${shape}]`, async () => {
    for (const backend of [loopsBackend(), await cpuBackend({ threads: 1, blas: "off" })]) {
      using _ = backend;
      await assertNoLeak("transport", backend, async () => {
        const options: GaloreOptions = { rank: RANK, updateProjGap: 2, projType, moments: "transport" };
        const inner = storeAs(blockwise8bit(), scaleByAdam(), { minSize: 0 });
        using bench = new GradientBench(backend, { w: shape }, finish(galore(inner, options), { learningRate }));
        for (let step = 1; step <= 2; step++) await bench.step(bench.gradients(step));
        const decoded = async () => {
          using values = blockwise8bit().decode(stateOf(bench).inner.mu as never, "signed");
          return { shape: values.shape as [number, number], data: await values.read() };
        };
        const mu = await decoded();
        const nu = await bench.read("w", "inner/nu/codes");
        const old = await basesOf(bench, shape, projType);
        await refreshed(bench, 3);
        const expected = moved(mu, old, await basesOf(bench, shape, projType)).data;
        assert.ok(rmsError((await decoded()).data, expected) < 0.02);
        assert.deepEqual(await bench.read("w", "inner/nu/codes"), nu);
        bench.optimizer.commit();
      });
    }
  });
}

Deno.test("keep leaves first moments as numbers, the same tensors", async () => {
  using backend = loopsBackend();
  const rule = galore(scaleByAdam(), { rank: RANK, updateProjGap: 2 });
  using bench = new GradientBench(backend, { w: [6, 11] }, rule);
  for (let step = 1; step <= 2; step++) await bench.step(bench.gradients(step));
  const { mu } = stateOf(bench).inner;
  await refreshed(bench, 3);
  assert.equal(stateOf(bench).inner.mu, mu);
});

/** Rows of `basis` turned among themselves. */
function turned(basis: readonly Float64Array[], name: string): Float64Array[] {
  const { shape, data } = product(stacked(orthonormal(name, basis.length, basis.length)), stacked(basis));
  return Array.from({ length: shape[0] }, (_, i) => data.slice(i * shape[1], (i + 1) * shape[1]));
}

Deno.test("transport changes nothing of the momentum where both bases span one subspace, however turned", async () => {
  using backend = loopsBackend();
  for (const moments of ["transport", "keep"] as const) {
    const basis = givenBasis((renewal, size) => turned(orthonormal("span", RANK, size), `turn ${renewal}`));
    const make = (updateProjGap: number, strategy: BasisStrategy) => {
      const options: GaloreOptions = { rank: RANK, updateProjGap, basis: strategy, moments };
      const rule = finish(galore(trace({ decay: 0.9 }), options), { learningRate });
      return new GradientBench(backend, { w: [6, 11] }, rule, { dtype: "f64" });
    };
    using renewing = make(2, basis);
    using steady = make(Infinity, givenBasis((_, size) => orthonormal("span", RANK, size)));
    for (let step = 1; step <= 7; step++) {
      for (const bench of [renewing, steady]) await bench.step(bench.gradients(step));
    }
    const error = rmsError((await renewing.weights()).w, (await steady.weights()).w);
    if (moments === "transport") assert.ok(error < 1e-13, `${error}`);
    else assert.ok(error > 1e-3, `${error}: without it they differ`);
  }
});

/** Steps in which the basis of `w` is renewed, and the overlap that each found. */
async function renewals(options: Partial<GaloreOptions>, steps: number, shape: readonly number[] = [40, 50]) {
  using backend = loopsBackend();
  const rule = galore(identity(), { rank: RANK, updateProjGap: 2, ...options });
  using bench = new GradientBench(backend, { w: shape }, rule);
  const seen: { step: number; overlap: number; skipped: number }[] = [];
  for (let step = 1; step <= steps; step++) {
    await bench.step(bench.gradients(step));
    const { renewedAt, overlap, skipped } = stateOf(bench);
    if (renewedAt === step) seen.push({ step, overlap, skipped });
  }
  return seen;
}

Deno.test("lazy doubles the gap up to its most while the subspace stays, and overlaps by 1", async () => {
  const basis = () => givenBasis((renewal, size) => turned(orthonormal("span", RANK, size), `turn ${renewal}`));
  for (const [most, expected] of [[undefined, [1, 3, 7, 15, 31, 47]], [2, [1, 3, 7, 11, 15, 19, 23]]] as const) {
    const seen = await renewals({ basis: basis(), lazy: { most } }, expected.at(-1)! + 1);
    assert.deepEqual(seen.map(({ step }) => step), expected);
    assert.equal(seen[0].overlap, 0, "nothing to compare with");
    for (const { overlap } of seen.slice(1)) assert.ok(Math.abs(overlap - 1) < 1e-5, `${overlap}`);
  }
  assert.deepEqual((await renewals({ basis: basis() }, 8)).map(({ step }) => step), [1, 3, 5, 7], "unless it is lazy");
});

Deno.test("lazy returns to the gap asked for when the subspace changes, and random ones overlap by about 0", async () => {
  const basis = givenBasis((renewal, size) => orthonormal(renewal < 3 ? "span" : `other ${renewal}`, RANK, size));
  const seen = await renewals({ basis, lazy: {} }, 20);
  assert.deepEqual(seen.map(({ step }) => step), [1, 3, 7, 15, 17, 19]);
  for (const { overlap } of seen.slice(3)) assert.ok(overlap < 0.15, `${overlap}`);
});

Deno.test("lazy measures what was kept beyond chance, on both sides and through a stored projector", async () => {
  // of three rows two stay
  const rowsAt = (renewal: number, size: number) => {
    const [first, second, ...rest] = orthonormal("kept", 12, size);
    return [first, second, rest[renewal]];
  };
  for (const projector of [undefined, affine({ bits: 8 })]) {
    const seen = await renewals({ basis: givenBasis(rowsAt), lazy: {}, projector }, 4, [40, 50]);
    const chance = RANK / 40;
    const expected = (2 / 3 - chance) / (1 - chance);
    assert.ok(Math.abs(seen[1].overlap - expected) < 0.01, `${seen[1].overlap}, expected ${expected}`);
  }
  const calls: number[] = [];
  // full: the right side changes altogether, and the lesser overlap counts
  const basis = givenBasis((renewal, size) => {
    calls.push(size);
    return orthonormal(size === 50 ? `right ${renewal}` : "left", RANK, size);
  });
  const seen = await renewals({ basis, lazy: {}, projType: "full" }, 6, [40, 50]);
  assert.deepEqual(calls.slice(0, 2), [40, 50]);
  assert.deepEqual(seen.map(({ step }) => step), [1, 3, 5]);
  assert.ok(seen[1].overlap < 0.15);
});

Deno.test("lazy waits for its numbers where the host cannot see the memory, and finds the same", async () => {
  const run = async (readSync: boolean) => {
    using backend = loopsBackend({ readSync });
    const options: GaloreOptions = { rank: RANK, updateProjGap: 2, basis: polarBasis(), lazy: {} };
    const rule = finish(galore(scaleByAdam(), options), { learningRate });
    using bench = new GradientBench(backend, { w: [12, 20] }, rule, { perLayer: true });
    for (let step = 1; step <= 9; step++) await bench.step(bench.gradients(step));
    return [await bench.weights(), (await store(bench.optimizer.snapshot())).leaves];
  };
  assert.deepEqual(await run(false), await run(true));
});

Deno.test("a renewal that finds nothing keeps the basis, is counted, and is tried again a gap later", async () => {
  for (const projType of ["std", "full"] as const) {
    using backend = loopsBackend();
    await assertNoLeak("failed renewals", backend, async () => {
      const perRenewal = projType === "full" ? 2 : 1;
      // of both sides the second fails, so that the first is given back
      let asked = 0;
      const basis = givenBasis((_, size) => {
        const renewal = Math.floor(asked++ / perRenewal);
        const isLast = asked % perRenewal === 0;
        if ((renewal === 1 || renewal === 2) && isLast) return new RangeError("Cannot find a basis: none");
        return orthonormal(`at ${renewal}`, RANK, size);
      });
      const rule = galore(identity(), { rank: RANK, updateProjGap: 2, basis, projType });
      using bench = new GradientBench(backend, { w: [6, 11] }, rule);
      const seen: string[] = [];
      let before: unknown[] = [];
      for (let step = 1; step <= 7; step++) {
        await bench.step(bench.gradients(step));
        const { renewedAt, skipped, left, right } = stateOf(bench);
        const kept = before[0] === left && before[1] === right;
        if (renewedAt === step) seen.push(`${step} ${kept ? "kept" : "new"} ${skipped}`);
        else assert.ok(kept);
        before = [left, right];
      }
      assert.deepEqual(seen, ["1 new 0", "3 kept 1", "5 kept 2", "7 new 2"]);
    });
  }
});

Deno.test("a first renewal that finds nothing throws with the parameter's name, and so does one out of memory", async () => {
  using backend = loopsBackend();
  const failing = (renewalOf: number, error: Error) =>
    givenBasis((renewal, size) => renewal === renewalOf ? error : orthonormal("at", RANK, size));
  await assertNoLeak("failed renewals", backend, async () => {
    const make = (basis: BasisStrategy) =>
      new GradientBench(backend, { w: [6, 11] }, galore(identity(), { rank: RANK, updateProjGap: 1, basis }));
    using first = make(failing(0, new RangeError("Cannot find a basis: none")));
    await assert.rejects(
      first.step(first.gradients(1)),
      /^RangeError: Cannot renew the basis of "w": Cannot find a basis: none$/,
    );
    using later = make(failing(1, new OutOfMemoryError(2, 1, 2)));
    await later.step(later.gradients(1));
    await assert.rejects(later.step(later.gradients(2)), OutOfMemoryError);
    assert.equal(stateOf(later).renewedAt, 1);
  });
});

guardedBases("loops that the host cannot see", () => loopsBackend({ readSync: false }));
guardedBases("the CPU backend", () => cpuBackend({ threads: 1, blas: "off" }));
