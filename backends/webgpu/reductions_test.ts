/**
 * Kernels that reduce, with and without subgroups: what may not get lost (NaN, infinities), at extents and vocabularies
 * that the tables of conformance and parity do not reach.
 */
import assert from "node:assert/strict";
import { loopsBackend } from "../cpu/loops/mod.ts";
import type { Backend } from "../../core/backend.ts";
import { assertClose, assertRms } from "../../core/testing/golden.ts";
import { random } from "../../core/testing/gradcheck.ts";
import { evaluate, type FloatType, given, type HostInput, layOut, representable } from "../../core/testing/inputs.ts";
import { crossEntropy, sumOfSquares } from "../../core/ops/loss.ts";
import { layerNorm, rmsNorm, softmax } from "../../core/ops/norm.ts";
import { argmax, max, sum } from "../../core/ops/reduce.ts";
import type { Shape } from "../../core/shape.ts";
import type { Tensor } from "../../core/tensor.ts";
import { bothWays } from "./testing.ts";

function floats(shape: Shape, values: ArrayLike<number>): HostInput {
  return layOut(given("float", shape, values), "x", "contiguous");
}

function integers(values: ArrayLike<number>): HostInput {
  return layOut(given("i32", [values.length], values), "i", "contiguous");
}

async function valueOf(
  backend: Backend,
  inputs: HostInput[],
  run: (...x: Tensor[]) => Tensor,
  dtype: FloatType = "f32",
) {
  return (await evaluate(backend, inputs, run, { dtype })).value;
}

/** Shapes and axes of each strategy: one output, many, short and long rows, columns, blocks of columns. */
const STRATEGIES: readonly (readonly [Shape, number])[] = [
  [[100_003], 0],
  [[5, 9001], 1],
  [[700, 6], 1],
  [[3, 300], 1],
  [[6, 700], 0],
  [[3000, 40], 0],
];

bothWays("sum() and max() of anything with a NaN are NaN", async (backend) => {
  for (const [shape, axis] of STRATEGIES) {
    const size = shape.reduce((a, b) => a * b, 1);
    for (const place of [0, Math.floor(size / 2), size - 1]) {
      const values = new Float64Array(size).fill(1).with(place, NaN);
      const columns = shape[1] ?? 1;
      const hit = shape.length === 1 ? 0 : axis === 1 ? Math.floor(place / columns) : place % columns;
      for (const dtype of ["f32", "bf16"] as const) {
        for (const [name, reduce] of Object.entries({ sum, max })) {
          const result = await valueOf(backend, [floats(shape, values)], (x) => reduce(x, axis), dtype);
          result.forEach((value, i) =>
            assert.equal(
              Number.isNaN(value),
              i === hit,
              `${name} ${dtype} [${shape}] over ${axis}, NaN at ${place}: ${i}`,
            )
          );
        }
      }
    }
  }
});

bothWays("sum() keeps infinities, max() ignores -Infinity", async (backend) => {
  for (const [shape, axis] of STRATEGIES) {
    const size = shape.reduce((a, b) => a * b, 1);
    const values = new Float64Array(size).fill(-2);
    const input = (special: number) => [floats(shape, values.with(0, special))];
    assert.equal((await valueOf(backend, input(Infinity), (x) => sum(x, axis)))[0], Infinity);
    assert.equal((await valueOf(backend, input(-Infinity), (x) => sum(x, axis)))[0], -Infinity);
    assert.equal((await valueOf(backend, input(Infinity), (x) => max(x, axis)))[0], Infinity);
    assert.equal((await valueOf(backend, input(-Infinity), (x) => max(x, axis)))[0], -2);
    const nothing = values.map(() => -Infinity);
    assert.equal((await valueOf(backend, [floats(shape, nothing)], (x) => max(x, axis)))[0], -Infinity);
  }
});

