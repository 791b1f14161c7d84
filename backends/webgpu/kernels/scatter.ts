/**
 * scatterAddRows: out[v, :] = sum of rows[n, :] over the n with indices[n] = v, in order of n; other rows are 0. Spec:
 * `scatterAddRows` of `backends/cpu/loops/rows.ts`.
 *
 * rows [N, D], indices i32 or u32 [N], out [V, D], all contiguous. No atomics, so that the bits repeat. The positions n
 * are sorted by (index, n): tiles of 1024 by counting the smaller ones, then all at once, each position finding its place
 * among the other tiles by binary search. That costs N (1024 + 10 N / 1024) comparisons, nothing beside the rows for
 * N up to a hundred thousand. out is filled with 0, and whoever holds the first position of an index adds its rows: an invocation
 * owns one unit of columns of one position, so that a row that many positions share is read by few invocations.
 *
 * Sums are f32, of at most 32 rows in order of n, then of such sums, and rounded once to 16 bits. The host cannot see
 * indices: those outside [0, V) are left out, and make row 0 NaN, so that a step cannot pass for a good one.
 */
import type { Operand } from "../../../core/backend.ts";
import { isFloat, isHalf } from "../../../core/dtype.ts";
import { UnsupportedError } from "../../../core/errors.ts";
import { sizeOf } from "../../../core/shape.ts";
import { flatGrid, type Gpu, GROUP_INDEX } from "../gpu.ts";
import type { KernelSource } from "../pipelines.ts";
import { conversions, scalarOf } from "../wgsl.ts";
import { cast, fill } from "./elementwise.ts";
import { checkWordStart } from "./map.ts";
import { areStorable, type Unit, unitBinding, unitLoad, unitOf, unitStore } from "./units.ts";

/** Positions that a workgroup sorts. */
const TILE = 1024;

/** See `Kernels.scatterAddRows`. @throws UnsupportedError for integers */
export function scatterAddRows(gpu: Gpu, rows: Operand, indices: Operand, out: Operand): void {
  scalarOf(rows.dtype); // throws for f64
  if (!isFloat(rows.dtype)) throw new UnsupportedError(`Cannot add rows of ${rows.dtype} on webgpu: use f32`);
  const [, columns] = out.shape;
  if (sizeOf(out.shape) === 0) return;
  checkWordStart(out);
  if (!areStorable(out.dtype, columns)) {
    return gpu.withTemporary(out.shape, "f32", (wide) => {
      addSorted(gpu, rows, indices, wide);
      cast(gpu, wide, out);
    });
  }
  addSorted(gpu, rows, indices, out);
}

function addSorted(gpu: Gpu, rows: Operand, indices: Operand, out: Operand): void {
  fill(gpu, 0, out);
  const count = sizeOf(indices.shape);
  if (count === 0) return;
  const tiles = Math.ceil(count / TILE);
  gpu.withTemporary([2, count], "u32", (sorted) => {
    gpu.run({
      key: "scatterAddRows tiles",
      build: tileSource,
      operands: [indices, sorted],
      params: { count, at_indices: indices.offset },
      grid: flatGrid(tiles),
    });
    if (tiles === 1) return addRuns(gpu, rows, sorted, out);
    gpu.withTemporary([2, count], "u32", (merged) => {
      gpu.run({
        key: "scatterAddRows merge",
        build: mergeSource,
        operands: [sorted, merged],
        params: { count },
        grid: flatGrid(Math.ceil(count / 256)),
      });
      addRuns(gpu, rows, merged, out);
    });
  });
}

/** `sorted` [2, N] holds the indices in order, and their positions. */
function addRuns(gpu: Gpu, rows: Operand, sorted: Operand, out: Operand): void {
  const [vocabulary, columns] = out.shape;
  const count = sorted.shape[1];
  const unit = unitOf(columns, [rows, out]);
  const units = columns / unit.width;
  gpu.run({
    key: `scatterAddRows ${rows.dtype} ${out.dtype} ${unit.width}`,
    build: () => runSource(rows, out, unit),
    operands: [rows, sorted, out],
    params: { count, units, vocabulary, at_rows: rows.offset, at_out: out.offset, nan_bits: 0x7fc00000 },
    grid: flatGrid(Math.ceil(count * units / 256)),
    bytes: 2 * (isHalf(rows.dtype) ? 2 : 4) * count * columns,
  });
}

const ENTRY = /* wgsl */ `
@compute @workgroup_size(256)
fn main(
  @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {`;

