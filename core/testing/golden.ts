/**
 * Stored reference numbers: safetensors files of `testdata` folders, and how far a tensor lies from one of theirs.
 *
 * A reader for files of our own only: it trusts them. `models/safetensors.ts` is the one for files of others.
 */
import assert from "node:assert/strict";

/** One stored tensor. */
export interface GoldenTensor {
  readonly shape: readonly number[];
  readonly data: Float32Array<ArrayBuffer> | Int32Array<ArrayBuffer> | Uint8Array<ArrayBuffer>;
}

const ARRAYS = { F32: Float32Array, I32: Int32Array, U8: Uint8Array } as const;

/** All tensors of a safetensors file with f32, i32 and u8 data. */
export function readGolden(file: URL): Map<string, GoldenTensor> {
  const bytes = Deno.readFileSync(file).buffer;
  const start = 8 + Number(new DataView(bytes).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(bytes, 8, start - 8)));
  const tensors = new Map<string, GoldenTensor>();
  for (const [name, entry] of Object.entries(header)) {
    if (name === "__metadata__") continue;
    const { dtype, shape, data_offsets: [begin, end] } = entry as {
      dtype: keyof typeof ARRAYS;
      shape: number[];
      data_offsets: [number, number];
    };
    tensors.set(name, { shape, data: new ARRAYS[dtype](bytes.slice(start + begin, start + end)) });
  }
  return tensors;
}

/** The JSON beside it. */
export function readJson<T>(file: URL): T {
  return JSON.parse(Deno.readTextFileSync(file)) as T;
}

/** Root mean square. */
export function rms(values: ArrayLike<number>): number {
  let squares = 0;
  for (let i = 0; i < values.length; i++) squares += values[i] ** 2;
  return Math.sqrt(squares / Math.max(values.length, 1));
}

/** RMS(actual - expected) over the larger of RMS(expected) and `floor`: the fixtures' criterion. */
export function rmsError(actual: ArrayLike<number>, expected: ArrayLike<number>, floor = 0): number {
  assert.equal(actual.length, expected.length, "number of elements");
  if (actual.length === 0) return 0;
  const error = rms(Float64Array.from(expected, (value, i) => actual[i] - value));
  return error === 0 ? 0 : error / Math.max(rms(expected), floor);
}

/** Asserts that `rmsError` is at most `tolerance`; NaN fails. */
export function assertRms(
  what: string,
  actual: ArrayLike<number>,
  expected: ArrayLike<number>,
  { tolerance, floor = 0 }: { readonly tolerance: number; readonly floor?: number },
): void {
  const error = rmsError(actual, expected, floor);
  assert.ok(error <= tolerance, `${what}: relative RMS error ${error.toExponential(2)} > ${tolerance}`);
}

/** Asserts |actual - expected| <= atol + rtol |expected| elementwise; NaN fails. */
export function assertClose(
  what: string,
  actual: ArrayLike<number>,
  expected: ArrayLike<number>,
  { rtol, atol }: { readonly rtol: number; readonly atol: number },
): void {
  assert.equal(actual.length, expected.length, `${what}: number of elements`);
  for (let i = 0; i < expected.length; i++) {
    const ok = Math.abs(actual[i] - expected[i]) <= atol + rtol * Math.abs(expected[i]) || actual[i] === expected[i];
    assert.ok(ok, `${what}: element ${i} is ${actual[i]}, expected ${expected[i]} (rtol ${rtol}, atol ${atol})`);
  }
}
