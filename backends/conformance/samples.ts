/**
 * What conformance cases are made of: operands on the host, as lists of numbers that their dtype can hold.
 *
 * Written without the loops' conversions, which it judges: f16 goes through `Float16Array`, bf16 and every rounding
 * through arithmetic on powers of two.
 */
import type { Kernels, Operand } from "../../core/backend.ts";
import { bytesPerElement, type DType, hostArray } from "../../core/dtype.ts";
import { contiguousStrides, type Shape, sizeOf } from "../../core/shape.ts";

/** Whose tolerances hold: the two columns of the project's table. */
export type Device = "cpu" | "webgpu";

/** An operand's layout and numbers. */
export interface Sample {
  readonly dtype: DType;
  readonly shape: Shape;
  readonly strides: readonly number[];
  readonly offset: number;
  /** All elements of its buffer; those that the view does not reach are undefined, and poison on the device. */
  readonly storage: readonly (number | undefined)[];
  /** The elements in row-major order. */
  readonly values: readonly number[];
}

/** One run of a kernel, and what it must give. */
export interface Case {
  /** Cases of one name are one test step. */
  readonly name: string;
  readonly inputs: readonly Sample[];
  /** Its numbers, if any, are there before the run. */
  readonly out: Sample;
  run(kernels: Kernels, inputs: readonly Operand[], out: Operand): void;
  /** The reference's values, row-major. */
  readonly expected: readonly number[];
  /** The largest error allowed at an element; 0 by default. */
  allowed?(device: Device, index: number): number;
  /** An input that the kernel changes in place, and the numbers that it must hold then. */
  readonly updated?: { readonly input: number; readonly expected: readonly number[] };
  /** True where not even the padding after packed elements may change. */
  readonly exactTail?: boolean;
}

/** How an operand lies in its buffer; contiguous from the first element by default. */
export interface Layout {
  readonly strides?: readonly number[];
  readonly offset?: number;
}

/** A source of numbers: the same ones at every run. */
export type Draw = () => number;

/** Uniform in [low, high), from a fixed seed (mulberry32); the numbers of `special` come first. */
export function draw(low: number, high: number, ...special: readonly number[]): Draw {
  let state = 0x9e3779b9;
  let count = 0;
  return () => {
    if (count < special.length) return special[count++];
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return low + (high - low) * (((t ^ (t >>> 14)) >>> 0) / 2 ** 32);
  };
}

/** Whole numbers in [low, high). */
export function drawIntegers(low: number, high: number, ...special: readonly number[]): Draw {
  const next = draw(low, high, ...special);
  return () => Math.floor(next());
}

/** An operand with drawn elements. Elements that a stride of 0 repeats are drawn once. */
export function sample(dtype: DType, shape: Shape, next: Draw, layout: Layout = {}): Sample {
  const { strides, offset, storage, places } = lay(shape, layout);
  for (const place of places) storage[place] ??= round(dtype, next());
  return { dtype, shape, strides, offset, storage, values: places.map((place) => storage[place]!) };
}

/** A contiguous operand with these elements. */
export function given(dtype: DType, shape: Shape, values: readonly number[], offset = 0): Sample {
  const remaining = values.values();
  return sample(dtype, shape, () => remaining.next().value!, { offset });
}

/** An operand that nothing has been written to. */
export function blank(dtype: DType, shape: Shape, layout: Layout = {}): Sample {
  const { strides, offset, storage } = lay(shape, layout);
  return { dtype, shape, strides, offset, storage, values: [] };
}

function lay(shape: Shape, { strides = contiguousStrides(shape), offset = 0 }: Layout) {
  const places = positions({ shape, strides, offset });
  const storage = new Array<number | undefined>(places.reduce((most, place) => Math.max(most, place + 1), offset));
  return { strides, offset, places, storage };
}

/** The index of each element in its buffer, row-major. */
export function positions({ shape, strides, offset }: Pick<Sample, "shape" | "strides" | "offset">): number[] {
  let places = [offset];
  shape.forEach((extent, axis) => {
    const steps = Array.from({ length: extent }, (_, i) => i * strides[axis]);
    places = places.flatMap((place) => steps.map((step) => place + step));
  });
  return places.length === sizeOf(shape) ? places : [];
}

/** Significant bits, the smallest exponent of a normal number, and the largest finite number of the 16-bit types. */
const HALVES = { bf16: [8, -126, (2 - 2 ** -7) * 2 ** 127], f16: [11, -14, 65504] } as const;

/** The number of this dtype nearest to `value`, ties to even. Integers are taken as they are. */
export function round(dtype: DType, value: number): number {
  if (dtype === "f32") return Math.fround(value);
  if ((dtype !== "bf16" && dtype !== "f16") || !Number.isFinite(value) || value === 0) return value;
  const [digits, smallest, largest] = HALVES[dtype];
  const step = 2 ** (Math.max(exponent(value), smallest) - digits + 1);
  const down = Math.floor(value / step);
  const rest = value / step - down;
  const rounded = (rest > 0.5 || (rest === 0.5 && down % 2 !== 0) ? down + 1 : down) * step;
  return Math.abs(rounded) > largest ? Math.sign(value) * Infinity : rounded;
}

function exponent(value: number): number {
  let result = Math.floor(Math.log2(Math.abs(value)));
  if (2 ** result > Math.abs(value)) result--;
  if (2 ** (result + 1) <= Math.abs(value)) result++;
  return result;
}

/** The bytes of a buffer: poison (all ones: NaN, -1, the largest integer) where the sample has no number. */
export function encode({ dtype, storage }: Sample): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(storage.length * bytesPerElement(dtype)).fill(0xff);
  const array = dtype === "f16" ? new Float16Array(bytes.buffer) : hostArray(dtype, bytes.buffer, 0, storage.length);
  for (let i = 0; i < storage.length; i++) {
    const value = storage[i];
    if (value !== undefined) array[i] = dtype === "bf16" ? f32Bits(value) >>> 16 : value;
  }
  return bytes;
}

/** The numbers at `places` of a buffer whose element 0 lies at `byteOffset`. */
export function decode(
  dtype: DType,
  bytes: Uint8Array<ArrayBuffer>,
  byteOffset: number,
  places: readonly number[],
): number[] {
  const size = Math.floor((bytes.length - byteOffset) / bytesPerElement(dtype));
  if (dtype === "f16") return places.map((place) => new Float16Array(bytes.buffer, byteOffset, size)[place]);
  const array = hostArray(dtype, bytes.buffer, byteOffset, size);
  return places.map((place) => dtype === "bf16" ? fromF32Bits(array[place] * 2 ** 16) : array[place]);
}

/** The bits of an f32. */
export function f32Bits(value: number): number {
  return new Uint32Array(Float32Array.of(value).buffer)[0];
}

/** The f32 with these bits. */
export function fromF32Bits(bits: number): number {
  return new Float32Array(Uint32Array.of(bits).buffer)[0];
}
