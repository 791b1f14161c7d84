/**
 * Text that the matmul kernels share: reading four elements of a factor, writing four of the output, finding one's tile.
 *
 * Reads never fault: WebGPU gives a value from inside the buffer for an index outside. So rows and columns beyond the
 * edge are read (clamped, where they would lie far outside) and not stored; only the inner axis must be padded with 0.
 */
import type { Operand } from "../../../core/backend.ts";
import type { DType } from "../../../core/dtype.ts";
import { GROUP_INDEX } from "../gpu.ts";
import { walkCode, walkTypes } from "../layout.ts";
import type { Binding, ParamType } from "../pipelines.ts";
import { arrayOf, loader, packExpression, perWord } from "../wgsl.ts";
import type { Factor, Problem } from "./matmul_problem.ts";

/** How the output is written: four f32 at once, one at a time, or two 16-bit numbers to a word. */
export type Store = "wide" | "narrow" | "packed";

/** What the text of a kernel depends on, beside its design. */
export interface Variant {
  readonly a: Factor;
  readonly b: Factor;
  readonly out: DType;
  readonly store: Store;
  /** Inner sizes that are no multiple of the panel: reads are padded. */
  readonly isRagged: boolean;
  /** Each workgroup sums a slice of k. */
  readonly isSplit: boolean;
  readonly batchRank: number;
}

/** A name for a variant: part of a kernel's key. */
export function variantKey({ a, b, out, store, isRagged, isSplit, batchRank }: Variant): string {
  const side = ({ operand, alongK, isWide }: Factor) =>
    `${operand.dtype}${alongK ? " along k" : ""}${isWide ? " wide" : ""}`;
  const flags = `${isRagged ? " ragged" : ""}${isSplit ? " split" : ""}`;
  return `${side(a)}, ${side(b)} to ${out} ${store}${flags} batch ${batchRank}`;
}

/** How to write to `out`; undefined where its rows begin inside words, so that it needs an f32 temporary. */
export function storeOf(out: Operand, n: number): Store | undefined {
  if (perWord(out.dtype) === 1) return n % 4 === 0 && out.offset % 4 === 0 ? "wide" : "narrow";
  return n % 2 === 0 ? "packed" : undefined;
}

/** Bindings a, b and out. */
export function bindingsOf({ a, b, out, store }: Variant): Binding[] {
  const read = (name: string, { operand: { dtype }, isWide }: Factor): Binding => {
    const vector = perWord(dtype) === 1 ? "array<vec4<f32>>" : "array<vec2<u32>>";
    return { name, type: isWide ? vector : arrayOf(dtype), access: "read" };
  };
  const type = store === "wide" ? "array<vec4<f32>>" : arrayOf(out);
  return [read("a", a), read("b", b), { name: "out", type, access: "read_write" }];
}

/** Types of `problemParams`. */
export function paramTypes(batchRank: number): Record<string, ParamType> {
  const names = [
    "m",
    "n",
    "k",
    "stride_a",
    "stride_b",
    "at_a",
    "at_b",
    "at_out",
    "first",
    "groups",
    "columns",
    "batches",
  ];
  return {
    ...Object.fromEntries([...names, "slice"].map((name) => [name, "u32" as const])),
    ...walkTypes(batchRank, ["a", "b"]),
  };
}

/** `fn fetch_NAME(at)`: elements at to at + 3 of a factor as a vec4. */
export function fetcher(name: string, { operand: { dtype }, isWide }: Factor): string {
  if (!isWide) {
    return /* wgsl */ `${loader(name, dtype)}
fn fetch_${name}(at: u32) -> vec4<f32> {
  return vec4(load_${name}(at), load_${name}(at + 1u), load_${name}(at + 2u), load_${name}(at + 3u));
}`;
  }
  if (perWord(dtype) === 1) return /* wgsl */ `fn fetch_${name}(at: u32) -> vec4<f32> { return ${name}[at >> 2u]; }`;
  return /* wgsl */ `fn fetch_${name}(at: u32) -> vec4<f32> {
  let words = ${name}[at >> 2u];
  return ${dtype === "bf16" ? UNPACK_BF16 : UNPACK_F16};
}`;
}

