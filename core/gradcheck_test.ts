/** Every op's gradient against differences of its values, in f64 on the loops. */
import assert from "node:assert/strict";
import { loopsBackend } from "../backends/cpu/loops/mod.ts";
import { noGrad, record } from "./autograd.ts";
import { mul } from "./ops/elementwise.ts";
import { CASES, layoutsOf, OP_NAMES } from "./testing/cases.ts";
import { gradcheck } from "./testing/gradcheck.ts";
import { float, layOut } from "./testing/inputs.ts";
import type { Tensor } from "./tensor.ts";

Deno.test("CASES has every exported op", () => {
  assert.deepEqual(Object.keys(CASES).sort(), [...OP_NAMES].sort());
});

Deno.test("gradcheck() rejects a gradient that is off by a millionth part or goes to the wrong input", async () => {
  using backend = loopsBackend();
  const inputs = ["x", "y"].map((name) => layOut(float([3, 5], 1, 2), name, "contiguous"));
  const scaled = (factor: number) => (x: Tensor, y: Tensor) =>
    record("scaled", mul(noGrad(() => mul(x, y)), 1), [x, y], [x, y], (g, [p, q]) => [
      () => mul(mul(g, q), factor),
      () => mul(g, p),
    ]);
  await gradcheck("right", backend, inputs, scaled(1));
  await assert.rejects(gradcheck("off", backend, inputs, scaled(1 + 3e-6)), /off: the gradient of input 0 gives/);
  const swapped = (x: Tensor, y: Tensor) =>
    record("swapped", noGrad(() => mul(x, y)), [y, x], [x, y], (g, [p, q]) => [() => mul(g, q), () => mul(g, p)]);
  await assert.rejects(gradcheck("swapped", backend, inputs, swapped), /swapped: the gradient of input 0 gives/);
});

for (const op of OP_NAMES) {
  Deno.test(`${op}() has the gradient of its values for every shape and layout`, async () => {
    using backend = loopsBackend();
    for (const test of CASES[op]) {
      for (const { layout, inputs } of layoutsOf(test)) {
        await gradcheck(`${op} ${test.name} ${layout}`, backend, inputs, test.run);
      }
    }
  });
}
