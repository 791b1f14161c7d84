/** Ops over tensors stored in 16 bits: values near f64's, dtypes of losses and gradients, and sums that keep their digits. */
import assert from "node:assert/strict";
import { loopsBackend } from "../backends/cpu/loops/mod.ts";
import { asLeaf, backward, checkpoint, noGrad } from "./autograd.ts";
import type { Backend } from "./backend.ts";
import type { DType } from "./dtype.ts";
import { attention, rope } from "./ops/attention.ts";
import { zeros } from "./ops/create.ts";
import { add, cast, mul, stopGradient, tanh } from "./ops/elementwise.ts";
import { dropout, embedding } from "./ops/indexing.ts";
import { reshape } from "./ops/layout.ts";
import { crossEntropy, meanSquaredError, sumOfSquares } from "./ops/loss.ts";
import { linear, matmul } from "./ops/matmul.ts";
import { rmsNorm } from "./ops/norm.ts";
import { mean, sum } from "./ops/reduce.ts";
import { foldIn, keyOf, uniform } from "./random.ts";
import { scope } from "./scope.ts";
import { type Shape, sizeOf } from "./shape.ts";
import { CASES, layoutsOf, OP_NAMES } from "./testing/cases.ts";
import { assertRms } from "./testing/golden.ts";
import { random } from "./testing/gradcheck.ts";
import { evaluate, representable, roundTo, toArray } from "./testing/inputs.ts";
import { assertNoLeak } from "./testing/leaks.ts";
import { fromArray, type Tensor } from "./tensor.ts";

/** Ops whose cases name a dtype of their own. */
const OWN_DTYPE = ["cast", "ropeTables"];

for (const op of OP_NAMES.filter((name) => !OWN_DTYPE.includes(name))) {
  Deno.test(`${op}() over bf16 has values and gradients near those of f64`, async () => {
    using backend = loopsBackend();
    for (const test of CASES[op]) {
      for (const { layout, inputs } of layoutsOf(test).filter(({ layout }) => /contiguous|offset/.test(layout))) {
        const what = `${op} ${test.name} ${layout}`;
        const exactInputs = inputs.map((input) => representable(input, "bf16"));
        const { shape } = await evaluate(backend, exactInputs, test.run);
        const cotangent = roundTo("bf16", random(`${what} cotangent`, sizeOf(shape)));
        const exact = await evaluate(backend, exactInputs, test.run, { cotangent });
        const actual = await assertNoLeak(
          what,
          backend,
          () => evaluate(backend, exactInputs, test.run, { dtype: "bf16", cotangent }),
        );
        // a rounding of the value; gradients of elementwise ops are chains of a few, whose terms may cancel
        assertRms(`${what}: value`, actual.value, exact.value, { tolerance: 2 ** -8, floor: 0.01 });
        actual.gradients.forEach((own, i) => {
          assert.equal(own !== undefined, exact.gradients[i] !== undefined, `${what}: gradient ${i}`);
          if (own) assertRms(`${what}: gradient ${i}`, own, exact.gradients[i]!, { tolerance: 0.05, floor: 0.03 });
        });
      }
    }
  });
}

/** A tensor of numbers in [-1, 1) that depend on its name. */
function make(backend: Backend, name: string, shape: Shape, dtype: DType): Tensor {
  return fromArray(backend, toArray(random(name, sizeOf(shape)), dtype), shape, dtype);
}

function leaf(backend: Backend, name: string, shape: Shape, dtype: DType): Tensor {
  return asLeaf(make(backend, name, shape, dtype), name);
}

/** Gradients by name: their dtype and numbers. */
function gradientsOf(loss: Tensor): Map<string, { dtype: DType; values: number[] }> {
  const gradients = new Map<string, { dtype: DType; values: number[] }>();
  backward(loss, (name, gradient) => gradients.set(name, { dtype: gradient.dtype, values: numbersOf(gradient) }));
  return gradients;
}

/** On the host, widened. */
function numbersOf(x: Tensor): number[] {
  using wide = noGrad(() => stopGradient(cast(x, "f64")));
  return [...wide.readSync()];
}

/** The numbers of what `body` makes. */
function numbers(body: () => Tensor): number[] {
  using _ = scope("test");
  return numbersOf(body());
}

