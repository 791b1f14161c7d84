/**
 * GaLore's basis by subspace iteration: what large matrices use, with all large products on the device and only squares
 * of the rank on the host.
 *
 * Cold, from random rows: Halko, Martinsson & Tropp 2011, "Finding structure with randomness", algorithms 4.4 and 5.1.
 * Warm, from the basis in use: orthogonal iteration, one factor at a time, which is Stewart's pivoted QLP decomposition
 * (1999) without the pivots; only the leading rows are then rotated to singular vectors. Trailing vectors whose
 * singular values lie close together may come out mixed with their neighbours; more iterations part them.
 */
import {
  abs,
  add,
  cast,
  div,
  foldIn,
  type Key,
  less,
  matmul,
  max,
  maximum,
  min,
  mul,
  normal,
  sum,
  symmetricEigen,
  type Tensor,
  where,
} from "../core/mod.ts";
import {
  type BasisRequest,
  type BasisStrategy,
  checkRank,
  columnsAsRows,
  gramBasis,
  gramMatrix,
  normalised,
  type Side,
  widened,
} from "./basis.ts";
import { consumed, detached, gramOf, orthonormalRows, replaced, upload, whitened } from "./orthonormal.ts";
import type { Reading } from "./reading.ts";

/** Options of `subspaceBasis`. */
export interface SubspaceOptions {
  /** Products with G^T G after the first, from a random start. More part close singular values better. Default 4. */
  readonly iterations?: number;
  /** Extra vectors carried from a random start and then dropped. Default 8. */
  readonly oversample?: number;
  /** Start from the basis in use, if there is one. Default true. Without, the result depends on the gradient alone. */
  readonly warmStart?: boolean;
  /** Products with G^T G from a warm start. Default 1: what it leaves out of a gradient is less than a thousandth. */
  readonly warmIterations?: number;
  /** Leading vectors that a warm start rotates to singular vectors; the others stay as they came. Default 64. */
  readonly rotated?: number;
  /** Sides up to this size are solved by `gramBasis` instead, which is exact and cheap there. Default 96. */
  readonly gramBelow?: number;
}

/** Random directions that stir a warm start, and the length of what they add to a row. */
const STIR = { directions: 8, length: 0.001 } as const;

/** Subspace iteration: a randomised range from nothing, orthogonal iteration from the basis in use. */
export function subspaceBasis(options: SubspaceOptions = {}): BasisStrategy {
  const { iterations = 4, oversample = 8, warmStart = true, warmIterations = 1, rotated = 64, gramBelow = 96 } =
    options;
  return {
    name: "subspace",
    options: { iterations, oversample, warmStart, warmIterations, rotated, gramBelow },
    *compute(gradient, request) {
      const { side, rank, previous } = request;
      checkRank(gradient, rank);
      const d = gradient.shape[side === "left" ? 0 : 1];
      const carried = Math.min(...gradient.shape, rank + oversample);
      if (d <= gramBelow || carried >= d) return yield* gramBasis().compute(gradient, request);
      const isWarm = warmStart && previous?.shape[0] === rank && previous.shape[1] === d;
      return isWarm
        ? yield* fromPrevious(gradient, request, warmIterations, rotated)
        : yield* fromNothing(gradient, request, iterations, carried);
    },
  };
}

/**
 * Randomised singular value decomposition: `subspaceBasis` from random rows each time, with few products (Halko,
 * Martinsson & Tropp 2011; what GaLore 2, Su et al. 2025, takes).
 *
 * @param options `iterations`: power iterations, default 1; `oversample`: vectors beside the rank, default 8
 */
export function randomizedBasis(options: Pick<SubspaceOptions, "iterations" | "oversample"> = {}): BasisStrategy {
  const { iterations = 1, oversample = 8 } = options;
  const { compute } = subspaceBasis({ iterations, oversample, warmStart: false, gramBelow: 0 });
  return { name: "randomized", options: { iterations, oversample }, compute };
}

/** From random rows: iterated, made orthonormal, rotated to singular vectors, and cut to the rank. */
function* fromNothing(
  gradient: Tensor,
  { side, rank, key }: BasisRequest,
  iterations: number,
  carried: number,
): Reading<Tensor> {
  const d = gradient.shape[side === "left" ? 0 : 1];
  using unit = detached("basis gradient", () => normalised(gradient));
  using gram = prefersGram(unit.shape, d, carried, iterations)
    ? detached("gram", () => gramMatrix(unit, side))
    : undefined;
  let rows = detached("basis start", () => upload(unit, normal(key, carried * d), [carried, d]));
  for (let i = 0; i <= iterations; i++) {
    // the last product goes through the factors: the matrix holds singular values squared, and loses the small ones
    const product = replaced(rows, (q) => gram && i < iterations ? matmul(q, gram) : applyGram(unit, q, side));
    rows = whitened(product, yield* gramOf(product));
  }
  using basis = yield* orthonormalRows(rows, key);
  return yield* singularVectors(unit, basis, side, rank, withCanonicalSigns);
}

