/**
 * softmax over the last axis, fused. Definition: `softmax` of `core/ops/norm.ts`.
 *
 *   out = e^(x - max) / sum of e^(x - max),  dx = out * (dy - sum of dy * out)
 *
 * x, out, dy, dx [.., D], f32, bf16 or f16; D is anything, even in the 16-bit types. A team of 16 to 256 lanes owns a row.
 * Maximum and sum are found in one pass over the row (`log_sum.ts`), the second pass finds it in the cache. A row with a
 * NaN or +infinity, or of nothing but -infinity, is NaN.
 */
import type { FusedKernel, Operand, Spec } from "../../../core/backend.ts";
import { sizeOf } from "../../../core/shape.ts";
import { flatGrid, type Gpu } from "../gpu.ts";
import type { KernelSource } from "../pipelines.ts";
import { conversions } from "../wgsl.ts";
import { groupJoin, sums, type Team, teamFor, usesSubgroups } from "./groups.ts";
import { onlineCode, onlineHelpers, rowEntry, type RowVariant } from "./log_sum.ts";
import { acrossUnit, areStorable, unitBinding, unitLoad, unitOf, unitStore } from "./units.ts";

export { crossEntropyEntry } from "./cross_entropy.ts";

/** No residuals: the gradient is a function of the output. */
export function softmaxEntry(gpu: Gpu): FusedKernel<Record<never, never>> {
  return {
    supports: ([{ dtype, shape }]) =>
      shape.length > 0 && sizeOf(shape) > 0 && areStorable(dtype, shape[shape.length - 1]),
    forward: ([x], _, out) => {
      const { variant, key, size, grid } = variantOf(gpu, [x, out]);
      gpu.run({
        key: `softmax ${key}`,
        build: () => forwardSource(variant),
        operands: [x, out],
        params: { ...size, at_x: x.offset, at_out: out.offset, nan_bits: 0x7fc00000 },
        grid,
      });
    },
    vjp: {
      saves: { inputs: [], out: true },
      run: ({ out }, dy, _, [dx]) => {
        if (!dx) return;
        const { variant, key, size, grid } = variantOf(gpu, [out!, dy, dx]);
        gpu.run({
          key: `softmax gradient ${key}`,
          build: () => gradientSource(variant),
          operands: [out!, dy, dx],
          params: { ...size, at_y: out!.offset, at_dy: dy.offset, at_dx: dx.offset },
          grid,
        });
      },
    },
  };
}

function variantOf(gpu: Gpu, operands: readonly Operand[]) {
  const { shape, dtype }: Spec = operands[0];
  const columns = shape[shape.length - 1];
  const rows = sizeOf(shape) / columns;
  const unit = unitOf(columns, operands);
  const team: Team = teamFor(columns / unit.width);
  const variant: RowVariant = { dtype, unit, team, bySubgroups: usesSubgroups(gpu, team) };
  return {
    variant,
    key: `${dtype} ${unit.width} ${team.lanes}${variant.bySubgroups ? " subgroups" : ""}`,
    size: { rows, units: columns / unit.width },
    grid: flatGrid(Math.ceil(rows / (team.size / team.lanes))),
  };
}

function forwardSource(variant: RowVariant): KernelSource {
  const { dtype, unit, team: { lanes }, bySubgroups } = variant;
  const { type } = unit;
  return {
    subgroups: bySubgroups,
    bindings: [unitBinding("x", dtype, "read", unit), unitBinding("out", dtype, "read_write", unit)],
    params: { rows: "u32", units: "u32", at_x: "u32", at_out: "u32", nan_bits: "u32" },
    code: /* wgsl */ `${conversions([dtype])}
${unitLoad("x", dtype, unit)}
${unitStore("out", dtype, unit)}
${onlineHelpers(variant)}
${rowEntry(variant)}
  let units = select(0u, params.units, row < params.rows);
${onlineCode(variant)}
  let nothing = ${type}(bitcast<f32>(params.nan_bits));
  for (var i = member; i < units; i += ${lanes}u) {
    let weight = exp_below(get_x(start + i) - peak) / total;
    put_out(start + i, select(weight, nothing, isBad));
  }
}`,
  };
}

function gradientSource(variant: RowVariant): KernelSource {
  const { dtype, unit, team, bySubgroups } = variant;
  return {
    subgroups: bySubgroups,
    bindings: [
      unitBinding("y", dtype, "read", unit),
      unitBinding("dy", dtype, "read", unit),
      unitBinding("dx", dtype, "read_write", unit),
    ],
    params: { rows: "u32", units: "u32", at_y: "u32", at_dy: "u32", at_dx: "u32" },
    code: /* wgsl */ `${conversions([dtype])}
${unitLoad("y", dtype, unit)}
${unitLoad("dy", dtype, unit)}
${unitStore("dx", dtype, unit)}
${acrossUnit(unit)}
${groupJoin(sums("sum", "f32"), team, bySubgroups)}
${rowEntry(variant)}
  let units = select(0u, params.units, row < params.rows);
  var dots = ${unit.type}(0.0);
  for (var i = member; i < units; i += ${team.lanes}u) { dots += get_y(start + i) * get_dy(start + i); }
  let dot = group_sum(across_sum(dots), lane);
  for (var i = member; i < units; i += ${team.lanes}u) {
    put_dx(start + i, get_y(start + i) * (get_dy(start + i) - dot));
  }
}`,
  };
}
