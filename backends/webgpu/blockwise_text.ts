/**
 * What the texts of `blockwise_source.ts` are made of. A team of lanes owns a block; a lane owns some words of its
 * codes, four elements each, so that no word is shared.
 *
 * Decisions are on bits where a compiler might assume something of floats: the largest magnitude is one of integers,
 * whose order is that of the floats with NaN on top, and -0 has a sign. Code-books and limits lie in workgroup memory.
 */
import type { SlotKind } from "../../core/codebook.ts";
import { GROUP_INDEX } from "./gpu.ts";
import type { Joint, Team } from "./kernels/groups.ts";
import type { Binding, ParamType } from "./pipelines.ts";

/** Who works on a block. */
export interface Teams {
  readonly team: Team;
  /** Words of codes that each lane owns. */
  readonly words: number;
  readonly bySubgroups: boolean;
}

/** Words of the buffer of code-books and limits. */
export const TABLE_WORDS = 1024;
/** Where each of them begins; there are 256 values, and 255 limits. */
export const TABLE_AT: Readonly<Record<SlotKind, { readonly values: number; readonly limits: number }>> = {
  signed: { values: 0, limits: 256 },
  nonnegative: { values: 512, limits: 768 },
};

/** Parameters of all of them: elements, and words of codes. */
export const PARAMS = { size: "u32", words: "u32" } as const;
/** The buffer of code-books and limits. */
export const TABLES: Binding = { name: "tables", type: "array<f32>", access: "read" };
/** The head of `main`. */
export const ENTRY = /* wgsl */ `fn main(
  @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {`;

/** Codes and the largest magnitude of each block, as integers; for the parameters `at_NAME` and `at_NAME_absmax`. */
export function stored(name: string, access: Binding["access"]): Binding[] {
  return [{ name, type: "array<u32>", access }, { name: `${name}_absmax`, type: "array<u32>", access }];
}

/** An f32 operand. */
export function floats(name: string, access: Binding["access"], isVector: boolean): Binding {
  return { name, type: isVector ? "array<vec4f>" : "array<f32>", access };
}

/** Types of the parameters `at_NAME`. */
export function placeTypes(...names: string[]): Record<string, ParamType> {
  return Object.fromEntries(names.map((name) => [`at_${name}`, "u32"]));
}

/** `fn get_NAME(word: u32) -> vec4f`: the four elements of a word, those past the end 0. */
export function getter(name: string, isVector: boolean): string {
  if (isVector) {
    return /* wgsl */ `fn get_${name}(word: u32) -> vec4f { return ${name}[params.at_${name} / 4u + word]; }`;
  }
  const element = (e: number) => {
    const at = `4u * word + ${e}u`;
    return `  if (${at} < params.size) { four[${e}] = ${name}[params.at_${name} + ${at}]; }`;
  };
  return /* wgsl */ `fn get_${name}(word: u32) -> vec4f {
  var four = vec4f(0.0);
${[0, 1, 2, 3].map(element).join("\n")}
  return four;
}`;
}

/** `fn put_NAME(word: u32, four: vec4f)`: writes those that are not past the end. */
export function putter(name: string, isVector: boolean): string {
  if (isVector) {
    return /* wgsl */ `fn put_${name}(word: u32, four: vec4f) { ${name}[params.at_${name} / 4u + word] = four; }`;
  }
  const element = (e: number) => {
    const at = `4u * word + ${e}u`;
    return `  if (${at} < params.size) { ${name}[params.at_${name} + ${at}] = four[${e}]; }`;
  };
  return /* wgsl */ `fn put_${name}(word: u32, four: vec4f) {
${[0, 1, 2, 3].map(element).join("\n")}
}`;
}

/** `fn decode(word: u32, values: u32) -> vec4f`: what four codes stand for; `table` is the name of the tables. */
export function decoder(table: string): string {
  const element = (e: number) => `${table}[values + ((word >> ${8 * e}u) & 0xffu)]`;
  return /* wgsl */ `fn decode(word: u32, values: u32) -> vec4f {
  return vec4(${[0, 1, 2, 3].map(element).join(", ")});
}`;
}

/**
 * `fn encode(four: vec4f, inverse: f32, limits: u32, flips: u32, least: u32) -> vec4u`: the number of limits below each
 * share of the largest magnitude; one less where `flips` is 1 and a negative number, -0 too, has got the code of 0 or
 * more; `least` where a positive one has got less. A sign cannot be wrong the other way: no limit lies at 0.
 */
export const ENCODE = /* wgsl */ `
fn encode(four: vec4f, inverse: f32, limits: u32, flips: u32, least: u32) -> vec4u {
  let share = four * inverse;
  var code = vec4u(0u);
  for (var step = 128u; step > 0u; step = step >> 1u) {
    let at = code + (limits + step - 1u);
    let limit = vec4(table[at.x], table[at.y], table[at.z], table[at.w]);
    code += select(vec4u(0u), vec4u(step), limit < share);
  }
  let bits = bitcast<vec4u>(four);
  code -= select(vec4u(0u), bits >> vec4u(31u), code >= vec4u(127u)) * flips;
  let isPositive = (bits - vec4u(1u)) < vec4u(0x7fffffffu);
  return select(code, max(code, vec4u(least)), isPositive);
}
fn inverse_of(magnitude: u32) -> f32 { return select(1.0 / bitcast<f32>(magnitude), 0.0, magnitude == 0u); }
fn largest(four: vec4f) -> u32 {
  let bits = bitcast<vec4u>(four) & vec4u(0x7fffffffu);
  return max(max(bits.x, bits.y), max(bits.z, bits.w));
}`;

/**
 * `fn pack(code: vec4u) -> u32`: a word of codes; and `fn within(word: u32) -> vec4<bool>`: which of its elements are
 * not past the end.
 */
export function packer(isVector: boolean): string {
  const places = "vec4u(4u * word) + vec4u(0u, 1u, 2u, 3u)";
  return /* wgsl */ `fn pack(code: vec4u) -> u32 {
  let bytes = code << vec4u(0u, 8u, 16u, 24u);
  return bytes.x | bytes.y | bytes.z | bytes.w;
}
fn within(word: u32) -> vec4<bool> { return ${isVector ? "vec4<bool>(true)" : `${places} < vec4u(params.size)`}; }`;
}

/** `fn group_peak`: the largest of a team's magnitudes, bit by bit an integer each. */
export function peaks(type: "u32" | "vec2u"): Joint {
  return { name: "peak", type, join: (a, b) => `max(${a}, ${b})`, subgroup: "subgroupMax(value)" };
}

/** The block of a lane's team, and its words: `word_0` ..; those of a block past the end lie past the last word. */
export function places({ team: { size, lanes }, words }: Teams): string {
  return /* wgsl */ `  let block = ${GROUP_INDEX} * ${size / lanes}u + lane / ${lanes}u;
  let member = lane % ${lanes}u;
${each(words, (k) => `  let word_${k} = block * ${lanes * words}u + ${k * lanes}u + member;`)}`;
}

/** Lines for each word of a lane: unrolled, so that what they leave stays in registers. */
export function each(words: number, line: (k: number) => string): string {
  return Array.from({ length: words }, (_, k) => line(k)).join("\n");
}

/** Statements that copy `count` words of tables to workgroup memory. */
export function copyTables(count: number, size: number, from: string): string {
  return /* wgsl */ `  for (var i = lane; i < ${count}u; i += ${size}u) { table[i] = tables[${from} + i]; }
  workgroupBarrier();`;
}
