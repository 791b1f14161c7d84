/** Drawn bases: their distribution, what they keep of a matrix, and that a key makes the same one again anywhere. */
import assert from "node:assert/strict";
import { loopsBackend } from "../backends/cpu/loops/mod.ts";
import { cpuBackend } from "../backends/cpu/mod.ts";
import { webgpuBackend } from "../backends/webgpu/mod.ts";
import { noWebgpu } from "../backends/webgpu/testing.ts";
import { type Backend, fromArray, type Key, keyOf, matmul, normal } from "../core/mod.ts";
import { assertNoLeak } from "../core/testing/leaks.ts";
import { finishReading, type GenerateRequest, randomBasis } from "./mod.ts";
import { assertRunsNow, basisRows, dot } from "./testing/spectra.ts";

const KINDS = ["gaussian", "orthonormal"] as const;

/** A generated basis on the host. */
async function drawn(
  backend: Backend,
  distribution: (typeof KINDS)[number],
  [rank, size]: readonly [number, number],
  request: Partial<GenerateRequest> = {},
): Promise<Float64Array> {
  const { generate } = randomBasis({ distribution });
  using basis = generate!(backend, { side: "left", rank, size, key: keyOf(5), dtype: "f32", ...request });
  assert.deepEqual([basis.dtype, basis.shape], [request.dtype ?? "f32", [rank, size]]);
  return Float64Array.from(await basis.read());
}

Deno.test("randomBasis() draws normal entries of mean 0 and variance 1 / rank, independent of each other", async () => {
  using backend = loopsBackend();
  const [rank, size] = [50, 401]; // an odd number of entries wastes one
  const values = (await drawn(backend, "gaussian", [rank, size])).map((value) => value * Math.sqrt(rank));
  const count = values.length;
  const moment = (power: number) => values.reduce((total, value) => total + value ** power, 0) / count;
  // five standard errors of the first four moments of N(0, 1)
  const expected = [[0, 1], [1, 2], [0, 15], [3, 96]];
  expected.forEach(([mean, variance], index) => {
    const off = Math.abs(moment(index + 1) - mean);
    assert.ok(off < 5 * Math.sqrt(variance / count), `moment ${index + 1}: ${moment(index + 1)}`);
  });
  for (const lag of [1, 2, size, count >> 1, (count >> 1) + 1]) {
    const product = dot(values.subarray(lag), values.subarray(0, count - lag)) / (count - lag);
    assert.ok(Math.abs(product) < 5 / Math.sqrt(count - lag), `lag ${lag}: ${product}`);
  }
  const inner = values.filter((value) => Math.abs(value) < 1).length / count;
  assert.ok(Math.abs(inner - 0.682689) < 5 * Math.sqrt(0.683 * 0.317 / count), `within one deviation: ${inner}`);
  assert.ok(Math.max(...values.map(Math.abs)) < 6.8);
});

Deno.test("randomBasis() keeps the lengths of columns as Johnson and Lindenstrauss say", async () => {
  using backend = loopsBackend();
  const [rank, size, columns] = [64, 300, 200];
  using gradient = fromArray(backend, normal(keyOf(1), size * columns), [size, columns]);
  using basis = randomBasis().generate!(backend, { side: "left", rank, size, key: keyOf(3), dtype: "f32" });
  using projected = matmul(basis, gradient);
  const [before, after] = [await gradient.read(), await projected.read()];
  const squares = (data: ArrayLike<number>, rows: number, j: number) => {
    let total = 0;
    for (let i = 0; i < rows; i++) total += data[i * columns + j] ** 2;
    return total;
  };
  // |P x|^2 / |x|^2 is chi-squared over rank, of rank degrees of freedom
  const ratios = Array.from({ length: columns }, (_, j) => squares(after, rank, j) / squares(before, size, j));
  const deviation = Math.sqrt(2 / rank);
  const outside = ratios.filter((ratio) => Math.abs(ratio - 1) > 3 * deviation).length;
  assert.ok(outside <= 3, `${outside} of ${columns} lengths are off by more than three deviations`);
  const mean = ratios.reduce((total, ratio) => total + ratio, 0) / columns;
  assert.ok(Math.abs(mean - 1) < 0.5 * deviation, `mean ${mean}`);
});

