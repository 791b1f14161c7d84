/** A training run from its first step to its report: logs, metrics, evaluations, samples, checkpoints, signals. */
import type { TrainingState } from "./checkpoint.ts";
import { saveTraining } from "./checkpoint.ts";
import { Batches, CorruptDataError } from "../data/mod.ts";
import { reportBases, type State } from "../optimizers/mod.ts";
import { writeFolderDurably } from "./durable.ts";
import { splitBatches, type TokenRows } from "./evaluation.ts";
import { exists } from "./files.ts";
import { diskFullIn, writeOrWarn } from "./full_disk.ts";
import { formatDuration, formatStep, type Output } from "./log.ts";
import { peakSpeed } from "./matmul_speed.ts";
import { MetricsWriter, readMetrics, type StepRow } from "./metrics.ts";
import { type Baseline, heldOutBaselines } from "./baselines.ts";
import { isMasked, modelFlops } from "./objective.ts";
import { showProgress } from "./progress.ts";
import { writeReport } from "./report.ts";
import { identityOf } from "./resume.ts";
import { checkpointName, createRun, pruneCheckpoints, type RunFolder } from "./run_folder.ts";
import { generateTokens } from "./sampling.ts";
import { StopWatch } from "./signals.ts";
import { parameterRows, reloraParts, saveWeights, type TrainingSetup } from "./training_setup.ts";
import { trainLoop } from "./trainer.ts";

/** Where a run begins: anew, or in the folder and state of an earlier one. */
export interface RunStart {
  readonly folder?: RunFolder;
  readonly resumed?: TrainingState;
}

/** Trains to the end, or to a signal, and leaves a run folder behind. */
export async function runTraining(setup: TrainingSetup, { folder, resumed }: RunStart, output: Output): Promise<void> {
  const { run } = setup;
  const name = `${setup.model.name}-${run.method === "full" ? "" : `${run.method}-`}${run.optimizer}`;
  await inRunFolder({ folder, out: run.out, name }, (opened) => runIn(opened, setup, resumed, output));
}

/** Works in the folder of an earlier start, or in a new one, which does not outlive a run that fails before its first step. */
export async function inRunFolder(
  { folder, out, name }: { readonly folder?: RunFolder; readonly out?: string; readonly name: string },
  work: (folder: RunFolder) => Promise<void>,
): Promise<void> {
  using created = folder ? undefined : await createRun(out, name, new Date());
  try {
    await work(folder ?? created!);
  } catch (error) {
    if (created) await removeUnbegun(created, out === undefined);
    throw error;
  }
}

async function runIn(folder: RunFolder, setup: TrainingSetup, resumed: TrainingState | undefined, output: Output) {
  await folder.writeConfig({ run: setup.run, model: setup.model.config });
  using metrics = await MetricsWriter.open(folder.metrics, { resumeAfterStep: resumed?.step ?? 0 });
  using session = new Session(setup, folder, metrics, output, resumed);
  try {
    await session.train();
  } catch (error) {
    if (error instanceof CorruptDataError) await session.rescue();
    throw error;
  }
  await session.finish();
}

/** A run that failed before its first step leaves nothing, so that the next may have its name. */
async function removeUnbegun(folder: RunFolder, isNamedByUs: boolean): Promise<void> {
  if (!await exists(folder.metrics) || (await readMetrics(folder.metrics)).length > 0) return;
  if (isNamedByUs) return await Deno.remove(folder.path, { recursive: true });
  for (const path of [folder.config, folder.metrics]) await Deno.remove(path);
}

/** One process's part of a run. */
class Session implements Disposable {
  readonly #stop: StopWatch;
  readonly #batches: Batches;
  readonly #started = performance.now();
  #first: TokenRows | undefined;
  #step: number;
  #tokens: number;
  /** Sequences of whole steps; the reader may be ahead by micro-batches. */
  #sequences: number;
  #savedAt = -1;
  #validation: number | undefined;
  #samples: string[] = [];

