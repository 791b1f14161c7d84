/** Every op's gradient against differences of its values, in f64 on the loops. */
import assert from "node:assert/strict";
import { loopsBackend } from "../backends/cpu/loops/mod.ts";
import { CASES, layoutsOf, OP_NAMES } from "./testing/cases.ts";
import { gradcheck } from "./testing/gradcheck.ts";

for (const op of OP_NAMES) {
  Deno.test(`${op}() has the gradient of its values for every shape and layout`, async () => {
    assert.ok(CASES[op].length > 0);
    using backend = loopsBackend();
    for (const test of CASES[op]) {
      for (const { layout, inputs } of layoutsOf(test)) {
        await gradcheck(`${op} ${test.name} ${layout}`, backend, inputs, test.run);
      }
    }
  });
}
