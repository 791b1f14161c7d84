/**
 * The sides of a matrix that a basis can compress, and the products that do it.
 *
 * A basis is stored with its vectors as rows, [rank, d], whichever side it projects. `full` projects both.
 */
import { matmul, type Tensor } from "../core/mod.ts";
import type { Side } from "./basis.ts";

/** Which side a basis compresses. The released code's names. */
export type ProjType = "std" | "reverse_std" | "left" | "right" | "full";

/** The bases in use, as tensors. */
export interface Bases {
  readonly left?: Tensor;
  readonly right?: Tensor;
}

/** The sides that a projection type compresses for a [rows, columns] matrix. */
export function sidesOf(projType: ProjType, rows: number, columns: number): readonly Side[] {
  switch (projType) {
    case "std":
      return [rows >= columns ? "right" : "left"];
    case "reverse_std":
      return [rows >= columns ? "left" : "right"];
    case "full":
      return ["left", "right"];
    default:
      return [projType];
  }
}

/** Shape of the projected gradient and of each basis for a matrix: what memory planning needs. */
export function galoreShapes(
  [rows, columns]: readonly number[],
  rank: number,
  projType: ProjType,
): { readonly rank: number; readonly projected: number[]; readonly bases: { side: Side; shape: number[] }[] } {
  const sides = sidesOf(projType, rows, columns);
  // the thin SVD of the released code has min(rows, columns) vectors on either side
  const kept = Math.min(rank, rows, columns);
  const projected = [sides.includes("left") ? kept : rows, sides.includes("right") ? kept : columns];
  return {
    rank: kept,
    projected,
    bases: sides.map((side) => ({ side, shape: [kept, side === "left" ? rows : columns] })),
  };
}

/** P G, G P^T, or both. */
export function project(gradient: Tensor, { left, right }: Bases): Tensor {
  const rows = left ? matmul(left, gradient) : gradient;
  return right ? matmul(rows, right, { transposeB: true }) : rows;
}

/** P^T N, N P, or both. */
export function projectBack(direction: Tensor, { left, right }: Bases): Tensor {
  const rows = left ? matmul(left, direction, { transposeA: true }) : direction;
  return right ? matmul(rows, right) : rows;
}
