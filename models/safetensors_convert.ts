/**
 * Conversions between float32 and the float types of safetensors files.
 *
 * Widening is exact to the bit, NaN payloads included; narrowing rounds to nearest, ties to even, and a code that was
 * widened comes back as it was. On bits rather than over `Float16Array`, which not every host has and which may change
 * NaNs. Bytes are little-endian, and so are all hosts that JavaScript engines run on.
 */
import type { SafetensorsDType } from "./safetensors_header.ts";

/** The element types that convert to float32. */
export type FloatDType = "F32" | "BF16" | "F16" | "F64";

const BYTES: Readonly<Record<FloatDType, number>> = { F32: 4, BF16: 2, F16: 2, F64: 8 };

/**
 * A tensor's bytes as float32. F32 gives a view of `bytes` where they lie aligned, the others new memory; F64 rounds.
 *
 * @throws TypeError for a dtype that is not F32, BF16, F16 or F64
 * @throws RangeError for a part of an element
 *
 * @example
 * ```ts
 * import assert from "node:assert/strict";
 * assert.equal(toFloat32(new Uint8Array([0x80, 0x3f]), "BF16")[0], 1);
 * assert.equal(toFloat32(new Uint8Array([0x01, 0x00]), "F16")[0], 2 ** -24);
 * ```
 */
export function toFloat32(bytes: Uint8Array, dtype: SafetensorsDType): Float32Array {
  checkFloat(dtype, "convert to float32");
  const itemBytes = BYTES[dtype];
  if (bytes.length % itemBytes !== 0) {
    throw new RangeError(
      `Cannot convert to float32: ${dtype} takes ${itemBytes} bytes each: got ${bytes.length} bytes`,
    );
  }
  const { buffer, byteOffset } = bytes.byteOffset % itemBytes === 0 ? bytes : bytes.slice();
  const size = bytes.length / itemBytes;
  if (dtype === "F32") return new Float32Array(buffer, byteOffset, size);
  const out = new Float32Array(size);
  if (dtype === "F64") out.set(new Float64Array(buffer, byteOffset, size));
  else if (dtype === "BF16") widenBfloat16(new Uint16Array(buffer, byteOffset, size), new Uint32Array(out.buffer));
  else widenFloat16(new Uint16Array(buffer, byteOffset, size), new Uint32Array(out.buffer));
  return out;
}

/**
 * Float32 values as a tensor's bytes, in new memory that is not shared: to nearest, ties to even; beyond the range,
 * infinity.
 *
 * @throws TypeError for a dtype that is not F32, BF16, F16 or F64
 */
export function fromFloat32(values: Float32Array, dtype: FloatDType): Uint8Array<ArrayBuffer> {
  checkFloat(dtype, "convert from float32");
  const out = new ArrayBuffer(values.length * BYTES[dtype]);
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  if (dtype === "F32") new Uint32Array(out).set(bits);
  else if (dtype === "F64") new Float64Array(out).set(values);
  else if (dtype === "BF16") narrowBfloat16(bits, new Uint16Array(out));
  else narrowFloat16(bits, new Uint16Array(out));
  return new Uint8Array(out);
}

function checkFloat(dtype: SafetensorsDType, operation: string): asserts dtype is FloatDType {
  if (!Object.hasOwn(BYTES, dtype)) {
    throw new TypeError(`Cannot ${operation}: the dtype must be one of ${Object.keys(BYTES).join(", ")}: got ${dtype}`);
  }
}

function widenBfloat16(codes: Uint16Array, out: Uint32Array): void {
  for (let i = 0; i < out.length; i++) out[i] = codes[i] << 16;
}

function widenFloat16(codes: Uint16Array, out: Uint32Array): void {
  const table = float16Table();
  for (let i = 0; i < out.length; i++) out[i] = table[codes[i]];
}

let widened: Uint32Array | undefined;

/** The float32 bits of each float16 code: 256 KiB, made once. */
function float16Table(): Uint32Array {
  if (widened) return widened;
  const table = new Uint32Array(1 << 16);
  const float = new Float32Array(1);
  const bits = new Uint32Array(float.buffer);
  for (let code = 0; code < table.length; code++) {
    const exponent = (code >>> 10) & 0x1f;
    const mantissa = code & 0x3ff;
    float[0] = mantissa * 2 ** -24; // a subnormal of float16 is a normal float32
    if (exponent === 0x1f) bits[0] = 0x7f800000 | (mantissa << 13);
    else if (exponent > 0) bits[0] = ((exponent + 112) << 23) | (mantissa << 13); // 112 = 127 - 15, the biases
    table[code] = bits[0] | ((code & 0x8000) << 16);
  }
  return widened = table;
}

function narrowBfloat16(bits: Uint32Array, out: Uint16Array): void {
  for (let i = 0; i < out.length; i++) {
    const x = bits[i];
    const isNaN = (x & 0x7fffffff) > 0x7f800000;
    // A NaN keeps its upper payload; where that is 0, the quiet bit keeps it from becoming infinity.
    if (isNaN) out[i] = (x >>> 16) | ((x & 0x7f0000) === 0 ? 0x40 : 0);
    else out[i] = (x + 0x7fff + ((x >>> 16) & 1)) >>> 16;
  }
}

function narrowFloat16(bits: Uint32Array, out: Uint16Array): void {
  const float = new Float32Array(1);
  const floatBits = new Uint32Array(float.buffer);
  for (let i = 0; i < out.length; i++) {
    const sign = (bits[i] >>> 16) & 0x8000;
    const x = bits[i] & 0x7fffffff;
    if (x > 0x7f800000) out[i] = sign | 0x7c00 | ((x >>> 13) & 0x3ff || 0x200);
    else if (x >= 0x477ff000) out[i] = sign | 0x7c00; // 65,520 and up is nearest to infinity
    else if (x < 0x38800000) { // below 2^-14: in [0.5, 1) a float32's last place is 2^-24, float16's smallest step
      floatBits[0] = x;
      float[0] += 0.5;
      out[i] = sign | (floatBits[0] - 0x3f000000);
    } else out[i] = sign | ((x - (112 << 23) + 0xfff + ((x >>> 13) & 1)) >>> 13);
  }
}
