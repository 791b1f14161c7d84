/**
 * Reductions over axes: sum, mean, max, min, var, argmax. The order of a sum depends on sizes alone. Over 16-bit tensors
 * they compute in f32 and round once.
 */
import type { ReduceOp } from "../backend.ts";
import type { DType } from "../dtype.ts";
import { record } from "../autograd.ts";
import { composed, widened } from "../define.ts";
import { normalizeAxis } from "../shape.ts";
import { empty, type Tensor } from "../tensor.ts";
import { add, div, equal, mul, neg, sqrt, square, sub } from "./elementwise.ts";
import { cast, where } from "./elementwise.ts";
import { broadcastTo, reshape } from "./layout.ts";

/** Which axes to reduce: one, several, or all when left out. */
export type Axes = number | readonly number[] | undefined;

function resolveAxes(x: Tensor, axes: Axes, op: string): number[] {
  if (axes === undefined) return x.shape.map((_, axis) => axis);
  const list = typeof axes === "number" ? [axes] : axes;
  const over = list.map((axis) => normalizeAxis(axis, x.shape.length, op)).sort((a, b) => a - b);
  if (new Set(over).size === over.length) return over;
  throw new RangeError(`Cannot use axes [${list.join(", ")}] in ${op}(): one appears twice`);
}

/** The shape with the reduced axes kept at size 1. */
function keptShape(x: Tensor, axes: readonly number[]): number[] {
  return x.shape.map((extent, axis) => axes.includes(axis) ? 1 : extent);
}

/** Runs the kernel on a view with the reduced axes last. */
function reduceKernel(op: ReduceOp, x: Tensor, axes: readonly number[], dtype: DType): Tensor {
  const rest = x.shape.map((_, axis) => axis).filter((axis) => !axes.includes(axis));
  const order = [...rest, ...axes];
  const out = empty(x.backend, rest.map((axis) => x.shape[axis]), dtype);
  using view = x.view(order.map((axis) => x.shape[axis]), order.map((axis) => x.strides[axis]), x.offset);
  x.backend.kernels.reduce(op, view, axes.length, out);
  return out;
}

/** Sum over `axes` (all when left out). */
export function sum(x: Tensor, axes?: Axes, keepDims = false): Tensor {
  const over = resolveAxes(x, axes, "sum");
  const kept = keptShape(x, over);
  const out = record("sum", reduceKernel("sum", x, over, x.dtype), [x], [], (g) => [
    () => broadcastTo(reshape(g, kept), x.shape),
  ]);
  return keepDims ? reshape(out, kept) : out;
}

/** Mean over `axes`. */
export function mean(x: Tensor, axes?: Axes, keepDims = false): Tensor {
  const count = resolveAxes(x, axes, "mean").reduce((product, axis) => product * x.shape[axis], 1);
  return composed("mean", () => widened(x.dtype, (wide) => mul(sum(wide, axes, keepDims), 1 / count))(x));
}

/** Largest element over `axes`. Equal maxima share the gradient, as in PyTorch's amax. */
export function max(x: Tensor, axes?: Axes, keepDims = false): Tensor {
  const over = resolveAxes(x, axes, "max");
  const kept = keptShape(x, over);
  const raw = reduceKernel("max", x, over, x.dtype);
  const out = record("max", raw, [x], [x, raw], (g, [input, top]) => [() => {
    const hit = cast(equal(input, broadcastTo(reshape(top, kept), input.shape)), input.dtype);
    return mul(hit, div(reshape(g, kept), sum(hit, over, true)));
  }]);
  return keepDims ? reshape(out, kept) : out;
}

/** Smallest element over `axes`. */
export function min(x: Tensor, axes?: Axes, keepDims = false): Tensor {
  return composed("min", () => neg(max(neg(x), axes, keepDims)));
}

/** Population variance over `axes` (divides by the count). */
export function variance(x: Tensor, axes?: Axes, keepDims = false): Tensor {
  const compose = widened(x.dtype, (wide) => mean(square(sub(wide, mean(wide, axes, true))), axes, keepDims));
  return composed("variance", () => compose(x));
}

/** Square root of the sum of squares. The gradient at 0 is 0. */
export function norm(x: Tensor, axes?: Axes, keepDims = false): Tensor {
  const compose = widened(x.dtype, (wide) => {
    const squares = sum(square(wide), axes, true);
    const isZero = equal(squares, 0);
    const safe = add(squares, cast(isZero, squares.dtype));
    const root = where(isZero, 0, sqrt(safe));
    if (keepDims) return root;
    const over = resolveAxes(x, axes, "norm");
    return reshape(root, x.shape.filter((_, axis) => !over.includes(axis)));
  });
  return composed("norm", () => compose(x));
}

/** Index (u32) of the first largest element along an axis. */
export function argmax(x: Tensor, axis = -1): Tensor {
  return reduceKernel("argmax", x, resolveAxes(x, axis, "argmax"), "u32");
}