  constructor(
    readonly setup: TrainingSetup,
    readonly folder: RunFolder,
    readonly metrics: MetricsWriter,
    readonly output: Output,
    resumed?: TrainingState,
  ) {
    const { run, data } = setup;
    this.#step = resumed?.step ?? 0;
    this.#tokens = resumed?.tokens ?? 0;
    this.#sequences = resumed?.sequences ?? 0;
    this.#batches = new Batches(data.path, {
      batch: run.batch,
      seed: run.seed,
      start: { index: run.overfitBatch ? 0 : resumed?.sequences ?? 0 },
    });
    this.#stop = new StopWatch({
      onStop: (signal) => output.err(`${signal}: finishing this step and saving; once more to stop at once`),
    });
    if (resumed) this.#savedAt = this.#step;
  }

  [Symbol.dispose](): void {
    this.#stop[Symbol.dispose]();
    this.#batches[Symbol.dispose]();
  }

  async #nextBatch(): Promise<TokenRows> {
    if (!this.setup.run.overfitBatch) return await this.#batches.next();
    return this.#first ??= await this.#batches.next();
  }

  async train(): Promise<void> {
    const { run, backend, data, objective: { loss } } = this.setup;
    this.output.err(`run       ${this.folder.path}${this.#step > 0 ? `, going on after step ${this.#step}` : ""}`);
    const peak = await peakSpeed(backend) * 1e9;
    using progress = showProgress(this.output, { label: "train", total: run.steps, start: this.#step, plain: false });
    await trainLoop({ ...this.setup, loss, nextBatch: () => this.#nextBatch() }, {
      startStep: this.#step,
      startTokens: this.#tokens,
      steps: run.steps,
      syncDue: (step) => this.#stop.stopRequested || this.#isLogged(step) || this.#occasionsAt(step).length > 0,
      afterSteps: async (rows) => {
        for (const row of rows) {
          this.metrics.append(row);
          if (this.#isLogged(row.step)) this.#log(row, peak);
        }
        const last = rows[rows.length - 1];
        this.#step = last.step;
        this.#tokens = last.tokens;
        this.#sequences = last.tokens / data.store.info.seq;
        progress.update(last.step, { tokensPerSecond: last.tokensPerSecond, note: `loss ${last.loss.toFixed(3)}` });
        for (const occasion of this.#occasionsAt(last.step)) await occasion();
        return this.#stop.stopRequested;
      },
    });
  }

  #isLogged(step: number): boolean {
    return step % this.setup.run.logEvery === 0 || step === 1;
  }

  #log(row: StepRow, peak: number): void {
    const { model, run, method: { weights, frozen } } = this.setup;
    const { tokensPerSecond } = row;
    const mfu = modelFlops(model.config, { seq: run.seq, tokensPerSecond, weights, frozen }) / peak;
    this.output.err(formatStep({ ...row, steps: run.steps, mfu }));
  }

  /** What is due after a step, in order; the end has its own. */
  #occasionsAt(step: number): (() => Promise<void>)[] {
    const { run: { evalEvery, sampleEvery, saveEvery, steps }, restarts, optimizer } = this.setup;
    if (step === steps) return [];
    const isEvery = (every: number) => every > 0 && step % every === 0;
    const occasions: [boolean | undefined, () => Promise<void>][] = [
      [restarts?.isDue(step), async () => this.#tell(await restarts!.run(reloraParts(this.setup)!, step, optimizer))],
      [isEvery(evalEvery), () => this.#evaluate()],
      [isEvery(sampleEvery), () => this.#sample()],
      [isEvery(saveEvery), () => writeOrWarn(() => this.#save(), this.output)],
    ];
    return occasions.filter(([isDue]) => isDue).map(([, run]) => run);
  }

  async #evaluate(): Promise<void> {
    const { run, data, objective } = this.setup;
    if (!data.store.splits.includes("validation")) return;
    const rows = data.store.split("validation").rows;
    const options = { split: "validation" as const, batch: run.batch, batches: run.evalBatches };
    const { loss } = await objective.evaluate(splitBatches(data.path, rows, options));
    this.#validation = loss;
    this.metrics.append({ step: this.#step, validationLoss: loss });
    this.#tell(`held-out loss ${loss.toFixed(4)} ${this.#unit}`);
  }

  #tell(what: string): void {
    this.output.err(`step ${String(this.#step).padStart(4)} | ${what}`);
  }

  get #unit(): string {
    const { model, tokenizer } = this.setup;
    const what = /^(masked-)?byte$/.test(tokenizer.name) ? "byte" : "token";
    return `nats a ${isMasked(model.config) ? "hidden " : ""}${what}`;
  }

  async #save(): Promise<void> {
    if (this.#savedAt === this.#step) return;
    const { optimizer, backend, run } = this.setup;
    const path = await writeFolderDurably(this.folder.checkpoints, checkpointName(this.#step), async (writer) => {
      await saveWeights(writer, this.setup);
      await saveTraining(writer, optimizer, {
        step: this.#step,
        sequences: this.#sequences,
        tokens: this.#tokens,
        kernelPath: backend.kernelPath,
        identity: identityOf(this.setup),
      });
    });
    this.#savedAt = this.#step;
    await pruneCheckpoints(this.folder.path, run.keep);
    this.output.err(`saved ${path}`);
  }

  /** Data that cannot be read costs no step: what is trained is saved, to go on from once the data is mended. */
  async rescue(): Promise<void> {
    this.setup.optimizer.discard();
    if (this.#step > 0) await this.#save();
  }

  async #sample(): Promise<void> {
    const { backend, view, model, tokenizer, run } = this.setup;
    if (run.sampleTokens === 0 || isMasked(model.config)) return;
    const prompt = await this.#prompt();
    const ids = [...prompt];
    const options = { tokens: run.sampleTokens, temperature: 0.6, topK: 0, seed: run.seed };
    for await (const token of generateTokens(backend, view, model.config, prompt, options)) ids.push(token);
    const text = tokenizer.decode(ids);
    this.#samples.push(text);
    this.output.err(`sample after step ${this.#step}:`);
    this.output.out(text);
  }

  /** The prompt asked for, else the first 32 tokens of held-out (or training) text. */
  async #prompt(): Promise<Uint32Array> {
    const { run, tokenizer, data } = this.setup;
    if (run.prompt !== undefined) return tokenizer.encode(run.prompt);
    const split = data.store.splits.includes("validation") ? "validation" : "train";
    const row = await data.store.split(split).readRows(0, 1);
    return row.slice(0, Math.min(32, run.seq));
  }

  /** What bases went through, where there is something to tell. */
  #tellBases(): void {
    const states = [...this.setup.optimizer.snapshot().leaves.values()].map(({ state }) => state as State);
    const { skipped, overlap } = reportBases(states);
    if (skipped > 0) this.output.err(`warning: ${skipped} renewals found no basis and kept the one before`);
    if (overlap !== undefined) {
      this.output.err(`bases     ${(100 * overlap).toFixed(0)}% of a subspace was kept at the last renewals`);
    }
  }

  /**
   * Last checkpoint, evaluation, sample, report and summary.
   *
   * @throws DiskFullError for the first of them that found no room, once all were tried
   */
  async finish(): Promise<void> {
    const isStopped = this.#stop.stopRequested;
    this.#tellBases();
    const full = await diskFullIn(() => this.#save(), () => isStopped ? this.#report([]) : this.#conclude());
    if (full) throw full;
    this.output.err(
      isStopped
        ? `stopped after step ${this.#step}; go on with --resume ${this.folder.path}`
        : `done in ${formatDuration(performance.now() - this.#started)}: ${this.#step} steps, ` +
          `${this.#tokens.toLocaleString("en-US")} tokens; ${this.folder.path}/report.html`,
    );
  }

  /** Tells what the run came to. */
  async #conclude(): Promise<void> {
    await this.#evaluate();
    const baselines = await heldOutBaselines(this.setup.data);
    if (this.#validation !== undefined) {
      const others = baselines.map(({ name, nats }) => `${name} ${nats.toFixed(3)}`).join(", ");
      this.output.out(
        `held-out loss ${this.#validation.toFixed(3)} ${this.#unit}` +
          (others ? ` (same text: ${others})` : `, perplexity ${Math.exp(this.#validation).toFixed(2)}`),
      );
    }
    await this.#sample();
    await this.#report(baselines);
  }

  async #report(baselines: readonly Baseline[]): Promise<void> {
    const { run, model, method, params, base = params, backend, choice } = this.setup;
    const [head, ...body] = parameterRows(this.setup);
    const factors = run.method === "full" ? "" : `, ${method.words}`;
    const rank = choice.rank === undefined ? factors : `, rank ${choice.rank}`;
    await writeReport(this.folder.report, {
      title: this.folder.name,
      subtitle: `${model.name}, ${base.size.toLocaleString("en-US")} weights, ${run.optimizer}${rank}, ` +
        `batch ${run.batch * run.gradAccum} x ${run.seq}, on ${run.data.join(", ")}`,
      rows: await readMetrics(this.folder.metrics),
      lossUnit: `loss, ${this.#unit}`,
      config: { run, model: model.config },
      baselines: baselines.map(({ name, nats }) => ({ name, loss: nats })),
      samples: this.#samples.map((text) => ({ text })),
      tables: [{ title: "Which parameter gets what", head, rows: body, align: "lrllrr" }],
      footer: `Made by Lowrank with ${backend.summary}, ${new Date().toISOString().slice(0, 10)}.`,
    });
  }
}
