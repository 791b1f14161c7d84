/**
 * Small dense factorisations on the host, in f64: what a GaLore basis needs once the large products have run on the
 * device. Over ml-matrix, the exact oracle; it refuses to be fast on large matrices (a 1024 x 1024 SVD takes 20 s).
 */
import { EigenvalueDecomposition, Matrix, SingularValueDecomposition } from "npm:ml-matrix@6.15.1";

/** Eigenpairs of a symmetric matrix, largest first. `vectors` is [n, n] row-major with eigenvectors in columns. */
export interface SymmetricEigen {
  readonly values: Float64Array;
  readonly vectors: Float64Array;
}

/** Eigenpairs of a symmetric n x n matrix (row-major). */
export function symmetricEigen(matrix: ArrayLike<number>, n: number): SymmetricEigen {
  const decomposition = new EigenvalueDecomposition(toMatrix(matrix, n, n), { assumeSymmetric: true });
  const order = decomposition.realEigenvalues.map((_, index) => index);
  order.sort((a, b) => decomposition.realEigenvalues[b] - decomposition.realEigenvalues[a]);
  const vectors = new Float64Array(n * n);
  const source = decomposition.eigenvectorMatrix;
  for (let i = 0; i < n; i++) {
    for (let j = 0; j < n; j++) vectors[i * n + j] = source.get(i, order[j]);
  }
  return { values: Float64Array.from(order, (index) => decomposition.realEigenvalues[index]), vectors };
}

/** Thin singular value decomposition of a [rows, columns] matrix (row-major), largest first. */
export function svd(
  matrix: ArrayLike<number>,
  rows: number,
  columns: number,
): { left: Float64Array; values: Float64Array; right: Float64Array } {
  const wide = rows < columns;
  const source = toMatrix(matrix, rows, columns);
  const { leftSingularVectors, rightSingularVectors, diagonal } = new SingularValueDecomposition(
    wide ? source.transpose() : source,
    { autoTranspose: false },
  );
  const small = Math.min(rows, columns);
  const [u, v] = wide ? [rightSingularVectors, leftSingularVectors] : [leftSingularVectors, rightSingularVectors];
  return {
    left: flatten(u, rows, small),
    values: Float64Array.from(diagonal),
    right: flatten(v, columns, small),
  };
}

/**
 * Lower Cholesky factor of a symmetric positive definite n x n matrix (row-major).
 *
 * @returns undefined when a pivot is not positive: the matrix is singular to working precision
 */
export function cholesky(matrix: ArrayLike<number>, n: number): Float64Array | undefined {
  const lower = new Float64Array(n * n);
  for (let i = 0; i < n; i++) {
    for (let j = 0; j <= i; j++) {
      let sum = matrix[i * n + j];
      for (let k = 0; k < j; k++) sum -= lower[i * n + k] * lower[j * n + k];
      if (i !== j) lower[i * n + j] = sum / lower[j * n + j];
      else if (sum > 0) lower[i * n + i] = Math.sqrt(sum);
      else return undefined;
    }
  }
  return lower;
}

/** Inverse of a lower triangular n x n matrix (row-major). */
export function invertLower(lower: ArrayLike<number>, n: number): Float64Array {
  const inverse = new Float64Array(n * n);
  for (let j = 0; j < n; j++) {
    inverse[j * n + j] = 1 / lower[j * n + j];
    for (let i = j + 1; i < n; i++) {
      let sum = 0;
      for (let k = j; k < i; k++) sum -= lower[i * n + k] * inverse[k * n + j];
      inverse[i * n + j] = sum / lower[i * n + i];
    }
  }
  return inverse;
}

function toMatrix(data: ArrayLike<number>, rows: number, columns: number): Matrix {
  const matrix = new Matrix(rows, columns);
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < columns; j++) matrix.set(i, j, data[i * columns + j]);
  }
  return matrix;
}

function flatten(matrix: Matrix, rows: number, columns: number): Float64Array {
  const out = new Float64Array(rows * columns);
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < columns; j++) out[i * columns + j] = matrix.get(i, j);
  }
  return out;
}
