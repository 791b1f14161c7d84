/**
 * Inputs of test cases: what numbers they hold, how they lie in memory, and how an op over them is evaluated on any
 * backend. Numbers are functions of a name, so that a failure repeats; floats are exact in f32.
 */
import { asLeaf, backward, needsGradient } from "../autograd.ts";
import type { Backend } from "../backend.ts";
import { narrow, widen } from "../../backends/cpu/loops/half.ts";
import { type DType, isHalf } from "../dtype.ts";
import { mul } from "../ops/elementwise.ts";
import { broadcastTo, contiguous, permute, slice } from "../ops/layout.ts";
import { sum } from "../ops/reduce.ts";
import { foldIn, keyOf, uniform } from "../random.ts";
import { own, scope } from "../scope.ts";
import { contiguousStrides, type Shape, sizeOf } from "../shape.ts";
import { fromArray, type Tensor } from "../tensor.ts";

/** One input of a case. */
export interface InputSpec {
  readonly shape: Shape;
  /**
   * `float` is of the type that the evaluation says, and a leaf of the gradient. `constant` as well, but neither a leaf
   * nor ever of 16 bits: the tables of `rope`.
   */
  readonly kind: "float" | "constant" | "i32" | "u32";
  /** The elements in row-major order, for a case of this name. */
  readonly values: (name: string) => Float64Array;
}

/** Floats in [low, high), none within 0.05 of the points in `apart` (where the op has a kink). */
export function float(shape: Shape, low = -2, high = 2, apart: readonly number[] = []): InputSpec {
  const values = (name: string) =>
    Float64Array.from(uniform(foldIn(keyOf(7), name), sizeOf(shape)), (u) => {
      const value = low + (high - low) * u;
      const near = apart.find((point) => Math.abs(value - point) < 0.05);
      return Math.fround(near === undefined ? value : near + (value < near ? -0.06 : 0.06));
    });
  return { shape, kind: "float", values };
}

/** Floats that want no gradient. */
export function constant(shape: Shape, low = -2, high = 2): InputSpec {
  return { ...float(shape, low, high), kind: "constant" };
}

/** Whole numbers in [0, below); a fifth of them -100 with `holes`. */
export function index(shape: Shape, below: number, { holes = false, dtype = "i32" as "i32" | "u32" } = {}): InputSpec {
  const values = (name: string) =>
    Float64Array.from(uniform(foldIn(keyOf(8), name), sizeOf(shape)), (u) => {
      const hole = holes && (u * 1000) % 1 < 0.2;
      return hole ? -100 : Math.floor(u * below);
    });
  return { shape, kind: dtype, values };
}

/** A u32 mask, two thirds of it 1. */
export function mask(shape: Shape): InputSpec {
  const values = (name: string) =>
    Float64Array.from(uniform(foldIn(keyOf(9), name), sizeOf(shape)), (u) => u < 2 / 3 ? 1 : 0);
  return { shape, kind: "u32", values };
}

/** These numbers. */
export function given(kind: InputSpec["kind"], shape: Shape, numbers: ArrayLike<number>): InputSpec {
  return { shape, kind, values: () => Float64Array.from(numbers) };
}

/** How an input lies in memory: row-major, so behind an offset, axes reversed, every other element, or rows repeated. */
export type Layout = "contiguous" | "offset" | "permuted" | "sliced" | "repeated";

/** All layouts. */
export const LAYOUTS: readonly Layout[] = ["contiguous", "offset", "permuted", "sliced", "repeated"];

/** An input on the host: what is stored, and the view of it that the op gets. */
export interface HostInput {
  readonly stored: Float64Array;
  readonly shape: Shape;
  readonly kind: InputSpec["kind"];
  readonly view: (stored: Tensor) => Tensor;
}

/** The numbers of `spec` in a layout. Scalars have none but the first. */
export function layOut(spec: InputSpec, name: string, layout: Layout): HostInput {
  const { shape, kind } = spec;
  const values = spec.values(name);
  const rank = shape.length;
  const padding = kind === "u32" ? 1 : 0.5;
  if (layout === "offset" && rank > 0) {
    const row = sizeOf(shape.slice(1));
    const stored = new Float64Array(values.length + 2 * row).fill(padding);
    stored.set(values, row);
    const range = { start: 1, end: 1 + shape[0] };
    return { stored, shape: [shape[0] + 2, ...shape.slice(1)], kind, view: (x) => slice(x, [range]) };
  }
  if (layout === "permuted" && rank > 1) {
    const order = shape.map((_, axis) => rank - 1 - axis);
    const reversed = shape.toReversed();
    const stored = gatherHost(values, reversed, contiguousStrides(shape).toReversed());
    return { stored, shape: reversed, kind, view: (x) => permute(x, order) };
  }
  if (layout === "sliced" && rank > 0) {
    const extent = shape[rank - 1];
    const wide = [...shape.slice(0, -1), 2 * extent + 1];
    const stored = new Float64Array(sizeOf(wide)).fill(padding);
    values.forEach((value, i) => stored[Math.floor(i / extent) * (2 * extent + 1) + 1 + 2 * (i % extent)] = value);
    const range = { start: 1, step: 2 };
    return { stored, shape: wide, kind, view: (x) => slice(x, [...new Array(rank - 1).fill(undefined), range]) };
  }
  if (layout === "repeated" && rank > 1 && sizeOf(shape) > 0) {
    const single = [1, ...shape.slice(1)];
    return { stored: values.slice(0, sizeOf(single)), shape: single, kind, view: (x) => broadcastTo(x, shape) };
  }
  return { stored: values, shape, kind, view: (x) => x };
}

