/** Subspace iteration: from nothing, from the basis in use, and as a randomised decomposition. */
import assert from "node:assert/strict";
import { loopsBackend } from "../backends/cpu/loops/mod.ts";
import { cpuBackend } from "../backends/cpu/mod.ts";
import { type Backend, fromArray, keyOf, type Tensor } from "../core/mod.ts";
import { assertNoLeak } from "../core/testing/leaks.ts";
import { exactBasis, finishReading, gramBasis, randomizedBasis, subspaceBasis, type SubspaceOptions } from "./mod.ts";
import {
  addScaled,
  assertRunsNow,
  basisRows,
  canonicalRows,
  captured,
  dot,
  energy,
  known,
  orthonormal,
  sineTo,
  tensorOf,
} from "./testing/spectra.ts";

const RANK = 10;
const KEY = keyOf(5);
const DECAYING = (i: number) => 10 ** (-i / 5);

Deno.test("subspaceBasis() solves small sides exactly, whatever its key", async () => {
  using backend = loopsBackend();
  const matrix = known([40, 30], (i) => 1 - i / 60);
  const rows = await canonicalRows(backend, subspaceBasis(), matrix, { key: keyOf(1) });
  assert.deepEqual(rows, await canonicalRows(backend, gramBasis(), matrix, { key: keyOf(2) }));
});

Deno.test("subspaceBasis() finds the same space from another key, in other bits", async () => {
  using backend = loopsBackend();
  const matrix = known([60, 50], DECAYING);
  const [a, b] = [
    await canonicalRows(backend, subspaceBasis({ gramBelow: 0 }), matrix, { key: keyOf(1) }),
    await canonicalRows(backend, subspaceBasis({ gramBelow: 0 }), matrix, { key: keyOf(2) }),
  ];
  assert.notDeepEqual(a, b);
  a.forEach((row, k) => assert.ok(sineTo(row, [b[k]]) < 1e-4, `vector ${k}`));
});

Deno.test("subspaceBasis() separates close singular values when it iterates more", async () => {
  using backend = loopsBackend();
  const matrix = known([80, 60], (i) => 1 - i / 61);
  const offBy = async (iterations: number) => {
    const rows = await canonicalRows(backend, subspaceBasis({ gramBelow: 0, iterations }), matrix);
    return Math.max(...matrix.vectors.right.slice(0, RANK).map((vector) => sineTo(vector, rows)));
  };
  const errors = [await offBy(0), await offBy(4), await offBy(16), await offBy(64)];
  for (let i = 1; i < errors.length; i++) assert.ok(errors[i] < errors[i - 1], errors.join(" "));
  assert.ok(errors[3] < 1e-3, errors.join(" "));
});

Deno.test("subspaceBasis() finds singular values a thousandth of the largest where sums are f32", async () => {
  using backend = await cpuBackend({ threads: 2, blas: "off" });
  const rank = 50;
  for (const shape of [[300, 200], [220, 200]] as const) { // wherever the Gram matrix is formed, and where it is not
    const matrix = known(shape, (i) => 10 ** (-3 * i / rank));
    const rows = await canonicalRows(backend, subspaceBasis(), matrix, { rank });
    const sines = matrix.vectors.right.slice(0, rank - 1).map((vector) => sineTo(vector, rows));
    assert.ok(Math.max(...sines) < 0.02, `[${shape}]: off by ${Math.max(...sines)}`);
  }
});

Deno.test("subspaceBasis() starts from the basis in use, unless told not to or it does not fit", async () => {
  using backend = loopsBackend();
  const matrix = known([80, 60], (i) => 1 - i / 61);
  const worst = (rows: readonly Float64Array[]) =>
    Math.max(...matrix.vectors.right.slice(0, RANK).map((vector) => sineTo(vector, rows)));
  using previous = tensorOf(backend, await canonicalRows(backend, exactBasis(), matrix));
  using other = tensorOf(backend, await canonicalRows(backend, exactBasis(), matrix, { rank: 9 }));
  const run = (options: SubspaceOptions, previous?: Tensor) =>
    basisRows(backend, subspaceBasis({ gramBelow: 0, iterations: 1, ...options }), matrix, { previous });
  const cold = await run({});
  assert.deepEqual(await run({ warmStart: false }, previous), cold);
  assert.deepEqual(await run({}, other), cold);
  const warm = worst(await run({}, previous));
  assert.ok(warm < 1e-3, `${warm}`);
  assert.ok(worst(cold) > 0.1);
});

Deno.test("subspaceBasis() captures 99 % of a gradient that drifts, from warm starts, and brings leading vectors on", async () => {
  using backend = loopsBackend();
  for (const spectrum of [DECAYING, (i: number) => 1 / (i + 1), (i: number) => i < 4 ? 1 : 0.02]) {
    const [from, to] = [known([90, 70], spectrum), known([90, 70], spectrum, "drift ")];
    let previous: Tensor | undefined;
    for (let step = 0; step <= 6; step++) {
      const [near, far] = [Math.cos(0.1 * step), Math.sin(0.1 * step)];
      const matrix = { shape: from.shape, data: from.data.map((value, i) => near * value + far * to.data[i]) };
      const exact = await canonicalRows(backend, exactBasis(), matrix);
      const rows = await basisRows(backend, subspaceBasis({ gramBelow: 0 }), matrix, { previous, key: keyOf(step) });
      const share = captured(rows, matrix, "right") / captured(exact, matrix, "right");
      assert.ok(share > 0.99 && share < 1.00001, `step ${step}: ${share}`);
      // 1 / i parts the leading vectors well: here they are singular vectors, in order
      if (spectrum(1) === 0.5) {
        exact.slice(0, 3).forEach((row, k) => {
          const sine = sineTo(row, [rows[k]]);
          assert.ok(sine < 0.05, `step ${step}: vector ${k} is off by ${sine}`);
        });
      }
      previous?.dispose();
      previous = tensorOf(backend, rows);
    }
    previous?.dispose();
  }
});