Deno.test("randomBasis() gives P^T P = I in the mean over keys", async () => {
  using backend = loopsBackend();
  const [rank, size, draws] = [4, 6, 400];
  const total = new Float64Array(size * size);
  for (let seed = 0; seed < draws; seed++) {
    const p = await drawn(backend, "gaussian", [rank, size], { key: keyOf(seed) });
    for (let i = 0; i < size; i++) {
      for (let j = 0; j < size; j++) {
        for (let k = 0; k < rank; k++) total[i * size + j] += p[k * size + i] * p[k * size + j] / draws;
      }
    }
  }
  total.forEach((value, index) => {
    const expected = index % (size + 1) === 0 ? 1 : 0;
    assert.ok(Math.abs(value - expected) < 5 * Math.sqrt(2 / rank / draws), `entry ${index}: ${value}`);
  });
});

Deno.test("randomBasis() of the orthonormal kind has orthonormal rows at any rank, in no preferred direction", async () => {
  using backend = loopsBackend();
  const strategy = randomBasis({ distribution: "orthonormal" });
  const matrix = { shape: [30, 24] as const, data: new Float64Array(720) };
  for (const rank of [1, 8, 23, 24]) {
    for (const dtype of ["f32", "f64"] as const) await basisRows(backend, strategy, matrix, { rank }, dtype);
  }
  const values = await drawn(backend, "orthonormal", [40, 200]);
  const mean = values.reduce((total, value) => total + value, 0) / values.length;
  assert.ok(Math.abs(mean) < 5 / Math.sqrt(200 * values.length), `mean ${mean}`);
});

for (const distribution of KINDS) {
  Deno.test(`randomBasis() gives equal bits for equal keys and others for other keys, ${distribution}`, async () => {
    using backend = loopsBackend();
    const at = (key: Key) => drawn(backend, distribution, [7, 31], { key });
    assert.deepEqual(await at(keyOf(1)), await at(keyOf(1)));
    const [a, b] = [await at(keyOf(1)), await at(keyOf(2))];
    assert.ok(a.every((value, i) => value !== b[i]));
    using gradient = fromArray(backend, new Float32Array(40 * 31).fill(NaN), [40, 31]);
    using stored = await finishReading(
      randomBasis({ distribution }).compute(gradient, { side: "right", rank: 7, key: keyOf(1) }),
    );
    assert.deepEqual(Float64Array.from(await stored.read()), a, "compute() is the stored form");
  });

  Deno.test(`randomBasis() gives the same numbers on fast kernels and in f64 to 1e-6, ${distribution}`, async () => {
    using loops = loopsBackend();
    using fast = await cpuBackend({ threads: 2, blas: "off" });
    const expected = await drawn(loops, distribution, [32, 250]);
    near(await drawn(fast, distribution, [32, 250]), expected);
    near(await drawn(loops, distribution, [32, 250], { dtype: "f64" }), expected);
  });

  Deno.test({
    name: `randomBasis() gives the same numbers on WebGPU to 1e-6, ${distribution}${noWebgpu ? ` (${noWebgpu})` : ""}`,
    ignore: noWebgpu !== undefined,
    fn: async () => {
      using loops = loopsBackend();
      using gpu = await webgpuBackend();
      near(await drawn(gpu, distribution, [32, 250]), await drawn(loops, distribution, [32, 250]));
    },
  });

  Deno.test(`randomBasis() gives the same bits at once in a scope, and leaks nothing, ${distribution}`, async () => {
    using backend = loopsBackend();
    const matrix = { shape: [30, 20] as const, data: new Float64Array(600) };
    await assertRunsNow(backend, randomBasis({ distribution }), matrix, { rank: 6 });
    await assertNoLeak("generate", backend, () => drawn(backend, distribution, [5, 9]));
  });
}

Deno.test("randomBasis() refuses a rank that the gradient has not got, and another distribution", async () => {
  using backend = loopsBackend();
  using gradient = fromArray(backend, new Float32Array(600), [30, 20]);
  await assert.rejects(
    finishReading(randomBasis().compute(gradient, { side: "right", rank: 21, key: keyOf(1) })),
    /^RangeError: Cannot find a basis of rank 21: expected 1 to 20 for f32\[30, 20\]$/,
  );
  assert.throws(
    () => randomBasis({ distribution: "uniform" as "gaussian" }),
    /^TypeError: Cannot draw a basis: expected gaussian or orthonormal: got "uniform"$/,
  );
});

/** Asserts equality to 1e-6 of the largest entry's scale, 1. */
function near(actual: Float64Array, expected: Float64Array): void {
  const off = actual.reduce((most, value, i) => Math.max(most, Math.abs(value - expected[i])), 0);
  assert.ok(off < 1e-6, `off by ${off}`);
}
