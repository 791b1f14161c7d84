/** Plain matrices on the host, row-major in f64: what tests multiply by hand. */
import type { Isometry } from "../isometry.ts";

/** a [m, k] @ b [k, n]. */
export function product(a: ArrayLike<number>, b: ArrayLike<number>, [m, k, n]: readonly number[]): Float64Array {
  const out = new Float64Array(m * n);
  for (let i = 0; i < m; i++) {
    for (let l = 0; l < k; l++) {
      for (let j = 0; j < n; j++) out[i * n + j] += a[i * k + l] * b[l * n + j];
    }
  }
  return out;
}

/** The [columns, rows] matrix of a [rows, columns] one. */
export function transpose(a: ArrayLike<number>, rows: number, columns: number): Float64Array {
  return Float64Array.from({ length: rows * columns }, (_, i) => a[(i % rows) * columns + Math.floor(i / rows)]);
}

/** The identity of size n. */
export function eye(n: number): Float64Array {
  return Float64Array.from({ length: n * n }, (_, i) => i % (n + 1) === 0 ? 1 : 0);
}

/** A matrix [rows, columns] as what it does. */
export function asIsometry(matrix: ArrayLike<number>, rows: number, columns: number): Isometry {
  return {
    rows,
    columns,
    apply: (x, width) => product(matrix, x, [rows, columns, width]),
    applyTransposed: (x, width) => product(transpose(matrix, rows, columns), x, [columns, rows, width]),
  };
}

/** The largest sine between two spaces, each given by `width` orthonormal columns of [size, width]. */
export function largestSine(a: ArrayLike<number>, b: ArrayLike<number>, size: number, width: number): number {
  const cosines = product(transpose(a, size, width), b, [width, size, width]);
  const inside = product(a, cosines, [size, width, width]);
  // the Frobenius norm of what is left over bounds the largest sine from above
  return Math.sqrt(inside.reduce((sum, value, i) => sum + (b[i] - value) ** 2, 0));
}
