/**
 * The runs of a study: each a process of `train` with a few threads, several side by side. A run that was interrupted is
 * resumed from its checkpoint; one that fails is recorded with its message; its checkpoints go once its figures are read.
 */
import { fileURLToPath } from "node:url";
import { openSafetensors } from "../../models/mod.ts";
import { FileFolder } from "../files.ts";
import { formatDuration } from "../log.ts";
import { isStepRow, readMetrics } from "../metrics.ts";
import { checkpointName, listCheckpoints } from "../run_folder.ts";
import type { Job, Result, Results } from "./study_results.ts";

const MAIN = fileURLToPath(new URL("../main.ts", import.meta.url));

/** How runs are started. */
export interface RunnerOptions {
  /** Processes at a time. */
  readonly jobs: number;
  /** Threads of each. */
  readonly threads: number;
  readonly blas: string;
  /** Runs again what failed before. */
  readonly retry: boolean;
  readonly log: (line: string) => void;
}

/** Does jobs and remembers what they came to. Stops on SIGINT and SIGTERM, once its processes have saved. */
export class Runner implements Disposable {
  readonly #children = new Set<Deno.ChildProcess>();
  readonly #signals: readonly Deno.Signal[] = Deno.build.os === "windows" ? ["SIGINT"] : ["SIGINT", "SIGTERM"];
  #stopping = false;
  readonly #onSignal = () => {
    if (!this.#stopping) this.options.log("stopping: the runs save what they have; start the same study to go on");
    this.#stopping = true;
    for (const child of this.#children) stop(child); // the second time, without saving
  };

  constructor(readonly results: Results, readonly options: RunnerOptions) {
    for (const signal of this.#signals) Deno.addSignalListener(signal, this.#onSignal);
  }

  [Symbol.dispose](): void {
    for (const signal of this.#signals) Deno.removeSignalListener(signal, this.#onSignal);
  }

  get isStopping(): boolean {
    return this.#stopping;
  }

  /** Does the jobs that are not done yet. True when all are. */
  async run(jobs: readonly Job[]): Promise<boolean> {
    const waiting: Job[] = [];
    for (const job of jobs) {
      const known = this.results.find(job);
      if (!known || known.failure !== undefined && this.options.retry) waiting.push(job);
      else if (!this.results.all().includes(known)) this.results.add(known); // had under another name
    }
    const total = waiting.length;
    let done = 0;
    const work = async () => {
      for (let job = waiting.shift(); job && !this.#stopping; job = waiting.shift()) {
        const result = await this.#runOne(job);
        if (!result) continue;
        this.results.add(result);
        const what = `${job.method}, rate ${job.rate}, seed ${job.seed}`;
        const came = result.failure ?? `${result.loss!.toFixed(4)} nats`;
        this.options.log(`[${++done}/${total}] ${what}: ${came} (${formatDuration(result.seconds * 1000)})`);
      }
    };
    await Promise.all(Array.from({ length: this.options.jobs }, work));
    return !this.#stopping;
  }

  /** Undefined for a run that was stopped before its end. */
  async #runOne(job: Job): Promise<Result | undefined> {
    const started = performance.now();
    const folder = `${this.results.folder}/${folderName(job)}`;
    let ended: Ended | undefined;
    if ((await listCheckpoints(folder)).length > 0) {
      ended = await this.#start(["--resume", folder, ...this.#here()]);
      if (this.#stopping) return undefined;
    }
    if (ended?.code !== 0) {
      await Deno.remove(folder, { recursive: true }).catch(ignoreMissing);
      ended = await this.#start(["--out", folder, ...this.#flagsOf(job), ...this.#here()]);
      if (this.#stopping) return undefined;
    }
    const { threads, jobs } = this.options;
    const facts = { seconds: (performance.now() - started) / 1000, date: new Date().toISOString(), jobs, threads };
    const common = { ...job, setting: this.results.setting, ...facts };
    try {
      if (ended.code !== 0) throw new Error(ended.err.trim().split("\n").pop() || `exit code ${ended.code}`);
      const figures = await readFigures(folder, this.results.setting.steps, ended.err);
      await Deno.remove(`${folder}/checkpoints`, { recursive: true });
      return { ...common, ...figures };
    } catch (error) {
      return { ...common, failure: (error as Error).message };
    }
  }

  #flagsOf({ flags, rate, seed }: Job): string[] {
    const { model, batch, seq, steps, data } = this.results.setting;
    return [
      ...["--model", model, "--data", data, "--batch", `${batch}`, "--seq", `${seq}`, "--steps", `${steps}`],
      ...[...flags, "--lr", `${rate}`, "--seed", `${seed}`, "--eval-every", "0", "--log-every", "100"],
      "--sample-tokens",
      "0",
    ];
  }

  /** What may differ between a run and its resumption. */
  #here(): string[] {
    const { threads, blas } = this.options;
    return ["--device", this.results.setting.device, "--threads", `${threads}`, "--blas", blas, "--autotune", "off"];
  }

  async #start(flags: readonly string[]): Promise<Ended> {
    const args = ["run", "-A", MAIN, "train", ...flags];
    // in a group of its own, so that the terminal's Ctrl-C reaches it once, through us
    const command = new Deno.Command(Deno.execPath(), { args, stdout: "null", stderr: "piped", detached: true });
    const child = command.spawn();
    this.#children.add(child);
    if (this.#stopping) stop(child);
    try {
      const { code, stderr } = await child.output();
      return { code, err: new TextDecoder().decode(stderr) };
    } finally {
      this.#children.delete(child);
    }
  }
}

interface Ended {
  readonly code: number;
  readonly err: string;
}

function stop(child: Deno.ChildProcess): void {
  try {
    child.kill("SIGINT");
  } catch {
    // it has just ended
  }
}

function folderName({ study, method, rate, seed }: Job): string {
  return `${study}-${method.replace(/\W+/g, "-")}-${rate}-${seed}`;
}

function ignoreMissing(error: unknown): void {
  if (!(error instanceof Deno.errors.NotFound)) throw error;
}

/** What a finished run's folder and its messages tell. @throws Error for a run without a last evaluation */
async function readFigures(folder: string, steps: number, messages: string) {
  const rows = await readMetrics(`${folder}/metrics.jsonl`);
  const loss = rows.flatMap((row) => isStepRow(row) || row.step !== steps ? [] : [row.validationLoss]).pop();
  if (loss === undefined || !Number.isFinite(loss)) throw new Error(`the held-out loss is ${loss ?? "missing"}`);
  const trained = rows.filter(isStepRow);
  const speeds = trained.map(({ tokensPerSecond }) => tokensPerSecond).sort((a, b) => a - b);
  const checkpoint = new FileFolder(`${folder}/checkpoints/${checkpointName(steps)}`);
  await using source = await checkpoint.open("optimizer.safetensors");
  const { tensors } = await openSafetensors(source);
  const state = JSON.parse(await checkpoint.text("state.json")) as { kernelPath: string };
  return {
    loss,
    perplexity: Math.exp(loss),
    weights: Number(/^model .*: ([\d,]+) weights/m.exec(messages)?.[1].replaceAll(",", "")),
    stateBytes: [...tensors.values()].reduce((sum, { begin, end }) => sum + end - begin, 0),
    tokensPerSecond: speeds[speeds.length >> 1],
    tokens: trained[trained.length - 1].tokens,
    device: /^device +(.*)$/m.exec(messages)?.[1],
    kernelPath: state.kernelPath,
  };
}
