/**
 * reduce: out[o] = sum, max or place of the largest over the last axes of x. Spec: `reduce` of
 * `backends/cpu/loops/reduce.ts`.
 *
 * x is strided, out contiguous. A workgroup of 256 lanes is so many outputs times so many lanes for each. Where the
 * reduced axes are the closer ones, an output's lanes are neighbours and read along them (`rows`); where the outputs lie
 * closer, neighbours are outputs (`columns`). Few outputs over a long extent take two stages: blocks of the extent, then
 * the blocks' results. 16-bit outputs, which share words, go through an f32 temporary.
 *
 * A lane adds at most 32 terms of four, then such sums; lanes and blocks are added by trees. Sizes and strides alone
 * decide the order.
 */
import type { Operand, ReduceOp } from "../../../core/backend.ts";
import { perWord } from "../wgsl.ts";
import { sizeOf } from "../../../core/shape.ts";
import { flatGrid, type Gpu } from "../gpu.ts";
import { collapse, walkParams } from "../layout.ts";
import { cast, fill } from "./elementwise.ts";
import { ceilPowerOf4, usesSubgroups } from "./groups.ts";
import { GROUP_SIZE, reduceSource, type ReduceVariant, teamOf } from "./reduce_source.ts";

/** Workgroups that fill a large GPU. */
const ENOUGH_GROUPS = 1024;
/** Fewest elements for each lane of a block. */
const BLOCK_STEPS = 16;
/** Fewer blocks are not worth a second stage. */
const LEAST_BLOCKS = 4;

/** See `Kernels.reduce`. The maximum of nothing is -Infinity, the place of its largest 0. */
export function reduce(gpu: Gpu, op: ReduceOp, x: Operand, axes: number, out: Operand): void {
  const outputs = sizeOf(out.shape);
  const kept = x.shape.length - axes;
  const extent = sizeOf(x.shape.slice(kept));
  if (outputs === 0) return;
  if (extent === 0) return fill(gpu, op === "max" ? -Infinity : 0, out);
  if (perWord(out.dtype) > 1) {
    const wide = out.dtype === "u8" ? "u32" : "f32";
    return gpu.withTemporary(out.shape, wide, (temporary) => {
      reduce(gpu, op, x, axes, temporary);
      cast(gpu, temporary, out);
    });
  }
  const plan = planOf(op, x, kept, { outputs, extent });
  // an operand may be a tensor, whose fields do not spread
  const { buffer, offset, dtype } = out;
  const flat: Operand = { buffer, offset, dtype, shape: [outputs], strides: [1] };
  if (plan.blocks === 1) return runStage(gpu, op, { x, kept, out: flat, plan, strides: [1, 0] });
  const { blocks, isColumns } = plan;
  const strides = isColumns ? [1, outputs] : [blocks, 1];
  gpu.withTemporary([outputs * blocks], out.dtype, (parts) => {
    runStage(gpu, op, { x, kept, out: parts, plan, strides });
    reduce(gpu, op, { ...parts, shape: [outputs, blocks], strides }, 1, flat);
  });
}

interface Plan {
  readonly isColumns: boolean;
  /** Lanes for an output. */
  readonly lanes: number;
  /** Workgroups that cover the outputs. */
  readonly tiles: number;
  readonly blocks: number;
  /** Elements of a block. */
  readonly share: number;
}

function planOf(
  op: ReduceOp,
  { shape, strides }: Operand,
  kept: number,
  { outputs, extent }: { outputs: number; extent: number },
): Plan {
  const step = (begin: number, end: number) =>
    Math.min(...strides.slice(begin, end).filter((stride, i) => stride !== 0 && shape[begin + i] > 1));
  const isColumns = step(kept, shape.length) > step(0, kept);
  const lanes = isColumns ? (extent <= 16 ? 1 : 8) : Math.min(GROUP_SIZE, ceilPowerOf4(extent / 4));
  const tiles = Math.ceil(outputs / (GROUP_SIZE / lanes));
  const most = Math.min(Math.floor(ENOUGH_GROUPS / tiles), Math.ceil(extent / (BLOCK_STEPS * lanes)));
  const share = Math.ceil(extent / (most < LEAST_BLOCKS || op === "argmax" ? 1 : most));
  return { isColumns, lanes, tiles, blocks: Math.ceil(extent / share), share };
}

interface Stage {
  readonly x: Operand;
  /** Axes that stay. */
  readonly kept: number;
  readonly out: Operand;
  readonly plan: Plan;
  /** Of the outputs and the blocks in `out`. */
  readonly strides: readonly number[];
}

function runStage(gpu: Gpu, op: ReduceOp, { x, kept, out, plan, strides }: Stage): void {
  const { isColumns, lanes, tiles, blocks, share } = plan;
  const outer = collapse(x.shape.slice(0, kept), x.strides.slice(0, kept));
  const inner = collapse(x.shape.slice(kept), x.strides.slice(kept));
  const variant: ReduceVariant = {
    op,
    dtype: x.dtype,
    outerRank: outer.extents.length,
    innerRank: inner.extents.length,
    isColumns,
    lanes,
    bySubgroups: usesSubgroups(gpu, teamOf({ isColumns, lanes })),
  };
  const innerParams: Record<string, number> = {};
  inner.extents.forEach((size, axis) => innerParams[`m${axis}`] = size);
  inner.strides[0].forEach((stride, axis) => innerParams[`y${axis}`] = stride);
  gpu.run({
    key: `reduce ${Object.values(variant).join(" ")}`,
    build: () => reduceSource(variant),
    operands: [x, out],
    params: {
      outputs: sizeOf(x.shape.slice(0, kept)),
      extent: sizeOf(x.shape.slice(kept)),
      tiles,
      blocks,
      share,
      at_x: x.offset,
      at_out: out.offset,
      out_step: strides[0],
      block_step: strides[1],
      ...walkParams(outer, ["x"]),
      ...innerParams,
    },
    grid: flatGrid(tiles * blocks),
  });
}
