/** Completion of matrices: stored runs, the law of the compressed form, its speed, and what the outer rate decides. */
import assert from "node:assert/strict";
import { cpuBackend, loopsBackend } from "../backends/cpu/mod.ts";
import { webgpuBackend } from "../backends/webgpu/mod.ts";
import { noWebgpu } from "../backends/webgpu/testing.ts";
import { type Backend, foldIn, keyOf, type Params, svd, uniform } from "../core/mod.ts";
import { assertNoLeak } from "../core/testing/leaks.ts";
import { drawIsometry, formIsometry } from "../models/mod.ts";
import { largestSine, product, transpose } from "../models/testing/host_matrices.ts";
import { compressedFactors, Descent, drawFactors, fullFactors, type Observed } from "./complete_model.ts";
import { completionGoldens } from "./testing/completion_goldens.ts";

completionGoldens("loops", () => loopsBackend());
completionGoldens("wasm", () => cpuBackend({ threads: 1, blas: "off" }));
completionGoldens("webgpu", () => webgpuBackend(), { steps: 10, ignore: noWebgpu });

interface Task extends Observed {
  readonly target: Float64Array;
}

/** A matrix with singular values 2, 1.6 and 1.2, of which each entry is known with some probability. */
function lowRankTask(rows: number, columns: number, { observed = 1, seed = 1 } = {}): Task {
  const values = [2, 1.6, 1.2];
  const [u, v] = [rows, columns].map((size, i) => formIsometry(drawIsometry(foldIn(keyOf(seed), i), size, 3)));
  const target = product(u.map((x, i) => x * values[i % 3]), transpose(v, columns, 3), [rows, 3, columns]);
  const mask = uniform(foldIn(keyOf(seed), "mask"), rows * columns).map((x) => x < observed ? 1 : 0);
  return { rows, columns, target, mask, seen: target.map((value, i) => mask[i] * value) };
}

/** |matrix - target| / |target| over what was not seen, or over everything where all of it was. */
function errorOf({ target, mask }: Task, matrix: ArrayLike<number>): number {
  const isWhole = mask.every((seen) => seen === 1);
  let [wrong, all] = [0, 0];
  target.forEach((value, i) => {
    if (mask[i] === 1 && !isWhole) return;
    wrong += (matrix[i] - value) ** 2;
    all += value ** 2;
  });
  return Math.sqrt(wrong / all);
}

const DEEP = { depth: 3, epsilon: 0.1 };

const FOLLOWED: readonly (readonly [rows: number, columns: number, epsilon: number, steps: number])[] = [
  [20, 20, 0.1, 300],
  [20, 20, 0.03, 900],
  [14, 20, 0.1, 300],
  [20, 14, 0.1, 300],
];

for (const [rows, columns, epsilon, steps] of FOLLOWED) {
  Deno.test(`the compressed form follows the full one at ${rows} x ${columns} from epsilon ${epsilon}, within the bound at every step`, async () => {
    using backend = loopsBackend();
    const width = Math.max(rows, columns);
    const left = width - 6;
    const task = lowRankTask(rows, columns);
    // in f64, whose rounding no bound can see
    const start = drawFactors(rows, columns, { depth: 3, seed: 1 });
    const options = { depth: 3, epsilon, dtype: "f64" } as const;
    using wide = fullFactors(backend, start, options);
    using narrow = compressedFactors(backend, task, start, { ...options, rank: 3 });
    const rates = { learningRate: 0.1, gamma: 0 };
    using full = new Descent(wide, task, rates);
    using compressed = new Descent(narrow, task, rates);
    const bound = Math.sqrt(left) * epsilon ** 3;
    for (let step = 0; step <= steps; step++) {
      const [whole, part] = [await full.matrix(), await compressed.matrix()];
      const gap = Math.hypot(...whole.map((value, i) => value - part[i]));
      assert.ok(gap <= 1.001 * bound, `step ${step}: ${gap} of ${bound}`);
      if (step === 0 && rows === columns) assert.ok(gap >= 0.999 * bound, "the bound is attained at the start");
      if (step === steps) assert.ok(errorOf(task, whole) < 1.1 * bound, `${errorOf(task, whole)}`);
      full.advance();
      compressed.advance();
    }
    if (rows !== columns) return;
    // all but 2 r directions are what they were but for one factor: equal singular values, and the same space
    const kept = complementOf(narrow, columns);
    for (const [i, { values, right }] of restingDirections(wide, left).entries()) {
      const spread = Math.max(...values) - Math.min(...values);
      assert.ok(spread < 1e-10, `factor ${i + 1}: ${spread}`);
      if (i === 0) assert.ok(largestSine(right, kept, columns, left) < 1e-9);
    }
  });
}

