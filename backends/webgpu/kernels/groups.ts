/**
 * Values of a workgroup made one: sums, maxima and the like over all lanes, or over teams of lanes side by side.
 *
 * By subgroups, where there are any and a team is the whole workgroup: each subgroup joins its own, its first lane leaves
 * the result in workgroup memory, and every lane joins those in order. A subgroup's size is not known, and what the
 * device reports of it is not always what the kernel was compiled to: it is counted. Else by a tree in workgroup memory.
 * Both give every lane the result, and the same bits at every run. To be called in uniform control flow.
 */
import type { Gpu } from "../gpu.ts";

/** How values are joined. */
export interface Joint {
  /** The function is `group_NAME`. */
  readonly name: string;
  /** WGSL type of a value. */
  readonly type: string;
  /** An expression that joins two. */
  readonly join: (a: string, b: string) => string;
  /** An expression that joins `value` over the subgroup. */
  readonly subgroup: string;
}

/** Lanes that share a value. */
export interface Team {
  /** Lanes of the workgroup: a power of two, at most 256. */
  readonly size: number;
  /** Lanes of a team, a power of two: those whose numbers differ in multiples of `stride` alone. */
  readonly lanes: number;
  /** By default 1: a team's lanes are neighbours. */
  readonly stride?: number;
}

/** Sums of scalars or vectors. */
export function sums(name: string, type: string): Joint {
  return { name, type, join: (a, b) => `${a} + ${b}`, subgroup: "subgroupAdd(value)" };
}

/** Largest of numbers, none of them NaN. */
export function maxima(name: string, type: "f32" | "u32"): Joint {
  return { name, type, join: (a, b) => `max(${a}, ${b})`, subgroup: "subgroupMax(value)" };
}

/** True where a team is joined by subgroups: the source must say so. */
export function usesSubgroups({ subgroups }: Gpu, { size, lanes }: Team): boolean {
  return subgroups && lanes === size && lanes > 1;
}

/** The lanes for rows of `units` units: enough to leave each two, 16 to 256; short rows share a workgroup. */
export function teamFor(units: number): Team {
  const lanes = Math.min(256, Math.max(16, ceilPowerOf2(units / 2)));
  return { size: Math.max(64, lanes), lanes };
}

/** The smallest power of four that is at least x: fewer kernels to compile than with those of two. */
export function ceilPowerOf4(x: number): number {
  return 4 ** Math.ceil(Math.log2(Math.max(1, x)) / 2);
}

/** The smallest power of two that is at least x. */
export function ceilPowerOf2(x: number): number {
  return 2 ** Math.ceil(Math.log2(Math.max(1, x)));
}

/** `fn group_NAME(value: TYPE, lane: u32) -> TYPE` with its workgroup memory. */
export function groupJoin(joint: Joint, team: Team, bySubgroups: boolean): string {
  const { name, type } = joint;
  if (team.lanes === 1) return `fn group_${name}(value: ${type}, lane: u32) -> ${type} { return value; }`;
  return `var<workgroup> ${name}_parts: array<${type}, ${team.size}>;\n` +
    (bySubgroups ? subgroupJoin(joint, team) : treeJoin(joint, team));
}

function subgroupJoin({ name, type, join, subgroup }: Joint, { size }: Team): string {
  return /* wgsl */ `
fn group_${name}(value: ${type}, lane: u32) -> ${type} {
  let whole = ${subgroup};
  let count = subgroupAdd(1u);
  let first = subgroupMin(lane);
  if (lane == first) { ${name}_parts[first / count] = whole; }
  workgroupBarrier();
  var result = ${name}_parts[0];
  for (var i = 1u; i < ${size}u / count; i += 1u) { result = ${join("result", `${name}_parts[i]`)}; }
  workgroupBarrier();
  return result;
}`;
}

function treeJoin({ name, type, join }: Joint, { lanes, stride = 1 }: Team): string {
  return /* wgsl */ `
fn group_${name}(value: ${type}, lane: u32) -> ${type} {
  let place = (lane / ${stride}u) % ${lanes}u;
  ${name}_parts[lane] = value;
  workgroupBarrier();
  for (var step = ${lanes / 2}u; step > 0u; step = step / 2u) {
    if (place < step) {
      ${name}_parts[lane] = ${join(`${name}_parts[lane]`, `${name}_parts[lane + step * ${stride}u]`)};
    }
    workgroupBarrier();
  }
  let result = ${name}_parts[lane - place * ${stride}u];
  workgroupBarrier();
  return result;
}`;
}
