/** The texts of the norms. Formulas and ownership: `norms.ts`. */
import type { DType } from "../../../core/dtype.ts";
import { GROUP_INDEX } from "../gpu.ts";
import type { KernelSource } from "../pipelines.ts";
import { conversions } from "../wgsl.ts";
import { groupJoin, sums, type Team } from "./groups.ts";
import { acrossUnit, type Unit, unitBinding, unitLoad, unitStore } from "./units.ts";

/** What the texts depend on. */
export interface NormVariant {
  readonly isCentered: boolean;
  readonly dtype: DType;
  readonly unit: Unit;
  readonly team: Team;
  /** Units that a lane holds. */
  readonly steps: number;
  readonly bySubgroups: boolean;
}

/** Gradients that are wanted. */
export interface Wants {
  readonly dx: boolean;
  readonly dWeight: boolean;
  readonly dBias: boolean;
}

function entry({ team: { size, lanes } }: NormVariant): string {
  return /* wgsl */ `
@compute @workgroup_size(${size})
fn main(
  @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let member = lane % ${lanes}u;
  let team = ${GROUP_INDEX} * ${size / lanes}u + lane / ${lanes}u;`;
}

/** A loop over the units that a lane holds: unit `i` of the row is number `k` of the lane. */
function eachUnit({ steps, team: { lanes } }: NormVariant, body: string): string {
  return /* wgsl */ `for (var k = 0u; k < ${steps}u; k += 1u) {
    let i = k * ${lanes}u + member;
    if (i < units) {
      ${body}
    }
  }`;
}

/** A row a team: statistics, then the normalised row. */
export function forwardSource(variant: NormVariant): KernelSource {
  const { isCentered, dtype, unit, team, steps, bySubgroups } = variant;
  const { type } = unit;
  const center = /* wgsl */ `
  let mean = group_sum(across_sum(sum), lane) / params.columns;
  ${eachUnit(variant, "held[k] -= mean;")}`;
  const means = "residual[params.at_residual + team] = mean;";
  return {
    subgroups: bySubgroups,
    bindings: [
      ...(isCentered ? ["x", "weight", "bias"] : ["x", "weight"]).map((name) => unitBinding(name, dtype, "read", unit)),
      unitBinding("out", dtype, "read_write", unit),
      { name: "residual", type: "array<f32>", access: "read_write" },
    ],
    params: {
      rows: "u32",
      units: "u32",
      columns: "f32",
      eps: "f32",
      at_x: "u32",
      at_weight: "u32",
      at_bias: "u32",
      at_out: "u32",
      at_residual: "u32",
    },
    code: /* wgsl */ `${conversions([dtype])}
${unitLoad("x", dtype, unit)}
${unitLoad("weight", dtype, unit)}
${isCentered ? unitLoad("bias", dtype, unit) : ""}
${unitStore("out", dtype, unit)}
${acrossUnit(unit)}
${groupJoin(sums("sum", "f32"), team, bySubgroups)}
${entry(variant)}
  let isRow = team < params.rows;
  let units = select(0u, params.units, isRow);
  let start = team * params.units;
  var held: array<${type}, ${steps}>;
  var sum = ${type}(0.0);
  ${eachUnit(variant, isCentered ? "held[k] = get_x(start + i); sum += held[k];" : "held[k] = get_x(start + i);")}
  ${isCentered ? center : ""}
  var squares = ${type}(0.0);
  ${eachUnit(variant, "squares += held[k] * held[k];")}
  let rstd = inverseSqrt(group_sum(across_sum(squares), lane) / params.columns + params.eps);
  ${eachUnit(variant, `put_out(start + i, held[k] * rstd * get_weight(i)${isCentered ? " + get_bias(i)" : ""});`)}
  if (isRow && member == 0u) {
    ${isCentered ? means : ""}
    residual[params.at_residual + ${isCentered ? "params.rows + " : ""}team] = rstd;
  }
}`,
  };
}

const GRADIENT_PARAMS: KernelSource["params"] = {
  rows: "u32",
  units: "u32",
  columns: "f32",
  blocks: "u32",
  share: "u32",
  at_x: "u32",
  at_weight: "u32",
  at_residual: "u32",
  at_dy: "u32",
  at_dx: "u32",
  at_shares: "u32",
};

