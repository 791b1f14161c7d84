/**
 * out[i] = parts[0][i] + parts[1][i] + ..: the partial products of a matmul that was cut along its inner axis, in order,
 * so that the bits are the same each time.
 *
 * parts f32 [S, size], read; out f32, bf16 or f16 [size], written. An invocation owns four elements: whole words.
 */
import type { Operand } from "../../../core/backend.ts";
import { sizeOf } from "../../../core/shape.ts";
import { flatGrid, type Gpu, GROUP_INDEX } from "../gpu.ts";
import type { KernelSource } from "../pipelines.ts";
import { arrayOf, conversions, packExpression, perWord } from "../wgsl.ts";

/** Enqueues the sum of `slices` parts. */
export function sumSlices(gpu: Gpu, parts: Operand, slices: number, out: Operand): void {
  const size = sizeOf(out.shape);
  const isVector = size % 4 === 0 && out.offset % 4 === 0;
  gpu.run({
    key: `matmul sum of slices ${out.dtype}${isVector ? " vec4" : ""}`,
    build: () => source(out, isVector),
    operands: [parts, out],
    params: { size, slices, at_out: out.offset },
    grid: flatGrid(Math.ceil(size / 1024)),
  });
}

function source(out: Operand, isVector: boolean): KernelSource {
  const width = perWord(out.dtype);
  const isWide = isVector && width === 1;
  return {
    bindings: [
      { name: "parts", type: isVector ? "array<vec4<f32>>" : "array<f32>", access: "read" },
      { name: "out", type: isWide ? "array<vec4<f32>>" : arrayOf(out.dtype), access: "read_write" },
    ],
    params: { size: "u32", slices: "u32", at_out: "u32" },
    code: /* wgsl */ `${conversions([out.dtype])}
${isVector ? VECTORS : SCALARS}
@compute @workgroup_size(256)
fn main(
  @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let first = 4u * (${GROUP_INDEX} * 256u + lane);
  if (first >= params.size) { return; }
  var sum = four(first);
  for (var s = 1u; s < params.slices; s += 1u) { sum += four(s * params.size + first); }
${isWide ? "  out[(params.at_out + first) >> 2u] = sum;" : writes(out, width)}
}`,
  };
}

const VECTORS = "fn four(at: u32) -> vec4<f32> { return parts[at >> 2u]; }";
const SCALARS =
  "fn four(at: u32) -> vec4<f32> { return vec4(parts[at], parts[at + 1u], parts[at + 2u], parts[at + 3u]); }";

function writes({ dtype }: Operand, width: 1 | 2 | 4): string {
  const value = (e: number) => packExpression(dtype, `sum[${e}]`);
  if (width === 1) {
    const one = (e: number) =>
      `  if (first + ${e}u < params.size) { out[params.at_out + first + ${e}u] = ${value(e)}; }`;
    return [0, 1, 2, 3].map(one).join("\n");
  }
  const pair = (e: number) =>
    /* wgsl */ `  if (first + ${e}u < params.size) {
    let high = select(0u, ${value(e + 1)}, first + ${e + 1}u < params.size);
    out[(params.at_out + first + ${e}u) >> 1u] = ${value(e)} | (high << 16u);
  }`;
  return [pair(0), pair(2)].join("\n");
}
