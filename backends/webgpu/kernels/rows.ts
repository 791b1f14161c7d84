/**
 * takeRows: out[n, :] = table[indices[n], :], bits unchanged. Spec: `takeRows` of `backends/cpu/loops/rows.ts`.
 *
 * table [V, D], indices i32 or u32 [N], out [N, D], all contiguous. An invocation owns one vector of four words of the
 * output where rows and offsets allow, else one word; rows of packed types that do not fill words are put together
 * element by element. The host cannot see indices: one outside [0, V) reads nothing and gives a row of NaN, of 0 in the
 * integer types.
 */
import type { Operand } from "../../../core/backend.ts";
import type { DType } from "../../../core/dtype.ts";
import { sizeOf } from "../../../core/shape.ts";
import { flatGrid, type Gpu, GROUP_INDEX } from "../gpu.ts";
import type { KernelSource } from "../pipelines.ts";
import { perWord, scalarOf } from "../wgsl.ts";
import { checkWordStart } from "./map.ts";

export { scatterAddRows } from "./scatter.ts";

/** Words full of NaN. */
const NAN_WORDS: { readonly [Type in DType]?: number } = { f32: 0x7fc00000, bf16: 0x7fc07fc0, f16: 0x7e007e00 };

/** See `Kernels.takeRows`. */
export function takeRows(gpu: Gpu, table: Operand, indices: Operand, out: Operand): void {
  const [rows, columns] = table.shape;
  const size = sizeOf(out.shape);
  if (size === 0) return;
  scalarOf(table.dtype); // throws for f64
  checkWordStart(out);
  const width = perWord(table.dtype);
  const isWhole = [columns, table.offset, out.offset].every((count) => count % width === 0);
  const isVector = isWhole && [columns, table.offset, out.offset].every((count) => count % (4 * width) === 0);
  const unit = isVector ? 4 * width : isWhole ? width : 1; // elements that move together
  const pieces = isWhole ? size / unit : Math.ceil(size / width);
  gpu.run({
    key: `takeRows${isVector ? " vec4" : isWhole ? "" : ` packed ${width}`}`,
    build: () => isWhole ? wordSource(isVector) : packedSource(width),
    operands: [table, indices, out],
    params: {
      size: isWhole ? pieces : size,
      rows,
      columns: columns / unit,
      at_table: table.offset / unit,
      at_indices: indices.offset,
      at_out: isWhole ? out.offset / unit : out.offset / width,
      fallback: NAN_WORDS[table.dtype] ?? 0,
    },
    grid: flatGrid(Math.ceil(pieces / 256)),
    bytes: 2 * (4 / width) * size,
  });
}

const PARAMS: KernelSource["params"] = {
  size: "u32",
  rows: "u32",
  columns: "u32",
  at_table: "u32",
  at_indices: "u32",
  at_out: "u32",
  fallback: "u32",
};

function source(type: string, code: string): KernelSource {
  return {
    bindings: [
      { name: "table", type: `array<${type}>`, access: "read" },
      { name: "indices", type: "array<u32>", access: "read" },
      { name: "out", type: `array<${type}>`, access: "read_write" },
    ],
    params: PARAMS,
    code: /* wgsl */ `
@compute @workgroup_size(256)
fn main(
  @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let i = ${GROUP_INDEX} * 256u + lane;
  ${code}
}`,
  };
}

/** Words or vectors of them: rows, columns and offsets count these. */
function wordSource(isVector: boolean): KernelSource {
  const type = isVector ? "vec4u" : "u32";
  return source(
    type,
    /* wgsl */ `
  if (i >= params.size) { return; }
  let row = indices[params.at_indices + i / params.columns];
  var value = ${type}(params.fallback);
  if (row < params.rows) { value = table[params.at_table + row * params.columns + i % params.columns]; }
  out[params.at_out + i] = value;`,
  );
}

/** One word of the output, whose elements may come from two rows. */
function packedSource(width: number): KernelSource {
  const bits = 32 / width;
  return source(
    "u32",
    /* wgsl */ `
  var word = 0u;
  for (var e = 0u; e < ${width}u; e += 1u) {
    let element = ${width}u * i + e;
    if (element < params.size) {
      let row = indices[params.at_indices + element / params.columns];
      var value = params.fallback;
      if (row < params.rows) {
        let at = params.at_table + row * params.columns + element % params.columns;
        value = table[at / ${width}u] >> ((at % ${width}u) * ${bits}u);
      }
      word |= (value & ${2 ** bits - 1}u) << (e * ${bits}u);
    }
  }
  if (${width}u * i < params.size) { out[params.at_out + i] = word; }`,
  );
}