Deno.test("subspaceBasis() stays where it has arrived, signs and all, and rotates as many leading vectors as it is told", async () => {
  using backend = loopsBackend();
  const matrix = known([90, 70], (i) => 1 / (i + 1));
  const exact = await canonicalRows(backend, exactBasis(), matrix);
  const at = exact.map((row, j) => j % 2 === 0 ? row : row.map((value) => -value));
  using arrived = tensorOf(backend, at);
  const stayed = await basisRows(backend, subspaceBasis({ gramBelow: 0 }), matrix, { previous: arrived });
  at.forEach((row, j) => assert.ok(dot(row, stayed[j]) > 0.9999, `row ${j}: ${dot(row, stayed[j])}`));
  // the span is right and the frame is wrong: rotation finds the vectors, one iteration without it does not
  const mixed = orthonormal("mix", RANK, RANK).map((weights) => {
    const row = new Float64Array(70);
    exact.forEach((vector, k) => addScaled(row, vector, weights[k]));
    return row;
  });
  using previous = tensorOf(backend, mixed);
  const offBy = async (rotated: number) => {
    const rows = await basisRows(backend, subspaceBasis({ gramBelow: 0, rotated }), matrix, { previous });
    return exact.map((row, k) => sineTo(row, [rows[k]]));
  };
  const [all, some] = [await offBy(RANK), await offBy(2)];
  assert.ok(Math.max(...all) < 0.01, all.join(" "));
  assert.ok(Math.max(...some.slice(2)) > 0.1, some.join(" "));
});

Deno.test("subspaceBasis() finds directions that the basis in use has nothing of, and fills up what a gradient lacks", async () => {
  using backend = loopsBackend();
  const matrix = known([60, 50], DECAYING);
  using previous = tensorOf(backend, matrix.vectors.right.slice(20, 30));
  const rows = await basisRows(backend, subspaceBasis({ gramBelow: 0 }), matrix, { previous });
  assert.ok(energy(matrix, "right", rows) > 0.99, `${energy(matrix, "right", rows)}`);
  for (const count of [0, 1, 4]) {
    const poor = known([60, 50], (i) => i < count ? 1 / (i + 1) : 0);
    const filled = await basisRows(backend, subspaceBasis({ gramBelow: 0 }), poor, { previous });
    for (let k = 0; k < count; k++) assert.ok(sineTo(poor.vectors.right[k], filled) < 1e-3, `vector ${k} of ${count}`);
  }
});

Deno.test("subspaceBasis() from a warm start runs at once, in f64, at any scale, and refuses what is not finite", async () => {
  using backend = loopsBackend();
  const matrix = known([60, 50], DECAYING);
  const strategy = subspaceBasis({ gramBelow: 0 });
  const start = orthonormal("previous", RANK, 50);
  await assertRunsNow(backend, strategy, matrix, { start });
  using previous = tensorOf(backend, start);
  const expected = await basisRows(backend, strategy, matrix, { previous });
  await basisRows(backend, strategy, matrix, { previous }, "f64");
  for (const scale of [1e-30, 1e-12, 1e12, 1e30]) {
    const scaled = { ...matrix, data: matrix.data.map((value) => value * scale) };
    const rows = await basisRows(backend, strategy, scaled, { previous });
    rows.forEach((row, k) => assert.ok(sineTo(row, [expected[k]]) < 1e-3, `scale ${scale}, vector ${k}`));
  }
  await assertNoLeak("a bad gradient", backend, async () => {
    for (const bad of [NaN, Infinity, -Infinity]) {
      const request = basisRows(backend, strategy, { ...matrix, data: matrix.data.with(77, bad) }, { previous });
      await assert.rejects(request, /^RangeError: Cannot find a basis: the gradient is not finite$/);
    }
  });
});

Deno.test("randomizedBasis() ignores the basis in use, and captures more with power iterations", async () => {
  using backend = loopsBackend();
  const matrix = known([80, 60], (i) => 1 - i / 61);
  using previous = tensorOf(backend, await canonicalRows(backend, exactBasis(), matrix));
  const share = async (options: Parameters<typeof randomizedBasis>[0]) =>
    energy(matrix, "right", await canonicalRows(backend, randomizedBasis(options), matrix, { previous }));
  const shares = [await share({ iterations: 0 }), await share({}), await share({ iterations: 8 })];
  assert.ok(shares[0] < shares[1] && shares[1] < shares[2] && shares[0] > 0.7 && shares[2] > 0.98, shares.join(" "));
  assert.ok(await share({ iterations: 0, oversample: 30 }) > shares[0]);
});

Deno.test("subspaceBasis() reads the device 7 times, 9 for a steep spectrum, and never a large matrix", async () => {
  using plain = loopsBackend();
  let sizes: number[] = [];
  const backend: Backend = {
    ...plain,
    read: (buffer, offset, bytes) => {
      sizes.push(bytes);
      return plain.read(buffer, offset, bytes);
    },
  };
  const carried = RANK + 8;
  for (const [spectrum, reads] of [[(i: number) => 1 / (i + 1), 7], [DECAYING, 9]] as const) {
    const matrix = known([150, 120], spectrum);
    using gradient = fromArray(backend, matrix.data, matrix.shape, "f32");
    sizes = [];
    using _ = await finishReading(subspaceBasis().compute(gradient, { side: "right", rank: RANK, key: KEY }));
    assert.deepEqual(sizes, new Array(reads).fill(4 * carried * carried));
  }
});
