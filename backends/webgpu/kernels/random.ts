/** Counter-based random bits, and the in-place addition that rounds with them. Spec: core/random.ts, loops/add_into.ts. */
import type { AddIntoOptions, Operand } from "../../../core/backend.ts";
import { UnsupportedError } from "../../../core/errors.ts";
import type { Gpu } from "../gpu.ts";
import { runMap } from "./map.ts";

/** Threefry-2x32 with 20 rounds (Salmon et al. 2011): word i is component i % 2 of block floor(i / 2). */
const THREEFRY = /* wgsl */ `
fn turn(x: vec2u, by: u32) -> vec2u {
  let sum = x.x + x.y;
  return vec2u(sum, ((x.y << by) | (x.y >> (32u - by))) ^ sum);
}
fn random_block(counter: u32) -> vec2u {
  let k0 = params.key0;
  let k1 = params.key1;
  let k2 = 0x1bd11bdau ^ k0 ^ k1;
  var x = vec2u(counter + k0, k1);
  x = turn(turn(turn(turn(x, 13u), 15u), 26u), 6u) + vec2u(k1, k2 + 1u);
  x = turn(turn(turn(turn(x, 17u), 29u), 16u), 24u) + vec2u(k2, k0 + 2u);
  x = turn(turn(turn(turn(x, 13u), 15u), 26u), 6u) + vec2u(k0, k1 + 3u);
  x = turn(turn(turn(turn(x, 17u), 29u), 16u), 24u) + vec2u(k1, k2 + 4u);
  return turn(turn(turn(turn(x, 13u), 15u), 26u), 6u) + vec2u(k2, k0 + 5u);
}
fn random_word(i: u32) -> u32 { return random_block(i / 2u)[i % 2u]; }`;

const KEY = { key0: "u32", key1: "u32" } as const;

/** See `Kernels.randomBits`. */
export function randomBits(gpu: Gpu, [key0, key1]: readonly [number, number], out: Operand): void {
  const code = /* wgsl */ `${THREEFRY}
fn apply(i: u32) -> u32 { return random_word(i); }`;
  runMap(gpu, { key: "randomBits", code, params: KEY }, { inputs: [], out, values: { key0, key1 } });
}

/** See `Kernels.addInto`. @throws UnsupportedError for stochastic rounding to f16 @throws TypeError without its key */
export function addInto(gpu: Gpu, param: Operand, delta: Operand, options: AddIntoOptions): void {
  const { rounding, key, master } = options;
  if (master) {
    addInto(gpu, master, delta, { rounding: "nearest" });
    const code = /* wgsl */ `fn apply(x: f32, i: u32) -> f32 { return x; }`;
    return runMap(gpu, { key: "cast", code }, { inputs: [master], out: param });
  }
  if (rounding === "nearest" || param.dtype === "f32") {
    const code = /* wgsl */ `fn apply(delta: f32, old: f32, i: u32) -> f32 { return old + delta; }`;
    return runMap(gpu, { key: "addInto", code }, { inputs: [delta], out: param, update: true });
  }
  if (param.dtype !== "bf16") {
    throw new UnsupportedError(`Cannot round stochastically in addInto(): got ${param.dtype}, not bf16`);
  }
  if (!key) throw new TypeError("Cannot round stochastically in addInto(): a key must be given");
  // adding 16 random bits below the cut and cutting; infinity and NaN as they are, since a carry would change them
  const code = /* wgsl */ `${THREEFRY}
fn apply(delta: f32, old: f32, i: u32) -> f32 {
  let sum = bitcast<u32>(old + delta);
  if ((sum & 0x7f800000u) == 0x7f800000u) { return bitcast<f32>(sum); }
  return bitcast<f32>((sum + (random_word(i) & 0xffffu)) & 0xffff0000u);
}`;
  const values = { key0: key[0], key1: key[1] };
  runMap(gpu, { key: "addInto stochastic", code, params: KEY }, { inputs: [delta], out: param, update: true, values });
}
