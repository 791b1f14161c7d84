/** The blocked inverse of a Cholesky factor, against the plain form. */
import assert from "node:assert/strict";
import { cholesky, invertLower, keyOf, normal } from "../core/mod.ts";
import { inverseFactor } from "./triangular.ts";

/** A A^T with A random [n, n + 3]. */
function positive(n: number): Float64Array {
  const [a, width] = [normal(keyOf(n), n * (n + 3)), n + 3];
  return Float64Array.from({ length: n * n }, (_, index) => {
    const [i, j] = [Math.floor(index / n), index % n];
    let total = 0;
    for (let k = 0; k < width; k++) total += a[i * width + k] * a[j * width + k];
    return total;
  });
}

Deno.test("inverseFactor() is the transposed inverse of the Cholesky factor at any size", () => {
  for (const n of [1, 2, 3, 4, 5, 7, 8, 31, 64, 90]) {
    const matrix = positive(n);
    const expected = invertLower(cholesky(matrix, n)!, n);
    const actual = inverseFactor(matrix, n)!;
    assert.equal(actual.length, n * n);
    const scale = Math.max(...expected.map(Math.abs));
    for (let i = 0; i < n; i++) {
      for (let j = 0; j < n; j++) {
        const off = Math.abs(actual[j * n + i] - expected[i * n + j]);
        assert.ok(off < 1e-9 * scale, `${n}: [${i}, ${j}] is off by ${off} of ${scale}`);
      }
    }
  }
});

Deno.test("inverseFactor() leaves its argument as it is, and gives nothing for what is not positive definite", () => {
  for (const n of [1, 4, 6, 9]) {
    const matrix = positive(n);
    const before = matrix.slice();
    inverseFactor(matrix, n);
    assert.deepEqual(matrix, before);
    for (const bad of [0, -1, NaN, Infinity]) {
      const at = (n - 1) * n + n - 1;
      assert.equal(inverseFactor(matrix.with(at, bad), n), undefined, `${n} ${bad}`);
    }
  }
});
