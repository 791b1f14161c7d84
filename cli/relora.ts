/**
 * ReLoRA's restarts, for `train` and `finetune` alike: when they are due, what happens then, the schedule around them, and
 * what a checkpoint needs to go on as if it had not been stopped.
 */
import { foldIn, fromArray, hostArray, keyOf, own, type Params, type Tensor } from "../core/mod.ts";
import {
  checkWeights,
  type FloatDType,
  type FolderWriter,
  initLora,
  type LoraConfig,
  openSafetensors,
  reloraWeights,
  restartLora,
  type TensorEntry,
  writeSafetensors,
} from "../models/mod.ts";
import { jaggedCosine, type Optimizer, type Schedule, type ScheduleOptions } from "../optimizers/mod.ts";
import type { FileFolder } from "./files.ts";

/** What decides the restarts of a run. */
export interface ReloraOptions {
  readonly seed: number;
  /** Steps between restarts, of which the run must have a whole number. Default: a quarter of the run. */
  readonly reloraEvery?: number;
  /** Steps over which the rate rises again. Default: a tenth of `reloraEvery`, 100 at most. */
  readonly reloraWarmup?: number;
  /** What becomes of the factors' moments: all are set to 0, or all but the largest, or all but a random share. */
  readonly reloraReset: "zero" | "magnitude" | "random";
  /** The share of them that is set to 0. Default: 0.9 of the smallest, 0.999 at random. */
  readonly reloraPrune?: number;
}

/** A model under ReLoRA. */
export interface ReloraParts {
  /** Every weight of the model, frozen; adapted ones are replaced at restarts. */
  readonly base: Params;
  /** The factors, and whatever else is trained under the model's own names. */
  readonly trained: Params;
  readonly lora: LoraConfig;
}

/** When a run restarts. */
export interface Restarts {
  /** In place of the run's schedule. */
  schedule(options: ScheduleOptions): Schedule;
  /** Whether one is due behind this step. The end of the run is none. */
  isDue(step: number): boolean;
  /** Folds the factors into the base, begins them again and prunes their moments. Outside every scope. Says what it did. */
  run(parts: ReloraParts, step: number, optimizer: Optimizer): Promise<string>;
}

/**
 * Refuses a schedule that the user asked for and restarts would replace.
 *
 * @throws RangeError for any but the cosine
 */
export function checkReloraSchedule(
  { method, schedule }: { readonly method: string; readonly schedule?: string },
): void {
  if (method !== "relora" || schedule === undefined || schedule === "cosine") return;
  throw new RangeError(
    `Cannot use --schedule ${schedule} with --method relora: its rate follows a cosine with restarts`,
  );
}

/**
 * The restarts of a run of `steps`. Where the user says nothing a cycle is a quarter of the run, rounded up: the envelope
 * of the rate then ends up to three steps behind the run.
 *
 * @throws RangeError where what the user says does not divide the run, or for a share of moments that are all set to 0
 */
export function restartsOf(options: ReloraOptions, steps: number): Restarts {
  const { reloraEvery, reloraReset: reset, reloraPrune, seed } = options;
  const every = reloraEvery ?? Math.ceil(steps / 4);
  const restartWarmup = options.reloraWarmup ?? Math.min(100, Math.floor(every / 10));
  if (reloraEvery !== undefined && steps % every !== 0) {
    throw new RangeError(
      `Cannot restart every ${every} steps: --relora-every must divide the ${steps} steps of the run: use ` +
        nearestDivisors(steps, every).join(" or "),
    );
  }
  if (reset === "zero" && options.reloraPrune !== undefined) {
    throw new RangeError("Cannot use --relora-prune with --relora-reset zero: all moments become 0");
  }
  const total = reloraEvery === undefined ? 4 * every : steps;
  return {
    schedule: (asked) =>
      jaggedCosine({ ...asked, total, end: Math.max(total, asked.total), restartEvery: every, restartWarmup }),
    isDue: (step) => step % every === 0 && step < steps,
    run: async ({ base, trained, lora }, step, optimizer) => {
      restartLora(base, trained, lora, { seed, step });
      const factors = trained.names().filter((name) => !base.has(name));
      const moved = factors.filter((name) => !trained.isFrozen(name));
      const share = reset === "zero" ? 1 : reloraPrune ?? (reset === "random" ? 0.999 : 0.9);
      await optimizer.pruneMoments(moved, { reset, share, key: foldIn(keyOf(seed), "prune", step) });
      const many = factors.length.toLocaleString("en-US");
      const gone = Number((100 * share).toFixed(2));
      return `restart ${step / every}: ${many} factors folded in and begun again, ${gone}% of their moments gone`;
    },
  };
}

/** The divisors of `whole` on both sides of a number that is none. */
function nearestDivisors(whole: number, near: number): number[] {
  let [below, above] = [Math.min(near, whole), near];
  while (whole % below !== 0) below--;
  while (above < whole && whole % above !== 0) above++;
  return above > whole ? [below] : [below, above];
}

/**
 * What a run from scratch trains: factors beside the adapted matrices, and every other weight as it is, held once more. The
 * model's weights are frozen.
 */
export function splitForRelora(
  base: Params,
  lora: LoraConfig,
  options: { readonly seed: number; readonly dtype: "f32" | "bf16" },
): Params {
  const trained = initLora(base, lora, options);
  const adapted = new Set(reloraWeights(base, lora));
  for (const [name, tensor] of base.entries()) if (!adapted.has(name)) trained.set(name, tensor.retained());
  base.freeze(base.names());
  return trained;
}

/** In a checkpoint: the base weights that restarts have changed, and what is trained. */
const STATE_FILE = "relora.safetensors";
const STORED: Readonly<Record<string, FloatDType>> = { f32: "F32", bf16: "BF16", f16: "F16" };

function* stateTensors({ base, trained, lora }: ReloraParts): Generator<[string, Tensor, Params]> {
  for (const name of reloraWeights(base, lora)) yield [name, base.get(name), base];
  for (const [name, tensor] of trained.entries()) yield [name, tensor, trained];
}

/** Writes what a resumed run needs beside the optimizer's state. */
export async function saveRelora(writer: FolderWriter, parts: ReloraParts): Promise<void> {
  const entries = [...stateTensors(parts)].map(([name, tensor]): TensorEntry => ({
    ...{ name, dtype: STORED[tensor.dtype], shape: tensor.shape },
    bytes: async () => {
      const { buffer, byteOffset, byteLength } = await tensor.read();
      return new Uint8Array(buffer, byteOffset, byteLength);
    },
  }));
  await using sink = await writer.create(STATE_FILE);
  await writeSafetensors(sink, entries);
}

/** Puts back what `saveRelora` wrote. @throws RangeError for a file of another model or rank */
export async function restoreRelora(folder: FileFolder, parts: ReloraParts): Promise<void> {
  await using source = await folder.open(STATE_FILE);
  const file = await openSafetensors(source);
  const { tensors } = file;
  const listed = {
    ...{ name: `${folder.name}/${STATE_FILE}`, names: [...tensors.keys()] },
    has: (name: string) => tensors.has(name),
    info: (name: string) => tensors.get(name)!,
  };
  const all = [...stateTensors(parts)];
  checkWeights(listed, new Map(all.map(([name, { shape }]) => [name, { shape }])));
  for (const [name, { shape, dtype, size }, holder] of all) {
    const values = hostArray(dtype, (await file.bytes(name)).slice().buffer, 0, size);
    if (holder === parts.trained) holder.get(name).write(values);
    else holder.replace(name, own(fromArray(holder.backend, values, shape, dtype)));
  }
}
