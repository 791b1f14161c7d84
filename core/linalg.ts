/**
 * Small dense factorisations on the host, in f64: what a GaLore basis needs once the large products have run on the
 * device. Over ml-matrix, the exact oracle; it refuses to be fast on large matrices (a 1024 x 1024 SVD takes 20 s).
 */
import { EigenvalueDecomposition, Matrix, QrDecomposition, SingularValueDecomposition } from "npm:ml-matrix@6.15.1";
import { keyOf, normal } from "./random.ts";

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
 * The singular values of a [rows, columns] matrix (row-major), largest first, and the singular vectors of its smaller side
 * (the left ones of a wide matrix, else the right ones), by the eigenvalues of that side's Gram matrix: less work than `svd`
 * where the other vectors are not asked for. Values are exact to about 1e-8 of the largest.
 *
 * @returns `vectors` [side, side] row-major, in columns
 */
export function gramSvd(matrix: ArrayLike<number>, rows: number, columns: number): SymmetricEigen {
  const isWide = rows < columns;
  const [side, length] = isWide ? [rows, columns] : [columns, rows];
  const eigen = symmetricEigen(productsOfRows(isWide ? matrix : transposed(matrix, rows, columns), side, length), side);
  return { ...eigen, values: eigen.values.map((value) => Math.sqrt(Math.max(value, 0))) };
}

function transposed(matrix: ArrayLike<number>, rows: number, columns: number): Float64Array {
  const out = new Float64Array(rows * columns);
  for (let i = 0; i < rows; i++) for (let j = 0; j < columns; j++) out[j * rows + i] = matrix[i * columns + j];
  return out;
}

/** Products of all pairs of `count` rows, summed in order, two rows by two at a time. */
function productsOfRows(rows: ArrayLike<number>, count: number, length: number): Float64Array {
  const out = new Float64Array(count * count);
  for (let i = 0; i < count; i += 2) {
    const next = Math.min(i + 1, count - 1); // the last row of an odd number again
    for (let j = 0; j <= i; j += 2) {
      const other = Math.min(j + 1, count - 1);
      const [a, b, p, q] = [i * length, next * length, j * length, other * length];
      let ap = 0, aq = 0, bp = 0, bq = 0;
      for (let k = 0; k < length; k++) {
        const x = rows[a + k], y = rows[b + k], u = rows[p + k], v = rows[q + k];
        ap += x * u;
        aq += x * v;
        bp += y * u;
        bq += y * v;
      }
      out[i * count + j] = out[j * count + i] = ap;
      out[i * count + other] = out[other * count + i] = aq;
      out[next * count + j] = out[j * count + next] = bp;
      out[next * count + other] = out[other * count + next] = bq;
    }
  }
  return out;
}

/**
 * An orthonormal basis of the columns of a [rows, columns] matrix (row-major) with rows >= columns: the Q of its thin QR
 * decomposition, by Householder's reflections, with the signs for which R has a diagonal that is not negative.
 *
 * @throws RangeError when there are more columns than rows
 */
export function orthonormalColumns(matrix: ArrayLike<number>, rows: number, columns: number): Float64Array {
  if (columns > rows) {
    throw new RangeError(
      `Cannot find orthonormalColumns(): there must be as many rows as columns: got ${rows}, ${columns}`,
    );
  }
  const decomposition = new QrDecomposition(toMatrix(matrix, rows, columns));
  const basis = flatten(decomposition.orthogonalMatrix, rows, columns);
  const upper = decomposition.upperTriangularMatrix;
  for (let j = 0; j < columns; j++) {
    if (upper.get(j, j) >= 0) continue;
    for (let i = 0; i < rows; i++) basis[i * columns + j] *= -1;
  }
  return basis;
}

/** Below this smaller side the whole SVD costs less than iterating. */
const SMALL_SIDE = 96;
/** Directions that are iterated beside those asked for: the convergence is that of the gap behind them. */
const SPARE = 8;
const MAX_ITERATIONS = 40;
/** The part of the leading directions that may still turn in an iteration, as a sum of squared sines. */
const SETTLED = 1e-16;