for (const dtype of ["bf16", "f16"] as const) {
  Deno.test(`losses and sumOfSquares() over ${dtype} give f32, computed from exact terms`, () => {
    using backend = loopsBackend();
    const targets = Int32Array.from({ length: 33 }, (_, i) => i % 5 === 0 ? -100 : i % 7);
    const runs: Record<string, (on: DType) => Tensor> = {
      crossEntropy: (on) =>
        crossEntropy(cast(make(backend, "x", [33, 7], dtype), on), fromArray(backend, targets, [33])),
      meanSquaredError: (on) => {
        const [x, y] = ["x", "y"].map((name) => cast(make(backend, name, [257], dtype), on));
        return meanSquaredError(x, y);
      },
      sumOfSquares: (on) => sumOfSquares(cast(make(backend, "x", [9, 257], dtype), on)),
    };
    for (const [name, run] of Object.entries(runs)) {
      using _ = scope("test");
      const actual = run(dtype);
      assert.equal(actual.dtype, "f32", name);
      assertRms(name, numbersOf(actual), numbers(() => run("f64")), { tolerance: 1e-6 });
    }
  });

  Deno.test(`matmul() of ${dtype} writes f32 when asked, and its gradients go back in ${dtype}`, () => {
    using backend = loopsBackend();
    using _ = scope("test");
    const run = (on: DType) => {
      const [a, b] = [make(backend, "a", [3, 2, 65], dtype), make(backend, "b", [65, 9], dtype)];
      return matmul(cast(a, on), cast(b, on), { dtype: "f32" });
    };
    const actual = run(dtype);
    assert.equal(actual.dtype, "f32");
    assert.deepEqual(numbersOf(actual), numbersOf(run("f32")));
    const x = leaf(backend, "x", [3, 4], dtype);
    const hidden = tanh(x);
    const product = matmul(hidden, make(backend, "b", [4, 5], dtype), { dtype: "f32" });
    const gradients = gradientsOf(sum(mul(product, product)));
    assert.equal(gradients.get("x")!.dtype, dtype);
    assert.throws(() => matmul(x, x, { transposeB: true, dtype: "f64" }), {
      name: "TypeError",
      message: `Cannot multiply in matmul(): a ${dtype}[3, 4] and b ${dtype}[3, 4] give no f64`,
    });
  });

  Deno.test(`backward() gives the gradient of a ${dtype} weight in f32, as its sums are`, () => {
    using backend = loopsBackend();
    const [x, g] = [make(backend, "x", [40, 33], dtype), make(backend, "g", [40, 9], dtype)];
    const expected = numbers(() => matmul(cast(g, "f32"), cast(x, "f32"), { transposeA: true }));
    const lossOf = (weight: Tensor) => {
      using inner = scope("loss");
      return inner.keep(sum(mul(linear(x, weight), g)));
    };
    using _ = scope("test");
    const own = gradientsOf(lossOf(leaf(backend, "weight", [9, 33], dtype)));
    assert.deepEqual(own.get("weight"), { dtype: "f32", values: expected });
    // behind another op it is no leaf any more
    const behind = gradientsOf(lossOf(reshape(leaf(backend, "weight", [9 * 33], dtype), [9, 33])));
    assert.deepEqual(behind.get("weight"), { dtype, values: [...roundTo(dtype, expected)] });
  });

  Deno.test(`backward() adds the parts of a tied ${dtype} embedding in f32`, () => {
    using backend = loopsBackend();
    const tokens = Int32Array.of(1, 3, 3);
    const run = (tied: boolean) => {
      using inner = scope("loss");
      const table = leaf(backend, "table", [7, 4], dtype);
      const head = tied ? table : leaf(backend, "head", [7, 4], dtype);
      if (!tied) head.write(table.readSync());
      const hidden = tanh(embedding(table, fromArray(backend, tokens, [3])));
      return inner.keep(crossEntropy(linear(hidden, head), fromArray(backend, Int32Array.of(3, 3, 0), [3])));
    };
    using _ = scope("test");
    const [tied, untied] = [gradientsOf(run(true)), gradientsOf(run(false))];
    assert.deepEqual([untied.get("table")!.dtype, untied.get("head")!.dtype], [dtype, "f32"]);
    const parts = untied.get("head")!.values.map((value, i) => Math.fround(value + untied.get("table")!.values[i]));
    assert.deepEqual(tied.get("table"), { dtype: "f32", values: parts });
  });
}

