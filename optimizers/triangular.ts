/**
 * The inverse of a Cholesky factor on the host, fast enough to stand in a training step: in f64, by blocks of four rows
 * and columns, so that what is read of the rows is used four times over. Not part of the package's public face;
 * `cholesky` and `invertLower` of core are the plain form of it.
 */

const BLOCK = 4;

/**
 * L^-T of a symmetric positive definite n x n matrix A = L L^T, row-major: row j holds column j of the inverse of L.
 *
 * @returns undefined when a pivot is not positive: the matrix is singular to working precision, or not finite
 */
export function inverseFactor(matrix: ArrayLike<number>, n: number): Float64Array<ArrayBuffer> | undefined {
  const size = Math.ceil(n / BLOCK) * BLOCK; // filled up with the identity
  const lower = new Float64Array(size * size);
  for (let i = 0; i < n; i++) for (let j = 0; j <= i; j++) lower[i * size + j] = matrix[i * n + j];
  for (let i = n; i < size; i++) lower[i * size + i] = 1;
  if (!factorise(lower, size)) return undefined;
  const inverse = invertTransposed(lower, size);
  if (size === n) return inverse;
  const out = new Float64Array(n * n);
  for (let i = 0; i < n; i++) out.set(inverse.subarray(i * size, i * size + n), i * n);
  return out;
}

/** A becomes L in its lower triangle. False at a pivot that is not positive. */
function factorise(a: Float64Array, n: number): boolean {
  for (let i = 0; i < n; i += BLOCK) {
    for (let j = 0; j <= i; j += BLOCK) {
      subtractDots(a, a, a, n, i, j, 0);
      for (let r = i; r < i + BLOCK; r++) {
        for (let c = j; c < j + BLOCK && c <= r; c++) {
          let rest = a[r * n + c];
          for (let k = j; k < c; k++) rest -= a[r * n + k] * a[c * n + k];
          if (r !== c) a[r * n + c] = rest / a[c * n + c];
          else if (rest > 0 && rest < Infinity) a[r * n + r] = Math.sqrt(rest);
          else return false;
        }
      }
    }
  }
  return true;
}

/** X^T with L X = I: X_ij = ([i = j] - sum over j <= k < i of L_ik X_kj) / L_ii. */
function invertTransposed(lower: Float64Array, n: number): Float64Array<ArrayBuffer> {
  const out = new Float64Array(n * n);
  for (let j = 0; j < n; j += BLOCK) {
    for (let i = j; i < n; i += BLOCK) {
      subtractDots(out, out, lower, n, j, i, j);
      for (let r = j; r < j + BLOCK; r++) {
        for (let c = Math.max(i, r); c < i + BLOCK; c++) {
          let rest = out[r * n + c] + (r === c ? 1 : 0);
          for (let k = i; k < c; k++) rest -= lower[c * n + k] * out[r * n + k];
          out[r * n + c] = rest / lower[c * n + c];
        }
      }
    }
  }
  return out;
}

/**
 * out[row + r, column + c] -= sum of a[row + r, k] b[column + c, k] for r, c < 4 and k from `from` up to the block that
 * is being solved: `column` of a. Two rows at a time, whose eight sums stay in registers.
 */
function subtractDots(
  out: Float64Array,
  a: Float64Array,
  b: Float64Array,
  n: number,
  row: number,
  column: number,
  from: number,
): void {
  const b0 = column * n;
  const b1 = b0 + n;
  const b2 = b1 + n;
  const b3 = b2 + n;
  for (let r = row; r < row + BLOCK; r += 2) {
    const a0 = r * n;
    const a1 = a0 + n;
    let s0 = 0, s1 = 0, s2 = 0, s3 = 0;
    let t0 = 0, t1 = 0, t2 = 0, t3 = 0;
    for (let k = from; k < column; k++) {
      const x = a[a0 + k], y = a[a1 + k];
      const p = b[b0 + k], q = b[b1 + k], u = b[b2 + k], v = b[b3 + k];
      s0 += x * p;
      s1 += x * q;
      s2 += x * u;
      s3 += x * v;
      t0 += y * p;
      t1 += y * q;
      t2 += y * u;
      t3 += y * v;
    }
    out[a0 + column] -= s0;
    out[a0 + column + 1] -= s1;
    out[a0 + column + 2] -= s2;
    out[a0 + column + 3] -= s3;
    out[a1 + column] -= t0;
    out[a1 + column + 1] -= t1;
    out[a1 + column + 2] -= t2;
    out[a1 + column + 3] -= t3;
  }
}