bothWays("sum() of a million equal numbers is off by rounding alone", async (backend) => {
  const single = Math.fround(0.1);
  for (
    const [shape, axis, count] of [[[1_000_000], 0, 1e6], [[50_000, 20], 0, 5e4], [[4, 250_000], 1, 25e4]] as const
  ) {
    const result = await valueOf(backend, [floats(shape, new Float64Array(1e6).fill(0.1))], (x) => sum(x, axis));
    for (const value of result) assert.ok(Math.abs(value / (count * single) - 1) < 1e-6, `[${shape}]: ${value}`);
  }
});

bothWays("argmax() is the first of equals, in long rows too", async (backend) => {
  const size = 32_000;
  const values = new Float64Array(2 * size).fill(-3);
  for (const place of [517, 9_000, 31_999, size + 31_999, size + 20_000]) values[place] = 2.5;
  assert.deepEqual([...await valueOf(backend, [floats([2, size], values)], (x) => argmax(x))], [517, 20_000]);
  const zeros = await valueOf(backend, [floats([1, 3], [-0, 0, -1])], (x) => argmax(x));
  assert.deepEqual([...zeros], [0]);
});

bothWays("sumOfSquares() is not finite when one of a million elements is not", async (backend) => {
  for (const dtype of ["f32", "bf16", "f16"] as const) {
    const values = new Float64Array(1_000_001).fill(0.5);
    assertClose("sum", await valueOf(backend, [floats([1_000_001], values)], sumOfSquares, dtype), [250_000.25], {
      rtol: 1e-6,
      atol: 0,
    });
    for (
      const [size, place, special] of [[1_000_000, 0, NaN], [1_000_001, 1_000_000, Infinity], [1_000_002, 7, -Infinity]]
    ) {
      const input = floats([size], new Float64Array(size).fill(0.5).with(place, special));
      const [total] = await valueOf(backend, [input], sumOfSquares, dtype);
      assert.ok(Number.isNaN(total), `${special} at ${place} of ${size} ${dtype}: ${total}`);
    }
  }
});

bothWays("crossEntropy() over 32,000 classes agrees with f64", async (backend) => {
  using loops = loopsBackend();
  const [rows, classes] = [5, 32_000];
  const logits = random("logits", rows * classes).map((x) => Math.fround(8 * x));
  const inputs = [floats([rows, classes], logits), integers([0, 31_999, -100, 17, 12_345])];
  const run = (x: Tensor, t: Tensor) => crossEntropy(x, t);
  for (const dtype of ["f32", "bf16"] as const) {
    const rounded = inputs.map((input) => representable(input, dtype));
    const expected = await evaluate(loops, rounded, run, { cotangent: [1.5] });
    const actual = await evaluate(backend, rounded, run, { dtype, cotangent: [1.5] });
    assertClose("loss", actual.value, expected.value, { rtol: 5e-6, atol: 0 });
    const tolerance = dtype === "f32" ? 1e-5 : 2 ** -8;
    assertRms("gradient", actual.gradients[0]!, expected.gradients[0]!, { tolerance });
  }
});

bothWays("crossEntropy() is NaN for logits and targets that mean nothing", async (backend) => {
  const [rows, classes] = [3, 2050];
  const plain = random("logits", rows * classes);
  const loss = async (logits: Float64Array, targets: number[]) => {
    const inputs = [floats([rows, classes], logits), integers(targets)];
    const { value, gradients } = await evaluate(backend, inputs, (x, t) => crossEntropy(x, t), {
      dtype: "f32",
      cotangent: [1],
    });
    return { value: value[0], gradient: gradients[0]! };
  };
  for (const special of [NaN, Infinity]) {
    for (const place of [0, classes + 1033, rows * classes - 1]) {
      assert.ok(Number.isNaN((await loss(plain.with(place, special), [1, 2, 3])).value), `${special} at ${place}`);
    }
    // rows that are left out are not read
    const { value, gradient } = await loss(plain.with(classes + 5, special), [1, -100, 3]);
    assert.ok(Number.isFinite(value));
    assert.ok(gradient.subarray(classes, 2 * classes).every((x) => x === 0));
  }
  for (const target of [-1, classes, 2 ** 31 - 1, -(2 ** 31)]) {
    const { value, gradient } = await loss(plain, [1, target, 3]);
    assert.ok(Number.isNaN(value), `target ${target}`);
    assert.ok(Number.isNaN(gradient[classes + 3]) && Number.isFinite(gradient[0]), `target ${target}`);
  }
  assert.ok(Number.isFinite((await loss(plain.with(7, -Infinity), [1, 2, 3])).value));
  assert.equal((await loss(plain.with(7, -Infinity), [7, -100, -100])).value, Infinity);
  assert.ok(Number.isNaN((await loss(plain.map((x, i) => i < classes ? -Infinity : x), [1, 2, 3])).value));
  assert.equal((await loss(plain.fill(NaN), [-100, -100, -100])).value, 0);
});