function gatherHost(values: Float64Array, shape: Shape, strides: readonly number[]): Float64Array {
  const out = new Float64Array(values.length);
  const target = contiguousStrides(shape);
  for (let i = 0; i < out.length; i++) {
    let at = 0;
    shape.forEach((extent, axis) => at += (Math.floor(i / target[axis]) % extent) * strides[axis]);
    out[i] = values[at];
  }
  return out;
}

/** What an evaluation gives, on the host. */
export interface Evaluation {
  readonly value: Float64Array;
  readonly shape: Shape;
  readonly dtype: DType;
  /** By input, in the stored layout; undefined where no gradient arrived. */
  readonly gradients: readonly (Float64Array | undefined)[];
}

/** The types that an op can be evaluated in. */
export type FloatType = "f32" | "f64" | "bf16" | "f16";

/** Options of `evaluate`. */
export interface EvaluateOptions {
  /** The type of `float` inputs, and with f32 for the 16-bit ones of `constant` inputs. Default f64. */
  readonly dtype?: FloatType;
  /** Weights of the output in the scalar that is differentiated. Without them no gradient is taken. */
  readonly cotangent?: ArrayLike<number>;
}

/** Runs an op over inputs, and backward from sum(op * cotangent). Reads after everything is enqueued. */
export async function evaluate(
  backend: Backend,
  inputs: readonly HostInput[],
  run: (...inputs: Tensor[]) => Tensor,
  { dtype = "f64", cotangent }: EvaluateOptions = {},
): Promise<Evaluation> {
  const gradients = new Array<Tensor | undefined>(inputs.length).fill(undefined);
  const out = enqueue(backend, inputs, run, gradients, { dtype, cotangent });
  // together: reads of one moment cost a device one wait
  const [value, ...host] = await Promise.all([
    takeHost(out),
    ...gradients.map((gradient) => gradient && takeHost(gradient)),
  ]);
  return { value, shape: out.shape, dtype: out.dtype, gradients: host };
}

function enqueue(
  backend: Backend,
  inputs: readonly HostInput[],
  run: (...inputs: Tensor[]) => Tensor,
  gradients: (Tensor | undefined)[],
  { dtype = "f64", cotangent }: EvaluateOptions,
): Tensor {
  using inner = scope("evaluate");
  const views = inputs.map((input, i) => {
    const tensor = upload(backend, input, dtype);
    return input.view(cotangent && input.kind === "float" ? asLeaf(tensor, `${i}`) : tensor);
  });
  const out = run(...views);
  const result = contiguous(out);
  if (cotangent && needsGradient([out])) {
    const weights = fromArray(backend, toArray(cotangent, out.dtype), out.shape, out.dtype);
    backward(sum(mul(out, weights)), (name, gradient) => gradients[Number(name)] = gradient.retained());
  }
  return own(inner.keep(result));
}

/** A stored input on the device. */
export function upload(backend: Backend, { stored, shape, kind }: HostInput, dtype: FloatType): Tensor {
  const type = kind === "constant" && isHalf(dtype) ? "f32" : kind === "float" || kind === "constant" ? dtype : kind;
  return fromArray(backend, toArray(stored, type), shape, type);
}

/** An input whose floats are rounded to what `dtype` can hold. */
export function representable(input: HostInput, dtype: DType): HostInput {
  return input.kind === "float" ? { ...input, stored: roundTo(dtype, input.stored) } : input;
}

/** Numbers rounded to nearest even, as `dtype` holds them. */
export function roundTo(dtype: DType, values: ArrayLike<number>): Float64Array {
  if (!isHalf(dtype)) return Float64Array.from(toArray(values, dtype));
  const bits = toArray(values, dtype) as Uint16Array;
  return Float64Array.from(widen(dtype, bits, 0, bits.length));
}

/** A host array for `fromArray`: 16-bit types as bits. */
export function toArray(values: ArrayLike<number>, dtype: DType) {
  if (isHalf(dtype)) {
    const bits = new Uint16Array(values.length);
    narrow(dtype, Float32Array.from(values), bits, 0);
    return bits;
  }
  if (dtype === "f64") return Float64Array.from(values);
  if (dtype === "f32") return Float32Array.from(values);
  return dtype === "i32" ? Int32Array.from(values) : Uint32Array.from(values);
}

/** Reads a tensor into f64 and disposes it. */
export async function takeHost(tensor: Tensor): Promise<Float64Array> {
  const host = await tensor.read();
  const { dtype } = tensor;
  tensor.dispose();
  return Float64Array.from(isHalf(dtype) ? widen(dtype, host as Uint16Array, 0, host.length) : host);
}
