/** Random isometries: what makes them so, and that every way to use one is the same matrix. */
import assert from "node:assert/strict";
import { keyOf } from "../core/mod.ts";
import { assertClose } from "../core/testing/golden.ts";
import { random } from "../core/testing/gradcheck.ts";
import { composeIsometries, drawIsometry, formIsometry } from "./isometry.ts";
import { eye, product, transpose } from "./testing/host_matrices.ts";

const close = { rtol: 0, atol: 1e-13 };

for (const [rows, columns] of [[9, 9], [13, 5], [4, 11], [1, 6], [6, 1]]) {
  Deno.test(`drawIsometry() is orthonormal on its shorter side, and applies what it forms, at ${rows} x ${columns}`, () => {
    const isometry = drawIsometry(keyOf(3), rows, columns);
    const Q = formIsometry(isometry);
    const flipped = transpose(Q, rows, columns);
    const small = Math.min(rows, columns);
    const gram = rows >= columns
      ? product(flipped, Q, [columns, rows, columns])
      : product(Q, flipped, [rows, columns, rows]);
    assertClose("gram", gram, eye(small), close);
    const x = random("x", 3 * columns);
    assertClose("Q x", isometry.apply(x, 3), product(Q, x, [rows, columns, 3]), close);
    const y = random("y", 3 * rows);
    assertClose("Q^T y", isometry.applyTransposed(y, 3), product(flipped, y, [columns, rows, 3]), close);
    assert.deepEqual(formIsometry(drawIsometry(keyOf(3), rows, columns)), Q);
    assert.notDeepEqual(formIsometry(drawIsometry(keyOf(4), rows, columns)), Q);
  });
}

Deno.test("drawIsometry() prefers no sign: entries are as often above 0 as below, in the first column as in the last", () => {
  const draws = Array.from({ length: 400 }, (_, seed) => formIsometry(drawIsometry(keyOf(seed), 3, 3)));
  for (let i = 0; i < 9; i++) {
    const above = draws.filter((Q) => Q[i] > 0).length;
    assert.ok(Math.abs(above - 200) < 50, `entry ${i}: ${above} of 400`); // five standard deviations
    const squares = draws.reduce((sum, Q) => sum + Q[i] ** 2, 0) / 400;
    assert.ok(Math.abs(squares - 1 / 3) < 0.08, `entry ${i}: ${squares}`);
  }
});

Deno.test("composeIsometries() is the product of the matrices, last one first", () => {
  const factors = ([[4, 6], [6, 6], [6, 5]] as const).map(([rows, columns], i) =>
    drawIsometry(keyOf(i), rows, columns)
  );
  const [C, B, A] = factors.map(formIsometry);
  const whole = product(C, product(B, A, [6, 6, 5]), [4, 6, 5]);
  const composed = composeIsometries(factors);
  assert.deepEqual([composed.rows, composed.columns], [4, 5]);
  assertClose("product", composed.apply(eye(5), 5), whole, close);
  assertClose("transposed", composed.applyTransposed(eye(4), 4), transpose(whole, 4, 5), close);
});