/** Whether forming G^T G once costs clearly less than multiplying by both factors each time. */
function prefersGram([m, n]: readonly number[], d: number, carried: number, iterations: number): boolean {
  return m * n * d + iterations * carried * d * d < 0.8 * iterations * 2 * carried * m * n;
}

/** Rows of Q times the side's Gram matrix, without forming it: (Q G) G^T or (Q G^T) G. */
function applyGram(gradient: Tensor, q: Tensor, side: Side): Tensor {
  return side === "left"
    ? matmul(matmul(q, gradient), gradient, { transposeB: true })
    : matmul(matmul(q, gradient, { transposeB: true }), gradient);
}

/**
 * From the basis in use: Z = orth(Q G), Q = orth(Z G^T), so that what is made orthonormal is conditioned as
 * sigma_1 / sigma_k and not as its square. Each row is made orthonormal to those before it: leading vectors converge
 * one by one and keep their places and signs. Rows far down, whose share of the gradient is small, are left so.
 */
function* fromPrevious(
  gradient: Tensor,
  { side, rank, key, previous }: BasisRequest,
  iterations: number,
  rotated: number,
): Reading<Tensor> {
  using values = widened(gradient);
  let rows = detached("basis start", () => stirred(cast(previous!, values.dtype), key));
  for (let half = 1; half <= 2 * iterations; half++) {
    const isOutward = half % 2 === 1;
    rows = replaced(rows, (q) => levelled(matmul(q, values, { transposeB: isOutward === (side === "right") })));
    if (half < 2 * iterations) rows = whitened(rows, yield* gramOf(rows));
  }
  rows = yield* orthonormalRows(rows, key);
  try {
    const d = rows.shape[1];
    const lead = [Math.min(rotated, rank), d];
    using from = rows.view(lead, rows.strides, rows.offset);
    using near = previous!.view(lead, previous!.strides, previous!.offset);
    using turned = yield* singularVectors(values, from, side, lead[0], (basis) => withSignsOf(near, basis));
    rows.backend.kernels.copyStrided(turned, from);
    return rows;
  } catch (error) {
    rows.dispose();
    throw error;
  }
}

/** Over the largest magnitude, whose square may not be a number of f32. */
function levelled(rows: Tensor): Tensor {
  return div(rows, maximum(max(abs(rows)), 1e-37));
}

/** Rows with a little of some random directions added: what the basis has nothing of can still be found. */
function stirred(rows: Tensor, key: Key): Tensor {
  const { directions, length } = STIR;
  const [k, d] = rows.shape;
  const shares = normal(foldIn(key, "shares"), k * directions, 0, length / Math.sqrt(directions));
  const vectors = normal(foldIn(key, "directions"), directions * d, 0, 1 / Math.sqrt(d));
  return add(rows, matmul(upload(rows, shares, [k, directions]), upload(rows, vectors, [directions, d])));
}

/** Rayleigh-Ritz: the `count` leading singular vectors of what the gradient has in the span of orthonormal rows. */
function* singularVectors(
  gradient: Tensor,
  rows: Tensor,
  side: Side,
  count: number,
  signed: (basis: Tensor) => Tensor,
): Reading<Tensor> {
  const k = rows.shape[0];
  const small = yield* consumed(detached("basis projection", () => {
    const projected = levelled(matmul(rows, gradient, { transposeB: side === "right" }));
    return matmul(projected, projected, { transposeB: true });
  }));
  const rotation = columnsAsRows(symmetricEigen(small, k).vectors, k, k, count);
  return detached("basis", () => signed(matmul(upload(rows, rotation, [count, k]), rows)));
}

/** Canonical signs without a readback: negative where the smallest entry outweighs the largest. */
function withCanonicalSigns(basis: Tensor): Tensor {
  return flipped(basis, add(max(basis, -1, true), min(basis, -1, true)));
}

/** Each row to the side of its predecessor. */
function withSignsOf(near: Tensor, basis: Tensor): Tensor {
  return flipped(basis, sum(mul(basis, cast(near, basis.dtype)), -1, true));
}

/** Rows times -1 where `level` [k, 1] is negative. */
function flipped(basis: Tensor, level: Tensor): Tensor {
  return mul(basis, where(less(level, 0), upload(basis, [-1], []), 1));
}