/**
 * The first `rank` singular vectors of a [rows, columns] matrix (row-major), largest value first: of a small one from
 * its SVD, of a large one by block power iteration from a fixed start, until they turn no more. How well they are
 * determined depends on the gap behind them, as with any method.
 *
 * @returns `left` [rows, rank] and `right` [columns, rank], in columns
 * @throws RangeError for a rank that is no whole number from 1 to the smaller side
 */
export function leadingSingularVectors(
  matrix: ArrayLike<number>,
  rows: number,
  columns: number,
  rank: number,
): { left: Float64Array; values: Float64Array; right: Float64Array } {
  const small = Math.min(rows, columns);
  if (!Number.isInteger(rank) || rank < 1 || rank > small) {
    throw new RangeError(
      `Cannot find leadingSingularVectors(): the rank must be from 1 to the smaller side: got ${rank} of ${small}`,
    );
  }
  if (small <= Math.max(SMALL_SIDE, 2 * rank)) {
    const { left, values, right } = svd(matrix, rows, columns);
    return {
      left: firstColumns(left, rows, small, rank),
      values: values.slice(0, rank),
      right: firstColumns(right, columns, small, rank),
    };
  }
  const width = Math.min(small, rank + SPARE);
  let right = orthonormalColumns(normal(keyOf(0), columns * width), columns, width);
  for (let i = 0; i < MAX_ITERATIONS; i++) {
    const image = times(matrix, right, { rows, columns, width });
    const rotated = ritz(timesTransposed(matrix, image, { rows, columns, width }), columns, width);
    const turned = turn(right, rotated, { rows: columns, columns: width, rank });
    right = rotated;
    if (turned < SETTLED) break;
  }
  const top = firstColumns(right, columns, width, rank);
  const image = times(matrix, top, { rows, columns, width: rank });
  const { left, values, right: turns } = svd(image, rows, rank);
  return { left, values, right: times(top, turns, { rows: columns, columns: rank, width: rank }) };
}

/** Left singular vectors of G^T G X: an orthonormal basis of the iterated space whose columns stand in order. */
function ritz(matrix: Float64Array, rows: number, columns: number): Float64Array {
  const basis = orthonormalColumns(matrix, rows, columns);
  const triangle = timesTransposed(basis, matrix, { rows, columns, width: columns });
  return times(basis, svd(triangle, columns, columns).left, { rows, columns, width: columns });
}

/** Sum of squared sines between the first `rank` columns of `next` and the space of those of `before`. */
function turn(
  before: Float64Array,
  next: Float64Array,
  { rows, columns, rank }: { rows: number; columns: number; rank: number },
): number {
  const first = firstColumns(before, rows, columns, rank);
  const second = firstColumns(next, rows, columns, rank);
  const cosines = timesTransposed(first, second, { rows, columns: rank, width: rank });
  // what is left over of each, rather than 1 - cos^2, whose digits cancel
  const inside = times(first, cosines, { rows, columns: rank, width: rank });
  return second.reduce((sum, value, i) => sum + (value - inside[i]) ** 2, 0);
}

interface ProductSizes {
  readonly rows: number;
  readonly columns: number;
  readonly width: number;
}

/** a [rows, columns] @ b [columns, width]. */
function times(a: ArrayLike<number>, b: ArrayLike<number>, { rows, columns, width }: ProductSizes): Float64Array {
  const out = new Float64Array(rows * width);
  for (let i = 0; i < rows; i++) {
    for (let k = 0; k < columns; k++) {
      const value = a[i * columns + k];
      for (let j = 0; j < width; j++) out[i * width + j] += value * b[k * width + j];
    }
  }
  return out;
}

/** a^T @ b, with a [rows, columns] and b [rows, width]. */
function timesTransposed(
  a: ArrayLike<number>,
  b: ArrayLike<number>,
  { rows, columns, width }: ProductSizes,
): Float64Array {
  const out = new Float64Array(columns * width);
  for (let i = 0; i < rows; i++) {
    for (let k = 0; k < columns; k++) {
      const value = a[i * columns + k];
      for (let j = 0; j < width; j++) out[k * width + j] += value * b[i * width + j];
    }
  }
  return out;
}

function firstColumns(matrix: Float64Array, rows: number, columns: number, count: number): Float64Array {
  const out = new Float64Array(rows * count);
  for (let i = 0; i < rows; i++) out.set(matrix.subarray(i * columns, i * columns + count), i * count);
  return out;
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
