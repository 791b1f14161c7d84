/**
 * The text of `reduce`: what is carried along, and the walk.
 *
 * A maximum is one of integers whose order is that of the floats, with NaN on top; a sum counts NaNs beside it. So no
 * comparison of floats can lose one, whatever a compiler assumes. Results are written as bits.
 */
import type { ReduceOp } from "../../../core/backend.ts";
import type { DType } from "../../../core/dtype.ts";
import { GROUP_INDEX } from "../gpu.ts";
import { walkCode, walkTypes } from "../layout.ts";
import type { KernelSource, ParamType } from "../pipelines.ts";
import { arrayOf, conversions, IS_NAN, loader, type Scalar, scalarOf } from "../wgsl.ts";
import { groupJoin, type Joint, maxima, sums, type Team } from "./groups.ts";

/** Lanes of a workgroup. */
export const GROUP_SIZE = 256;

/** What the text depends on. */
export interface ReduceVariant {
  readonly op: ReduceOp;
  readonly dtype: DType;
  /** Axes that stay and that go, after joining. */
  readonly outerRank: number;
  readonly innerRank: number;
  readonly isColumns: boolean;
  readonly lanes: number;
  readonly bySubgroups: boolean;
}

/** An output's lanes. */
export function teamOf({ isColumns, lanes }: Pick<ReduceVariant, "isColumns" | "lanes">): Team {
  return { size: GROUP_SIZE, lanes, stride: isColumns ? GROUP_SIZE / lanes : 1 };
}

/** What is carried along: how it begins, grows and ends. */
interface Carried {
  readonly joint: Joint;
  readonly zero: string;
  /** What an element `v` at place `r` is. */
  readonly lift: string;
  /** The bits of the result `total`. */
  readonly bits: string;
  readonly code: string;
}

/** An integer for each number, in the same order; NaN is the largest. */
const KEYS: Readonly<Record<Scalar, string>> = {
  f32: /* wgsl */ `${IS_NAN}
fn key_of(v: f32) -> u32 {
  let bits = bitcast<u32>(v);
  if (is_nan(v)) { return 0xffffffffu; }
  return select(bits | 0x80000000u, ~bits, (bits >> 31u) == 1u);
}
fn bits_of(key: u32) -> u32 { return select(~key, key & 0x7fffffffu, (key >> 31u) == 1u); }`,
  i32: /* wgsl */ `
fn key_of(v: i32) -> u32 { return bitcast<u32>(v) ^ 0x80000000u; }
fn bits_of(key: u32) -> u32 { return key ^ 0x80000000u; }`,
  u32: /* wgsl */ `
fn key_of(v: u32) -> u32 { return v; }
fn bits_of(key: u32) -> u32 { return key; }`,
};

/** Larger wins, among equals the first. -0 equals 0; a NaN wins in the first place and loses in every other. */
function places(scalar: Scalar): string {
  const special = /* wgsl */ `
  if (is_nan(v)) { return vec2u(select(0u, 0xffffffffu, r == 0u), r); }
  if (bitcast<u32>(v) == 0x80000000u) { return vec2u(0x80000000u, r); }`;
  return /* wgsl */ `${KEYS[scalar]}
fn place_of(v: ${scalar}, r: u32) -> vec2u {${scalar === "f32" ? special : ""}
  return vec2u(key_of(v), r);
}
fn better(a: vec2u, b: vec2u) -> vec2u { return select(b, a, a.x > b.x || (a.x == b.x && a.y < b.y)); }`;
}

const BEST_OF_SUBGROUP = /* wgsl */ `
fn best_of_subgroup(value: vec2u) -> vec2u {
  let top = subgroupMax(value.x);
  return vec2u(top, subgroupMin(select(0xffffffffu, value.y, value.x == top)));
}`;

