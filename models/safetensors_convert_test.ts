import assert from "node:assert/strict";
import { type FloatDType, fromFloat32, toFloat32 } from "./safetensors.ts";

const codes = Uint16Array.from({ length: 1 << 16 }, (_, code) => code);
const bytesOf = (array: Uint16Array | Uint32Array | Float32Array | Float64Array) =>
  new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
const bitsOf = (values: Float32Array) => new Uint32Array(values.buffer, values.byteOffset, values.length);

/** The value of a code by the definition of its format: sign, exponent and mantissa. */
function valueOf(code: number, exponentBits: number): number {
  const mantissaBits = 15 - exponentBits;
  const bias = 2 ** (exponentBits - 1) - 1;
  const sign = code >>> 15 ? -1 : 1;
  const exponent = (code >>> mantissaBits) & (2 ** exponentBits - 1);
  const fraction = (code & (2 ** mantissaBits - 1)) / 2 ** mantissaBits;
  if (exponent === 2 ** exponentBits - 1) return fraction ? NaN : sign * Infinity;
  return sign * (exponent ? (1 + fraction) * 2 ** (exponent - bias) : fraction * 2 ** (1 - bias));
}

const FORMATS: readonly (readonly [FloatDType, number])[] = [["BF16", 8], ["F16", 5]];

for (const [dtype, exponentBits] of FORMATS) {
  Deno.test(`toFloat32() gives the value of the definition when the dtype is ${dtype}, for every code`, () => {
    const values = toFloat32(bytesOf(codes), dtype);
    for (const code of codes) assert.ok(Object.is(values[code], valueOf(code, exponentBits)), `code ${code}`);
  });

  Deno.test(`fromFloat32() gives back every code when toFloat32() widened it from ${dtype}, NaNs included`, () => {
    assert.deepEqual(fromFloat32(toFloat32(bytesOf(codes), dtype), dtype), bytesOf(codes));
  });

  Deno.test(`fromFloat32() rounds to nearest, ties to even, when values lie between codes of ${dtype}`, () => {
    const infinity = (2 ** exponentBits - 1) << (15 - exponentBits);
    const finite = toFloat32(bytesOf(codes.subarray(0, infinity)), dtype);
    // Beyond the largest code lies, for rounding, the power of two that infinity stands for.
    const next = (code: number) => code + 1 < infinity ? finite[code + 1] : 2 ** 2 ** (exponentBits - 1);
    const values: number[] = [];
    const expected: number[] = [];
    for (let code = 0; code < infinity; code++) {
      const middle = (finite[code] + next(code)) / 2; // exact in f64, and in f32 but for the smallest of bf16
      if (Math.fround(middle) !== middle) continue;
      const [below, above] = neighbours(middle);
      values.push(below, middle, above, -below, -middle, -above);
      const nearest = [code, code + (code & 1), code + 1];
      expected.push(...nearest, ...nearest.map((code) => code | 0x8000));
    }
    assert.ok(values.length > 6 * (infinity - 200));
    assert.deepEqual(fromFloat32(new Float32Array(values), dtype), bytesOf(new Uint16Array(expected)));
  });

  Deno.test(`fromFloat32() keeps NaN, infinity and the sign of zero when the dtype is ${dtype}`, () => {
    const bits = new Uint32Array([
      0x7f800001,
      0xff800001,
      0x7fffffff,
      0x7f800000,
      0xff800000,
      0x80000000,
      1,
      0x80000001,
    ]);
    const back = toFloat32(fromFloat32(new Float32Array(bits.buffer), dtype), dtype);
    assert.deepEqual([...back], [NaN, NaN, NaN, Infinity, -Infinity, -0, 0, -0]);
    assert.equal(bitsOf(back)[1] >>> 31, 1);
  });
}

function neighbours(value: number): [number, number] {
  const float = new Float32Array([value, value]);
  const bits = bitsOf(float);
  bits[0]--;
  bits[1]++;
  return [float[0], float[1]];
}

Deno.test("fromFloat32() agrees with Float16Array when values are random bits", () => {
  if (typeof Float16Array === "undefined") return;
  const bits = Uint32Array.from({ length: 1 << 18 }, (_, i) => Math.imul(i, 0x9e3779b1));
  const values = new Float32Array(bits.buffer).filter((value) => !Number.isNaN(value));
  const expected = new Float16Array(values);
  assert.deepEqual(fromFloat32(values, "F16"), new Uint8Array(expected.buffer));
});

Deno.test("toFloat32() keeps the bits when the dtype is F32, wherever the bytes lie", () => {
  const bits = new Uint32Array([0x7f800001, 1, 0x80000000, 0xffffffff, 0x3f800000]);
  assert.deepEqual(bitsOf(toFloat32(bytesOf(bits), "F32")), bits);
  const shifted = new Uint8Array(21);
  shifted.set(bytesOf(bits), 1);
  assert.deepEqual(bitsOf(toFloat32(shifted.subarray(1), "F32")), bits);
  assert.deepEqual(fromFloat32(new Float32Array(bits.buffer), "F32"), bytesOf(bits));
});

Deno.test("toFloat32() rounds to nearest when the dtype is F64", () => {
  const values = new Float64Array([1 + 2 ** -24, 1 + 3 * 2 ** -24, 1e300, -1e-300, NaN]);
  assert.deepEqual([...toFloat32(bytesOf(values), "F64")], [1, 1 + 2 ** -22, Infinity, -0, NaN]);
  assert.deepEqual(fromFloat32(new Float32Array([1.5, -0]), "F64"), bytesOf(new Float64Array([1.5, -0])));
});

Deno.test("fromFloat32() gives memory of its own when the values are shared", () => {
  const shared = new Float32Array(new SharedArrayBuffer(8));
  for (const dtype of ["F32", "BF16", "F16", "F64"] as const) {
    assert.ok(fromFloat32(shared, dtype).buffer instanceof ArrayBuffer);
  }
});

Deno.test("toFloat32() refuses the bytes when the dtype is no float or an element is cut", () => {
  assert.throws(() => toFloat32(new Uint8Array(4), "I32"), /^TypeError: .* one of F32, BF16, F16, F64: got I32$/);
  assert.throws(() => toFloat32(new Uint8Array(3), "BF16"), /^RangeError: .* BF16 takes 2 bytes each: got 3 bytes$/);
});