Deno.test("checkpoint() over bf16 gives the same bits, also where an activation goes straight into a matmul", async () => {
  using backend = loopsBackend();
  await assertNoLeak("checkpoint", backend, () => {
    using _ = scope("test");
    const [weight, other] = ["weight", "other"].map((name) => leaf(backend, name, [16, 16], "bf16"));
    const start = leaf(backend, "start", [40, 16], "bf16");
    // the input is used twice: parts that came in f32 would be rounded after their sum, not before
    const segment = (input: Tensor, explicit: Tensor) =>
      add(linear(input, weight), mul(linear(input, explicit), input));
    const run = (recompute: boolean) => {
      const x = tanh(start);
      return gradientsOf(sumOfSquares(recompute ? checkpoint(segment, x, other) : segment(x, other)));
    };
    const [plain, recomputed] = [run(false), run(true)];
    assert.deepEqual(recomputed, plain);
    assert.deepEqual(["weight", "other", "start"].map((name) => plain.get(name)!.dtype), ["f32", "f32", "bf16"]);
  });
});

Deno.test("sums over bf16 are f32 inside: of rows, of columns, and of an embedding's gradient", () => {
  using backend = loopsBackend();
  const ones = (shape: Shape) =>
    fromArray(backend, toArray(new Float64Array(sizeOf(shape)).fill(1), "bf16"), shape, "bf16");
  // added up in bf16, ones end at 256; 1 / 300 in bf16 is off by 0.1 %
  assert.deepEqual(numbers(() => sum(ones([3, 300]), 1)), [300, 300, 300]);
  assert.deepEqual(numbers(() => sum(ones([300, 2]), 0)), [300, 300]);
  assert.deepEqual(numbers(() => mean(ones([300]))), [1]);
  using _ = scope("test");
  const table = asLeaf(ones([2, 3]), "table");
  const gradients = gradientsOf(sum(embedding(table, zeros(backend, [300], "i32"))));
  assert.deepEqual(gradients.get("table")!.values, [300, 300, 300, 0, 0, 0]);
});

Deno.test("dropout() over bf16 scales in f32 and drops what it drops in f32", () => {
  using backend = loopsBackend();
  const key = foldIn(keyOf(2), "dropout");
  const x = make(backend, "x", [257], "bf16");
  const run = (on: DType) => numbers(() => dropout(cast(x, on), 0.3, key));
  assert.deepEqual(run("bf16"), [...roundTo("bf16", run("f32"))]);
});

Deno.test("attention() and rmsNorm() over bf16 round once: to the bits of f32's result", () => {
  using backend = loopsBackend();
  const [q, k, v] = ["q", "k", "v"].map((name) => make(backend, name, [2, 9, 2, 8], "bf16"));
  const mask = fromArray(backend, Uint32Array.from(uniform(keyOf(1), 18), (u) => u < 0.7 ? 1 : 0), [2, 9]);
  const weight = make(backend, "weight", [8], "bf16");
  const options = { causal: true, mask, dropout: { rate: 0.2, key: keyOf(4) } };
  const runs: ((on: DType) => Tensor)[] = [
    (on) => attention(cast(q, on), cast(k, on), cast(v, on), { causal: true, mask }),
    (on) => attention(cast(q, on), cast(k, on), cast(v, on), options),
    (on) => rmsNorm(cast(q, on), cast(weight, on), 1e-5),
  ];
  for (const run of runs) {
    const [half, single] = [numbers(() => run("bf16")), numbers(() => run("f32"))];
    assert.deepEqual(half, [...roundTo("bf16", single)]);
  }
});

Deno.test("rope() takes f32 tables for 16-bit heads and refuses others", () => {
  using backend = loopsBackend();
  using _ = scope("test");
  const x = make(backend, "x", [1, 3, 2, 4], "bf16");
  const tables = (dtype: DType) => ["cos", "sin"].map((name) => make(backend, name, [3, 2], dtype));
  const [cos, sin] = tables("f32");
  assert.equal(rope(x, cos, sin).dtype, "bf16");
  const [narrowCos, narrowSin] = tables("bf16");
  assert.throws(() => rope(x, narrowCos, narrowSin), {
    name: "TypeError",
    message: "Cannot rotate in rope(): tables for bf16 must be f32: got bf16[3, 2]",
  });
  assert.throws(() => rope(x, cos, narrowSin), /dtypes must match: got f32\[3, 2\] and bf16\[3, 2\]/);
  assert.throws(() => rope(cast(x, "f32"), narrowCos, narrowSin), /dtypes must match/);
});
