/** Recomputing in backward: the same gradients, for the memory of one segment. */
import assert from "node:assert/strict";
import { loopsBackend } from "../backends/cpu/loops/mod.ts";
import { backward, checkpoint, noGrad } from "./autograd.ts";
import type { Backend } from "./backend.ts";
import { fill, iota, zeros } from "./ops/create.ts";
import { add, exp, mul, silu, tanh } from "./ops/elementwise.ts";
import { dropout, embedding } from "./ops/indexing.ts";
import { transpose } from "./ops/layout.ts";
import { crossEntropy } from "./ops/loss.ts";
import { linear } from "./ops/matmul.ts";
import { rmsNorm } from "./ops/norm.ts";
import { mean, sum } from "./ops/reduce.ts";
import { foldIn, keyOf } from "./random.ts";
import { scope } from "./scope.ts";
import { assertRms } from "./testing/golden.ts";
import { assertNoLeak, peakBytes } from "./testing/leaks.ts";
import { gradientsOf, leaf } from "./testing/leaves.ts";
import type { Tensor } from "./tensor.ts";

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
