/**
 * How elements lie in storage buffers, as WGSL. 32-bit types lie as they are; bf16 and f16 are packed two to a u32 word,
 * u8 four to a word, so that no optional feature of the device is needed. Conversions are integer arithmetic: exact, with
 * infinities, NaN and subnormals, whatever a compiler assumes of floats. The CPU's are in `backends/cpu/loops/half.ts`.
 */
import { UnsupportedError } from "../../core/errors.ts";
import type { DType } from "../../core/dtype.ts";

/** The WGSL type that an element is computed in. */
export type Scalar = "f32" | "i32" | "u32";

/** Elements to a 32-bit word. */
export function perWord(dtype: DType): 1 | 2 | 4 {
  return dtype === "u8" ? 4 : dtype === "bf16" || dtype === "f16" ? 2 : 1;
}

/** What an element of a dtype is to a kernel. @throws UnsupportedError for f64 */
export function scalarOf(dtype: DType): Scalar {
  if (dtype === "f64") throw new UnsupportedError("Cannot compute in f64 on webgpu: use f32, or the CPU");
  return dtype === "i32" ? "i32" : dtype === "u32" || dtype === "u8" ? "u32" : "f32";
}

/** The type of the buffer's array: the element's own for 32 bits, else words. */
export function arrayOf(dtype: DType): string {
  return perWord(dtype) > 1 ? "array<u32>" : `array<${scalarOf(dtype)}>`;
}

/** `fn load_NAME(i: u32)`: element i of the buffer NAME. */
export function loader(name: string, dtype: DType): string {
  const scalar = scalarOf(dtype);
  switch (dtype) {
    case "bf16":
      return /* wgsl */ `fn load_${name}(i: u32) -> f32 { return from_bf16(${name}[i >> 1u] >> ((i & 1u) * 16u)); }`;
    case "f16":
      return /* wgsl */ `fn load_${name}(i: u32) -> f32 { return from_f16(${name}[i >> 1u] >> ((i & 1u) * 16u)); }`;
    case "u8":
      return /* wgsl */ `fn load_${name}(i: u32) -> u32 { return (${name}[i >> 2u] >> ((i & 3u) * 8u)) & 0xffu; }`;
    default:
      return /* wgsl */ `fn load_${name}(i: u32) -> ${scalar} { return ${name}[i]; }`;
  }
}

/** An expression of the bits that `value` has in a word's low end. */
export function packExpression(dtype: DType, value: string): string {
  switch (dtype) {
    case "bf16":
      return `to_bf16(${value})`;
    case "f16":
      return `to_f16(${value})`;
    case "u8":
      return `(${value} & 0xffu)`;
    default:
      return value;
  }
}

/** Functions that loaders and stores of these dtypes call. */
export function conversions(dtypes: readonly DType[]): string {
  return [
    ...(dtypes.includes("bf16") ? [BF16] : []),
    ...(dtypes.includes("f16") ? [F16] : []),
  ].join("\n");
}

/** bf16 is the upper half of an f32; narrowing rounds to nearest even and keeps a NaN one. */
export const BF16 = /* wgsl */ `
fn from_bf16(bits: u32) -> f32 { return bitcast<f32>(bits << 16u); }
fn to_bf16(value: f32) -> u32 {
  let bits = bitcast<u32>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) { return (bits >> 16u) | 0x40u; }
  return (bits + 0x7fffu + ((bits >> 16u) & 1u)) >> 16u;
}`;

/** IEEE binary16, with subnormals. */
export const F16 = /* wgsl */ `
fn from_f16(word: u32) -> f32 {
  let sign = (word & 0x8000u) << 16u;
  let magnitude = word & 0x7fffu;
  if (magnitude >= 0x7c00u) { return bitcast<f32>(sign | 0x7f800000u | ((magnitude & 0x3ffu) << 13u)); }
  if (magnitude < 0x400u) {
    let small = f32(magnitude) * 5.9604644775390625e-8; // 2^-24: a subnormal of f16 is an ordinary f32
    return bitcast<f32>(bitcast<u32>(small) | sign);
  }
  return bitcast<f32>(sign | ((magnitude << 13u) + 0x38000000u));
}
fn to_f16(value: f32) -> u32 {
  let bits = bitcast<u32>(value);
  let sign = (bits >> 16u) & 0x8000u;
  let magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) { return sign | 0x7e00u; }
  if (magnitude >= 0x477ff000u) { return sign | 0x7c00u; } // rounds beyond 65504
  if (magnitude < 0x38800000u) { // below 2^-14: subnormal
    let exponent = magnitude >> 23u;
    if (exponent < 102u) { return sign; } // below half of the smallest
    let mantissa = (magnitude & 0x7fffffu) | 0x800000u;
    let shift = 126u - exponent; // 14 to 24
    let kept = mantissa >> shift;
    let rest = mantissa & ((1u << shift) - 1u);
    let half = 1u << (shift - 1u);
    let up = select(0u, 1u, rest > half || (rest == half && (kept & 1u) == 1u));
    return sign | (kept + up);
  }
  let rounded = magnitude + 0xfffu + ((magnitude >> 13u) & 1u) - 0x38000000u;
  return sign | (rounded >> 13u);
}`;

/** Tests on bits, which no compiler may assume away. */
export const IS_NAN = /* wgsl */ `
fn is_nan(x: f32) -> bool { return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u; }
fn is_finite(x: f32) -> bool { return (bitcast<u32>(x) & 0x7f800000u) != 0x7f800000u; }`;
