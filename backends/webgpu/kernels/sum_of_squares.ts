/**
 * sumOfSquares: out = sum of x^2, and NaN when an element is infinite or NaN: what a global norm adds up, and what says
 * that a step is finite.
 *
 * x is contiguous, of any shape, f32, bf16 or f16; out f32 []. A workgroup owns a run of the elements, a lane every 256th
 * vector of it, 32 terms of four vectors at most (up to 1e9 elements); the runs' sums are added by `reduce`. Every
 * element is tested by its bits: a compiler may assume that floats are finite.
 */
import type { FusedKernel, Operand } from "../../../core/backend.ts";
import { isHalf } from "../../../core/dtype.ts";
import { sizeOf } from "../../../core/shape.ts";
import { flatGrid, type Gpu, GROUP_INDEX } from "../gpu.ts";
import type { KernelSource } from "../pipelines.ts";
import { conversions } from "../wgsl.ts";
import { groupJoin, sums, type Team, usesSubgroups } from "./groups.ts";
import { reduce } from "./reduce.ts";
import { acrossUnit, type Unit, unitBinding, unitLoad, unitOf } from "./units.ts";

const TEAM: Team = { size: 256, lanes: 256 };
/** Workgroups that fill a large GPU. */
const ENOUGH_GROUPS = 1024;
/** Units of a lane. */
const STEPS = { least: 4, most: 128 };

/** See `FusedAttributes.sumOfSquares`. Backward is the composed form's: a product. */
export function sumOfSquaresEntry(gpu: Gpu): FusedKernel<Record<never, never>> {
  return {
    supports: ([{ dtype, shape }]) => (dtype === "f32" || isHalf(dtype)) && sizeOf(shape) > 0,
    forward: ([x], _, out) => {
      const size = sizeOf(x.shape);
      const unit = unitOf(size, [x]);
      const units = size / unit.width;
      const steps = Math.ceil(units / (TEAM.size * ENOUGH_GROUPS));
      const share = TEAM.size * 4 * Math.ceil(Math.min(STEPS.most, Math.max(STEPS.least, steps)) / 4);
      const blocks = Math.ceil(units / share);
      if (blocks === 1) return runBlocks(gpu, x, out, { unit, share });
      gpu.withTemporary([blocks], "f32", (parts) => {
        runBlocks(gpu, x, parts, { unit, share });
        reduce(gpu, "sum", parts, 1, out);
      });
    },
  };
}

function runBlocks(gpu: Gpu, x: Operand, out: Operand, { unit, share }: { unit: Unit; share: number }): void {
  const units = sizeOf(x.shape) / unit.width;
  const blocks = Math.ceil(units / share);
  const bySubgroups = usesSubgroups(gpu, TEAM);
  gpu.run({
    key: `sumOfSquares ${x.dtype} ${unit.width}${bySubgroups ? " subgroups" : ""}`,
    build: () => source(x, unit, bySubgroups),
    operands: [x, out],
    params: { units, share, blocks, at_x: x.offset, at_out: out.offset },
    grid: flatGrid(blocks),
  });
}

function source({ dtype }: Operand, unit: Unit, bySubgroups: boolean): KernelSource {
  const { type, bits } = unit;
  return {
    subgroups: bySubgroups,
    bindings: [unitBinding("x", dtype, "read", unit), { name: "out", type: "array<u32>", access: "read_write" }],
    params: { units: "u32", share: "u32", blocks: "u32", at_x: "u32", at_out: "u32" },
    code: /* wgsl */ `${conversions([dtype])}
${unitLoad("x", dtype, unit)}
${acrossUnit(unit)}
${groupJoin(sums("sum", "vec2f"), TEAM, bySubgroups)}
// 1 where an element is infinite or NaN
fn is_bad(v: ${type}) -> ${bits} {
  return select(${bits}(0u), ${bits}(1u), (bitcast<${bits}>(v) & ${bits}(0x7f800000u)) == ${bits}(0x7f800000u));
}
@compute @workgroup_size(${TEAM.size})
fn main(
  @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let block = ${GROUP_INDEX};
  let end = select(0u, min(params.units, (block + 1u) * params.share), block < params.blocks);
  var sum = ${type}(0.0);
  var bad = ${bits}(0u);
  var i = block * params.share + lane;
  for (; i + ${3 * TEAM.size}u < end; i += ${4 * TEAM.size}u) {
    let a = get_x(i);
    let b = get_x(i + ${TEAM.size}u);
    let c = get_x(i + ${2 * TEAM.size}u);
    let d = get_x(i + ${3 * TEAM.size}u);
    sum += (a * a + b * b) + (c * c + d * d);
    bad |= (is_bad(a) | is_bad(b)) | (is_bad(c) | is_bad(d));
  }
  for (; i < end; i += ${TEAM.size}u) {
    let a = get_x(i);
    sum += a * a;
    bad |= is_bad(a);
  }
  let isBad = any(bad != ${bits}(0u));
  let total = group_sum(vec2f(across_sum(sum), select(0.0, 1.0, isBad)), lane);
  if (lane == 0u && block < params.blocks) {
    out[params.at_out + block] = select(bitcast<u32>(total.x), 0x7fc00000u, total.y > 0.0);
  }
}`,
  };
}
