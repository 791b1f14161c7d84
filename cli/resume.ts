/**
 * Going on with a run: refusing to call something else the same run.
 *
 * Architecture, dtype, method, optimizer, rank, basis, data, batch, sequence and seed must match. Steps, rates and gaps may be changed with
 * flags; log cadence, threads and paths are free.
 */
import { exists, join, readJsonFile } from "./files.ts";
import { latestCheckpoint, type RunFolder } from "./run_folder.ts";
import type { Run } from "./options.ts";
import type { TrainingSetup } from "./training_setup.ts";

/** What runs did before they wrote these options down. */
const BEFORE = {
  refresh: "together",
  rounding: "stochastic",
  basis: "subspace",
  dtype: "f32",
  method: "full",
  moments: "keep",
  projector: "auto",
  states: "auto",
  stateBlock: 256,
  stateRounding: "safe",
  residual: "orthogonal",
  relativeStep: false,
  scaleParameter: false,
  clipExact: false,
} as const;

/** The options that a run was started with. */
export async function readRun(folder: RunFolder): Promise<Partial<Run>> {
  const config = await readJsonFile(folder.config) as { run?: Partial<Run> } | null;
  if (typeof config?.run === "object") return { ...BEFORE, ...config.run };
  throw new RangeError(`Cannot resume ${folder.path}: it holds no run`);
}

/** What must be the same for a resumed run to be the same run. */
export function identityOf({ run, model, method, data, tokenizer, choice }: TrainingSetup): Record<string, unknown> {
  const { optimizer, projType, basis, refresh, convention, beta1, beta2, momentum, batch, seq, gradAccum } = run;
  const { dtype, rounding, seed, freeze, lazyRefresh, moments, projector, states, stateBlock, stateRounding } = run;
  const { residual, relativeStep, scaleParameter, clipExact } = run;
  return {
    model: model.config,
    optimizer,
    method: run.method,
    rank: choice.rank ?? method.rank ?? null,
    projType,
    basis,
    refresh,
    convention: convention ?? null,
    lazyRefresh: lazyRefresh ?? null,
    moments,
    projector,
    states,
    stateBlock,
    stateRounding,
    residual,
    relativeStep,
    scaleParameter,
    clipExact,
    beta1,
    beta2,
    momentum,
    batch,
    seq,
    gradAccum,
    dtype,
    rounding,
    seed,
    freeze,
    ...(method.lora ? { alpha: run.alpha } : {}),
    tokenizer: tokenizer.hash,
    tokens: data.store.info.tokens,
    holdOut: data.store.info.holdOut,
    data: data.store.info.sources.map(({ sha256 }) => sha256),
  };
}

/** @throws RangeError that lists what differs, before anything is changed. */
export function checkIdentity(
  run: string,
  saved: Readonly<Record<string, unknown>>,
  now: Readonly<Record<string, unknown>>,
): void {
  const differences = differencesOf({ ...BEFORE, lazyRefresh: null, ...saved }, JSON.parse(JSON.stringify(now)));
  if (differences.length > 0) throw new RangeError(`Cannot resume ${run}: the run differs: ${differences.join("; ")}`);
}

function differencesOf(saved: unknown, now: unknown, path = ""): string[] {
  const isObject = (value: unknown): value is Record<string, unknown> => typeof value === "object" && value !== null;
  if (isObject(saved) && isObject(now) && !Array.isArray(saved)) {
    const keys = new Set([...Object.keys(saved), ...Object.keys(now)]);
    return [...keys].flatMap((key) => differencesOf(saved[key], now[key], path ? `${path}.${key}` : key));
  }
  const [before, after] = [JSON.stringify(saved), JSON.stringify(now)];
  return before === after ? [] : [`${path} was ${before}, is ${after}`];
}

/** A model folder, or a run folder's best model, if it keeps one, or its newest checkpoint. */
export async function findModel(path: string): Promise<string> {
  if (await exists(join(path, "best"))) return join(path, "best");
  if (await exists(join(path, "best-adapter"))) {
    throw new RangeError(
      `Cannot use ${path}: it keeps an adapter alone; give its model, and --adapter ${path}/best-adapter`,
    );
  }
  if (!await exists(join(path, "checkpoints"))) return path;
  const { checkpoint, warnings } = await latestCheckpoint(path);
  if (!checkpoint) {
    throw new RangeError(`Cannot use ${path}: it has no checkpoint that verifies ${warnings.join("; ")}`);
  }
  return checkpoint.path;
}
