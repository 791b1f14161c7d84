/** The tape: when gradients are finished, what they cost, and that recomputing changes nothing. */
import assert from "node:assert/strict";
import { loopsBackend } from "../backends/cpu/loops/mod.ts";
import { asLeaf, backward, checkpoint, noGrad, record } from "./autograd.ts";
import type { Backend } from "./backend.ts";
import { fill, iota, zeros } from "./ops/create.ts";
import { add, exp, mul, silu, stopGradient, tanh } from "./ops/elementwise.ts";
import { dropout, embedding } from "./ops/indexing.ts";
import { reshape, transpose } from "./ops/layout.ts";
import { crossEntropy } from "./ops/loss.ts";
import { linear, matmul } from "./ops/matmul.ts";
import { rmsNorm } from "./ops/norm.ts";
import { mean, sum } from "./ops/reduce.ts";
import { foldIn, keyOf, normal } from "./random.ts";
import { scope } from "./scope.ts";
import { assertRms } from "./testing/golden.ts";
import { assertNoLeak, peakBytes } from "./testing/leaks.ts";
import { fromArray, type Tensor } from "./tensor.ts";

/** A leaf of normal numbers that depend on its name. */
function leaf(backend: Backend, name: string, shape: readonly number[]): Tensor {
  const size = shape.reduce((product, extent) => product * extent, 1);
  return asLeaf(fromArray(backend, normal(foldIn(keyOf(1), name), size, 0, 0.5), shape), name);
}

/** Gradients by name, in order of arrival; a name that arrives twice is an error. */
function gradientsOf(loss: Tensor): Map<string, number[]> {
  const gradients = new Map<string, number[]>();
  backward(loss, (name, gradient) => {
    assert.ok(!gradients.has(name), `${name} was finished twice`);
    gradients.set(name, [...gradient.readSync()]);
  });
  return gradients;
}

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

/** Weights of a small residual block, by name. */
function blockWeights(backend: Backend, layer: number): Record<"norm" | "up" | "down", Tensor> {
  return {
    norm: leaf(backend, `${layer}.norm`, [8]),
    up: leaf(backend, `${layer}.up`, [16, 8]),
    down: leaf(backend, `${layer}.down`, [8, 16]),
  };
}

function block(weights: ReturnType<typeof blockWeights>, x: Tensor): Tensor {
  return add(x, linear(silu(linear(rmsNorm(x, weights.norm, 1e-5), weights.up)), weights.down));
}

type Segment = (fn: (...inputs: Tensor[]) => Tensor, ...inputs: Tensor[]) => Tensor;

/** Runs segments as they are: what `checkpoint` must equal. */
const plainly: Segment = (fn, ...inputs) => fn(...inputs);

/** Gradients of a model that runs its parts through `segment`. */
function gradientsWith(segment: Segment, model: (backend: Backend, segment: Segment) => Tensor): Map<string, number[]> {
  using backend = loopsBackend();
  using _ = scope("test");
  return new Map([...gradientsOf(model(backend, segment))].sort());
}

function assertSameGradients(model: (backend: Backend, segment: Segment) => Tensor): void {
  assert.deepEqual(gradientsWith(checkpoint, model), gradientsWith(plainly, model));
}

Deno.test("checkpoint() gives bit-identical gradients when it reaches weights through closures", () => {
  assertSameGradients((backend, segment) => {
    let x = leaf(backend, "x", [5, 8]);
    for (let i = 0; i < 3; i++) {
      const weights = blockWeights(backend, i);
      x = segment((h) => block(weights, h), x);
    }
    return mean(x);
  });
});

Deno.test("checkpoint() gives bit-identical gradients when it is nested", () => {
  assertSameGradients((backend, segment) => {
    const weights = [0, 1, 2, 3].map((i) => blockWeights(backend, i));
    const pair = (h: Tensor, i: number) =>
      segment((inner) => block(weights[i + 1], inner), segment((inner) => block(weights[i], inner), h));
    const x = leaf(backend, "x", [5, 8]);
    return mean(segment((h) => pair(h, 2), segment((h) => pair(h, 0), x)));
  });
});

Deno.test("checkpoint() gives bit-identical gradients when it drops out under a key", () => {
  const key = foldIn(keyOf(2), "layer", 3);
  assertSameGradients((backend, segment) => {
    const weights = blockWeights(backend, 0);
    const out = segment((h) => dropout(block(weights, h), 0.4, key), leaf(backend, "x", [5, 8]));
    return mean(mul(out, out));
  });
});

Deno.test("checkpoint() finishes a leaf that is tied inside and outside once, in the right order", () => {
  assertSameGradients((backend, segment) => {
    const table = leaf(backend, "table", [7, 8]);
    const mix = leaf(backend, "mix", [8, 7]);
    const x = embedding(table, iota(backend, 5));
    const inside = segment((h) => tanh(linear(linear(h, table), mix)), x);
    return crossEntropy(linear(inside, table), iota(backend, 5, "i32", 2));
  });
});

