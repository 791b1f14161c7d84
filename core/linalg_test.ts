/** Host factorisations: against PyTorch's singular values, and by what defines each. */
import assert from "node:assert/strict";
import { cholesky, invertLower, svd, symmetricEigen } from "./linalg.ts";
import { GOLDEN_TENSORS } from "./testing/golden_ops.ts";
import { assertClose, rms, rmsError } from "./testing/golden.ts";
import { random } from "./testing/gradcheck.ts";

/** a [m, k] @ b [k, n], either stored transposed when its strides say so. */
function product(a: (i: number, k: number) => number, b: (k: number, j: number) => number, sizes: readonly number[]) {
  const [m, inner, n] = sizes;
  const out = new Float64Array(m * n);
  for (let i = 0; i < m; i++) {
    for (let j = 0; j < n; j++) {
      for (let k = 0; k < inner; k++) out[i * n + j] += a(i, k) * b(k, j);
    }
  }
  return out;
}

function identity(n: number): Float64Array {
  return Float64Array.from({ length: n * n }, (_, i) => i % (n + 1) === 0 ? 1 : 0);
}

for (const name of ["square", "tall", "wide", "rank6"]) {
  Deno.test(`svd() gives PyTorch's singular values and rebuilds the matrix when it is ${name}`, () => {
    const { shape: [rows, columns], data } = GOLDEN_TENSORS.get(`svd.${name}:x`)!;
    const small = Math.min(rows, columns);
    const { left, values, right } = svd(data, rows, columns);
    const expected = GOLDEN_TENSORS.get(`svd.${name}:singular_values`)!.data;
    assertClose("singular values", values, expected, { rtol: 0, atol: 5e-6 * expected[0] });
    const u = (i: number, k: number) => left[i * small + k];
    const v = (j: number, k: number) => right[j * small + k];
    const rebuilt = product((i, k) => u(i, k) * values[k], (k, j) => v(j, k), [rows, small, columns]);
    assert.ok(rmsError(rebuilt, data) < 1e-12, "U S V^T");
    for (const [factor, size] of [[u, rows], [v, columns]] as const) {
      const gram = product((i, k) => factor(k, i), factor, [small, size, small]);
      assertClose("orthogonality", gram, identity(small), { rtol: 0, atol: 1e-12 });
    }
  });
}

Deno.test("symmetricEigen() gives orthogonal vectors that diagonalise the matrix, largest value first", () => {
  const n = 9;
  const x = random("eigen", n * n);
  const matrix = product((i, k) => x[i * n + k], (k, j) => x[j * n + k], [n, n, n]);
  const { values, vectors } = symmetricEigen(matrix, n);
  assert.deepEqual([...values], [...values].sort((a, b) => b - a));
  const v = (i: number, k: number) => vectors[i * n + k];
  assertClose("orthogonality", product((i, k) => v(k, i), v, [n, n, n]), identity(n), { rtol: 0, atol: 1e-12 });
  const rebuilt = product((i, k) => v(i, k) * values[k], (k, j) => v(j, k), [n, n, n]);
  assertClose("V diag V^T", rebuilt, matrix, { rtol: 1e-12, atol: 1e-12 * rms(matrix) });
});

Deno.test("cholesky() and invertLower() factor and invert, and refuse a singular matrix", () => {
  const n = 7;
  const x = random("cholesky", n * n);
  const matrix = product((i, k) => x[i * n + k], (k, j) => x[j * n + k], [n, n, n]);
  const lower = cholesky(matrix, n)!;
  const at = (i: number, k: number) => lower[i * n + k];
  assertClose("L L^T", product(at, (k, j) => at(j, k), [n, n, n]), matrix, { rtol: 1e-10, atol: 1e-12 });
  const inverse = invertLower(lower, n);
  assertClose("L^-1 L", product((i, k) => inverse[i * n + k], at, [n, n, n]), identity(n), { rtol: 0, atol: 1e-9 });
  assert.equal(cholesky([1, 2, 2, 4], 2), undefined);
});
