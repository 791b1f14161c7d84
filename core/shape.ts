/**
 * Shapes and strides: pure arithmetic on lists of sizes, shared by the tensors above the seam and the backends below it.
 *
 * Strides count elements, not bytes. A stride of 0 repeats, which is how broadcasting reaches the kernels.
 */

/** Sizes of the axes, outermost first. `[]` is a scalar. */
export type Shape = readonly number[];

/** Number of elements. */
export function sizeOf(shape: Shape): number {
  let size = 1;
  for (const extent of shape) size *= extent;
  return size;
}

/** Strides of a contiguous (row-major) layout. */
export function contiguousStrides(shape: Shape): number[] {
  const strides = new Array<number>(shape.length);
  let stride = 1;
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    strides[axis] = stride;
    stride *= shape[axis];
  }
  return strides;
}

/** True when elements lie row-major without gaps. Axes of size 1 may have any stride. */
export function isContiguous(shape: Shape, strides: readonly number[]): boolean {
  let expected = 1;
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    if (shape[axis] !== 1 && strides[axis] !== expected) return sizeOf(shape) === 0;
    expected *= shape[axis];
  }
  return true;
}

/** True when both have the same sizes. */
export function sameShape(a: Shape, b: Shape): boolean {
  return a.length === b.length && a.every((extent, axis) => extent === b[axis]);
}

/** The common shape of operands under NumPy's rule, or `undefined` when there is none. */
export function broadcastShapes(...shapes: readonly Shape[]): number[] | undefined {
  const rank = Math.max(0, ...shapes.map((shape) => shape.length));
  const out = new Array<number>(rank).fill(1);
  for (const shape of shapes) {
    for (let i = 0; i < shape.length; i++) {
      const axis = rank - shape.length + i;
      if (shape[i] === 1 || shape[i] === out[axis]) continue;
      if (out[axis] !== 1) return undefined;
      out[axis] = shape[i];
    }
  }
  return out;
}

/** Strides that read `shape` as if it had the (broadcast) sizes of `target`: 0 on every repeated axis. */
export function broadcastStrides(shape: Shape, strides: readonly number[], target: Shape): number[] {
  const lead = target.length - shape.length;
  return target.map((extent, axis) =>
    axis < lead || (shape[axis - lead] === 1 && extent !== 1) ? 0 : strides[axis - lead]
  );
}

/** Turns a possibly negative axis into one in `[0, rank)`. @throws RangeError when it lies outside. */
export function normalizeAxis(axis: number, rank: number, op: string): number {
  const normalized = axis < 0 ? axis + rank : axis;
  if (!Number.isInteger(axis) || normalized < 0 || normalized >= rank) {
    throw new RangeError(`Cannot use axis ${axis} in ${op}(): the operand has ${rank} axes`);
  }
  return normalized;
}

/** `f32[2, 3]`: how operands appear in messages. */
export function describe(spec: { dtype: string; shape: Shape }): string {
  return `${spec.dtype}[${spec.shape.join(", ")}]`;
}
