/**
 * The polar factor of a matrix: the nearest one with orthonormal rows, found by products alone (The Polar Express,
 * Amsel et al. 2025, arXiv 2505.16932). Nothing is read from the device, or refused. Not part of the package's public face.
 */
import {
  abs,
  add,
  type Backend,
  cast,
  div,
  type DType,
  equal,
  iota,
  matmul,
  max,
  mul,
  reshape,
  sqrt,
  sum,
  type Tensor,
} from "../core/mod.ts";
import { replaced } from "./orthonormal.ts";

/** A step of `polarSteps`: X <- a X + (b A + c A^2) X with A = X X^T, which takes singular values x to an odd quintic. */
export type Quintic = readonly [a: number, b: number, c: number];

/** Raises singular values below 0.025 by 4.08 and keeps the others between 0.18 and 1.82. */
const GROW: Quintic = [4.07754, -3.38382, 0.723507];

/**
 * The steps that take singular values from [1e-6, 1] to 1, with seven times GROW; each time more takes 4 times smaller
 * ones. Each is the odd quintic nearest to 1, in its largest error, on the interval that the ones before it leave. Found by
 * Remez exchange over four points in f64, to six decimals, with two departures from section 4 of the paper: the
 * interval reaches down no further than 0.025 of its upper end (nothing large is pressed towards 0), and up to 1.02 of
 * it while it is wide (rounding beyond it does not run away). Composed they err by 1e-9; the last is for what f32 rounds.
 */
export function polarSteps(grow = 7): readonly Quintic[] {
  return [
    [7.401837, -20.240961, 14.260973],
    ...new Array<Quintic>(grow).fill(GROW),
    [3.308013, -2.505395, 0.520483],
    [2.25578, -1.5852, 0.386951],
    [1.890313, -1.266912, 0.376695],
    [15 / 8, -10 / 8, 3 / 8],
    [15 / 8, -10 / 8, 3 / 8],
  ];
}

/** Steps for random rows [rank, d], whose smallest singular value falls as 1 - sqrt(rank / d). */
export function stepsForRandom(rank: number, d: number): readonly Quintic[] {
  return polarSteps(7 + Math.round(Math.log2(d / Math.max(d - rank, 0.5)) / 2));
}

/**
 * (X X^T)^(-1/2) X, orthonormal rows, or on the way there. The norm is bounded by the largest absolute row sum of the
 * Gram matrix. Takes `rows`.
 *
 * @param one the identity of their number
 */
export function polarFactor(rows: Tensor, one: Tensor, steps: readonly Quintic[]): Tensor {
  let x = replaced(rows, (y) => div(y, sqrt(max(sum(abs(gramOfRows(y)), -1)))));
  for (const [a, b, c] of steps) {
    x = replaced(x, (y) => {
      const gram = gramOfRows(y);
      const factor = add(add(mul(one, a), mul(gram, b)), mul(matmul(gram, gram), c));
      return matmul(factor, y);
    });
  }
  return x;
}

function gramOfRows(rows: Tensor): Tensor {
  return matmul(rows, rows, { transposeB: true });
}

/** The identity, [size, size]. */
export function identity(backend: Backend, size: number, dtype: DType): Tensor {
  const index = iota(backend, size);
  return cast(equal(reshape(index, [size, 1]), reshape(index, [1, size])), dtype);
}
