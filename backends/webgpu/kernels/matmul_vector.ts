/**
 * out[.., i] = sum over k of w[.., i, k] x[.., k]: a matmul with one row or one column, which memory alone limits.
 *
 * w is the matrix, read once; x the vector, k elements `step` apart. Two designs, by the contiguous axis of w:
 * - `rows` (along k): 32 invocations share a row, reading four elements each at a time; a workgroup of 256 owns 8 rows,
 *   and sums the 32 partial sums of a row as a tree in workgroup memory.
 * - `columns` (along i): an invocation owns four neighbouring outputs and every eighth k; a workgroup of 256 owns 128
 *   outputs. Where they are few, slices of k go to several workgroups (see `matmul_split.ts`).
 *
 * Both write f32, one element at a time.
 */
import type { KernelSource } from "../pipelines.ts";
import { GROUP_INDEX } from "../gpu.ts";
import { walkCode, walkTypes } from "../layout.ts";
import { arrayOf, conversions, loader, perWord } from "../wgsl.ts";
import type { Factor } from "./matmul_problem.ts";
import { fetcher, PADDED } from "./matmul_text.ts";

/** Outputs that a workgroup owns. */
export const VECTOR_ROWS = 8;
export const VECTOR_COLUMNS = 128;

/** What the text depends on. */
export interface VectorVariant {
  readonly matrix: Factor;
  readonly vector: Factor;
  readonly batchRank: number;
}

/** The kernel of either design. */
export function vectorSource({ matrix, vector, batchRank }: VectorVariant): KernelSource {
  const { dtype } = matrix.operand;
  const wideType = perWord(dtype) === 1 ? "array<vec4<f32>>" : "array<vec2<u32>>";
  const names = [
    "size",
    "k",
    "stride",
    "step",
    "at_w",
    "at_x",
    "at_out",
    "first",
    "groups",
    "each",
    "batches",
    "slice",
  ];
  const rows = matrix.alongK;
  return {
    bindings: [
      { name: "w", type: matrix.isWide ? wideType : arrayOf(dtype), access: "read" },
      { name: "x", type: arrayOf(vector.operand.dtype), access: "read" },
      { name: "out", type: "array<f32>", access: "read_write" },
    ],
    params: { ...Object.fromEntries(names.map((name) => [name, "u32" as const])), ...walkTypes(batchRank, ["w", "x"]) },
    code: /* wgsl */ `${conversions([dtype])}
${fetcher("w", matrix)}
${loader("x", vector.operand.dtype)}
${PADDED}
${rows ? "var<workgroup> sums: array<f32, 256>;" : "var<workgroup> sums: array<array<vec4<f32>, 32>, 8>;"}
@compute @workgroup_size(256)
fn main(
  @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let index = ${GROUP_INDEX};
  if (index >= params.groups) { return; }
  let place = (params.first + index) / params.each;
  let tile = (params.first + index) % params.each;
${walkCode(batchRank, ["w", "x"], "(place % params.batches)")}
  let begin = (place / params.batches) * params.slice;
  let end = min(params.k, begin + params.slice);
${rows ? ROWS : COLUMNS}
}`,
  };
}

const ROWS = /* wgsl */ `
  let row = tile * ${VECTOR_ROWS}u + lane / 32u;
  let row_at = w_at + min(row, params.size - 1u) * params.stride;
  var sum = vec4<f32>();
  for (var k = begin + 4u * (lane % 32u); k < end; k += 128u) {
    let at = x_at + k * params.step;
    let four = vec4(load_x(at), load_x(at + params.step), load_x(at + 2u * params.step), load_x(at + 3u * params.step));
    sum = fma(padded(fetch_w(row_at + k), k, end), padded(four, k, end), sum);
  }
  sums[lane] = (sum.x + sum.y) + (sum.z + sum.w);
  for (var half = 16u; half > 0u; half >>= 1u) {
    workgroupBarrier();
    if (lane % 32u < half) { sums[lane] += sums[lane + half]; }
  }
  if (lane % 32u == 0u && row < params.size) { out[params.at_out + place * params.size + row] = sums[lane]; }`;

const COLUMNS = /* wgsl */ `
  let column = tile * ${VECTOR_COLUMNS}u + 4u * (lane % 32u);
  let column_at = w_at + min(column, (params.size - 1u) & 0xfffffffcu);
  var sum = vec4<f32>();
  for (var k = begin + lane / 32u; k < end; k += 8u) {
    sum = fma(fetch_w(column_at + k * params.stride), vec4(load_x(x_at + k * params.step)), sum);
  }
  sums[lane / 32u][lane % 32u] = sum;
  for (var half = 4u; half > 0u; half >>= 1u) {
    workgroupBarrier();
    if (lane / 32u < half) { sums[lane / 32u][lane % 32u] += sums[lane / 32u + half][lane % 32u]; }
  }
  if (lane < 32u) {
    let at = params.at_out + place * params.size + column;
    for (var e = 0u; e < 4u; e += 1u) { if (column + e < params.size) { out[at + e] = sums[0][lane][e]; } }
  }`;
