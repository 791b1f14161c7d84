/**
 * The 16-bit storage types, to and from f32: bf16 (the upper half of an f32) and f16 (IEEE 754 binary16).
 *
 * Widening is exact; narrowing rounds to nearest, ties to even. Numbers pass in blocks: nothing computes in 16 bits.
 */
import type { Half } from "../../../core/dtype.ts";

export { type Half, isHalf } from "../../../core/dtype.ts";

/** `count` elements from `begin` on, as f32. */
export function widen(dtype: Half, bits: Uint16Array, begin: number, count: number): Float32Array<ArrayBuffer> {
  if (dtype === "f16") return new Float32Array(f16View(bits, begin, count));
  const values = new Float32Array(count);
  const words = new Int32Array(values.buffer);
  for (let i = 0; i < count; i++) words[i] = bits[begin + i] << 16;
  return values;
}

/** Writes all `values` at `begin`, rounded to nearest even. */
export function narrow(dtype: Half, values: Float32Array<ArrayBuffer>, bits: Uint16Array, begin: number): void {
  if (values.length === 0) return;
  if (dtype === "f16") return f16View(bits, begin, values.length).set(values);
  // Signed words, so that the sum stays an integer in V8's registers.
  const words = new Int32Array(values.buffer, values.byteOffset, values.length);
  for (let i = 0; i < words.length; i++) bits[begin + i] = bf16FromF32Bits(words[i]);
}

/** The bits of the bf16 nearest to the f32 with these bits, ties to even; a NaN stays one. */
export function bf16FromF32Bits(word: number): number {
  if ((word & 0x7fffffff) > 0x7f800000) return (word >>> 16) | 0x40;
  return ((word + 0x7fff + ((word >>> 16) & 1)) | 0) >>> 16;
}

function f16View(bits: Uint16Array, begin: number, count: number): Float16Array {
  return new Float16Array(bits.buffer, bits.byteOffset + 2 * begin, count);
}
