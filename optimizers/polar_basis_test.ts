/** The basis without readbacks, against the exact one: what it captures, and what it never does. */
import assert from "node:assert/strict";
import { loopsBackend } from "../backends/cpu/loops/mod.ts";
import { cpuBackend } from "../backends/cpu/mod.ts";
import { type Backend, fromArray, keyOf, normal } from "../core/mod.ts";
import { assertNoLeak, peakBytes } from "../core/testing/leaks.ts";
import { exactBasis, finishNow, finishReading, gramBasis, polarBasis, type PolarOptions } from "./mod.ts";
import { polarSteps } from "./polar_factor.ts";
import {
  assertRunsNow,
  basisRows,
  captured,
  dot,
  energy,
  known,
  orthonormal,
  SIDES,
  sineTo,
  tensorOf,
} from "./testing/spectra.ts";

const SHAPES: readonly (readonly [number, number])[] = [[150, 40], [40, 150], [60, 60], [70, 56]];
const RANK = 10;
const KEY = keyOf(5);
const SPECTRA: Readonly<Record<string, (i: number) => number>> = {
  "1 / i": (i) => 1 / (i + 1),
  "i^-1/2": (i) => (i + 1) ** -0.5,
  "i^-2": (i) => (i + 1) ** -2,
  "10^(-i/5)": (i) => 10 ** (-i / 5),
  "4 directions and noise": (i) => i < 4 ? 1 : 0.02,
};

/** p_T(...p_2(p_1(x))) */
function composed(x: number, steps = polarSteps()): number {
  for (const [a, b, c] of steps) x = a * x + b * x ** 3 + c * x ** 5;
  return x;
}

/** `count` numbers from `low` to `high`, in equal ratios. */
function* ladder(low: number, high: number, count: number): Generator<number> {
  for (let i = 0; i <= count; i++) yield low * (high / low) ** (i / count);
}

Deno.test("polarSteps() take every singular value from 1e-6 to 1 to 1, smaller ones with more steps, and rounding at 1", () => {
  for (const grow of [7, 8, 12]) {
    const least = 1e-6 * 4 ** (7 - grow);
    for (const [low, high, most] of [[least, 1, 1e-9], [0.7 * least, 1.01, 1e-5]]) {
      for (const x of ladder(low, high, 30_000)) {
        const after = composed(x, polarSteps(grow));
        assert.ok(Math.abs(after - 1) < most, `${x} becomes ${after} with ${grow}`);
      }
    }
  }
});

Deno.test("polarSteps() raise what is small in each step, and press nothing large towards 0", () => {
  for (let count = 1; count <= polarSteps().length; count++) {
    const steps = polarSteps().slice(0, count);
    for (const x of ladder(1e-6, 1, 10_000)) {
      const after = composed(x, steps);
      assert.ok(after >= Math.min(0.18, 4 ** count * x), `${x} becomes ${after} in ${count} steps`);
      assert.ok(after < 1.82, `${x} becomes ${after} in ${count} steps`);
    }
  }
});

for (const [name, spectrum] of Object.entries(SPECTRA)) {
  Deno.test(`polarBasis() captures 99 % of what the exact basis does, cold, of a spectrum of ${name}`, async () => {
    using backend = loopsBackend();
    for (const shape of SHAPES) {
      const matrix = known(shape, spectrum);
      for (const side of SIDES) {
        const share = energy(matrix, side, await basisRows(backend, polarBasis(), matrix, { side }));
        assert.ok(share >= 0.99 && share < 1.00001, `[${shape}] ${side}: ${share}`);
      }
    }
  });

  Deno.test(`polarBasis() captures 99 % of a gradient that drifts, from warm starts, of a spectrum of ${name}`, async () => {
    using backend = loopsBackend();
    const [from, to] = [known([90, 70], spectrum), known([90, 70], spectrum, "drift ")];
    let rows: Float64Array[] | undefined;
    for (let step = 0; step <= 6; step++) {
      const [near, far] = [Math.cos(0.1 * step), Math.sin(0.1 * step)];
      const matrix = { shape: from.shape, data: from.data.map((value, i) => near * value + far * to.data[i]) };
      const best = captured(await basisRows(backend, exactBasis(), matrix), matrix, "right");
      using previous = rows && tensorOf(backend, rows);
      rows = await basisRows(backend, polarBasis(), matrix, { previous, key: keyOf(step) });
      const share = captured(rows, matrix, "right") / best;
      assert.ok(share >= 0.99 && share < 1.00001, `step ${step}: ${share}`);
    }
  });
}

Deno.test("polarBasis() captures 95 % of the exact basis's share where no direction leads, and more when it iterates", async () => {
  using backend = loopsBackend();
  const shape = [120, 100] as const;
  const matrix = { shape, data: Float64Array.from(normal(keyOf(3), 12_000)) };
  const best = captured(await basisRows(backend, exactBasis(), matrix, { rank: 25 }), matrix, "right");
  const shareOf = async (options: PolarOptions) =>
    captured(await basisRows(backend, polarBasis(options), matrix, { rank: 25 }), matrix, "right") / best;
  const shares = [await shareOf({ iterations: 1 }), await shareOf({}), await shareOf({ iterations: 30 })];
  assert.ok(shares[0] < shares[1] && shares[1] < shares[2], shares.join(" "));
  assert.ok(shares[1] > 0.95 && shares[2] > 0.999, shares.join(" "));
});

