/**
 * From operands to loops: where the numbers of an operand lie, and in which order strided operands are walked.
 *
 * Loops see f32, f64 and integers. 16-bit operands are widened to f32 before and narrowed after them.
 */
import type { BufferHandle, Operand } from "../../../core/backend.ts";
import type { DType, HostArray } from "../../../core/dtype.ts";
import { type Shape, sizeOf } from "../../../core/shape.ts";
import { isHalf, narrow, widen } from "./half.ts";

/** The array of all elements of a buffer, from its first byte. The one thing that loops ask of a backend. */
export type View = (buffer: BufferHandle, dtype: DType) => HostArray;

/** What loops compute on. */
export type Numbers = Exclude<HostArray, Uint16Array>;

/** Numbers, and the index of the operand's first element among them. The operand's strides hold. */
export interface Source {
  readonly data: Numbers;
  readonly offset: number;
}

/** The operand's numbers to read; a 16-bit one is widened over the range that its strides reach. */
export function source(view: View, x: Operand): Source {
  const data = view(x.buffer, x.dtype);
  const offset = x.offset;
  if (!isHalf(x.dtype)) return { data: data as Numbers, offset };
  if (sizeOf(x.shape) === 0) return { data: new Float32Array(0), offset: 0 };
  const reach = x.shape.map((extent, axis) => (extent - 1) * x.strides[axis]);
  const below = reach.reduce((sum, step) => sum + Math.min(step, 0), 0);
  const above = reach.reduce((sum, step) => sum + Math.max(step, 0), 0);
  return { data: widen(x.dtype, data as Uint16Array, offset + below, above - below + 1), offset: -below };
}

/** Lets `compute` write the contiguous operand's numbers; narrows them when it is a 16-bit one. */
export function store(view: View, out: Operand, compute: (data: Numbers, offset: number) => void): void {
  const data = view(out.buffer, out.dtype);
  if (!isHalf(out.dtype)) return compute(data as Numbers, out.offset);
  const values = new Float32Array(sizeOf(out.shape));
  compute(values, 0);
  narrow(out.dtype, values, data as Uint16Array, out.offset);
}

/** Loops over operands of one shape, outermost first: at least one, and as few as the strides allow. */
export interface Nest {
  readonly extents: readonly number[];
  /** `strides[operand][loop]`. */
  readonly strides: readonly (readonly number[])[];
}

/** Drops axes of size 1 and joins neighbours that every operand walks as one. */
export function nest(shape: Shape, ...strides: readonly (readonly number[])[]): Nest {
  const extents: number[] = [];
  const steps: number[][] = strides.map(() => []);
  for (let axis = 0; axis < shape.length; axis++) {
    if (shape[axis] === 1) continue;
    const last = extents.length - 1;
    if (last >= 0 && strides.every((own, i) => steps[i][last] === own[axis] * shape[axis])) {
      extents[last] *= shape[axis];
      strides.forEach((own, i) => steps[i][last] = own[axis]);
    } else {
      extents.push(shape[axis]);
      strides.forEach((own, i) => steps[i].push(own[axis]));
    }
  }
  if (extents.length > 0) return { extents, strides: steps };
  return { extents: [1], strides: strides.map(() => [0]) };
}

/** Calls `row` with each operand's index at the start of each innermost loop, in row-major order. */
export function forEachRow(
  { extents, strides }: Nest,
  starts: readonly number[],
  row: (indices: readonly number[]) => void,
): void {
  if (extents.includes(0)) return;
  const inner = extents.length - 1;
  const counters = new Array<number>(inner).fill(0);
  const indices = [...starts];
  while (true) {
    row(indices);
    let axis = inner - 1;
    for (; axis >= 0; axis--) {
      const wraps = ++counters[axis] === extents[axis];
      const steps = wraps ? 1 - extents[axis] : 1;
      for (let i = 0; i < indices.length; i++) indices[i] += steps * strides[i][axis];
      if (!wraps) break;
      counters[axis] = 0;
    }
    if (axis < 0) return;
  }
}