Deno.test("checkpoint() adds the parts of a leaf that it uses twice before those from outside: equal but for order", () => {
  const model = (backend: Backend, segment: Segment) => {
    const table = leaf(backend, "table", [7, 8]);
    const inside = segment((h) => linear(tanh(linear(h, table)), transpose(table)), leaf(backend, "x", [5, 8]));
    return crossEntropy(linear(inside, table), iota(backend, 5, "i32", 2));
  };
  const [actual, expected] = [checkpoint, plainly].map((segment) => gradientsWith(segment, model));
  for (const [name, values] of expected) assertRms(name, actual.get(name)!, values, { tolerance: 1e-6 });
});

Deno.test("checkpoint() counts a leaf that it gets as an input and through its closure as well", () => {
  assertSameGradients((backend, segment) => {
    const w = leaf(backend, "w", [4]);
    return sum(segment((input) => mul(input, exp(w)), w));
  });
});

Deno.test("checkpoint() lets the sink overwrite a leaf whose segments have all run", () => {
  const run = (overwrite: boolean) => {
    using backend = loopsBackend();
    using _ = scope("test");
    const table = leaf(backend, "table", [7, 8]);
    const weights = [0, 1].map((i) => blockWeights(backend, i));
    let x = embedding(table, iota(backend, 5));
    for (const own of weights) x = checkpoint((h) => linear(tanh(linear(block(own, h), table)), transpose(table)), x);
    const named = new Map([["table", table]]);
    weights.forEach((own, i) => Object.entries(own).forEach(([name, tensor]) => named.set(`${i}.${name}`, tensor)));
    const gradients = new Map<string, number[]>();
    backward(crossEntropy(linear(x, table), zeros(backend, [5], "i32")), (name, gradient) => {
      gradients.set(name, [...gradient.readSync()]);
      if (overwrite) named.get(name)!.write(new Float32Array(gradient.size).fill(1e9));
    });
    return gradients;
  };
  assert.deepEqual(run(true), run(false));
});

Deno.test("checkpoint() gives gradients to the inputs that want them, and none to the others", () => {
  assertSameGradients((backend, segment) => {
    const mask = fill(backend, 0.5, [4]);
    return sum(segment((a, m, b) => mul(mul(a, m), b), leaf(backend, "a", [4]), mask, leaf(backend, "b", [4])));
  });
  assertSameGradients((backend, segment) => {
    const w = leaf(backend, "w", [4]);
    return sum(segment((x) => mul(x, w), fill(backend, 0.5, [4])));
  });
});

Deno.test("checkpoint() passes on an input, a leaf of its closure, or a constant that its function returns", () => {
  assertSameGradients((backend, segment) => {
    const x = leaf(backend, "x", [4]);
    const w = leaf(backend, "w", [4]);
    const same = segment((input) => input, exp(x));
    const captured = segment(() => w, x);
    return sum(mul(mul(same, captured), segment(() => fill(backend, 3, [4]), x)));
  });
});

Deno.test("checkpoint() records nothing without a gradient to take", () => {
  using backend = loopsBackend();
  using _ = scope("test");
  const x = fill(backend, 1, [2]);
  const w = leaf(backend, "w", [2]);
  assert.equal(checkpoint((h) => exp(h), x).node, undefined);
  assert.equal(noGrad(() => checkpoint((h) => mul(h, w), w)).node, undefined);
  assert.equal(x.node, undefined);
});

Deno.test("checkpoint() refuses a captured result, whose gradient it could not pass on", () => {
  using backend = loopsBackend();
  using _ = scope("test");
  const x = leaf(backend, "x", [2]);
  const hidden = exp(x);
  const message = "Cannot checkpoint(): the function captures the result of exp; pass it as an input";
  assert.throws(() => checkpoint((h) => mul(h, hidden), x), { name: "TypeError", message });
  assert.throws(() => checkpoint((h) => mul(h, hidden), hidden), { name: "TypeError", message });
  assert.throws(() => checkpoint((h) => checkpoint((inner) => mul(inner, hidden), h), x), { message });
});

Deno.test("checkpoint() keeps no activations: the peak is that of one segment", async () => {
  using backend = loopsBackend();
  const [layers, depth, size] = [8, 4, 1024];
  const run = (segment: Segment) => {
    using _ = scope("step");
    const loss = (() => {
      using forward = scope("forward");
      let x = leaf(backend, "x", [size]);
      for (let i = 0; i < layers; i++) {
        x = segment((h) => {
          for (let j = 0; j < depth; j++) h = tanh(h);
          return h;
        }, x);
      }
      return forward.keep(sum(x));
    })();
    backward(loss, () => {});
  };
  await assertNoLeak("checkpointed steps", backend, () => run(checkpoint));
  const plain = peakBytes(backend, () => run(plainly));
  const recomputed = peakBytes(backend, () => run(checkpoint));
  const bytes = 4 * size;
  assert.ok(plain >= layers * depth * bytes, `plain ${plain}`);
  // the inputs of all segments, one segment's activations, and a few gradients
  assert.ok(recomputed <= (layers + 2 * depth + 6) * bytes, `recomputed ${recomputed}, ${recomputed / bytes} tensors`);
});
