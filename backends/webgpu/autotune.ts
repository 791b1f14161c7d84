/**
 * Measures, once for an adapter, which matmul tile is fastest for a few classes of shapes, and keeps the findings in a
 * small store. Not part of a run: it takes a second or two at the start of the first one.
 *
 * A read costs 10 ms and more whatever is read, so a measurement is many products between two reads, less the time of
 * an empty read. Only a tile that beats the standard one clearly is recorded: what is recorded changes the bits of runs
 * (in how sums are cut, see `matmul_plan.ts`), and `kernelPath` names it.
 */
import type { Operand } from "../../core/backend.ts";
import { OutOfMemoryError } from "../../core/errors.ts";
import { contiguousStrides } from "../../core/shape.ts";
import { blockOf, type Gpu } from "./gpu.ts";
import { fill } from "./kernels/elementwise.ts";
import { matmul } from "./kernels/matmul.ts";
import { planOf, shapeClass, TILES } from "./kernels/matmul_plan.ts";
import { problemOf } from "./kernels/matmul_problem.ts";
import { isPossible } from "./kernels/matmul_tiles.ts";

/** A place for a few small texts that outlive the process. */
export interface SmallStore {
  get(key: string): Promise<string | undefined>;
  set(key: string, value: string): Promise<void>;
}

/** To be raised when tiles or the classes of shapes change: older findings are measured anew. */
const VERSION = 1;

/** A product that stands for its class: layout as in `layoutOf`, M, N and K. */
export type Trial = readonly [layout: string, m: number, n: number, k: number];

/** What an autotune can be told. */
export interface AutotuneOptions {
  /** Name of the adapter. */
  readonly adapter: string;
  readonly store?: SmallStore;
  readonly budgetMs?: number;
  /** By default those of a training step, by size of the device; none on a rasteriser on the CPU. */
  readonly trials?: readonly Trial[];
  /** Names of the tiles to compare; all by default. */
  readonly tiles?: readonly string[];
}

/** Work of one measurement. */
const TRIAL_MS = 15;
/** A recorded tile is at least so much faster than the standard one. */
const CLEARLY = 1.05;
/** Tiles that stay in the race after the first class of a layout. */
const KEPT = 4;

/** Reads the store or measures; afterwards `gpu.tiles` knows. */
export async function autotune(gpu: Gpu, options: AutotuneOptions): Promise<void> {
  const { adapter, store } = options;
  const key = `matmul tiles ${adapter}`;
  const known = parse(await store?.get(key), adapter);
  if (known) {
    for (const [name, tile] of Object.entries(known)) gpu.tiles.set(name, tile);
    return;
  }
  try {
    await measureAll(gpu, options);
  } catch (error) {
    if (error instanceof OutOfMemoryError) return; // a limit too low to measure under
    throw error;
  }
  gpu.pool.resetPeak();
  await store?.set(key, JSON.stringify({ version: VERSION, adapter, tiles: gpu.tiles.entries() }));
}

/** A name for what was found; undefined where the standard tiles are used throughout. */
export function choiceName(gpu: Gpu): string | undefined {
  const entries = Object.entries(gpu.tiles.entries()).sort(([a], [b]) => a < b ? -1 : 1);
  if (entries.length === 0) return undefined;
  const hash = [...JSON.stringify(entries)].reduce(
    (sum, c) => Math.imul(sum ^ c.charCodeAt(0), 0x01000193),
    0x811c9dc5,
  );
  return (hash >>> 0).toString(16).padStart(8, "0");
}

/** The findings in a stored text; undefined where it is not one of this version, for this adapter, with known tiles. */
function parse(text: string | undefined, adapter: string): Record<string, string> | undefined {
  if (text === undefined) return undefined;
  try {
    const stored = JSON.parse(text);
    if (stored.version !== VERSION || stored.adapter !== adapter) return undefined;
    const tiles: Record<string, unknown> = stored.tiles;
    if (typeof tiles !== "object" || tiles === null || Array.isArray(tiles)) return undefined;
    return Object.values(tiles).every((name) => typeof name === "string" && TILES.has(name))
      ? tiles as Record<string, string>
      : undefined;
  } catch {
    return undefined;
  }
}

async function measureAll(gpu: Gpu, { budgetMs = 2500, trials, tiles }: AutotuneOptions): Promise<void> {
  if (!trials && gpu.tiles.isSoftware) return; // seconds a product: it has a choice of its own
  const end = performance.now() + budgetMs;
  const meter = new Meter(gpu);
  try {
    const names = (tiles ?? [...TILES.keys()]).filter((name) => isPossible(TILES.get(name)!, gpu.limits));
    const kept = new Map<string, readonly string[]>();
    for (const trial of trials ?? await meter.standardTrials()) {
      const entrants = kept.get(trial[0]) ?? names;
      const times = await meter.compare(trial, entrants, end);
      if (!times) return;
      kept.set(trial[0], [...entrants].sort((a, b) => times.get(a)! - times.get(b)!).slice(0, KEPT));
    }
  } finally {
    gpu.tiles.forced = undefined;
    meter.dispose();
  }
}