/** A block of rows a team: the gradient of each row, and the block's share of those of weight and bias. */
export function gradientSource(variant: NormVariant, wants: Wants): KernelSource {
  const { dtype, unit, team, bySubgroups } = variant;
  const hasShares = wants.dWeight || wants.dBias;
  return {
    subgroups: bySubgroups && wants.dx,
    bindings: [
      unitBinding("x", dtype, "read", unit),
      unitBinding("weight", dtype, "read", unit),
      { name: "residual", type: "array<f32>", access: "read" },
      unitBinding("dy", dtype, "read", unit),
      ...(wants.dx ? [unitBinding("dx", dtype, "read_write", unit)] : []),
      ...(hasShares ? [unitBinding("shares", "f32", "read_write", unit)] : []),
    ],
    params: GRADIENT_PARAMS,
    code: [
      conversions([dtype]),
      ...["x", "weight", "dy"].map((name) => unitLoad(name, dtype, unit)),
      ...(wants.dx ? [unitStore("dx", dtype, unit), groupJoin(sums("sum", "vec2f"), team, bySubgroups)] : []),
      ...(hasShares ? [unitStore("shares", "f32", unit)] : []),
      acrossUnit(unit),
      entry(variant),
      gradientRows(variant, wants),
      ...(hasShares ? [leaveShares(variant, wants)] : []),
      "}",
    ].join("\n"),
  };
}

/** The rows of the team's block, one after another. */
function gradientRows(variant: NormVariant, { dx, dWeight, dBias }: Wants): string {
  const { isCentered, unit: { type }, steps } = variant;
  const held = [
    ...(dWeight ? ["weight_share"] : []),
    ...(dBias ? ["bias_share"] : []),
    ...(dx ? ["normal", "inner"] : []),
  ].map((name) => `  var ${name}: array<${type}, ${steps}>;`);
  const load = [
    "let g = get_dy(start + i);",
    `let n = (get_x(start + i)${isCentered ? " - residual[at]" : ""}) * rstd;`,
    ...(dWeight ? ["weight_share[k] += g * n;"] : []),
    ...(dBias ? ["bias_share[k] += g;"] : []),
    ...(dx ? ["let scaled = g * get_weight(i);", "normal[k] = n;", "inner[k] = scaled;"] : []),
    ...(dx ? ["sum += scaled;", "dot += scaled * n;"] : []),
  ].join("\n      ");
  const finish = /* wgsl */ `
    let means = group_sum(vec2f(${isCentered ? "across_sum(sum)" : "0.0"}, across_sum(dot)), lane) / params.columns;
    ${eachUnit(variant, "put_dx(start + i, rstd * (inner[k] - means.x - normal[k] * means.y));")}`;
  return /* wgsl */ `${held.join("\n")}
  for (var step = 0u; step < params.share; step += 1u) {
    let row = team * params.share + step;
    let isRow = team < params.blocks && row < params.rows;
    let units = select(0u, params.units, isRow);
    let start = row * params.units;
    let at = params.at_residual + select(0u, row, isRow);
    let rstd = residual[at${isCentered ? " + params.rows" : ""}];
    var sum = ${type}(0.0);
    var dot = ${type}(0.0);
    ${eachUnit(variant, load)}
    ${dx ? finish : ""}
  }`;
}

/** Writes the block's sums: [blocks, weight and bias as wanted, D]. */
function leaveShares(variant: NormVariant, { dWeight, dBias }: Wants): string {
  const vectors = Number(dWeight) + Number(dBias);
  const put = (name: string, vector: number) =>
    `put_shares((team * ${vectors}u + ${vector}u) * params.units + i, ${name}[k]);`;
  const leave = [...(dWeight ? [put("weight_share", 0)] : []), ...(dBias ? [put("bias_share", vectors - 1)] : [])];
  return /* wgsl */ `  let units = select(0u, params.units, team < params.blocks);
  ${eachUnit(variant, leave.join("\n      "))}`;
}
