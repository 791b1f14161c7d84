/**
 * peak = max of a row, total = sum of e^(x - peak), in one pass over the row: what softmax and cross-entropy share.
 *
 * A lane carries the largest of its units so far and sums of e^(x - largest), scaled down when the largest grows (Milakov
 * & Gimelshein 2018); the lanes are joined by a maximum and a sum. NaN and +infinity are seen by their bits. No infinity
 * is computed with: the maximum begins at the lowest finite number.
 */
import type { DType } from "../../../core/dtype.ts";
import { GROUP_INDEX } from "../gpu.ts";
import { groupJoin, maxima, sums, type Team } from "./groups.ts";
import { acrossUnit, type Unit } from "./units.ts";

/** What the text of a kernel over rows depends on. */
export interface RowVariant {
  readonly dtype: DType;
  readonly unit: Unit;
  readonly team: Team;
  readonly bySubgroups: boolean;
}

/** The head of `main`: a team's `row`, its first unit `start`, and the lane's place `member`. */
export function rowEntry({ team: { size, lanes } }: RowVariant): string {
  return /* wgsl */ `
@compute @workgroup_size(${size})
fn main(
  @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let member = lane % ${lanes}u;
  let row = ${GROUP_INDEX} * ${size / lanes}u + lane / ${lanes}u;
  let start = row * params.units;`;
}

/** e^d for d <= 0, and 0 below -100, where f32 has nothing left: some compilers clamp instead. */
export function expBelow({ type }: Unit): string {
  return /* wgsl */ `
fn exp_below(d: ${type}) -> ${type} { return select(exp(d), ${type}(0.0), d < ${type}(-100.0)); }`;
}

/** Functions that `onlineCode` calls. */
export function onlineHelpers({ unit, team, bySubgroups }: RowVariant): string {
  const { bits, type } = unit;
  return /* wgsl */ `${acrossUnit(unit)}
${expBelow(unit)}
fn has_nan_or_infinity(v: ${type}) -> bool {
  let words = bitcast<${bits}>(v);
  return any(((words & ${bits}(0x7fffffffu)) > ${bits}(0x7f800000u)) | (words == ${bits}(0x7f800000u)));
}
${groupJoin(maxima("max", "f32"), team, bySubgroups)}
${groupJoin(sums("sum", "vec2f"), team, bySubgroups)}`;
}

/** Statements that give `peak`, `total` and `isBad` of `units` units of x from `start` on. */
export function onlineCode({ unit: { type }, team: { lanes } }: RowVariant): string {
  return /* wgsl */ `
  var top = bitcast<f32>(0xff7fffffu); // the lowest finite number
  var scaled = ${type}(0.0);
  var bad = 0.0;
  for (var i = member; i < units; i += ${lanes}u) {
    let v = get_x(start + i);
    if (has_nan_or_infinity(v)) { bad = 1.0; }
    let highest = across_max(v);
    if (highest > top) {
      scaled *= exp(max(top - highest, -200.0));
      top = highest;
    }
    scaled += exp_below(v - top);
  }
  let peak = group_max(top, lane);
  let both = group_sum(vec2f(across_sum(scaled) * exp(max(top - peak, -200.0)), bad), lane);
  let total = both.x;
  let isBad = both.y > 0.0 || total == 0.0;`;
}
