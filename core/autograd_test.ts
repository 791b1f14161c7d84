/** The tape: when gradients are finished, what they cost, and what is freed when. */
import assert from "node:assert/strict";
import { loopsBackend } from "../backends/cpu/loops/mod.ts";
import { asLeaf, backward, noGrad, record } from "./autograd.ts";
import { fill } from "./ops/create.ts";
import { add, exp, mul, stopGradient, tanh } from "./ops/elementwise.ts";
import { embedding } from "./ops/indexing.ts";
import { reshape, transpose } from "./ops/layout.ts";
import { crossEntropy } from "./ops/loss.ts";
import { linear, matmul } from "./ops/matmul.ts";
import { rmsNorm } from "./ops/norm.ts";
import { sum } from "./ops/reduce.ts";
import { scope } from "./scope.ts";
import { gradientsOf, leaf } from "./testing/leaves.ts";
import { assertNoLeak } from "./testing/leaks.ts";
import { fromArray, type Tensor } from "./tensor.ts";

Deno.test("backward() finishes a tied leaf once, after its last use, with the sum of its parts", () => {
  using backend = loopsBackend();
  using _ = scope("test");
  const table = leaf(backend, "table", [7, 4]);
  const weight = leaf(backend, "weight", [4, 4]);
  const tokens = fromArray(backend, [1, 3, 3], [3], "i32");
  const targets = fromArray(backend, [3, 3, 0], [3], "i32");
  const model = (input: Tensor, output: Tensor) =>
    crossEntropy(linear(tanh(linear(embedding(input, tokens), weight)), output), targets);
  const tied = gradientsOf(model(table, table));
  assert.deepEqual([...tied.keys()], ["weight", "table"]);
  const copy = asLeaf(stopGradient(table), "copy");
  const untied = gradientsOf(model(table, copy));
  assert.deepEqual([...untied.keys()], ["copy", "weight", "table"]);
  const parts = untied.get("copy")!.map((value, i) => Math.fround(value + untied.get("table")![i]));
  assert.deepEqual(tied.get("table"), parts);
});

Deno.test("backward() adds the gradients of an operand that is used twice", () => {
  using backend = loopsBackend();
  using _ = scope("test");
  const x = asLeaf(fromArray(backend, [1, 2, 3], [3]), "x");
  assert.deepEqual(gradientsOf(sum(add(x, x))).get("x"), [2, 2, 2]);
  assert.deepEqual(gradientsOf(sum(mul(x, x))).get("x"), [2, 4, 6]);
  const y = add(x, 1);
  assert.deepEqual(gradientsOf(sum(mul(y, add(y, x)))).get("x"), [7, 11, 15]);
});

/** Two factors of each node, and leaves that are used at several depths. */
function tangledLoss(leaves: Record<"a" | "b" | "c", Tensor>): Tensor {
  const { a, b, c } = leaves;
  const first = mul(a, b);
  const second = matmul(first, c);
  return sum(mul(rmsNorm(second, reshape(b, [9]), 1e-3), matmul(a, c)));
}

Deno.test("backward() runs the sink after all gradients that read the parameter, which it may overwrite", () => {
  using backend = loopsBackend();
  using _ = scope("test");
  const leaves = { a: leaf(backend, "a", [1, 9]), b: leaf(backend, "b", [1, 9]), c: leaf(backend, "c", [9, 9]) };
  const expected = gradientsOf(tangledLoss(leaves));
  const actual = new Map<string, number[]>();
  backward(tangledLoss(leaves), (name, gradient) => {
    actual.set(name, [...gradient.readSync()]);
    const param = leaves[name as keyof typeof leaves];
    param.write(new Float32Array(param.size).fill(1e9));
  });
  assert.deepEqual(actual, expected);
});

Deno.test("backward() calls no gradient function of a frozen input", () => {
  using backend = loopsBackend();
  using _ = scope("test");
  const calls: string[] = [];
  const spy = (x: Tensor, y: Tensor) =>
    record("spy", fill(backend, 1, [2]), [x, y], [], (g) => [
      () => (calls.push("x"), g),
      () => (calls.push("y"), g),
    ]);
  const frozen = fill(backend, 1, [2]);
  const x = leaf(backend, "x", [2]);
  gradientsOf(sum(spy(frozen, x)));
  assert.deepEqual(calls, ["y"]);
  gradientsOf(sum(spy(x, frozen)));
  assert.deepEqual(calls, ["y", "x"]);
  assert.equal(spy(frozen, frozen).node, undefined);
});

Deno.test("matmul() and mul() keep no activation for the gradient of a frozen factor", () => {
  using backend = loopsBackend();
  using _ = scope("test");
  const x = leaf(backend, "x", [64, 64]);
  const frozen = fill(backend, 2, [64, 64]);
  for (const product of [matmul, mul]) {
    const before = backend.memory().live;
    {
      using inner = scope("forward");
      inner.keep(sum(product(product(product(add(x, 1), frozen), frozen), frozen)));
    }
    assert.equal(backend.memory().live, before + 1, product.name);
  }
});

