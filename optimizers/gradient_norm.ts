/** Norms of gradients on the device, and what their values say once somebody read them. */
import type { Tensor } from "../core/mod.ts";

/** Norms of what is staged: of whole gradients, or of projected ones where micro-batches were added up projected. */
export interface GradientNorm {
  readonly norm: number;
  readonly kind: "exact" | "projected";
  /** Parameters whose gradient has a NaN or an infinity (or squares that overflow). */
  readonly nonFinite: readonly string[];
}

/** Sums of squares on the device, for whoever reads them later. */
export interface GradientSquares {
  /** [parameters that have a gradient], the caller's to dispose. */
  readonly squares: Tensor;
  /** What the values say, once they were read. */
  readonly toNorm: (values: ArrayLike<number>) => GradientNorm;
}

/** From sums of squares of sums of `microBatches` gradients, by name, to the norm of their mean. */
export function normFrom(
  values: ArrayLike<number>,
  { names, microBatches, kind }: {
    readonly names: readonly string[];
    readonly microBatches: number;
    readonly kind: GradientNorm["kind"];
  },
): GradientNorm {
  const squares = Array.from(values);
  const total = squares.reduce((sum, square) => sum + square, 0);
  const nonFinite = names.filter((_, index) => !Number.isFinite(squares[index]));
  return { norm: Math.sqrt(total) / microBatches, kind, nonFinite };
}
