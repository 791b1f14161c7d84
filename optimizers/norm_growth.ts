/** The norm-growth limiter of Fira (Chen et al. 2024, arXiv 2410.01623, section 3.3), which APOLLO uses as well. */
import { div, less, mul, sqrt, sumOfSquares, type Tensor, where } from "../core/mod.ts";

/** The limit of both papers. */
export const GROWTH_LIMIT = 1.01;

/**
 * The update, scaled down so that its norm is at most `limit` times the one before; and its norm then. A norm before of 0
 * (the first step) limits nothing. Device work alone.
 *
 * @param before scalar
 */
export function limitGrowth(update: Tensor, before: Tensor, limit: number): [Tensor, Tensor] {
  const norm = sqrt(sumOfSquares(update));
  const most = mul(before, limit);
  const isOver = mul(less(0, before), less(most, norm));
  const factor = where(isOver, div(most, where(isOver, norm, 1)), 1);
  return [mul(update, factor), mul(norm, factor)];
}
