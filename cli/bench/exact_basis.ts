/** The exact leading singular vectors that bases are judged by: eigenvectors of a Gram matrix that is summed in f64. */
import { fromArray, gramSvd, matmul, scope, type Tensor } from "../../core/mod.ts";

/** Leading singular vectors of one side, as rows, and all singular values of the matrix. */
export interface Exact {
  /** [rank, d] */
  readonly rows: Float32Array<ArrayBuffer>;
  readonly values: Float64Array;
}

/** Of the smaller side of a [m, n] matrix (row-major). */
export function exactRows(matrix: Float32Array, [m, n]: readonly number[], rank: number): Exact {
  const d = Math.min(m, n);
  const { values, vectors } = gramSvd(matrix, m, n);
  return { rows: Float32Array.from({ length: rank * d }, (_, i) => vectors[(i % d) * d + Math.floor(i / d)]), values };
}

/** What rows are worth beside the exact ones. */
export interface Quality {
  /** ||P G||_F^2 over that of the exact rows. */
  readonly energy: number;
  /** The same of the first sixteenth of the rows, which are singular vectors only in a frame that is not mixed. */
  readonly head: number;
  /** ||P Q^T||_F^2 / r: 1 where both span the same space. */
  readonly overlap: number;
}

/** Judges a basis of the smaller side. */
export function qualityOf(basis: Tensor, gradient: Tensor, exact: Exact): Quality {
  using _ = scope("quality");
  const [rank, d] = basis.shape;
  const [m, n] = gradient.shape;
  const { backend } = gradient;
  const lengths = (rows: Tensor) => rowSquares(matmul(rows, gradient, { transposeB: m >= n }));
  const reference = fromArray(backend, exact.rows, [rank, d]);
  const [ours, theirs] = [lengths(basis), lengths(reference)];
  const head = Math.max(1, rank >> 4);
  return {
    energy: total(ours, rank) / total(theirs, rank),
    head: total(ours, head) / total(theirs, head),
    overlap: total(rowSquares(matmul(basis, reference, { transposeB: true })), rank) / rank,
  };
}

function rowSquares(rows: Tensor): Float64Array {
  const [count, length] = rows.shape;
  const data = rows.readSync();
  const out = new Float64Array(count);
  for (let i = 0; i < count; i++) for (let j = 0; j < length; j++) out[i] += data[i * length + j] ** 2;
  return out;
}

function total(values: Float64Array, count: number): number {
  return values.subarray(0, count).reduce((sum, value) => sum + value, 0);
}
