/**
 * Which tile a product runs on, and into how many slices of the inner axis it is cut: from shapes alone, so that the same
 * call gives the same bits everywhere that has the same choice.
 *
 * A large tile does more with what it reads, but a GPU wants enough invocations at work: `FULL` of them is what a large
 * card holds at two workgroups a core. Where tiles of the output do not reach that and k is long (GaLore's projections,
 * gradients of small weights), slices of k run side by side, at the price of partial sums in memory.
 *
 * Speeds of GPUs come from an H100 (2026-11-26, f32 at 4096, `deno task bench:gpu`; nn, nt, tn in TFLOP/s): `turned
 * 64x64x16 64` 41.8, 38.1, 44.3; `turned 128x64x16 128` 35.9, 34.2, 43.8; `shared 128x128x8 256` 38.4, 30.6, 46.0; `turned
 * 128x128x16 256` 28.6, 28.8, 47.0; `turned 32x32x16 64` 23.4, 20.2, 30.1; `register` ones below. The speed of a design is
 * its geometric mean; an autotune measures. In software (llvmpipe with LLVM 15, f32 at 512; nn, nt, tn), GFLOP/s projected to two
 * idle cores from the process's CPU time, one run, and others differ by up to half: `shared 64x64x16 256` 6.7, 7.7, 7.7;
 * `turned 128x128x16 256` 7.7, 7.7, 8.3; `shared 128x128x8 256` 12.6, 12.8, 11.2; `register 32x32x4 64` 8.1, 10.1, 7.5;
 * `register 64x64x4 64` 11.9, 15.3, 10.7.
 */
import { perWord } from "../wgsl.ts";
import { layoutOf, type Problem } from "./matmul_problem.ts";
import { columnsOf, isPossible, rowsOf, type Tile, tileOf } from "./matmul_tiles.ts";

/** A tile with the speed that it reaches where a GPU is full, of the fastest. */
interface Design {
  readonly tile: Tile;
  readonly speed: number;
}

/** All designs: the standard ones, then those that only an autotune chooses. */
const DESIGNS: readonly Design[] = [
  { tile: tileOf("turned", [16, 8], [16, 8], 16), speed: 0.82 },
  { tile: tileOf("turned", [16, 8], [8, 8], 16), speed: 0.91 },
  { tile: tileOf("turned", [8, 8], [8, 8], 16), speed: 1 },
  { tile: tileOf("turned", [8, 4], [8, 4], 16), speed: 0.58 },
  { tile: tileOf("turned", [16, 8], [16, 8], 8), speed: 0 },
  { tile: tileOf("shared", [16, 8], [16, 8], 8), speed: 0 },
  { tile: tileOf("shared", [16, 4], [16, 4], 16), speed: 0 },
  { tile: tileOf("shared", [8, 8], [8, 8], 8), speed: 0 },
  { tile: tileOf("register", [8, 8], [8, 8], 4), speed: 0 },
  { tile: tileOf("register", [8, 4], [8, 4], 4), speed: 0 },
];

/** All tiles, by name. */
export const TILES: ReadonlyMap<string, Tile> = new Map(DESIGNS.map(({ tile }) => [tile.name, tile]));

/**
 * What a rasteriser on the CPU runs: there is no GPU to fill. For a long inner axis `shared` was ahead of `register` (512 x
 * 128 x 32000, nn: 12.0 against 6.8, one run, as above), perhaps because it keeps invocations together and so in the
 * caches; nothing was measured between 1024 and 32000. Small products take what compiles soonest.
 */
const SOFTWARE_TILE = "register 64x64x4 64";
const LONG_SOFTWARE_TILE = "shared 128x128x8 256";
const SMALL_SOFTWARE_TILE = "register 32x32x4 64";

/** Invocations that a large GPU has at work. */
const FULL = 32768;
/** Operations in the time of a byte of memory, on GPUs. */
const OPS_PER_BYTE = 16;
/** Steps of k that a slice has at least, and slices at most. */
const LEAST_SLICE = 128;
const MOST_SLICES = 64;
/** Bytes of partial sums at most. */
const MOST_PARTIAL_BYTES = 2 ** 26;

