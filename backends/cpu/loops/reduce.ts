/**
 * Sums, maxima and their places over the last axes of a strided operand.
 *
 * Sums are f64, added in row-major order of the reduced axes, whatever the order in which memory is walked. The maximum
 * of nothing is -Infinity, and of anything with a NaN, NaN.
 */
import type { Operand, ReduceOp } from "../../../core/backend.ts";
import { contiguousStrides, sizeOf } from "../../../core/shape.ts";
import { forEachRow, nest, type Numbers, source, store, type View } from "./operands.ts";

/** See `Kernels.reduce`. */
export function reduce(view: View, op: ReduceOp, x: Operand, axes: number, out: Operand): void {
  if (op === "argmax") return argmax(view, x, out);
  const from = source(view, x);
  const kept = x.shape.length - axes;
  const totals = new Float64Array(sizeOf(out.shape)).fill(op === "sum" ? 0 : -Infinity);
  const target = [...contiguousStrides(out.shape), ...new Array<number>(axes).fill(0)];
  const order = walk(x, kept);
  const pick = (values: readonly number[]) => order.map((axis) => values[axis]);
  const loops = nest(pick(x.shape), pick(x.strides), pick(target));
  const inner = loops.extents.length - 1;
  const size = loops.extents[inner];
  const [dx, dt] = loops.strides.map((strides) => strides[inner]);
  const loop = op === "sum" ? sumLoop : maxLoop;
  forEachRow(loops, [from.offset, 0], ([at, to]) => loop(from.data, at, dx, totals, to, dt, size));
  store(view, out, (data, offset) => data.set(totals, offset));
}

/** The order of axes that ends with the smaller stride: rows are summed one by one, columns side by side. */
function walk(x: Operand, kept: number): number[] {
  const axes = x.shape.map((_, axis) => axis);
  const before = axes.slice(0, kept);
  const after = axes.slice(kept);
  const step = (list: readonly number[]) =>
    Math.min(...list.filter((axis) => x.shape[axis] > 1 && x.strides[axis] !== 0).map((axis) => x.strides[axis]));
  return step(after) <= step(before) ? [...before, ...after] : [...after, ...before];
}

/** totals[to + i * dt] += x[at + i * dx]. */
function sumLoop(x: Numbers, at: number, dx: number, totals: Float64Array, to: number, dt: number, size: number): void {
  if (dt !== 0) {
    for (let i = 0; i < size; i++, at += dx, to += dt) totals[to] += x[at];
    return;
  }
  let total = totals[to];
  for (let i = 0; i < size; i++, at += dx) total += x[at];
  totals[to] = total;
}

function maxLoop(x: Numbers, at: number, dx: number, totals: Float64Array, to: number, dt: number, size: number): void {
  for (let i = 0; i < size; i++, at += dx, to += dt) totals[to] = Math.max(totals[to], x[at]);
}

function argmax(view: View, x: Operand, out: Operand): void {
  const from = source(view, x);
  const { data, offset } = source(view, out);
  const last = x.shape.length - 1;
  const loops = nest(
    [...out.shape, 1],
    [...x.strides.slice(0, last), 0],
    [...contiguousStrides(out.shape), 0],
  );
  const inner = loops.extents.length - 1;
  const [dx, dt] = loops.strides.map((strides) => strides[inner]);
  forEachRow(loops, [from.offset, offset], ([at, to]) => {
    for (let i = 0; i < loops.extents[inner]; i++) {
      data[to + i * dt] = firstLargest(from.data, at + i * dx, x.strides[last], x.shape[last]);
    }
  });
}

function firstLargest(x: Numbers, at: number, dx: number, size: number): number {
  let best = 0;
  for (let i = 1; i < size; i++) if (x[at + i * dx] > x[at + best * dx]) best = i;
  return best;
}
