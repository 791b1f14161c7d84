/** The texts of cross-entropy. Formulas and ownership: `cross_entropy.ts`. */
import type { DType } from "../../../core/dtype.ts";
import { GROUP_INDEX } from "../gpu.ts";
import type { KernelSource } from "../pipelines.ts";
import { conversions, IS_NAN } from "../wgsl.ts";
import { groupJoin, sums, type Team } from "./groups.ts";
import { expBelow, onlineCode, onlineHelpers, rowEntry, type RowVariant } from "./log_sum.ts";
import { type Unit, unitBinding, unitLoad, unitPick, unitStore } from "./units.ts";

/** The workgroup of `meanSource`. */
export const MEAN_TEAM: Team = { size: 256, lanes: 256 };
/** A NaN for kernels that must not make one of floats. */
export const NAN_BITS = 0x7fc00000;

/** A row a team: its residuals and its loss. */
export function rowSource(variant: RowVariant): KernelSource {
  const { dtype, unit, bySubgroups } = variant;
  return {
    subgroups: bySubgroups,
    bindings: [
      unitBinding("x", dtype, "read", unit),
      { name: "targets", type: "array<i32>", access: "read" },
      { name: "residual", type: "array<f32>", access: "read_write" },
      { name: "losses", type: "array<f32>", access: "read_write" },
    ],
    params: {
      rows: "u32",
      units: "u32",
      columns: "i32",
      ignored: "i32",
      at_x: "u32",
      at_targets: "u32",
      at_residual: "u32",
      nan_bits: "u32",
    },
    code: /* wgsl */ `${conversions([dtype])}
${unitLoad("x", dtype, unit)}
${unitPick("x", dtype, unit)}
${onlineHelpers(variant)}
${rowEntry(variant)}
  let isRow = row < params.rows;
  let label = targets[params.at_targets + select(0u, row, isRow)];
  let isKept = isRow && label != params.ignored;
  let units = select(0u, params.units, isKept);
${onlineCode(variant)}
  if (isRow && member == 0u) {
    let nothing = bitcast<f32>(params.nan_bits);
    let isWrong = isBad || label < 0 || label >= params.columns;
    var log_sum = 0.0;
    var loss = 0.0;
    if (isKept && isWrong) {
      log_sum = nothing;
      loss = nothing;
    }
    if (isKept && !isWrong) {
      log_sum = log(total);
      loss = log_sum + (peak - pick_x(row * u32(params.columns) + u32(label)));
    }
    losses[row] = loss;
    residual[params.at_residual + row] = peak;
    residual[params.at_residual + params.rows + row] = log_sum;
  }
}`,
  };
}

/** One workgroup: the rows' losses and their number. */
export function meanSource(bySubgroups: boolean): KernelSource {
  return {
    subgroups: bySubgroups,
    bindings: [
      { name: "losses", type: "array<f32>", access: "read" },
      { name: "targets", type: "array<i32>", access: "read" },
      { name: "residual", type: "array<f32>", access: "read_write" },
      { name: "out", type: "array<u32>", access: "read_write" },
    ],
    params: { rows: "u32", ignored: "i32", at_targets: "u32", at_residual: "u32", at_out: "u32" },
    code: /* wgsl */ `${IS_NAN}
${groupJoin(sums("sum", "vec4f"), MEAN_TEAM, bySubgroups)}
@compute @workgroup_size(${MEAN_TEAM.size})
fn main(@builtin(local_invocation_index) lane: u32) {
  var sum = vec4f(0.0); // losses, rows kept, NaN among them
  for (var first = lane; first < params.rows; first += ${32 * MEAN_TEAM.size}u) {
    let stop = min(params.rows, first + ${32 * MEAN_TEAM.size}u);
    var part = vec4f(0.0);
    for (var i = first; i < stop; i += ${MEAN_TEAM.size}u) {
      let loss = losses[i];
      let kept = select(1.0, 0.0, targets[params.at_targets + i] == params.ignored);
      part += vec4f(loss, kept, select(0.0, 1.0, is_nan(loss)), 0.0);
    }
    sum += part;
  }
  let total = group_sum(sum, lane);
  if (lane == 0u) {
    let count = max(total.y, 1.0);
    residual[params.at_residual + 2u * params.rows] = count;
    out[params.at_out] = select(bitcast<u32>(total.x / count), ${NAN_BITS}u, total.z > 0.0);
  }
}`,
  };
}

/** A unit of the gradient an invocation. In place, it reads its unit of the logits before it writes there. */
export function gradientSource(dtype: DType, unit: Unit, isInPlace: boolean): KernelSource {
  const x = isInPlace ? "dx" : "x";
  const { type, bits, width } = unit;
  const columns = ["column", "vec2u(column, column + 1u)", "", "vec4u(column, column + 1u, column + 2u, column + 3u)"];
  return {
    bindings: [
      ...(isInPlace ? [] : [unitBinding("x", dtype, "read", unit)]),
      { name: "targets", type: "array<i32>", access: "read" },
      { name: "residual", type: "array<f32>", access: "read" },
      { name: "dy", type: "array<f32>", access: "read" },
      unitBinding("dx", dtype, "read_write", unit),
    ],
    params: {
      rows: "u32",
      units: "u32",
      columns: "i32",
      ignored: "i32",
      at_x: "u32",
      at_targets: "u32",
      at_residual: "u32",
      at_dy: "u32",
      at_dx: "u32",
      nan_bits: "u32",
    },
    code: /* wgsl */ `${conversions([dtype])}
${IS_NAN}
${unitLoad(x, dtype, unit)}
${unitStore("dx", dtype, unit)}
${expBelow(unit)}
@compute @workgroup_size(256)
fn main(
  @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let i = ${GROUP_INDEX} * 256u + lane;
  let row = i / params.units;
  if (row >= params.rows) { return; }
  let column = (i % params.units) * ${width}u;
  let label = targets[params.at_targets + row];
  let peak = residual[params.at_residual + row];
  let log_sum = residual[params.at_residual + params.rows + row];
  let scale = dy[params.at_dy] / residual[params.at_residual + 2u * params.rows];
  var result = ${type}(0.0);
  if (label != params.ignored) {
    let weight = exp_below((get_${x}(i) - peak) - log_sum);
    let hit = select(${type}(0.0), ${type}(1.0), ${columns[width - 1]} == ${bits}(u32(label)));
    result = select((weight - hit) * scale, ${type}(bitcast<f32>(params.nan_bits)), is_nan(log_sum));
  }
  put_dx(i, result);
}`,
  };
}