/** How a product runs. */
export interface Plan {
  readonly tile: Tile;
  readonly slices: number;
}

/** What a plan is made for. */
export interface Device {
  readonly limits: Readonly<Record<string, number>>;
  readonly isSoftware: boolean;
}

/** Shapes that are measured together: the layout, and whether each size is small, medium or large. */
export function shapeClass(problem: Problem): string {
  const grade = (size: number) => size <= 64 ? "s" : size <= 768 ? "m" : "l";
  const { m, n, k, batches } = problem;
  return `${layoutOf(problem)} ${grade(m)}${grade(n)}${grade(k)}${batches > 1 ? " batch" : ""}`;
}

/** The plan of a tile that was asked for by name, else of the best one by the model above. */
export function planOf(problem: Problem, device: Device, name: string | undefined): Plan {
  const asked = name === undefined ? undefined : TILES.get(name);
  if (asked && isPossible(asked, device.limits)) {
    return { tile: asked, slices: bestSlices(problem, device, asked).slices };
  }
  if (device.isSoftware) return { tile: softwareTile(problem), slices: 1 };
  let best: (Plan & { cost: number }) | undefined;
  for (const { tile, speed } of DESIGNS) {
    if (speed === 0 || !isPossible(tile, device.limits)) continue;
    const { slices, cost } = bestSlices(problem, device, tile);
    if (!best || cost / speed < best.cost) best = { tile, slices, cost: cost / speed };
  }
  return best ?? { tile: softwareTile(problem), slices: 1 };
}

function softwareTile({ m, n, k, batches }: Problem): Tile {
  if (batches * m * n * k < 2 ** 19) return TILES.get(SMALL_SOFTWARE_TILE)!;
  return TILES.get(k >= 4096 ? LONG_SOFTWARE_TILE : SOFTWARE_TILE)!;
}

/** Slices that make a tile fastest, and the time in operations of a full GPU. */
function bestSlices(problem: Problem, device: Device, tile: Tile): { slices: number; cost: number } {
  const { m, n, k, batches } = problem;
  const groups = batches * Math.ceil(m / rowsOf(tile)) * Math.ceil(n / columnsOf(tile));
  const operations = 2 * groups * rowsOf(tile) * columnsOf(tile) * k;
  let best = { slices: 1, cost: operations / fullness(groups, tile) };
  if (device.isSoftware) return best;
  const partial = 4 * batches * m * n;
  const most = Math.min(MOST_SLICES, k / LEAST_SLICE, MOST_PARTIAL_BYTES / partial);
  for (let slices = 2; slices <= most; slices *= 2) {
    const traffic = 2 * partial * slices * OPS_PER_BYTE; // written and read
    const cost = operations / fullness(groups * slices, tile) + traffic;
    if (cost < 0.9 * best.cost) best = { slices, cost };
  }
  return best;
}

/** The share of a GPU that so many workgroups keep at work; full waves, then a last one that may be half empty. */
function fullness(groups: number, { down, across }: Tile): number {
  const wave = FULL / (down * across);
  return Math.min(1, groups / (wave * Math.max(1, Math.ceil(groups / wave - 0.25))));
}

/** Steps of k in a slice: a multiple of the tile's panel, and of what a word holds. */
export function sliceLength(k: number, slices: number, depth: number): number {
  return Math.ceil(k / slices / depth) * depth;
}

/** True where the kernel must pad the inner axis with zeros. */
export function isRagged({ k }: Problem, { depth }: Tile): boolean {
  return k % depth !== 0;
}

/** Bytes that a product reads and writes once. */
export function bytesOf({ m, n, k, a, out, batches }: Problem): number {
  const width = (words: number) => 4 / words;
  const factors = (m * k + k * n) * width(perWord(a.operand.dtype));
  return batches * (factors + m * n * width(perWord(out.dtype)));
}
