/**
 * copyStrided: any view to any view, bits unchanged.
 *
 * 32-bit elements are copied one an invocation. Packed ones may share a word with neighbours that must not change, so an
 * output that is not whole words is written by clearing and setting its bits atomically.
 */
import type { Operand } from "../../../core/backend.ts";
import type { DType } from "../../../core/dtype.ts";
import { sizeOf } from "../../../core/shape.ts";
import { flatGrid, type Gpu, GROUP_INDEX } from "../gpu.ts";
import { collapse, walkCode, walkParams, walkTypes } from "../layout.ts";
import type { KernelSource } from "../pipelines.ts";
import { perWord } from "../wgsl.ts";
import { runMap } from "./map.ts";

/** See `Kernels.copyStrided`. */
export function copyStrided(gpu: Gpu, x: Operand, out: Operand): void {
  const size = sizeOf(out.shape);
  if (size === 0) return;
  const walk = collapse(out.shape, x.strides, out.strides);
  const rank = walk.extents.length;
  if (rank === 0 || (rank === 1 && walk.strides.every(([stride]) => stride === 1))) {
    if (copyWords(gpu, x, out, size)) return;
  }
  gpu.run({
    key: `copyStrided ${perWord(x.dtype)} rank ${rank}`,
    build: () => source(x.dtype, rank),
    operands: [x, out],
    params: { size, at_x: x.offset, at_y: out.offset, ...walkParams(walk, ["x", "y"]) },
    grid: flatGrid(Math.ceil(size / 256)),
  });
}

/** A run of whole words: a map over words, which keeps the compute pass open where the device's own copy would end it. */
function copyWords(gpu: Gpu, x: Operand, out: Operand, size: number): boolean {
  const width = perWord(x.dtype);
  if ([x.offset, out.offset, size].some((count) => count % width !== 0)) return false;
  const words = ({ buffer, offset }: Operand): Operand => {
    return { buffer, offset: offset / width, shape: [size / width], strides: [1], dtype: "u32" };
  };
  const code = /* wgsl */ `fn apply(x: u32, i: u32) -> u32 { return x; }`;
  runMap(gpu, { key: "copy", code }, { inputs: [words(x)], out: words(out) });
  return true;
}

function source(dtype: DType, rank: number): KernelSource {
  const width = perWord(dtype);
  const bits = 32 / width;
  const mask = width === 1 ? "" : `0x${(2 ** bits - 1).toString(16)}u`;
  const move = width === 1 ? "y[y_at] = x[x_at];" : /* wgsl */ `
  let value = (x[x_at / ${width}u] >> ((x_at % ${width}u) * ${bits}u)) & ${mask};
  let shift = (y_at % ${width}u) * ${bits}u;
  atomicAnd(&y[y_at / ${width}u], ~(${mask} << shift));
  atomicOr(&y[y_at / ${width}u], value << shift);`;
  return {
    bindings: [
      { name: "x", type: "array<u32>", access: "read" },
      { name: "y", type: width === 1 ? "array<u32>" : "array<atomic<u32>>", access: "read_write" },
    ],
    params: { size: "u32", at_x: "u32", at_y: "u32", ...walkTypes(rank, ["x", "y"]) },
    code: /* wgsl */ `
@compute @workgroup_size(256)
fn main(
  @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let index = ${GROUP_INDEX} * 256u + lane;
  if (index >= params.size) { return; }
${walkCode(rank, ["x", "y"], "index")}
  ${move}
}`,
  };
}
