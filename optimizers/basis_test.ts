/** The ways to find a basis, against a matrix whose singular vectors are known, on every kind of spectrum. */
import assert from "node:assert/strict";
import { loopsBackend } from "../backends/cpu/loops/mod.ts";
import { cpuBackend } from "../backends/cpu/mod.ts";
import { type Backend, fromArray, keyOf } from "../core/mod.ts";
import { assertNoLeak } from "../core/testing/leaks.ts";
import { type BasisStrategy, exactBasis, gramBasis, subspaceBasis } from "./mod.ts";
import { basisRows, dot, energy, known, SIDES, sineTo } from "./testing/spectra.ts";

const STRATEGIES: Readonly<Record<string, () => BasisStrategy>> = {
  "exactBasis()": exactBasis,
  "gramBasis()": gramBasis,
  "subspaceBasis()": () => subspaceBasis({ gramBelow: 0 }),
};
const SHAPES: readonly (readonly [number, number])[] = [[150, 40], [40, 150], [60, 60], [70, 56]];
const RANK = 10;
const KEY = keyOf(5);

/** Runs a strategy; its rows on the host, checked to be orthonormal and of canonical sign. */
async function rowsOf(...request: Parameters<typeof basisRows>): Promise<Float64Array[]> {
  const rows = await basisRows(...request);
  for (const [i, row] of rows.entries()) {
    const peak = row.reduce((most, value) => Math.abs(value) > Math.abs(most) ? value : most, 0);
    assert.ok(peak > 0, `row ${i} has the sign of ${peak}`);
  }
  return rows;
}

const DECAYING = (i: number) => 10 ** (-i / 5);

for (const [name, make] of Object.entries(STRATEGIES)) {
  Deno.test(`${name} gives the leading singular vectors in order when the spectrum decays`, async () => {
    using backend = loopsBackend();
    for (const shape of SHAPES) {
      const matrix = known(shape, DECAYING);
      for (const side of SIDES) {
        const rows = await rowsOf(backend, make(), matrix, { side });
        rows.forEach((row, k) => {
          const sine = sineTo(matrix.vectors[side][k], [row]);
          assert.ok(sine < 2e-4, `[${shape}] ${side}: vector ${k} is off by ${sine}`);
        });
        assert.ok(energy(matrix, side, rows) >= 0.999999, `[${shape}] ${side}`);
      }
    }
  });

  Deno.test(`${name} spans whole clusters of equal singular values`, async () => {
    using backend = loopsBackend();
    for (const shape of SHAPES) {
      const matrix = known(shape, (i) => i < 4 ? 1 : i < RANK ? 0.2 : 0.01);
      for (const side of SIDES) {
        const rows = await rowsOf(backend, make(), matrix, { side });
        const clusters = [rows.slice(0, 4), rows.slice(4)];
        for (let k = 0; k < RANK; k++) {
          const sine = sineTo(matrix.vectors[side][k], clusters[k < 4 ? 0 : 1]);
          assert.ok(sine < 2e-4, `[${shape}] ${side}: vector ${k} is off by ${sine}`);
        }
      }
    }
  });

  Deno.test(`${name} captures 99.9 % of the energy when the spectrum decays slowly`, async () => {
    using backend = loopsBackend();
    const matrix = known([150, 120], (i) => 1 / (i + 1));
    for (const side of SIDES) {
      const share = energy(matrix, side, await rowsOf(backend, make(), matrix, { side, rank: 30 }));
      assert.ok(share >= 0.999 && share <= 1.00001, `${side}: ${share}`);
    }
  });

  Deno.test(`${name} fills up with other directions when the gradient has fewer than the rank`, async () => {
    using backend = loopsBackend();
    for (const shape of SHAPES) {
      for (const count of [0, 1, 4]) {
        const matrix = known(shape, (i) => i < count ? 1 / (i + 1) : 0);
        for (const side of SIDES) {
          const rows = await rowsOf(backend, make(), matrix, { side });
          for (let k = 0; k < count; k++) {
            const sine = sineTo(matrix.vectors[side][k], rows);
            assert.ok(sine < 1e-5, `[${shape}] ${side}: vector ${k} of ${count} is off by ${sine}`);
          }
        }
      }
    }
  });

  Deno.test(`${name} keeps exact zeros out of the basis when whole rows and columns have none`, async () => {
    using backend = loopsBackend();
    const data = new Float64Array(40 * 30);
    for (let i = 0; i < 5; i++) data[i * 30 + i] = 5 - i;
    const rows = await rowsOf(backend, make(), { shape: [40, 30], data }, { side: "right", rank: 5 });
    rows.forEach((row, k) => assert.ok(Math.abs(row[k] - 1) < 1e-6, `vector ${k}`));
  });

  Deno.test(`${name} gives every direction of the smaller side when the rank is full`, async () => {
    using backend = loopsBackend();
    for (const shape of [[12, 30], [30, 12], [12, 12]] as const) {
      const matrix = known(shape, (i) => 1 / (i + 1));
      for (const side of SIDES) {
        const rows = await rowsOf(backend, make(), matrix, { side, rank: 12 });
        for (const vector of matrix.vectors[side]) assert.ok(sineTo(vector, rows) < 1e-4, `[${shape}] ${side}`);
      }
    }
  });

  Deno.test(`${name} depends on the gradient's directions alone, not on its scale`, async () => {
    using backend = loopsBackend();
    const matrix = known([60, 50], DECAYING);
    const expected = await rowsOf(backend, make(), matrix);
    for (const scale of [1e-30, 1e-12, 1e12, 1e30]) {
      const rows = await rowsOf(backend, make(), { ...matrix, data: matrix.data.map((value) => value * scale) });
      rows.forEach((row, k) => assert.ok(sineTo(row, [expected[k]]) < 1e-4, `scale ${scale}, vector ${k}`));
    }
  });

  Deno.test(`${name} gives the same bits twice, and in f64 a basis in f64`, async () => {
    using backend = loopsBackend();
    const matrix = known([60, 50], DECAYING);
    assert.deepEqual(await rowsOf(backend, make(), matrix), await rowsOf(backend, make(), matrix));
    const rows = await rowsOf(backend, make(), matrix, {}, "f64");
    rows.forEach((row, k) => {
      assert.ok(sineTo(matrix.vectors.right[k], [row]) < 1e-4, `vector ${k}`);
      assert.ok(Math.abs(dot(row, row) - 1) < 1e-12, `length of vector ${k}`);
    });
  });

  Deno.test(`${name} refuses a gradient that is not finite and a rank that it has not got, and leaks nothing`, async () => {
    using backend = loopsBackend();
    const { data } = known([30, 20], DECAYING);
    await assertNoLeak(name, backend, async () => {
      for (const bad of [NaN, Infinity, -Infinity]) {
        const request = rowsOf(backend, make(), { shape: [30, 20], data: data.with(77, bad) });
        await assert.rejects(request, /^RangeError: Cannot find a basis: the gradient is not finite$/);
      }
      for (const rank of [0, 21]) {
        const request = rowsOf(backend, make(), { shape: [30, 20], data }, { rank });
        await assert.rejects(
          request,
          /^RangeError: Cannot find a basis of rank \d+: expected 1 to 20 for f32\[30, 20\]$/,
        );
      }
    });
  });
}