Deno.test("backward() frees the graph as it walks, and refuses to run through it again", async () => {
  using backend = loopsBackend();
  await assertNoLeak("twice", backend, () => {
    using _ = scope("test");
    const x = leaf(backend, "x", [3]);
    const loss = sum(exp(mul(x, 2)));
    gradientsOf(loss);
    assert.throws(() => gradientsOf(loss), {
      message: "Cannot run backward() through sum again: its graph has been freed",
    });
    const shared = exp(x);
    gradientsOf(sum(shared));
    assert.throws(() => gradientsOf(sum(mul(shared, 2))), /through exp again: its graph has been freed/);
  });
});

Deno.test("backward() refuses a graph whose outermost scope has closed", () => {
  using backend = loopsBackend();
  using x = leaf(backend, "x", [3]);
  using loss = (() => {
    using step = scope("step");
    return step.keep(sum(exp(x)));
  })();
  assert.throws(() => gradientsOf(loss), /its graph has been freed/);
  assert.equal(backend.memory().live, 2);
});

Deno.test("backward() refuses what it cannot differentiate", () => {
  using backend = loopsBackend();
  using _ = scope("test");
  const x = leaf(backend, "x", [2, 3]);
  assert.throws(() => gradientsOf(exp(x)), {
    name: "TypeError",
    message: "Cannot run backward() from f32[2, 3]: expected a scalar",
  });
  assert.throws(() => gradientsOf(sum(fill(backend, 1, [2]))), {
    name: "TypeError",
    message: "Cannot run backward(): nothing before the loss needs a gradient",
  });
});

Deno.test("backward() of a leaf gives 1", () => {
  using backend = loopsBackend();
  using _ = scope("test");
  assert.deepEqual(gradientsOf(leaf(backend, "x", [])).get("x"), [1]);
});

Deno.test("backward() hands the sink contiguous gradients and frees them after it, unless retained", async () => {
  using backend = loopsBackend();
  await assertNoLeak("sink", backend, () => {
    let held: Tensor | undefined;
    {
      using _ = scope("test");
      const x = leaf(backend, "x", [2, 3]);
      let seen: Tensor | undefined;
      backward(sum(mul(transpose(x), fromArray(backend, [1, 2, 3, 4, 5, 6], [3, 2]))), (_name, gradient) => {
        assert.ok(gradient.isContiguous);
        seen = gradient;
        held = gradient.retained();
      });
      assert.ok(seen!.isDisposed);
    }
    assert.deepEqual([...held!.readSync()], [1, 3, 5, 2, 4, 6]);
    held!.dispose();
  });
});

Deno.test("backward() frees everything when the sink or a gradient function throws", async () => {
  using backend = loopsBackend();
  const failing = (x: Tensor) =>
    record("failing", exp(x), [x], [x], () => [() => {
      throw new RangeError("on purpose");
    }]);
  for (const fails of ["sink", "vjp"]) {
    await assertNoLeak(fails, backend, () => {
      using _ = scope("test");
      const x = leaf(backend, "x", [3]);
      const y = leaf(backend, "y", [3]);
      const hidden = fails === "vjp" ? failing(x) : exp(x);
      assert.throws(() =>
        backward(sum(mul(tanh(mul(hidden, y)), y)), () => {
          if (fails === "sink") throw new RangeError("on purpose");
        }), /on purpose/);
    });
  }
});

Deno.test("backward() takes no tensor away that a gradient function hands on", () => {
  using backend = loopsBackend();
  using _ = scope("test");
  const slope = fromArray(backend, [5, 6], [2]);
  const tilted = (x: Tensor, y: Tensor) =>
    record("tilted", add(stopGradient(x), stopGradient(y)), [x, y], [slope], (_g, [saved]) => [
      () => saved,
      () => slope,
    ]);
  const [x, y] = [leaf(backend, "x", [2]), leaf(backend, "y", [2])];
  const gradients = gradientsOf(sum(tilted(exp(mul(x, 0)), y)));
  assert.deepEqual(gradients, new Map([["y", [5, 6]], ["x", [0, 0]]]));
  assert.deepEqual([...slope.readSync()], [5, 6]);
});

Deno.test("noGrad() records nothing inside, and records again after it, also when it throws", () => {
  using backend = loopsBackend();
  using _ = scope("test");
  const x = leaf(backend, "x", [2]);
  assert.equal(noGrad(() => exp(x)).node, undefined);
  assert.throws(() =>
    noGrad(() => {
      throw new RangeError("on purpose");
    })
  );
  assert.notEqual(exp(x).node, undefined);
  assert.equal(exp(stopGradient(x)).node, undefined);
});