Deno.test("polarBasis() goes on to singular vectors from warm starts, and stays where it has arrived, signs and all", async () => {
  using backend = loopsBackend();
  const matrix = known([90, 70], (i) => 1 / (i + 1));
  const exact = await basisRows(backend, exactBasis(), matrix);
  // in another order, and of the other sign
  const mixed = [7, 2, 9, 0, 4, 1, 8, 3, 6, 5].map((k, j) => exact[k].map((value) => j % 2 === 0 ? value : -value));
  using at = tensorOf(backend, mixed);
  const stayed = await basisRows(backend, polarBasis(), matrix, { previous: at });
  mixed.forEach((row, j) => assert.ok(dot(row, stayed[j]) > 0.999, `row ${j}: ${dot(row, stayed[j])}`));
  let rows = await basisRows(backend, polarBasis(), matrix);
  for (let i = 0; i < 12; i++) {
    using previous = tensorOf(backend, rows);
    rows = await basisRows(backend, polarBasis(), matrix, { previous });
  }
  const nearest = rows.map((row) => Math.max(...exact.map((vector) => Math.abs(dot(row, vector)))));
  const mean = nearest.reduce((total, cosine) => total + cosine, 0) / nearest.length;
  assert.ok(mean > 0.9, `${mean}: ${nearest.join(" ")}`);
});

Deno.test("polarBasis() starts from the basis in use, unless told not to or it does not fit", async () => {
  using backend = loopsBackend();
  const matrix = known([60, 50], (i) => 1 / (i + 1));
  const cold = await basisRows(backend, polarBasis(), matrix);
  using previous = tensorOf(backend, await basisRows(backend, exactBasis(), matrix));
  using other = tensorOf(backend, await basisRows(backend, exactBasis(), matrix, { rank: 9 }));
  assert.notDeepEqual(await basisRows(backend, polarBasis(), matrix, { previous }), cold);
  assert.deepEqual(await basisRows(backend, polarBasis({ warmStart: false }), matrix, { previous }), cold);
  assert.deepEqual(await basisRows(backend, polarBasis(), matrix, { previous: other }), cold);
});

Deno.test("polarBasis() finds one direction, all of them, and all but one", async () => {
  using backend = loopsBackend();
  for (const shape of [[12, 30], [30, 12], [12, 12]] as const) {
    const matrix = known(shape, (i) => 1 / (i + 1));
    for (const side of SIDES) {
      const [first] = await basisRows(backend, polarBasis(), matrix, { side, rank: 1 });
      assert.ok(sineTo(matrix.vectors[side][0], [first]) < 0.01, `[${shape}] ${side}`);
      const all = await basisRows(backend, polarBasis(), matrix, { side, rank: 12 });
      for (const vector of matrix.vectors[side]) assert.ok(sineTo(vector, all) < 0.03, `[${shape}] ${side}`);
      const most = await basisRows(backend, polarBasis(), matrix, { side, rank: 11 });
      assert.ok(energy(matrix, side, most) > 0.99, `[${shape}] ${side}`);
    }
  }
  const whole = await basisRows(backend, polarBasis(), known([30, 12], (i) => 1 / (i + 1)), { rank: 12 });
  whole.forEach((row, j) => row.forEach((value, i) => assert.equal(value, i === j ? 1 : 0)));
});

Deno.test("polarBasis() fills up with other directions when the gradient has fewer than the rank, or none", async () => {
  using backend = loopsBackend();
  for (const shape of SHAPES) {
    for (const count of [0, 1, 4]) {
      const matrix = known(shape, (i) => i < count ? 1 / (i + 1) : 0);
      for (const side of SIDES) {
        // all directions but one are what random rows do worst
        for (const rank of shape.includes(40) ? [RANK, 39] : [RANK]) {
          const rows = await basisRows(backend, polarBasis(), matrix, { side, rank });
          for (let k = 0; k < count; k++) {
            const sine = sineTo(matrix.vectors[side][k], rows);
            assert.ok(sine < 0.03, `[${shape}] ${side} ${rank}: vector ${k} of ${count} is off by ${sine}`);
          }
        }
      }
    }
  }
});

Deno.test("polarBasis() finds a direction that the basis in use has nothing of", async () => {
  using backend = loopsBackend();
  const matrix = known([60, 50], (i) => 10 ** (-i / 5));
  const { right } = matrix.vectors;
  using previous = tensorOf(backend, right.slice(20, 30));
  const rows = await basisRows(backend, polarBasis(), matrix, { previous });
  assert.ok(energy(matrix, "right", rows) > 0.99, `${energy(matrix, "right", rows)}`);
});