Deno.test("subspaceBasis() solves small sides exactly, whatever its key", async () => {
  using backend = loopsBackend();
  const matrix = known([40, 30], (i) => 1 - i / 60);
  const rows = await rowsOf(backend, subspaceBasis(), matrix, { key: keyOf(1) });
  assert.deepEqual(rows, await rowsOf(backend, gramBasis(), matrix, { key: keyOf(2) }));
});

Deno.test("subspaceBasis() finds the same space from another key, in other bits", async () => {
  using backend = loopsBackend();
  const matrix = known([60, 50], DECAYING);
  const [a, b] = [
    await rowsOf(backend, subspaceBasis({ gramBelow: 0 }), matrix, { key: keyOf(1) }),
    await rowsOf(backend, subspaceBasis({ gramBelow: 0 }), matrix, { key: keyOf(2) }),
  ];
  assert.notDeepEqual(a, b);
  a.forEach((row, k) => assert.ok(sineTo(row, [b[k]]) < 1e-4, `vector ${k}`));
});

Deno.test("subspaceBasis() separates close singular values when it iterates more", async () => {
  using backend = loopsBackend();
  const matrix = known([80, 60], (i) => 1 - i / 61);
  const offBy = async (iterations: number) => {
    const rows = await rowsOf(backend, subspaceBasis({ gramBelow: 0, iterations }), matrix);
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
    const rows = await rowsOf(backend, subspaceBasis(), matrix, { rank });
    const sines = matrix.vectors.right.slice(0, rank - 1).map((vector) => sineTo(vector, rows));
    assert.ok(Math.max(...sines) < 0.02, `[${shape}]: off by ${Math.max(...sines)}`);
  }
});

Deno.test("subspaceBasis() starts from the basis in use with warmStart, and not without", async () => {
  using backend = loopsBackend();
  const matrix = known([80, 60], (i) => 1 - i / 61);
  const worst = (rows: readonly Float64Array[]) =>
    Math.max(...matrix.vectors.right.slice(0, RANK).map((vector) => sineTo(vector, rows)));
  const exact = await rowsOf(backend, exactBasis(), matrix);
  using previous = fromArray(backend, exact.flatMap((row) => [...row]), [RANK, 60]);
  const run = async (warmStart: boolean) =>
    await rowsOf(backend, subspaceBasis({ gramBelow: 0, iterations: 1, warmStart }), matrix, { previous });
  const cold = await rowsOf(backend, subspaceBasis({ gramBelow: 0, iterations: 1 }), matrix);
  assert.deepEqual(await run(false), cold);
  assert.ok(worst(await run(true)) < 1e-3, `${worst(await run(true))}`);
  assert.ok(worst(cold) > 0.1);
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
    using _ = await subspaceBasis().compute(gradient, { side: "right", rank: RANK, key: KEY });
    assert.deepEqual(sizes, new Array(reads).fill(4 * carried * carried));
  }
});
