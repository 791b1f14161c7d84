/**
 * Where a deep factorisation moves: the subspaces of its compressed form, from the gradient at the start.
 *
 * Yaras et al. 2024 (arXiv 2406.04112), section 3. Let f = W_L ... W_1 begin as orthogonal factors times epsilon, with
 * the product epsilon^L Q, and let G be the gradient of the loss by f there, U and V its first r singular vectors. The
 * paper's code finds the directions in which W_1 stays a multiple of an isometry as the intersection of span(V)'s and
 * span(Q^T U)'s complements, through a null space of [V_a, -V_b] with d - r columns each. What learns is the complement
 * of that, and the complement of an intersection is the sum of the complements: span of [V, Q^T U], 2 r columns. That is
 * the same subspace without a null space, an SVD of the wide matrix, or a product of wide factors.
 *
 * Of a matrix that is not square the width is the longer side and the square outer factor is used, as there: W_1 where
 * there are at least as many columns as rows, otherwise W_L of the transposed problem. There Q is no longer orthogonal, and
 * its image of one subspace is an oblique frame of the other. The code takes that frame itself as the outer factor, which
 * lets the compressed form learn at another speed than the wide one; here the frame is made orthonormal, and what it was
 * stands in the inner factor beside it (`corner`). Both begin as the same matrix, and then the two forms keep step: the
 * distance between them stays below sqrt(d - 2 r) epsilon^L, as the theorem says of square ones.
 */
import { leadingSingularVectors, orthonormalColumns } from "../core/mod.ts";
import type { Isometry } from "./isometry.ts";

/** The outer factors of a compressed form, orthonormal, in columns. */
export interface Subspaces {
  /** [rows, 2 r] */
  readonly left: Float64Array;
  /** [columns, 2 r] */
  readonly right: Float64Array;
  /**
   * left^T Q right, [2 r, 2 r]: the first value, over epsilon, of the last inner factor where there are fewer rows than
   * columns and of the first one otherwise. The identity of a square matrix, as for the other factors.
   */
  readonly corner: Float64Array;
}

/**
 * The outer factors of the compressed form of `start`, the product of orthogonal factors.
 *
 * @param gradient of the loss by the product, [rows, columns] row-major
 * @param rank r, at most half the smaller side
 */
export function deepSubspaces(gradient: ArrayLike<number>, start: Isometry, rank: number): Subspaces {
  const { rows, columns } = start;
  const width = 2 * rank;
  const top = leadingSingularVectors(gradient, rows, columns, rank);
  if (columns >= rows) {
    const right = joined(top.right, start.applyTransposed(top.left, rank), columns, rank);
    const image = start.apply(right, width);
    if (columns === rows) return { left: image, right, corner: identity(width) };
    const left = orthonormalColumns(image, rows, width);
    return { left, right, corner: crossed(left, image, width) };
  }
  const left = joined(top.left, start.apply(top.right, rank), rows, rank);
  const image = start.applyTransposed(left, width);
  const right = orthonormalColumns(image, columns, width);
  return { left, right, corner: crossed(image, right, width) };
}

function identity(size: number): Float64Array {
  return Float64Array.from({ length: size * size }, (_, i) => i % (size + 1) === 0 ? 1 : 0);
}

/** a^T b of two [size, width] matrices. */
function crossed(a: Float64Array, b: Float64Array, width: number): Float64Array {
  const out = new Float64Array(width * width);
  for (let i = 0; i < a.length; i++) {
    const row = i - i % width;
    for (let j = 0; j < width; j++) out[(i % width) * width + j] += a[i] * b[row + j];
  }
  return out;
}

/** An orthonormal basis [size, 2 width] of the columns of both [size, width] matrices. */
function joined(a: Float64Array, b: Float64Array, size: number, width: number): Float64Array {
  const both = new Float64Array(2 * size * width);
  for (let i = 0; i < size; i++) {
    both.set(a.subarray(i * width, (i + 1) * width), 2 * i * width);
    both.set(b.subarray(i * width, (i + 1) * width), (2 * i + 1) * width);
  }
  return orthonormalColumns(both, size, 2 * width);
}
