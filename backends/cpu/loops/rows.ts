/**
 * Rows by index: the embedding, and its gradient.
 *
 * The gradient adds rows one after another in the output's own precision (f32 for the 16-bit types), so that the sums
 * depend on the order of the indices alone.
 */
import type { Operand } from "../../../core/backend.ts";
import { sizeOf } from "../../../core/shape.ts";
import { type Numbers, source, store, type View } from "./operands.ts";

/** See `Kernels.takeRows`. */
export function takeRows(view: View, table: Operand, indices: Operand, out: Operand): void {
  const [rows, dim] = table.shape;
  const from = view(table.buffer, table.dtype);
  const to = view(out.buffer, out.dtype);
  const picks = view(indices.buffer, indices.dtype);
  for (let n = 0; n < sizeOf(indices.shape); n++) {
    const at = table.offset + checked(picks[indices.offset + n], rows, n, "takeRows") * dim;
    to.set(from.subarray(at, at + dim), out.offset + n * dim);
  }
}

/** See `Kernels.scatterAddRows`. @throws RangeError for an index outside */
export function scatterAddRows(view: View, rows: Operand, indices: Operand, out: Operand): void {
  const [count, dim] = out.shape;
  const from = source(view, rows);
  const picks = view(indices.buffer, indices.dtype);
  store(view, out, (data, offset) => {
    data.fill(0, offset, offset + count * dim);
    for (let n = 0; n < sizeOf(indices.shape); n++) {
      const row = checked(picks[indices.offset + n], count, n, "scatterAddRows");
      addLoop(from.data, from.offset + n * dim, data, offset + row * dim, dim);
    }
  });
}

function addLoop(x: Numbers, at: number, out: Numbers, to: number, size: number): void {
  for (let i = 0; i < size; i++) out[to + i] += x[at + i];
}

function checked(index: number, rows: number, n: number, op: string): number {
  if (index >= 0 && index < rows) return index;
  throw new RangeError(`Cannot run ${op}(): indices must be in [0, ${rows}), got ${index} at position ${n}`);
}