function carriedBy({ op, dtype, bySubgroups }: ReduceVariant): Carried {
  const scalar = scalarOf(dtype);
  if (op === "max") {
    const joint = maxima("reduce", "u32");
    return { joint, zero: "0u", lift: "key_of(v)", bits: "bits_of(total)", code: KEYS[scalar] };
  }
  if (op === "argmax") {
    const join = (a: string, b: string) => `better(${a}, ${b})`;
    return {
      joint: { name: "reduce", type: "vec2u", join, subgroup: "best_of_subgroup(value)" },
      zero: "vec2u(0u, 0xffffffffu)",
      lift: "place_of(v, r)",
      bits: "total.y",
      code: places(scalar) + (bySubgroups ? BEST_OF_SUBGROUP : ""),
    };
  }
  if (scalar !== "f32") {
    return { joint: sums("reduce", scalar), zero: `${scalar}(0)`, lift: "v", bits: "bitcast<u32>(total)", code: "" };
  }
  return {
    joint: sums("reduce", "vec2f"),
    zero: "vec2f(0.0)",
    lift: "vec2f(v, select(0.0, 1.0, is_nan(v)))",
    bits: "select(bitcast<u32>(total.x), 0x7fc00000u, total.y > 0.0)",
    code: IS_NAN,
  };
}

/** `fn place(r: u32)`: where element r of the reduced axes lies. */
function placeCode(rank: number): string {
  const lines = ["fn place(r: u32) -> u32 {", "  var rest = r;", "  var at = 0u;"];
  for (let axis = rank - 1; axis >= 0; axis--) {
    lines.push(`  at += ${axis === 0 ? "rest" : `(rest % params.m${axis})`} * params.y${axis};`);
    if (axis > 0) lines.push(`  rest = rest / params.m${axis};`);
  }
  return [...lines, "  return at;", "}"].join("\n");
}

function paramsOf({ outerRank, innerRank }: ReduceVariant): KernelSource["params"] {
  const inner: Record<string, ParamType> = {};
  for (let axis = 0; axis < innerRank; axis++) inner[`m${axis}`] = inner[`y${axis}`] = "u32";
  return {
    outputs: "u32",
    extent: "u32",
    tiles: "u32",
    blocks: "u32",
    share: "u32",
    at_x: "u32",
    at_out: "u32",
    out_step: "u32",
    block_step: "u32",
    ...walkTypes(outerRank, ["x"]),
    ...inner,
  };
}

/** One lane's part of an output: every so many elements of its block. */
export function reduceSource(variant: ReduceVariant): KernelSource {
  const { dtype, outerRank, innerRank, isColumns, lanes, bySubgroups } = variant;
  const { joint, zero, lift, bits, code } = carriedBy(variant);
  const { type, join } = joint;
  const width = GROUP_SIZE / lanes;
  const [member, column] = isColumns
    ? [`lane / ${width}u`, `lane % ${width}u`]
    : [`lane % ${lanes}u`, `lane / ${lanes}u`];
  const fetch = (step: number) => `fetch(x_at, i + ${step * lanes}u)`;
  return {
    subgroups: bySubgroups,
    bindings: [
      { name: "x", type: arrayOf(dtype), access: "read" },
      { name: "out", type: "array<u32>", access: "read_write" },
    ],
    params: paramsOf(variant),
    code: /* wgsl */ `${conversions([dtype])}
${loader("x", dtype)}
${code}
${placeCode(innerRank)}
${groupJoin(joint, teamOf(variant), bySubgroups)}
fn fetch(from_at: u32, r: u32) -> ${type} {
  let v = load_x(from_at + place(r));
  return ${lift};
}
@compute @workgroup_size(${GROUP_SIZE})
fn main(
  @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let number = ${GROUP_INDEX};
  let block = number / params.tiles;
  let o = (number % params.tiles) * ${width}u + ${column};
  let isInside = o < params.outputs && block < params.blocks;
  let begin = block * params.share;
  let end = select(0u, min(params.extent, begin + params.share), isInside);
${walkCode(outerRank, ["x"], "o")}
  var sum = ${zero};
  for (var first = begin + ${member}; first < end; first += ${128 * lanes}u) {
    let stop = min(end, first + ${128 * lanes}u);
    var part = ${zero};
    var i = first;
    for (; i + ${3 * lanes}u < stop; i += ${4 * lanes}u) {
      let low = ${join(fetch(0), fetch(1))};
      let high = ${join(fetch(2), fetch(3))};
      let four = ${join("low", "high")};
      part = ${join("part", "four")};
    }
    for (; i < stop; i += ${lanes}u) {
      let one = ${fetch(0)};
      part = ${join("part", "one")};
    }
    sum = ${join("sum", "part")};
  }
  let total = group_reduce(sum, lane);
  if (isInside && ${member} == 0u) {
    out[params.at_out + o * params.out_step + block * params.block_step] = ${bits};
  }
}`,
  };
}