/** Times products of f32 on buffers of its own. */
class Meter {
  readonly #gpu: Gpu;
  readonly #buffers: Operand["buffer"][] = [];
  #emptyMs = 0;

  constructor(gpu: Gpu) {
    this.#gpu = gpu;
  }

  /** Layouts and sizes of training steps; larger products where 1024 is no work. */
  async standardTrials(): Promise<Trial[]> {
    const perProduct = await this.#time(["nt", 1024, 1024, 1024], undefined);
    const large = perProduct < 0.5 ? 2048 : 1024;
    const sizes = [
      [large, large, large],
      [large, 512, large],
      [512, large, large],
      [512, 512, large],
      [large, large, 512],
      [512, large, 512],
    ];
    return sizes.flatMap(([m, n, k]) => ["nt", "nn", "tn"].map((layout): Trial => [layout, m, n, k]));
  }

  /** Milliseconds of each tile, and the choice recorded; undefined when time runs out before all were measured. */
  async compare(trial: Trial, names: readonly string[], end: number): Promise<Map<string, number> | undefined> {
    const [a, b, out] = this.#operands(trial);
    const problem = problemOf(a, b, out, transposes(trial));
    const device = { limits: this.#gpu.limits, isSoftware: this.#gpu.tiles.isSoftware };
    const standard = planOf(problem, device, undefined).tile.name;
    const times = new Map<string, number>();
    for (const name of new Set([standard, ...names])) {
      if (performance.now() > end) return undefined;
      times.set(name, await this.#time(trial, name));
    }
    const [best] = [...times.keys()].sort((x, y) => times.get(x)! - times.get(y)!);
    if (times.get(best)! * CLEARLY < times.get(standard)!) this.#gpu.tiles.set(shapeClass(problem), best);
    return times;
  }

  /** Milliseconds of one product. */
  async #time(trial: Trial, tile: string | undefined): Promise<number> {
    this.#gpu.tiles.forced = tile;
    if (this.#emptyMs === 0) {
      await this.#enqueue(trial, 0);
      this.#emptyMs = Math.min(await this.#enqueue(trial, 0), await this.#enqueue(trial, 0));
    }
    await this.#enqueue(trial, 1); // compiles
    const once = Math.max(0.02, await this.#enqueue(trial, 1) - this.#emptyMs);
    if (once > TRIAL_MS) return once;
    const count = Math.min(256, Math.ceil(TRIAL_MS / once));
    return Math.max(0.001, await this.#enqueue(trial, count) - this.#emptyMs) / count;
  }

  async #enqueue(trial: Trial, count: number): Promise<number> {
    const [a, b, out] = this.#operands(trial);
    const start = performance.now();
    for (let i = 0; i < count; i++) matmul(this.#gpu, a, b, out, transposes(trial));
    await this.#gpu.recorder.read(blockOf(this.#gpu, out), 0, 4);
    return performance.now() - start;
  }

  #operands([layout, m, n, k]: Trial): [Operand, Operand, Operand] {
    const shapes = [layout[0] === "t" ? [k, m] : [m, k], layout[1] === "t" ? [n, k] : [k, n], [m, n]];
    const operands = shapes.map((shape, i) => this.#operand(i, shape));
    return operands as [Operand, Operand, Operand];
  }

  /** Buffer i as a matrix; made anew when it is too small. */
  #operand(i: number, shape: number[]): Operand {
    const bytes = 4 * shape[0] * shape[1];
    const held = this.#buffers[i];
    const operand = (buffer: Operand["buffer"]): Operand => {
      return { buffer, offset: 0, shape, strides: contiguousStrides(shape), dtype: "f32" };
    };
    if (held && blockOf(this.#gpu, operand(held)).capacity >= bytes) return operand(held);
    if (held) this.#gpu.pool.free(held);
    const made = operand(this.#buffers[i] = this.#gpu.pool.alloc(bytes, "an autotune's matrix"));
    fill(this.#gpu, 0.5, made);
    return made;
  }

  dispose(): void {
    for (const buffer of this.#buffers) this.#gpu.pool.free(buffer);
  }
}

function transposes([layout]: Trial): { transposeA: boolean; transposeB: boolean } {
  return { transposeA: layout[0] === "t", transposeB: layout[1] === "t" };
}
