/**
 * A run's folder: `config.json`, `metrics.jsonl`, `checkpoints/step-N/`, `report.html`, and `.lock`, which one trainer
 * holds. Refuses to mix two runs in one folder. What a checkpoint holds is `checkpoint.ts`'s, how it survives a crash
 * `durable.ts`'s.
 */
import {
  makeFolderDurably,
  namesIn,
  removeFolderDurably,
  removeLeftovers,
  verifyFolder,
  writeFileDurably,
} from "./durable.ts";
import { baseName, exists, folderOf, join, readJsonFile } from "./files.ts";

/** Where runs lie when `--out` does not say. */
export const RUNS = "runs";

/** Paths within a run, locked by this process until disposed. */
export class RunFolder implements Disposable {
  readonly name: string;
  readonly config: string;
  readonly metrics: string;
  readonly checkpoints: string;
  readonly report: string;
  readonly #lock: Deno.FsFile;

  private constructor(readonly path: string, lock: Deno.FsFile) {
    this.#lock = lock;
    this.name = baseName(path);
    this.config = join(path, "config.json");
    this.metrics = join(path, "metrics.jsonl");
    this.checkpoints = join(path, "checkpoints");
    this.report = join(path, "report.html");
  }

  /** Takes the lock of a folder that is there. @throws RunError when another trainer holds it. */
  static async lock(path: string): Promise<RunFolder> {
    const lock = await Deno.open(join(path, ".lock"), { create: true, write: true, read: true });
    if (await lock.tryLock(true)) return new RunFolder(path, lock);
    lock.close();
    throw new RunError(
      `Cannot train in ${path}: another trainer is at work there; wait for it, or choose another --out`,
    );
  }

  /** Writes `config.json`, whole or not at all. */
  async writeConfig(config: unknown): Promise<void> {
    await writeFileDurably(this.config, JSON.stringify(config, null, 2) + "\n");
  }

  [Symbol.dispose](): void {
    this.#lock.close(); // which also unlocks
  }
}

/** A run's folder cannot be had. */
export class RunError extends Error {
  override readonly name = "RunError";
}

/**
 * Makes and locks the folder of a new run: `path`, or `runs/NAME-YYYYMMDD-HHMMSS`.
 *
 * @throws RunError when there is a run in `path` already
 */
export async function createRun(path: string | undefined, name: string, now: Date): Promise<RunFolder> {
  if (path === undefined) return await createNamed(join(RUNS, `${fileName(name)}-${stamp(now)}`));
  await checkUnused(path);
  await makeFolderDurably(path);
  const run = await RunFolder.lock(path);
  try {
    await checkUnused(path);
    return run;
  } catch (error) {
    run[Symbol.dispose]();
    throw error;
  }
}

/** @throws RunError when a run cannot begin in `path`: it holds one, or is a file. */
export async function checkUnused(path: string): Promise<void> {
  if (await isFile(path)) throw new RunError(`Cannot start a run in ${path}: it is a file; choose another --out`);
  const used = await usedBy(path);
  if (used === undefined) return;
  throw new RunError(`Cannot start a run in ${path}: it has ${used}; add --resume ${path}, or choose another --out`);
}

async function isFile(path: string): Promise<boolean> {
  return await exists(path) && (await Deno.stat(path)).isFile;
}

/** Two runs that start within a second get two folders. */
async function createNamed(path: string): Promise<RunFolder> {
  await makeFolderDurably(folderOf(path));
  for (let attempt = 1;; attempt++) {
    const candidate = attempt === 1 ? path : `${path}-${attempt}`;
    try {
      await Deno.mkdir(candidate);
    } catch (error) {
      if (error instanceof Deno.errors.AlreadyExists) continue;
      throw error;
    }
    return await RunFolder.lock(candidate);
  }
}

async function usedBy(path: string): Promise<string | undefined> {
  if (await exists(join(path, "metrics.jsonl"))) return "metrics.jsonl";
  return (await listCheckpoints(path)).length > 0 ? "checkpoints" : undefined;
}

/**
 * Finds and locks a run to go on with: a run's folder, one of its checkpoints, or, for `undefined` and `latest`, the run
 * in `runs/` with the newest checkpoint. Clears what a trainer that died has left.
 *
 * @throws RunError when there is none
 */
export async function resumeRun(path?: string): Promise<RunFolder> {
  const found = path === undefined || path === "latest" ? await latestRun(RUNS) : await runOf(path);
  const run = await RunFolder.lock(found);
  await removeLeftovers(run.checkpoints);
  await removeLeftovers(run.path);
  return run;
}

/**
 * What the run that a folder is, or lies in, says of itself: a run's folder, its `best`, `best-adapter` or a checkpoint.
 * Undefined for any other folder.
 */
