/**
 * How GaLore finds a basis: the leading singular vectors of one side of a gradient.
 *
 * A basis is stored with its vectors as rows, [rank, d], whichever side it projects. Only the smaller side's vectors
 * are needed, so no strategy makes a full SVD of a large matrix except the oracle. Signs are canonical: the entry of
 * largest magnitude in each vector is positive, so that equal gradients give equal bases. Only a strategy that starts
 * from the basis in use keeps near that instead.
 */
import {
  abs,
  type Backend,
  cast,
  describe,
  div,
  type DType,
  type Key,
  matmul,
  max,
  maximum,
  own,
  svd,
  symmetricEigen,
  type Tensor,
} from "../core/mod.ts";
import type { Reading } from "./reading.ts";
import { consumed, detached, NOT_FINITE, upload } from "./orthonormal.ts";

/** Which side of G the basis acts on: `left` gives P G (P [rank, m]), `right` gives G P^T (P [rank, n]). */
export type Side = "left" | "right";

/** What a strategy may use beside the gradient. */
export interface BasisRequest {
  readonly side: Side;
  readonly rank: number;
  /** The basis in use, [rank, d], to start from. */
  readonly previous?: Tensor;
  /** For strategies that draw random numbers. */
  readonly key: Key;
}

/** What a basis is drawn for. */
export interface GenerateRequest {
  readonly side: Side;
  readonly rank: number;
  /** Length of its vectors: d. */
  readonly size: number;
  readonly key: Key;
  readonly dtype: "f32" | "f64";
}

/** A way to find a basis. */
export interface BasisStrategy {
  readonly name: string;
  readonly options: Readonly<Record<string, unknown>>;
  /**
   * True when `compute` yields no tensor to read on a device whose numbers must be waited for: it can then run in the
   * middle of backward. (On a CPU every strategy can.)
   */
  readonly deviceOnly?: boolean;
  /**
   * Finds a basis, [rank, d], which belongs to the caller. What must be read is yielded. Called outside every scope or in
   * one: temporaries are freed in either case.
   *
   * @throws RangeError for a rank above the smaller side, or, if it reads numbers, a gradient that is not finite
   */
  readonly compute: (gradient: Tensor, request: BasisRequest) => Reading<Tensor>;
  /**
   * Where the basis does not depend on the gradient: makes it at once, [rank, size], by device work alone, the same
   * bits for the same key. It belongs to the caller, who need not store it. `compute` gives the same.
   */
  readonly generate?: (backend: Backend, request: GenerateRequest) => Tensor;
}

/** Full f64 singular value decomposition on the host. The oracle; slow beyond a few hundred. */
export function exactBasis(): BasisStrategy {
  return {
    name: "exact",
    options: {},
    *compute(gradient, { side, rank }) {
      checkRank(gradient, rank);
      const [rows, columns] = gradient.shape;
      const { left, right } = svd(checkFinite(yield* consumed(widened(gradient))), rows, columns);
      const d = side === "left" ? rows : columns;
      return fromRows(gradient, columnsAsRows(side === "left" ? left : right, d, Math.min(rows, columns), rank), d);
    },
  };
}

/** Eigenvectors of the side's Gram matrix: the product on the device, the eigenproblem in f64 on the host. */
export function gramBasis(): BasisStrategy {
  return {
    name: "gram",
    options: {},
    *compute(gradient, { side, rank }) {
      checkRank(gradient, rank);
      const gram = detached("gram", () => gramMatrix(normalised(gradient), side));
      const d = gram.shape[0];
      const { vectors } = symmetricEigen(checkFinite(yield* consumed(gram)), d);
      return fromRows(gradient, columnsAsRows(vectors, d, d, rank), d);
    },
  };
}

/** The precision that a basis is computed in: f64 beside f64, else f32. */
export function computedIn(dtype: DType): "f32" | "f64" {
  return dtype === "f64" ? "f64" : "f32";
}

/** The gradient in that precision, owned by the caller. */
export function widened(gradient: Tensor): Tensor {
  const dtype = computedIn(gradient.dtype);
  return gradient.dtype === dtype ? gradient.retained() : detached("basis gradient", () => cast(gradient, dtype));
}

/** The gradient over its largest magnitude: fourth powers of singular values must fit in f32. */
export function normalised(gradient: Tensor): Tensor {
  const values = cast(gradient, computedIn(gradient.dtype));
  return div(values, maximum(max(abs(values)), 1e-37));
}

/** G G^T or G^T G: [d, d]. */
export function gramMatrix(gradient: Tensor, side: Side): Tensor {
  return matmul(gradient, gradient, side === "left" ? { transposeB: true } : { transposeA: true });
}

/** The first `count` columns of a [d, n] row-major matrix as rows [count, d], with canonical signs. */
export function columnsAsRows(matrix: Float64Array, d: number, n: number, count: number): Float64Array {
  const rows = new Float64Array(count * d);
  for (let j = 0; j < count; j++) {
    for (let i = 0; i < d; i++) rows[j * d + i] = matrix[i * n + j];
  }
  canonicalSigns(rows, count, d);
  return rows;
}

/** Flips each row whose entry of largest magnitude is negative. */
function canonicalSigns(rows: Float32Array | Float64Array, count: number, d: number): void {
  for (let j = 0; j < count; j++) {
    const row = rows.subarray(j * d, (j + 1) * d);
    let peak = 0;
    for (let i = 0; i < d; i++) if (Math.abs(row[i]) > Math.abs(peak)) peak = row[i];
    if (peak < 0) { for (let i = 0; i < d; i++) row[i] = -row[i]; }
  }
}

/** A basis of the gradient's own precision, owned by the caller. */
function fromRows(gradient: Tensor, rows: Float64Array, d: number): Tensor {
  return own(upload(gradient, rows, [rows.length / d, d]));
}

/** @throws RangeError for a rank that the gradient has not got */
export function checkRank(gradient: Tensor, rank: number): void {
  const most = Math.min(...gradient.shape);
  if (rank >= 1 && rank <= most) return;
  throw new RangeError(`Cannot find a basis of rank ${rank}: expected 1 to ${most} for ${describe(gradient)}`);
}

function checkFinite(values: ArrayLike<number>): ArrayLike<number> {
  for (let i = 0; i < values.length; i++) if (!Number.isFinite(values[i])) throw new RangeError(NOT_FINITE);
  return values;
}
