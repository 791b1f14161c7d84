/**
 * Ops that move or reinterpret elements without computing: views where strides can say it, copies where they cannot.
 */
import { record } from "../autograd.ts";
import { checkAlike } from "../define.ts";
import {
  broadcastShapes,
  broadcastStrides,
  contiguousStrides,
  describe,
  normalizeAxis,
  sameShape,
  type Shape,
  sizeOf,
} from "../shape.ts";
import { empty, type Tensor } from "../tensor.ts";
import { zeros } from "./create.ts";
import { sum } from "./reduce.ts";

/** The same elements, row-major without gaps: x itself when it is so already. */
export function contiguous(x: Tensor): Tensor {
  if (x.isContiguous) return x;
  const out = empty(x.backend, x.shape, x.dtype);
  x.backend.kernels.copyStrided(x, out);
  return record("contiguous", out, [x], [], (g) => [() => g]);
}

/**
 * The elements in row-major order under another shape; one extent may be -1. A view when x is contiguous.
 *
 * @throws TypeError when the sizes differ
 */
export function reshape(x: Tensor, shape: Shape): Tensor {
  const target = resolve(x, shape);
  if (sameShape(target, x.shape)) return x;
  const source = contiguous(x);
  const out = source.view(target, contiguousStrides(target), source.offset);
  return record("reshape", out, [source], [], (g) => [() => reshape(g, source.shape)]);
}

function resolve(x: Tensor, shape: Shape): number[] {
  const known = shape.reduce((product, extent) => extent === -1 ? product : product * extent, 1);
  const target = shape.map((extent) => extent === -1 ? x.size / known : extent);
  const isWhole = target.every(Number.isInteger) && shape.filter((extent) => extent === -1).length <= 1;
  if (sizeOf(target) !== x.size || !isWhole) {
    throw new TypeError(`Cannot reshape ${describe(x)} to [${shape.join(", ")}]: it has ${x.size} elements`);
  }
  return target;
}

/** Reorders the axes; a view. `order[i]` is the axis of x that becomes axis i. */
export function permute(x: Tensor, order: readonly number[]): Tensor {
  const axes = order.map((axis) => normalizeAxis(axis, x.shape.length, "permute"));
  if (new Set(axes).size !== x.shape.length || axes.length !== x.shape.length) {
    throw new TypeError(`Cannot permute ${describe(x)} by [${order.join(", ")}]: each axis must appear once`);
  }
  const out = x.view(axes.map((axis) => x.shape[axis]), axes.map((axis) => x.strides[axis]), x.offset);
  const inverse = axes.map((_, axis) => axes.indexOf(axis));
  return record("permute", out, [x], [], (g) => [() => permute(g, inverse)]);
}

/** Swaps two axes (the last two unless said otherwise); a view. */
export function transpose(x: Tensor, a = -2, b = -1): Tensor {
  const order = x.shape.map((_, axis) => axis);
  const first = normalizeAxis(a, order.length, "transpose");
  const second = normalizeAxis(b, order.length, "transpose");
  [order[first], order[second]] = [order[second], order[first]];
  return permute(x, order);
}

/** Repeats axes of size 1 (and new leading ones) to `shape`; a view. @throws TypeError when it does not broadcast. */
export function broadcastTo(x: Tensor, shape: Shape): Tensor {
  if (sameShape(x.shape, shape)) return x;
  const common = broadcastShapes(x.shape, shape);
  if (!common || !sameShape(common, shape)) {
    throw new TypeError(`Cannot broadcast ${describe(x)} to [${shape.join(", ")}]`);
  }
  const out = x.view(shape, broadcastStrides(x.shape, x.strides, shape), x.offset);
  return record("broadcastTo", out, [x], [], (g) => [() => sumTo(g, x.shape)]);
}