export async function configOfRun(folder: string): Promise<Readonly<Record<string, unknown>> | undefined> {
  for (const path of [folder, isCheckpoint(folder) ? folderOf(folderOf(folder)) : folderOf(folder)]) {
    const config = join(path, "config.json");
    if (!await exists(config)) continue;
    // what lies above a folder that is no run's is nobody's business
    const json = await readJsonFile(config).catch(() => undefined) as
      | Readonly<Record<string, unknown>>
      | null
      | undefined;
    if (typeof json?.run === "object" && json.run !== null) return json;
  }
  return undefined;
}

async function runOf(path: string): Promise<string> {
  if ((await usedBy(path)) !== undefined || await exists(join(path, "config.json")) && !isCheckpoint(path)) return path;
  const above = isCheckpoint(path) ? folderOf(folderOf(path)) : undefined;
  if (above !== undefined && await exists(path)) return above;
  const why = await exists(path) ? "it holds no run" : "there is no such folder";
  throw new RunError(`Cannot resume ${path}: ${why}`);
}

function isCheckpoint(path: string): boolean {
  return stepOf(baseName(path)) !== undefined && baseName(folderOf(path)) === "checkpoints";
}

async function latestRun(runs: string): Promise<string> {
  let latest: { path: string; time: number } | undefined;
  for (const name of await namesIn(runs)) {
    const path = join(runs, name);
    const [newest] = await listCheckpoints(path);
    if (!newest) continue;
    const time = (await Deno.stat(newest.path)).mtime?.getTime() ?? 0;
    if (!latest || time >= latest.time) latest = { path, time };
  }
  if (latest) return latest.path;
  throw new RunError(`Cannot resume: no run in ${runs}/ has a checkpoint; name one with --resume FOLDER`);
}

/** A checkpoint's place in its run. */
export interface CheckpointFolder {
  readonly step: number;
  readonly path: string;
}

/** Folder name of a step's checkpoint. */
export function checkpointName(step: number): string {
  return `step-${step}`;
}

function stepOf(name: string): number | undefined {
  const [, digits] = /^step-(0|[1-9]\d{0,14})$/.exec(name) ?? [];
  return digits === undefined ? undefined : Number(digits);
}

/** Checkpoints of a run, newest first, whether they verify or not. */
export async function listCheckpoints(run: string): Promise<CheckpointFolder[]> {
  const folder = join(run, "checkpoints");
  const found = (await namesIn(folder)).map((name) => ({ step: stepOf(name), path: join(folder, name) }));
  return found.filter((entry): entry is CheckpointFolder => entry.step !== undefined).sort((a, b) => b.step - a.step);
}

/** The checkpoint to go on from. */
export interface LatestCheckpoint {
  /** Undefined where no checkpoint verifies. */
  readonly checkpoint: CheckpointFolder | undefined;
  /** One line for each newer checkpoint that was passed over. */
  readonly warnings: readonly string[];
}

/** The newest checkpoint that verifies: every byte with `hashes` (the default), else lengths only. */
export async function latestCheckpoint(run: string, { hashes = true } = {}): Promise<LatestCheckpoint> {
  const warnings: string[] = [];
  for (const checkpoint of await listCheckpoints(run)) {
    const { problems } = await verifyFolder(checkpoint.path, { hashes });
    if (problems.length === 0) return { checkpoint, warnings };
    warnings.push(`passing over ${checkpoint.path}: ${problems.join("; ")}`);
  }
  return { checkpoint: undefined, warnings };
}

/**
 * Removes all but the newest `keep` checkpoints, counting only those that verify, so that the last good one stays
 * whatever else there is. Returns the steps that were removed.
 */
export async function pruneCheckpoints(run: string, keep: number): Promise<number[]> {
  if (!(keep >= 1)) throw new RangeError(`Cannot keep ${keep} checkpoints: expected at least 1`);
  const removed: number[] = [];
  let good = 0;
  for (const { step, path } of await listCheckpoints(run)) {
    if (good >= keep) {
      await removeFolderDurably(path);
      removed.push(step);
    } else if ((await verifyFolder(path, { hashes: false })).problems.length === 0) {
      good++;
    }
  }
  return removed;
}

/** A name as part of a path: whatever is no letter, digit, dot, dash or underscore becomes a dash. */
function fileName(name: string): string {
  return name.replace(/[^\w.-]+/g, "-").replace(/^[.-]+|-+$/g, "") || "run";
}

function stamp(now: Date): string {
  const pad = (value: number, width = 2) => String(value).padStart(width, "0");
  const date = pad(now.getFullYear(), 4) + pad(now.getMonth() + 1) + pad(now.getDate());
  return `${date}-${pad(now.getHours())}${pad(now.getMinutes())}${pad(now.getSeconds())}`;
}