Deno.test("polarBasis() depends on the gradient's directions alone, not on its scale", async () => {
  using backend = loopsBackend();
  const matrix = known([60, 50], (i) => 1 / (i + 1));
  for (const scale of [1e-30, 1e-20, 1e10, 1e30]) {
    const scaled = { ...matrix, data: matrix.data.map((value) => value * scale) };
    const share = energy(matrix, "right", await basisRows(backend, polarBasis(), scaled));
    assert.ok(share > 0.998, `scale ${scale}: ${share}`);
  }
});

Deno.test("polarBasis() gives the same bits twice, other bits from another key, and in f64 a basis in f64", async () => {
  using backend = loopsBackend();
  const matrix = known([60, 50], (i) => 1 / (i + 1));
  const run = (key = KEY) => basisRows(backend, polarBasis(), matrix, { key });
  assert.deepEqual(await run(), await run());
  assert.notDeepEqual(await run(), await run(keyOf(6)));
  const rows = await basisRows(backend, polarBasis(), matrix, {}, "f64");
  assert.ok(energy(matrix, "right", rows) > 0.998);
  using previous = tensorOf(backend, rows, "f64");
  await basisRows(backend, polarBasis(), matrix, { previous }, "f64");
});

Deno.test("polarBasis() is orthonormal to 1e-5 and near the exact basis on fast kernels", async () => {
  using backend = await cpuBackend({ threads: 2, blas: "off" });
  const matrix = known([200, 160], (i) => 1 / (i + 1));
  for (const side of SIDES) {
    const best = captured(await basisRows(backend, gramBasis(), matrix, { side, rank: 64 }), matrix, side);
    const rows = await basisRows(backend, polarBasis(), matrix, { side, rank: 64 });
    assert.ok(captured(rows, matrix, side) / best > 0.998, `${side}: ${captured(rows, matrix, side) / best}`);
  }
});

Deno.test("polarBasis() reads nothing, whatever the gradient and the size of its sides", async () => {
  using plain = loopsBackend();
  let isRead = false;
  const refuse = () => {
    isRead = true;
    throw new Error("read back");
  };
  const backend: Backend = { ...plain, read: refuse, readSync: refuse };
  for (const shape of [[150, 120], [20, 12], [1, 5]] as const) {
    for (const value of [0, 1, NaN]) {
      const data = Float64Array.from(normal(KEY, shape[0] * shape[1]), (x) => x * value);
      for (const side of SIDES) {
        using gradient = fromArray(backend, data, shape, "f32");
        const request = { side, rank: Math.min(...shape, 8), key: KEY };
        using cold = await finishReading(polarBasis().compute(gradient, request));
        using _ = await finishReading(polarBasis().compute(gradient, { ...request, previous: cold }));
      }
    }
  }
  assert.equal(isRead, false);
});

Deno.test("polarBasis() gives a basis that is not finite for a gradient that is not finite", async () => {
  using backend = loopsBackend();
  for (const bad of [NaN, Infinity, -Infinity]) {
    using gradient = fromArray(backend, Float64Array.from(normal(KEY, 600)).with(77, bad), [30, 20], "f32");
    for (const side of SIDES) {
      using basis = await finishReading(polarBasis().compute(gradient, { side, rank: 6, key: KEY }));
      assert.ok((await basis.read()).every((value: number) => !Number.isFinite(value)), `${bad} ${side}`);
    }
  }
});

Deno.test("polarBasis() refuses a rank that the gradient has not got, and iterations that are no number of times", async () => {
  using backend = loopsBackend();
  await assertNoLeak("refused", backend, async () => {
    using gradient = fromArray(backend, normal(KEY, 600), [30, 20]);
    for (const rank of [0, 21]) {
      await assert.rejects(
        finishReading(polarBasis().compute(gradient, { side: "right", rank, key: KEY })),
        /^RangeError: Cannot find a basis of rank \d+: expected 1 to 20 for f32\[30, 20\]$/,
      );
    }
  });
  for (const count of [0, 1.5, NaN]) {
    const message = /^RangeError: Cannot iterate \S+ times in polarBasis\(\): expected a whole number from 1$/;
    assert.throws(() => polarBasis({ iterations: count }), message);
    assert.throws(() => polarBasis({ warmIterations: count }), message);
  }
});

Deno.test("polarBasis() gives the same bits at once in a scope, and leaks nothing, also when memory runs out", async () => {
  using backend = loopsBackend();
  const matrix = { shape: [30, 20] as const, data: Float64Array.from(normal(KEY, 600)) };
  for (const side of SIDES) await assertRunsNow(backend, polarBasis(), matrix, { side, rank: 6 });
  await assertRunsNow(backend, polarBasis(), matrix, { rank: 6, start: orthonormal("previous", 6, 20) });
});

Deno.test("polarBasis() holds four times the basis at most, beside squares of its rank", () => {
  using backend = loopsBackend();
  const [k, d] = [8, 400];
  for (const side of SIDES) {
    using gradient = fromArray(backend, normal(KEY, d * d), [d, d]);
    const peak = peakBytes(backend, () => void finishNow(polarBasis().compute(gradient, { side, rank: k, key: KEY })));
    assert.ok(peak <= 4 * (4 * k * d + 6 * k * k), `${side}: ${peak / (4 * k * d)} times`);
  }
});
