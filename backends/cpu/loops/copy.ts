/** Kernels that move, choose, convert or make values: copyStrided, where, cast, fill, iota. Copies keep bits. */
import type { Operand } from "../../../core/backend.ts";
import { type DType, type HostArray, isFloat } from "../../../core/dtype.ts";
import { sizeOf } from "../../../core/shape.ts";
import { forEachRow, nest, type Numbers, source, store, type View } from "./operands.ts";

/** See `Kernels.copyStrided`. */
export function copyStrided(view: View, x: Operand, out: Operand): void {
  const from = view(x.buffer, x.dtype);
  const to = view(out.buffer, out.dtype);
  const loops = nest(out.shape, x.strides, out.strides);
  const inner = loops.extents.length - 1;
  const size = loops.extents[inner];
  const [dx, dout] = loops.strides.map((strides) => strides[inner]);
  const loop = dx === 1 && dout === 1 ? copyRow : copyLoop;
  forEachRow(loops, [x.offset, out.offset], ([at, target]) => loop(from, at, dx, to, target, dout, size));
}

function copyRow(x: HostArray, at: number, _dx: number, out: HostArray, to: number, _dout: number, size: number): void {
  out.set(x.subarray(at, at + size), to);
}

function copyLoop(x: HostArray, at: number, dx: number, out: HostArray, to: number, dout: number, size: number): void {
  for (let i = 0; i < size; i++, at += dx, to += dout) out[to] = x[at];
}

/** See `Kernels.where`. */
export function where(view: View, mask: Operand, a: Operand, b: Operand, out: Operand): void {
  const bits = view(mask.buffer, mask.dtype);
  const yes = view(a.buffer, a.dtype);
  const no = view(b.buffer, b.dtype);
  const to = view(out.buffer, out.dtype);
  for (let i = 0; i < sizeOf(out.shape); i++) {
    to[out.offset + i] = bits[mask.offset + i] !== 0 ? yes[a.offset + i] : no[b.offset + i];
  }
}

const BOUNDS: Partial<Record<DType, readonly [number, number]>> = {
  i32: [-(2 ** 31), 2 ** 31 - 1],
  u32: [0, 2 ** 32 - 1],
  u8: [0, 255],
};

/**
 * See `Kernels.cast`. Floats beyond an integer type's range become its nearest end, and NaN 0, as in WGSL and WASM;
 * integers among each other wrap. f64 reaches a 16-bit type through f32.
 */
export function cast(view: View, x: Operand, out: Operand): void {
  const from = source(view, x);
  const size = sizeOf(out.shape);
  const bounds = isFloat(x.dtype) ? BOUNDS[out.dtype] : undefined;
  store(view, out, (data, offset) => {
    if (bounds) clampLoop(from.data, from.offset, data, offset, size, bounds[0], bounds[1]);
    else data.set(from.data.subarray(from.offset, from.offset + size), offset);
  });
}

function clampLoop(x: Numbers, at: number, out: Numbers, to: number, size: number, low: number, high: number): void {
  for (let i = 0; i < size; i++) out[to + i] = Math.min(Math.max(x[at + i], low), high);
}

/** See `Kernels.fill`. */
export function fill(view: View, value: number, out: Operand): void {
  store(view, out, (data, offset) => data.fill(value, offset, offset + sizeOf(out.shape)));
}

/** See `Kernels.iota`. */
export function iota(view: View, start: number, step: number, out: Operand): void {
  store(view, out, (data, offset) => {
    for (let i = 0; i < sizeOf(out.shape); i++) data[offset + i] = start + i * step;
  });
}
