/**
 * param += delta: the one kernel that works in place.
 *
 * The sum is taken in f32 (f64 for f64). To a 16-bit parameter it is rounded to nearest even, or, for bf16, at random:
 * up with the probability of the bits that are cut off, so that small steps are right on average (Zamirai et al. 2020).
 * With a master the sum goes there, and the parameter is its rounding: nothing of a small step is lost.
 */
import type { AddIntoOptions, Operand } from "../../../core/backend.ts";
import { UnsupportedError } from "../../../core/errors.ts";
import { randomBits } from "../../../core/random.ts";
import { sizeOf } from "../../../core/shape.ts";
import { bf16FromF32Bits, isHalf, narrow } from "./half.ts";
import { type Numbers, source, store, type View } from "./operands.ts";

/** See `Kernels.addInto`. @throws UnsupportedError for stochastic rounding to f16 @throws TypeError without its key */
export function addInto(view: View, param: Operand, delta: Operand, options: AddIntoOptions): void {
  if (options.gate && view(options.gate.buffer, "u32")[options.gate.offset] === 0) return;
  if (options.master) return addIntoMaster(view, param, delta, options.master);
  const size = sizeOf(param.shape);
  const step = source(view, delta);
  const sums = source(view, param);
  addLoop(step.data, step.offset, sums.data, sums.offset, size);
  if (!isHalf(param.dtype)) return;
  const bits = view(param.buffer, param.dtype) as Uint16Array;
  const values = sums.data as Float32Array<ArrayBuffer>;
  if (options.rounding === "nearest") return narrow(param.dtype, values, bits, param.offset);
  if (param.dtype === "f16") throw new UnsupportedError("Cannot round stochastically in addInto(): got f16, not bf16");
  if (!options.key) throw new TypeError("Cannot round stochastically in addInto(): a key must be given");
  roundLoop(new Int32Array(values.buffer), randomBits(options.key, size), bits, param.offset, size);
}

function addIntoMaster(view: View, param: Operand, delta: Operand, master: Operand): void {
  const size = sizeOf(param.shape);
  const step = source(view, delta);
  const sums = source(view, master);
  addLoop(step.data, step.offset, sums.data, sums.offset, size);
  store(view, param, (data, offset) => data.set(sums.data.subarray(sums.offset, sums.offset + size), offset));
}

function addLoop(delta: Numbers, at: number, param: Numbers, to: number, size: number): void {
  for (let i = 0; i < size; i++) param[to + i] += delta[at + i];
}

/** Adds 16 random bits below the cut and cuts. Infinity and NaN are stored as they are: a carry would change them. */
function roundLoop(words: Int32Array, random: Uint32Array, bits: Uint16Array, to: number, size: number): void {
  for (let i = 0; i < size; i++) {
    const finite = (words[i] & 0x7f800000) !== 0x7f800000;
    bits[to + i] = finite ? (words[i] + (random[i] & 0xffff)) >>> 16 : bf16FromF32Bits(words[i]);
  }
}
