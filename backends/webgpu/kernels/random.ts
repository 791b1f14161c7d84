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
  const { rounding, key, master, gate } = options;
  if (master) {
    addInto(gpu, master, delta, { rounding: "nearest", gate });
    return update(gpu, { key: "take master", sum: "delta" }, master, param, gate);
  }
  if (rounding === "nearest" || param.dtype === "f32") {
    return update(gpu, { key: "addInto", sum: "old + delta" }, delta, param, gate);
  }
  if (param.dtype !== "bf16") {
    throw new UnsupportedError(`Cannot round stochastically in addInto(): got ${param.dtype}, not bf16`);
  }
  if (!key) throw new TypeError("Cannot round stochastically in addInto(): a key must be given");
  // adding 16 random bits below the cut and cutting; infinity and NaN as they are, since a carry would change them
  const helpers = /* wgsl */ `${THREEFRY}
fn rounded(value: f32, i: u32) -> f32 {
  let sum = bitcast<u32>(value);
  if ((sum & 0x7f800000u) == 0x7f800000u) { return value; }
  return bitcast<f32>((sum + (random_word(i) & 0xffffu)) & 0xffff0000u);
}`;
  const fn = { key: "addInto stochastic", sum: "rounded(old + delta, i)", helpers, params: KEY };
  update(gpu, fn, delta, param, gate, { key0: key[0], key1: key[1] });
}

/** A change of every element of a parameter, which a shut gate leaves as they are. */
interface Update {
  readonly key: string;
  /** Of `old`, `delta` and `i`. */
  readonly sum: string;
  readonly helpers?: string;
  readonly params?: typeof KEY;
}

function update(
  gpu: Gpu,
  { key, sum, helpers = "", params }: Update,
  delta: Operand,
  param: Operand,
  gate: Operand | undefined,
  values?: Readonly<Record<string, number>>,
): void {
  const body = gate ? `if (gate == 0u) { return old; } return ${sum};` : `return ${sum};`;
  const code = /* wgsl */ `${helpers}
fn apply(delta: f32, ${gate ? "gate: u32, " : ""}old: f32, i: u32) -> f32 { ${body} }`;
  // repeated for every element
  const mask = gate && { ...given(gate), shape: param.shape, strides: param.shape.map(() => 0) };
  runMap(gpu, { key: gate ? `${key} gated` : key, code, params }, {
    inputs: mask ? [delta, mask] : [delta],
    out: param,
    update: true,
    values,
  });
}

/** An operand's own fields: a tensor's buffer is a getter, which spreading would lose. */
function given({ buffer, offset, dtype }: Operand): Pick<Operand, "buffer" | "offset" | "dtype"> {
  return { buffer, offset, dtype };
}
