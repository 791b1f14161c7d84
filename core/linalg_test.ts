/** Host factorisations: against PyTorch's singular values, and by what defines each. */
import assert from "node:assert/strict";
import {
  cholesky,
  gramSvd,
  invertLower,
  leadingSingularVectors,
  orthonormalColumns,
  svd,
  symmetricEigen,
} from "./linalg.ts";
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

for (const [rows, columns] of [[7, 5], [5, 8], [6, 6], [1, 4]]) {
  Deno.test(`gramSvd() gives the values of svd() and the vectors of the smaller side at ${rows} x ${columns}`, () => {
    const matrix = random(`${rows} x ${columns}`, rows * columns);
    const side = Math.min(rows, columns);
    const { left, values, right } = svd(matrix, rows, columns);
    const found = gramSvd(matrix, rows, columns);
    assertClose("values", found.values, values, { rtol: 0, atol: 1e-7 * values[0] });
    const expected = rows < columns ? left : right;
    const cosines = product((i, k) => found.vectors[k * side + i], (k, j) => expected[k * side + j], [
      side,
      side,
      side,
    ]);
    assertClose("vectors, whatever their signs", cosines.map(Math.abs), identity(side), { rtol: 0, atol: 1e-6 });
  });
}

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

Deno.test("orthonormalColumns() gives an orthonormal basis of the columns with R's diagonal above 0", () => {
  const [rows, columns] = [11, 5];
  const matrix = random("columns", rows * columns);
  const basis = orthonormalColumns(matrix, rows, columns);
  const q = (i: number, j: number) => basis[i * columns + j];
  const a = (i: number, j: number) => matrix[i * columns + j];
  const gram = product((i, k) => q(k, i), q, [columns, rows, columns]);
  assertClose("orthogonality", gram, identity(columns), { rtol: 0, atol: 1e-14 });
  const upper = product((i, k) => q(k, i), a, [columns, rows, columns]);
  for (let i = 0; i < columns; i++) {
    assert.ok(upper[i * columns + i] > 0);
    for (let j = 0; j < i; j++) assert.ok(Math.abs(upper[i * columns + j]) < 1e-14);
  }
  const rebuilt = product(q, (k, j) => upper[k * columns + j], [rows, columns, columns]);
  assertClose("Q R", rebuilt, matrix, { rtol: 0, atol: 1e-14 });
  assert.throws(() => orthonormalColumns(matrix, 5, 11), /Cannot find orthonormalColumns\(\): .* got 5, 11/);
});

for (const [rows, columns] of [[60, 40], [110, 130], [140, 105]]) {
  Deno.test(`leadingSingularVectors() spans what the whole SVD's first vectors span at ${rows} x ${columns}`, () => {
    const [rank, small] = [3, Math.min(rows, columns)];
    const whole = svd(random("leading", rows * columns), rows, columns);
    // values 1, 1/2, 1/3, then a gap and a slow tail
    const value = (k: number) => k < rank ? 1 / (k + 1) : 0.1 / (1 + 0.02 * k);
    const matrix = product(
      (i, k) => whole.left[i * small + k] * value(k),
      (k, j) => whole.right[j * small + k],
      [rows, small, columns],
    );
    const { left, values, right } = leadingSingularVectors(matrix, rows, columns, rank);
    assertClose("values", values, [1, 1 / 2, 1 / 3], { rtol: 1e-10, atol: 0 });
    for (const [found, all, size] of [[left, whole.left, rows], [right, whole.right, columns]] as const) {
      const cosines = product((i, k) => all[k * small + i], (k, j) => found[k * rank + j], [rank, size, rank]);
      assertClose("cosines", cosines.map(Math.abs), identity(rank), { rtol: 0, atol: 1e-7 });
    }
    const image = product((i, k) => matrix[i * columns + k], (k, j) => right[k * rank + j], [rows, columns, rank]);
    assertClose("G v = s u", image, left.map((u, i) => u * values[i % rank]), { rtol: 0, atol: 1e-7 });
  });
}

Deno.test("leadingSingularVectors() refuses a rank beyond the smaller side", () => {
  assert.throws(() => leadingSingularVectors([1, 2], 1, 2, 2), /the rank must be from 1 .* got 2 of 1/);
});