/** Sums the axes that broadcasting repeated: the gradient of `broadcastTo`. */
export function sumTo(x: Tensor, shape: Shape): Tensor {
  if (sameShape(x.shape, shape)) return x;
  const lead = x.shape.length - shape.length;
  const axes = x.shape.map((_, axis) => axis).filter((axis) => axis < lead || shape[axis - lead] !== x.shape[axis]);
  return reshape(sum(x, axes), shape);
}

/** One axis of a slice: from `start` (inclusive) to `end` (exclusive), every `step`. Negatives count from the end. */
export interface Range {
  readonly start?: number;
  readonly end?: number;
  readonly step?: number;
}

/** A part of x; a view. `ranges[axis]` undefined takes the whole axis. @throws RangeError outside the axis. */
export function slice(x: Tensor, ranges: readonly (Range | undefined)[]): Tensor {
  const resolved = x.shape.map((extent, axis) => {
    const { start = 0, end = extent, step = 1 } = ranges[axis] ?? {};
    const from = start < 0 ? start + extent : start;
    const to = end < 0 ? end + extent : end;
    if (from < 0 || to > extent || from > to || step < 1) {
      throw new RangeError(`Cannot slice ${describe(x)}: axis ${axis} from ${start} to ${end} by ${step}`);
    }
    return { from, step, extent: Math.ceil((to - from) / step) };
  });
  const part = (whole: Tensor) =>
    whole.view(
      resolved.map(({ extent }) => extent),
      resolved.map(({ step }, axis) => step * whole.strides[axis]),
      resolved.reduce((offset, { from }, axis) => offset + from * whole.strides[axis], whole.offset),
    );
  return record("slice", part(x), [x], [], (g) => [() => {
    const whole = zeros(g.backend, x.shape, g.dtype);
    g.backend.kernels.copyStrided(g, part(whole));
    return whole;
  }]);
}

/** Joins tensors along an axis; the other sizes must agree. @throws TypeError otherwise. */
export function concat(parts: readonly Tensor[], axis: number): Tensor {
  checkAlike("concat", ...parts);
  const along = normalizeAxis(axis, parts[0].shape.length, "concat");
  const shape = [...parts[0].shape];
  for (const part of parts.slice(1)) {
    if (part.shape.length !== shape.length || part.shape.some((extent, a) => a !== along && extent !== shape[a])) {
      throw new TypeError(`Cannot concat along axis ${axis}: got ${parts.map(describe).join(", ")}`);
    }
    shape[along] += part.shape[along];
  }
  const out = empty(parts[0].backend, shape, parts[0].dtype);
  const starts: number[] = [];
  let start = 0;
  for (const part of parts) {
    starts.push(start);
    const target = out.view(part.shape, out.strides, start * out.strides[along]);
    out.backend.kernels.copyStrided(part, target);
    start += part.shape[along];
  }
  const extents = parts.map((part) => part.shape[along]);
  return record("concat", out, parts, [], (g) =>
    extents.map((extent, index) => () => {
      const ranges: (Range | undefined)[] = new Array(shape.length).fill(undefined);
      ranges[along] = { start: starts[index], end: starts[index] + extent };
      return slice(g, ranges);
    }));
}

/** Joins tensors of one shape along a new axis. */
export function stack(parts: readonly Tensor[], axis: number): Tensor {
  const at = axis < 0 ? axis + parts[0].shape.length + 1 : axis;
  return concat(parts.map((part) => reshape(part, part.shape.toSpliced(at, 0, 1))), at);
}

/** Adds zeros around x: `before[axis]` and `after[axis]` of them. */
export function pad(x: Tensor, before: readonly number[], after: readonly number[]): Tensor {
  const shape = x.shape.map((extent, axis) => extent + before[axis] + after[axis]);
  const out = zeros(x.backend, shape, x.dtype);
  const ranges = x.shape.map((extent, axis) => ({ start: before[axis], end: before[axis] + extent }));
  x.backend.kernels.copyStrided(x, slice(out, ranges));
  return record("pad", out, [x], [], (g) => [() => slice(g, ranges)]);
}
