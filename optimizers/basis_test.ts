/** The ways to find a basis, against a matrix whose singular vectors are known, on every kind of spectrum. */
import assert from "node:assert/strict";
import { loopsBackend } from "../backends/cpu/loops/mod.ts";
import { assertNoLeak } from "../core/testing/leaks.ts";
import { type BasisStrategy, exactBasis, gramBasis, randomizedBasis, subspaceBasis } from "./mod.ts";
import { assertRunsNow, canonicalRows, dot, energy, known, SIDES, sineTo } from "./testing/spectra.ts";

const STRATEGIES: Readonly<Record<string, () => BasisStrategy>> = {
  "exactBasis()": exactBasis,
  "gramBasis()": gramBasis,
  "subspaceBasis()": () => subspaceBasis({ gramBelow: 0 }),
  "randomizedBasis()": () => randomizedBasis({ iterations: 4 }),
};
const SHAPES: readonly (readonly [number, number])[] = [[150, 40], [40, 150], [60, 60], [70, 56]];
const RANK = 10;

const DECAYING = (i: number) => 10 ** (-i / 5);

for (const [name, make] of Object.entries(STRATEGIES)) {
  Deno.test(`${name} gives the leading singular vectors in order when the spectrum decays`, async () => {
    using backend = loopsBackend();
    for (const shape of SHAPES) {
      const matrix = known(shape, DECAYING);
      for (const side of SIDES) {
        const rows = await canonicalRows(backend, make(), matrix, { side });
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
        const rows = await canonicalRows(backend, make(), matrix, { side });
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
      const share = energy(matrix, side, await canonicalRows(backend, make(), matrix, { side, rank: 30 }));
      assert.ok(share >= 0.999 && share <= 1.00001, `${side}: ${share}`);
    }
  });

  Deno.test(`${name} fills up with other directions when the gradient has fewer than the rank`, async () => {
    using backend = loopsBackend();
    for (const shape of SHAPES) {
      for (const count of [0, 1, 4]) {
        const matrix = known(shape, (i) => i < count ? 1 / (i + 1) : 0);
        for (const side of SIDES) {
          const rows = await canonicalRows(backend, make(), matrix, { side });
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
    const rows = await canonicalRows(backend, make(), { shape: [40, 30], data }, { side: "right", rank: 5 });
    rows.forEach((row, k) => assert.ok(Math.abs(row[k] - 1) < 1e-6, `vector ${k}`));
  });

  Deno.test(`${name} gives every direction of the smaller side when the rank is full`, async () => {
    using backend = loopsBackend();
    for (const shape of [[12, 30], [30, 12], [12, 12]] as const) {
      const matrix = known(shape, (i) => 1 / (i + 1));
      for (const side of SIDES) {
        const rows = await canonicalRows(backend, make(), matrix, { side, rank: 12 });
        for (const vector of matrix.vectors[side]) assert.ok(sineTo(vector, rows) < 1e-4, `[${shape}] ${side}`);
      }
    }
  });

  Deno.test(`${name} depends on the gradient's directions alone, not on its scale`, async () => {
    using backend = loopsBackend();
    const matrix = known([60, 50], DECAYING);
    const expected = await canonicalRows(backend, make(), matrix);
    for (const scale of [1e-30, 1e-12, 1e12, 1e30]) {
      const rows = await canonicalRows(backend, make(), { ...matrix, data: matrix.data.map((value) => value * scale) });
      rows.forEach((row, k) => assert.ok(sineTo(row, [expected[k]]) < 1e-4, `scale ${scale}, vector ${k}`));
    }
  });

  Deno.test(`${name} gives the same bits twice, and in f64 a basis in f64`, async () => {
    using backend = loopsBackend();
    const matrix = known([60, 50], DECAYING);
    assert.deepEqual(await canonicalRows(backend, make(), matrix), await canonicalRows(backend, make(), matrix));
    const rows = await canonicalRows(backend, make(), matrix, {}, "f64");
    rows.forEach((row, k) => {
      assert.ok(sineTo(matrix.vectors.right[k], [row]) < 1e-4, `vector ${k}`);
      assert.ok(Math.abs(dot(row, row) - 1) < 1e-12, `length of vector ${k}`);
    });
  });

  Deno.test(`${name} gives the same bits at once in a scope, and leaks nothing, also when memory runs out`, async () => {
    using backend = loopsBackend();
    for (const spectrum of [DECAYING, (i: number) => i < 4 ? 1 / (i + 1) : 0]) {
      for (const side of SIDES) await assertRunsNow(backend, make(), known([30, 20], spectrum), { side, rank: 6 });
    }
  });

  Deno.test(`${name} refuses a gradient that is not finite and a rank that it has not got, and leaks nothing`, async () => {
    using backend = loopsBackend();
    const { data } = known([30, 20], DECAYING);
    await assertNoLeak(name, backend, async () => {
      for (const bad of [NaN, Infinity, -Infinity]) {
        const request = canonicalRows(backend, make(), { shape: [30, 20], data: data.with(77, bad) });
        await assert.rejects(request, /^RangeError: Cannot find a basis: the gradient is not finite$/);
      }
      for (const rank of [0, 21]) {
        const request = canonicalRows(backend, make(), { shape: [30, 20], data }, { rank });
        await assert.rejects(
          request,
          /^RangeError: Cannot find a basis of rank \d+: expected 1 to 20 for f32\[30, 20\]$/,
        );
      }
    });
  });
}