const UNPACK_BF16 =
  "bitcast<vec4<f32>>(vec4(words.x << 16u, words.x & 0xffff0000u, words.y << 16u, words.y & 0xffff0000u))";
const UNPACK_F16 = "vec4(from_f16(words.x), from_f16(words.x >> 16u), from_f16(words.y), from_f16(words.y >> 16u))";

/** `fn padded(value, k, end)`: 0 for those of k to k + 3 that are not below `end`. */
export const PADDED = /* wgsl */ `
fn padded(value: vec4<f32>, k: u32, end: u32) -> vec4<f32> {
  return select(vec4<f32>(), value, vec4(k) + vec4(0u, 1u, 2u, 3u) < vec4(end));
}`;

/** `fn put(at, column, value)`: columns to column + 3 of a row that are below n, from element `at` of out on. */
export function putter({ out, store }: Variant): string {
  return /* wgsl */ `fn put(at: u32, column: u32, value: vec4<f32>) {
${PUTS[store].map((line) => line.replace(/pack\(([^)]*)\)/g, (_, x) => packExpression(out, x))).join("\n")}
}`;
}

const PUTS: Readonly<Record<Store, readonly string[]>> = {
  wide: ["  if (column < params.n) { out[at >> 2u] = value; }"],
  narrow: [0, 1, 2, 3].map((e) => `  if (column + ${e}u < params.n) { out[at + ${e}u] = value[${e}]; }`),
  packed: [
    "  if (column < params.n) { out[at >> 1u] = pack(value.x) | (pack(value.y) << 16u); }",
    "  if (column + 2u < params.n) { out[(at >> 1u) + 1u] = pack(value.z) | (pack(value.w) << 16u); }",
  ],
};

/** Tile rows that neighbouring workgroups share: what one reads of b is still in the cache for the next. */
const BAND = 8;

/**
 * Statements that find a workgroup's tile: `tile_row`, `tile_column`, first elements `a_at`, `b_at`, `out_at` of its
 * matrices, and its part of the inner axis, `begin` to `end`. Groups past the last one return.
 */
export function placeCode({ batchRank, isSplit }: Variant, rows: number, columns: number): string {
  const batch = batchRank === 0
    ? "  let a_at = params.at_a;\n  let b_at = params.at_b;"
    : walkCode(batchRank, ["a", "b"], "(place % params.batches)");
  const range = isSplit
    ? "  let begin = (place / params.batches) * params.slice;\n  let end = min(params.k, begin + params.slice);"
    : "  let begin = 0u;\n  let end = params.k;";
  return /* wgsl */ `
  let index = ${GROUP_INDEX};
  if (index >= params.groups) { return; }
  let tile_rows = (params.m + ${rows - 1}u) / ${rows}u;
  let tiles = tile_rows * params.columns;
  let place = (params.first + index) / tiles;
  let tile = (params.first + index) % tiles;
${batch}
${range}
  let out_at = params.at_out + place * params.m * params.n;
  let band = tile / (${BAND}u * params.columns);
  let inside = tile % (${BAND}u * params.columns);
  let height = min(tile_rows - band * ${BAND}u, ${BAND}u);
  let tile_row = (band * ${BAND}u + inside % height) * ${rows}u;
  let tile_column = (inside / height) * ${columns}u;`;
}

/** Parameters of one dispatch over the tiles `first` to `first + groups`. */
export function problemParams(problem: Problem, out: Operand): Record<string, number> {
  const { m, n, k, a, b, batches } = problem;
  const at = { at_a: a.operand.offset, at_b: b.operand.offset, at_out: out.offset };
  return { m, n, k, stride_a: a.stride, stride_b: b.stride, ...at, batches };
}