/** Of each square factor the `count` neighbours among its singular directions whose values lie nearest to each other. */
function restingDirections(factors: Params, count: number) {
  return [1, 2, 3].map((i) => {
    const tensor = factors.get(`factor_${i}.weight`);
    const [rows, columns] = tensor.shape;
    const { values, right } = svd(tensor.readSync(), rows, columns);
    let best = 0;
    for (let at = 0; at + count <= values.length; at++) {
      if (values[at] - values[at + count - 1] < values[best] - values[best + count - 1]) best = at;
    }
    const kept = Float64Array.from(
      { length: columns * count },
      (_, k) => right[Math.floor(k / count) * values.length + best + k % count],
    );
    return { values: [...values.slice(best, best + count)], right: kept };
  });
}

/** An orthonormal basis of what the compressed form leaves out on the right, in columns. */
function complementOf(narrow: Params, columns: number): Float64Array {
  const right = narrow.get("right.weight").readSync();
  const inside = product(transpose(right, 6, columns), right, [columns, 6, columns]);
  const outside = inside.map((value, i) => (i % (columns + 1) === 0 ? 1 : 0) - value);
  const { left } = svd(outside, columns, columns);
  const count = columns - 6;
  return Float64Array.from({ length: columns * count }, (_, k) => left[Math.floor(k / count) * columns + k % count]);
}

async function complete(backend: Backend, task: Task, gamma: number | "full", steps: number): Promise<number> {
  const start = drawFactors(task.rows, task.columns, { depth: 3, seed: 1 });
  using factors = gamma === "full"
    ? fullFactors(backend, start, DEEP)
    : compressedFactors(backend, task, start, { ...DEEP, rank: 3 });
  using descent = new Descent(factors, task, { learningRate: 0.2, gamma: gamma === "full" ? 0 : gamma });
  for (let i = 0; i < steps; i++) descent.advance();
  return errorOf(task, await descent.matrix());
}

Deno.test("the compressed form completes what it has not seen where its outer factors move, better than the full one", async () => {
  using backend = await cpuBackend({ threads: 1, blas: "off" });
  const task = lowRankTask(100, 100, { observed: 0.3 });
  await assertNoLeak("completion", backend, async () => {
    const full = await complete(backend, task, "full", 600);
    const errors = new Map<number, number>();
    for (const [gamma, steps] of [[0, 600], [0.1, 4000], [1, 600]]) {
      errors.set(gamma, await complete(backend, task, gamma, steps));
    }
    assert.ok(errors.get(0)! > 0.3, `outer factors at rest: ${errors.get(0)}`);
    assert.ok(errors.get(0.1)! < 1e-3, `a tenth of the rate: ${errors.get(0.1)}`);
    assert.ok(errors.get(1)! < 1e-3, `the same rate: ${errors.get(1)}`);
    assert.ok(full > errors.get(1)! && full < 0.05, `full: ${full}`);
  });
});

for (const [rows, columns] of [[60, 90], [90, 60]]) {
  Deno.test(`the compressed form completes a matrix of ${rows} x ${columns} as well`, async () => {
    using backend = await cpuBackend({ threads: 1, blas: "off" });
    const task = lowRankTask(rows, columns, { observed: 0.35 });
    const error = await complete(backend, task, 1, 1500);
    assert.ok(error < 2e-3, `${error}`);
  });
}

Deno.test("a step of the compressed form takes less than a fifth of a full one's time at 200 x 200", async () => {
  using backend = await cpuBackend({ threads: 1, blas: "off" });
  const task = lowRankTask(200, 200, { observed: 0.3 });
  const start = drawFactors(200, 200, { depth: 3, seed: 1 });
  const rates = { learningRate: 0.2, gamma: 0.1 };
  using wide = fullFactors(backend, start, DEEP);
  using narrow = compressedFactors(backend, task, start, { ...DEEP, rank: 3 });
  using full = new Descent(wide, task, rates);
  using compressed = new Descent(narrow, task, rates);
  const best = new Map<Descent, number>();
  // the least of turns that alternate: other work on the machine cannot make it smaller
  for (let turn = 0; turn < 10; turn++) {
    for (const descent of [full, compressed]) {
      const started = performance.now();
      for (let i = 0; i < 10; i++) descent.advance();
      best.set(descent, Math.min(best.get(descent) ?? Infinity, performance.now() - started));
    }
  }
  const ratio = best.get(full)! / best.get(compressed)!;
  assert.ok(ratio > 5, `${ratio.toFixed(1)} times: ${[...best.values()].join(" and ")} ms of 10 steps`);
});

Deno.test("drawFactors() and compressedFactors() refuse depths and ranks that cannot be, in one line", () => {
  using backend = loopsBackend();
  const task = lowRankTask(6, 8);
  const start = drawFactors(6, 8, { depth: 3, seed: 1 });
  assert.throws(
    () => drawFactors(6, 8, { depth: 1, seed: 1 }),
    /^RangeError: .*depth must be a whole number from 2: got 1$/,
  );
  for (const rank of [0, 4]) {
    assert.throws(
      () => compressedFactors(backend, task, start, { ...DEEP, rank }),
      new RegExp(`^RangeError: .*6 x 8: the rank must be from 1 to half the smaller side, 3: got ${rank}$`),
    );
  }
});
