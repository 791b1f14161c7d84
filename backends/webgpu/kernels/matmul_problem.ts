/** A matmul call in the terms of its kernels: sizes, row strides, one walk over the batch, and what may move as vectors. */
import type { MatmulOptions, Operand } from "../../../core/backend.ts";
import { contiguousStrides, sizeOf } from "../../../core/shape.ts";
import { collapse, type Walk } from "../layout.ts";

/** One of the factors: a matrix for each element of the batch. */
export interface Factor {
  readonly operand: Operand;
  /** Elements between rows as they are stored. */
  readonly stride: number;
  /** The inner axis k is the contiguous one. */
  readonly alongK: boolean;
  /** Every row starts at a multiple of four elements. */
  readonly isWide: boolean;
}

/** out[batch, m, n] = sum over k of a[batch, m, k] b[batch, k, n]. */
export interface Problem {
  readonly m: number;
  readonly n: number;
  readonly k: number;
  readonly a: Factor;
  readonly b: Factor;
  readonly out: Operand;
  readonly batches: number;
  /** Over the batch: strides of a, then of b. */
  readonly walk: Walk;
}

/** Reads a call. A batch of a that lies like one tall matrix, times one b, becomes one product. */
export function problemOf(a: Operand, b: Operand, out: Operand, { transposeA, transposeB }: MatmulOptions): Problem {
  const rank = out.shape.length;
  const batch = out.shape.slice(0, rank - 2);
  const [m, n] = out.shape.slice(rank - 2);
  const k = a.shape[transposeA ? rank - 2 : rank - 1];
  const lead = (strides: readonly number[]) => strides.slice(0, rank - 2);
  const outLead = lead(contiguousStrides(out.shape));
  const { extents, strides } = collapse(batch, lead(a.strides), lead(b.strides), outLead);
  const walk = { extents, strides: strides.slice(0, 2) };
  const rowA = rowStride(a);
  const [stackA = 0, stackB = 0] = walk.strides.map(([first]) => first);
  const isTall = extents.length === 1 && !transposeA && stackB === 0 && (m === 1 ? stackA >= k : stackA === m * rowA);
  const tallA = isTall && m === 1 ? stackA : rowA;
  const left = isTall ? { extents: [], strides: [[], []] } : walk;
  return {
    m: isTall ? m * extents[0] : m,
    n,
    k,
    a: factor(a, tallA, !transposeA, left.strides[0]),
    b: factor(b, rowStride(b), transposeB, left.strides[1]),
    out,
    batches: isTall ? 1 : sizeOf(batch),
    walk: left,
  };
}

/** A matrix of one row may come with any stride; none is needed. */
function rowStride({ shape, strides }: Operand): number {
  return shape[shape.length - 2] === 1 ? 0 : strides[shape.length - 2];
}

function factor(operand: Operand, stride: number, alongK: boolean, batchStrides: readonly number[]): Factor {
  const isWide = [operand.offset, stride, ...batchStrides].every((at) => at % 4 === 0);
  return { operand, stride, alongK, isWide };
}

/** Two letters, of a and b: t where it is stored transposed. */
export function layoutOf({ a, b }: Problem): "nn" | "nt" | "tn" | "tt" {
  return `${a.alongK ? "n" : "t"}${b.alongK ? "t" : "n"}`;
}
