/**
 * out[.., M, N] = a @ b in tiles: the text that all tile designs share. Spec: `backends/cpu/loops/matmul.ts`.
 *
 * a [.., M, K] or [.., K, M], b [.., K, N] or [.., N, K], read; out [.., M, N], written once (or, with `isSplit`, one
 * partial product for each slice of k). One invocation owns `high` x `wide` outputs in registers, as quads of rows and
 * columns that lie `4 * down` and `4 * across` apart; a workgroup of down x across invocations owns one tile. Products are
 * added in the order of k, in one f32 each: all tiles give the same bits where a compiler fuses multiplication and
 * addition alike.
 *
 * Designs differ in where an invocation reads its numbers: `shared` and `turned` from workgroup memory
 * (`matmul_panels.ts`), `register` from storage (`matmul_registers.ts`). Limits: `isPossible`. Measured times:
 * `matmul_plan.ts`.
 */
import { conversions } from "../wgsl.ts";
import type { KernelSource } from "../pipelines.ts";
import { panelLoop, panelMemory } from "./matmul_panels.ts";
import { registerLoop } from "./matmul_registers.ts";
import { range, sidesOf, type Tile } from "./matmul_sides.ts";
import { bindingsOf, fetcher, PADDED, paramTypes, placeCode, putter, type Variant } from "./matmul_text.ts";

export type { Tile };

/** Makes a tile and its name. */
export function tileOf(kind: Tile["kind"], [down, high]: number[], [across, wide]: number[], depth: number): Tile {
  const name = `${kind} ${down * high}x${across * wide}x${depth} ${down * across}`;
  return { name, kind, down, across, high, wide, depth };
}

/** Rows of the output that a workgroup owns. */
export function rowsOf({ down, high }: Tile): number {
  return down * high;
}

/** Columns of the output that a workgroup owns. */
export function columnsOf({ across, wide }: Tile): number {
  return across * wide;
}

/** Bytes of workgroup memory that a tile takes at most. */
export function sharedBytes({ kind, down, across, high, wide, depth }: Tile): number {
  if (kind === "register") return 0;
  if (kind === "turned") return 4 * depth * (down * high + across * wide);
  const side = (threads: number, each: number) => 16 * each * (threads + 1) * (depth / 4 + 1);
  return side(down, high) + side(across, wide);
}

/** True where a device with these limits can run the tile. */
export function isPossible(tile: Tile, limits: Readonly<Record<string, number>>): boolean {
  const threads = tile.down * tile.across;
  return sharedBytes(tile) <= (limits.maxComputeWorkgroupStorageSize ?? 16384) &&
    threads <= Math.min(limits.maxComputeInvocationsPerWorkgroup ?? 256, limits.maxComputeWorkgroupSizeX ?? 256);
}

/** The kernel. */
export function tileSource(tile: Tile, variant: Variant): KernelSource {
  const { a, b, out, batchRank } = variant;
  const sides = sidesOf(tile, variant);
  return {
    bindings: bindingsOf(variant),
    params: paramTypes(batchRank),
    code: [
      conversions([a.operand.dtype, b.operand.dtype, out]),
      fetcher("a", a),
      fetcher("b", b),
      PADDED,
      putter(variant),
      ...(tile.kind === "register" ? [] : sides.map(panelMemory)),
      /* wgsl */ `@compute @workgroup_size(${tile.down * tile.across})
fn main(
  @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {${placeCode(variant, rowsOf(tile), columnsOf(tile))}
${lanes(tile)}
${sums(tile)}
${tile.kind === "register" ? registerLoop(tile, sides) : panelLoop(tile, sides)}
${stores(tile)}
}`,
    ].join("\n"),
  };
}

/** Places of an invocation: eight across and four down for neighbours, where the workgroup is wide enough. */
function lanes({ down, across }: Tile): string {
  if (across % 8 !== 0 || down % 4 !== 0) return `  let x = lane % ${across}u;\n  let y = lane / ${across}u;`;
  const warps = across / 8;
  return `  let x = lane % 8u + ((lane >> 5u) % ${warps}u) * 8u;
  let y = (lane >> 3u) % 4u + ((lane >> 5u) / ${warps}u) * 4u;`;
}

function sums({ high, wide }: Tile): string {
  const names = range(high).flatMap((i) => range(wide / 4).map((q) => `  var sum_${i}_${q} = vec4<f32>();`));
  return names.join("\n");
}

function stores({ high, wide, down, across }: Tile): string {
  return range(high).map((i) => {
    const row = `tile_row + ${Math.floor(i / 4) * 4 * down + i % 4}u + 4u * y`;
    const puts = range(wide / 4).map((q) => {
      const column = `tile_column + ${4 * q * across}u + 4u * x`;
      return `    put(out_at + (${row}) * params.n + ${column}, ${column}, sum_${i}_${q});`;
    });
    return `  if (${row} < params.m) {\n${puts.join("\n")}\n  }`;
  }).join("\n");
}