bothWays("softmax() of long rows agrees with f64, and what is not finite stays in its row", async (backend) => {
  using loops = loopsBackend();
  const [rows, columns] = [3, 32_001];
  const values = random("x", rows * columns).map((x) => Math.fround(10 * x));
  const cotangent = random("dy", rows * columns);
  const inputs = [floats([rows, columns], values)];
  const expected = await evaluate(loops, inputs, (x) => softmax(x), { cotangent });
  const actual = await evaluate(backend, inputs, (x) => softmax(x), { dtype: "f32", cotangent });
  assertClose("softmax", actual.value, expected.value, { rtol: 1e-5, atol: 1e-7 });
  assertRms("gradient", actual.gradients[0]!, expected.gradients[0]!, { tolerance: 1e-4 });
  for (const special of [NaN, Infinity]) {
    const result = await valueOf(
      backend,
      [floats([rows, columns], values.with(columns + 7, special))],
      (x) => softmax(x),
    );
    result.forEach((value, i) => assert.equal(Number.isNaN(value), Math.floor(i / columns) === 1, `${special}: ${i}`));
  }
  const masked = await valueOf(backend, [floats([1, 3], [-Infinity, 1, 1])], (x) => softmax(x));
  assert.deepEqual([...masked], [0, 0.5, 0.5]);
});

bothWays("norms of wide rows agree with f64, with many blocks of rows", async (backend) => {
  using loops = loopsBackend();
  for (const [rows, columns] of [[40, 1024], [2, 8192], [5, 2051], [300, 12]]) {
    const x = floats([rows, columns], random("x", rows * columns).map(Math.fround));
    const vectors = ["w", "b"].map((name) => floats([columns], random(name, columns).map(Math.fround)));
    const cotangent = random("dy", rows * columns);
    for (const dtype of columns === 1024 ? ["f32", "bf16"] as const : ["f32"] as const) {
      for (
        const [name, inputs, run] of [
          ["rmsNorm", [x, vectors[0]], (x: Tensor, w: Tensor) => rmsNorm(x, w, 1e-5)],
          ["layerNorm", [x, ...vectors], (x: Tensor, w: Tensor, b: Tensor) => layerNorm(x, w, b, 1e-5)],
        ] as const
      ) {
        const rounded = inputs.map((input) => representable(input, dtype));
        const call = run as (...x: Tensor[]) => Tensor;
        const expected = await evaluate(loops, rounded, call, { cotangent });
        const actual = await evaluate(backend, rounded, call, { dtype, cotangent });
        const rounding = dtype === "f32" ? 0 : 2 ** -7;
        const what = `${name} ${dtype} [${rows}, ${columns}]`;
        assertClose(what, actual.value, expected.value, { rtol: 5e-6 + rounding, atol: 1e-6 });
        actual.gradients.forEach((gradient, i) =>
          assertRms(`${what} ${i}`, gradient!, expected.gradients[i]!, { tolerance: 1e-5 + rounding })
        );
      }
    }
  }
});
