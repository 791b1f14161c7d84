/** Gradients where there is more than one: the choice that each op documents. */
import assert from "node:assert/strict";
import { loopsBackend } from "../../backends/cpu/loops/mod.ts";
import { asLeaf, backward } from "../autograd.ts";
import { scope } from "../scope.ts";
import { fromArray, type Tensor } from "../tensor.ts";
import { abs, clamp, floor, maximum, minimum, relu, sigmoid, sign, silu } from "./elementwise.ts";
import { reshape } from "./layout.ts";
import { crossEntropy } from "./loss.ts";
import { softmax } from "./norm.ts";
import { max, min, norm, sum } from "./reduce.ts";

/** The gradient of the sum of `run` at `values`; undefined where none arrives. */
function gradientAt(values: number[], run: (x: Tensor) => Tensor): number[] | undefined {
  using backend = loopsBackend();
  using _ = scope("test");
  const x = asLeaf(fromArray(backend, values, [values.length]), "x");
  let found: number[] | undefined;
  backward(sum(run(x)), (_name, gradient) => found = [...gradient.readSync()].map((value) => value + 0));
  return found;
}

Deno.test("abs(), relu() and norm() have the gradient 0 at 0", () => {
  assert.deepEqual(gradientAt([-2, 0, 2], abs), [-1, 0, 1]);
  assert.deepEqual(gradientAt([-2, 0, 2], relu), [0, 0, 1]);
  assert.deepEqual(gradientAt([0, 0], (x) => norm(x)), [0, 0]);
});

Deno.test("maximum(), minimum(), max() and min() share the gradient among equals", () => {
  assert.deepEqual(gradientAt([0, 1, 2], (x) => maximum(x, 1)), [0, 0.5, 1]);
  assert.deepEqual(gradientAt([0, 1, 2], (x) => minimum(1, x)), [1, 0.5, 0]);
  assert.deepEqual(gradientAt([3, 1, 3, 3, 3], (x) => max(x)), [0.25, 0, 0.25, 0.25, 0.25]);
  assert.deepEqual(gradientAt([1, 3, 1], (x) => min(x)), [0.5, 0, 0.5]);
});

Deno.test("clamp() passes the gradient inside alone, floor() and sign() pass none", () => {
  assert.deepEqual(gradientAt([-2, 0, 2], (x) => clamp(x, -1, 1)), [0, 1, 0]);
  assert.equal(gradientAt([0.5], floor), undefined);
  assert.equal(gradientAt([0.5], sign), undefined);
});

Deno.test("sigmoid() and silu() keep finite gradients where the exponential overflows", () => {
  assert.deepEqual(gradientAt([-200, 0, 200], sigmoid), [0, 0.25, 0]);
  assert.deepEqual(gradientAt([-200, 0, 200], silu), [0, 0.5, 1]);
});

Deno.test("softmax() and crossEntropy() keep finite gradients for huge inputs", () => {
  assert.deepEqual(gradientAt([1e30, -1e30, 0], (x) => softmax(x)), [0, 0, 0]);
  const loss = (x: Tensor) => crossEntropy(reshape(x, [1, 2]), fromArray(x.backend, [1], [1], "i32"));
  assert.deepEqual(gradientAt([300, -300], loss), [1, -1]);
});