/** A tile of indices in order. A lane places four of them. */
function tileSource(): KernelSource {
  return {
    bindings: [
      { name: "indices", type: "array<u32>", access: "read" },
      { name: "sorted", type: "array<u32>", access: "read_write" },
    ],
    params: { count: "u32", at_indices: "u32" },
    code: /* wgsl */ `
var<workgroup> keys: array<u32, ${TILE}>;
${ENTRY}
  let begin = ${GROUP_INDEX} * ${TILE}u;
  let size = select(0u, min(${TILE}u, params.count - begin), begin < params.count);
  for (var e = lane; e < size; e += 256u) { keys[e] = indices[params.at_indices + begin + e]; }
  workgroupBarrier();
  let own = vec4u(keys[lane], keys[lane + 256u], keys[lane + 512u], keys[lane + 768u]);
  let places = vec4u(lane, lane + 256u, lane + 512u, lane + 768u);
  var before = vec4u(0u);
  for (var e = 0u; e < size; e += 1u) {
    let other = vec4u(keys[e]);
    before += select(vec4u(0u), vec4u(1u), (other < own) | ((other == own) & (vec4u(e) < places)));
  }
  for (var j = 0u; j < 4u; j += 1u) {
    let e = lane + 256u * j;
    if (e < size) {
      sorted[begin + before[j]] = own[j];
      sorted[params.count + begin + before[j]] = begin + e;
    }
  }
}`,
  };
}

/** One position a lane: its place among all is the sum of its places in each tile, equals of earlier tiles before it. */
function mergeSource(): KernelSource {
  return {
    bindings: [
      { name: "sorted", type: "array<u32>", access: "read" },
      { name: "merged", type: "array<u32>", access: "read_write" },
    ],
    params: { count: "u32" },
    code: /* wgsl */ `${ENTRY}
  let i = ${GROUP_INDEX} * 256u + lane;
  if (i >= params.count) { return; }
  let key = sorted[i];
  let tile = i / ${TILE}u;
  var at = i % ${TILE}u;
  for (var other = 0u; other * ${TILE}u < params.count; other += 1u) {
    if (other == tile) { continue; }
    let begin = other * ${TILE}u;
    var low = begin;
    var high = min(begin + ${TILE}u, params.count);
    while (low < high) {
      let middle = (low + high) / 2u;
      let there = sorted[middle];
      if (there < key || (there == key && other < tile)) { low = middle + 1u; } else { high = middle; }
    }
    at += low - begin;
  }
  merged[at] = key;
  merged[params.count + at] = sorted[params.count + i];
}`,
  };
}

/** One unit of columns of one position: of the first with its index, adds up; of any other, does nothing. */
function runSource(rows: Operand, out: Operand, unit: Unit): KernelSource {
  const { type } = unit;
  return {
    bindings: [
      unitBinding("rows", rows.dtype, "read", unit),
      { name: "sorted", type: "array<u32>", access: "read" },
      unitBinding("out", out.dtype, "read_write", unit),
    ],
    params: {
      count: "u32",
      units: "u32",
      vocabulary: "u32",
      at_rows: "u32",
      at_out: "u32",
      nan_bits: "u32",
    },
    code: /* wgsl */ `${conversions([rows.dtype, out.dtype])}
${unitLoad("rows", rows.dtype, unit)}
${unitStore("out", out.dtype, unit)}
fn row_of(place: u32, column: u32) -> ${type} {
  return get_rows(sorted[params.count + place] * params.units + column);
}
${ENTRY}
  let i = ${GROUP_INDEX} * 256u + lane;
  let first = i / params.units;
  let column = i % params.units;
  if (first >= params.count) { return; }
  let key = sorted[first];
  let isBad = sorted[params.count - 1u] >= params.vocabulary;
  if (isBad && first == 0u) { put_out(column, ${type}(bitcast<f32>(params.nan_bits))); }
  if (key >= params.vocabulary || (isBad && key == 0u)) { return; }
  if (first > 0u && sorted[max(first, 1u) - 1u] == key) { return; }
  var total = ${type}(0.0);
  var place = first;
  while (place < params.count && sorted[place] == key) {
    let stop = min(place + 32u, params.count);
    var part = ${type}(0.0);
    // four at a time, so that their loads overlap
    for (; place + 3u < stop && sorted[min(place + 3u, params.count - 1u)] == key; place += 4u) {
      let a = row_of(place, column);
      let b = row_of(place + 1u, column);
      let c = row_of(place + 2u, column);
      let d = row_of(place + 3u, column);
      part = (((part + a) + b) + c) + d;
    }
    for (; place < stop && sorted[min(place, params.count - 1u)] == key; place += 1u) {
      part += row_of(place, column);
    }
    total += part;
  }
  put_out(key * params.units + column, total);
}`,
  };
}
