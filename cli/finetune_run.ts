/** A fine-tuning run from its first step to its report: logs, metrics, evaluations, best model, checkpoints, signals. */
import { foldIn, formatBytes, type Key, keyOf, type Tensor } from "../core/mod.ts";
import { DiskFullError, writeFolderDurably } from "./durable.ts";
import {
  BEST,
  BEST_ADAPTER,
  type FinetuneProgress,
  type FinetuneState,
  isWrittenWhole,
  saveBest,
  saveCheckpoint,
} from "./finetune_checkpoint.ts";
import { sizeInWords } from "./finetune_method_options.ts";
import { finetuneIdentity, type FinetuneSetup } from "./finetune_setup.ts";
import { EpochBatches, type Evaluation, type SubjectRows } from "./finetune_subject.ts";
import { formatDuration, formatStep, type Output } from "./log.ts";
import { stateBytesOf } from "./memory_plan.ts";
import { isStepRow, MetricsWriter, readMetrics } from "./metrics.ts";
import { showProgress } from "./progress.ts";
import { writeReport } from "./report.ts";
import { checkpointName, pruneCheckpoints, type RunFolder } from "./run_folder.ts";
import { StopWatch } from "./signals.ts";
import { type StepRow, trainLoop } from "./trainer.ts";
import { inRunFolder } from "./training_run.ts";
import { parameterRows } from "./training_setup.ts";

/** Where a run begins: anew, or in the folder and state of an earlier one. */
export interface FinetuneStart {
  readonly folder?: RunFolder;
  readonly resumed?: FinetuneState;
}

/** Trains to the end, to a signal or until patience is at an end, and leaves a run folder behind. */
export async function runFinetune(
  setup: FinetuneSetup,
  { folder, resumed }: FinetuneStart,
  output: Output,
): Promise<void> {
  const { run, modelName } = setup;
  const name = `${modelName}-${run.task}-${run.method}`;
  await inRunFolder({ folder, out: run.out, name }, (opened) => runIn(opened, setup, resumed, output));
}

async function runIn(folder: RunFolder, setup: FinetuneSetup, resumed: FinetuneState | undefined, output: Output) {
  await folder.writeConfig({ run: setup.run, model: setup.subject.config });
  using metrics = await MetricsWriter.open(folder.metrics, { resumeAfterStep: resumed?.step ?? 0 });
  await using session = new Session(setup, folder, metrics, output, resumed);
  await session.train();
  await session.finish();
}

/** One process's part of a run. */
class Session implements AsyncDisposable {
  readonly #stop: StopWatch;
  readonly #batches: EpochBatches;
  readonly #dropoutKey: Key;
  readonly #started = performance.now();
  #step: number;
  #tokens: number;
  #progress: FinetuneProgress;
  #savedAt = -1;
  /** Of the last evaluation. */
  #illustrate: Evaluation["illustrate"];
  /** Examples and milliseconds of this process's steps. */
  #examples = 0;
  #stepMs = 0;

  constructor(
    readonly setup: FinetuneSetup,
    readonly folder: RunFolder,
    readonly metrics: MetricsWriter,
    readonly output: Output,
    resumed?: FinetuneState,
  ) {
    const { run, subject } = setup;
    this.#step = resumed?.step ?? 0;
    this.#tokens = resumed?.tokens ?? 0;
    this.#progress = resumed?.progress ?? { waited: 0, evaluatedAt: 0 };
    if (resumed) this.#savedAt = this.#step;
    this.#batches = new EpochBatches(subject, this.#step * run.gradAccum);
    this.#dropoutKey = foldIn(keyOf(run.seed), "dropout");
    this.#stop = new StopWatch({
      onStop: (signal) => output.err(`${signal}: finishing this step and saving; once more to stop at once`),
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop[Symbol.dispose]();
    await this.#batches[Symbol.asyncDispose]();
  }

  async train(): Promise<void> {
    const { steps, backend, method, optimizer } = this.setup;
    this.output.err(`run       ${this.folder.path}${this.#step > 0 ? `, going on after step ${this.#step}` : ""}`);
    if (this.#isOutOfPatience) return;
    using progress = showProgress(this.output, { label: "finetune", total: steps, start: this.#step, plain: false });
    await trainLoop<SubjectRows>({
      ...{ backend, params: method.trained, optimizer },
      nextBatch: async () => {
        const rows = await this.#batches.next();
        this.#examples += rows.batch;
        return rows;
      },
      loss: (rows) => this.#loss(rows),
    }, {
      startStep: this.#step,
      startTokens: this.#tokens,
      steps,
      syncDue: (step) => this.#stop.stopRequested || this.#isLogged(step) || this.#occasionsAt(step).length > 0,
      afterSteps: async (rows) => {
        for (const row of rows) {
          this.metrics.append(row);
          this.#stepMs += row.stepMs;
          if (this.#isLogged(row.step)) this.output.err(formatStep({ ...row, steps }));
        }
        const last: StepRow = rows[rows.length - 1];
        this.#step = last.step;
        this.#tokens = last.tokens;
        progress.update(last.step, { tokensPerSecond: last.tokensPerSecond, note: `loss ${last.loss.toFixed(3)}` });
        for (const occasion of this.#occasionsAt(last.step)) await occasion();
        return this.#stop.stopRequested || this.#isOutOfPatience;
      },
    });
  }

  /** The loss of a batch. Its dropout is a function of seed and place in the run. */
  #loss(rows: SubjectRows): Tensor {
    const { subject, method, run } = this.setup;
    const dropoutKey = foldIn(this.#dropoutKey, rows.index);
    const { prompts } = method;
    return subject.loss(method.view(dropoutKey), rows, { dropoutKey, recompute: run.checkpointActivations, prompts });
  }

  get #isOutOfPatience(): boolean {
    const { patience } = this.setup.run;
    return patience > 0 && this.#progress.waited >= patience;
  }

  #isLogged(step: number): boolean {
    return step % this.setup.run.logEvery === 0 || step === 1;
  }

  /** What is due after a step, in order: a checkpoint knows of the evaluation. The end has its own. */
  #occasionsAt(step: number): (() => Promise<void>)[] {
    const { steps, evalEvery, run, method, optimizer } = this.setup;
    if (step === steps) return [];
    const isEvery = (every: number) => every > 0 && step % every === 0;
    const occasions: [boolean | undefined, () => Promise<void>][] = [
      [
        method.occasion?.isDue(step),
        async () => this.output.err(`step ${step} | ${await method.occasion!.run(step, optimizer)}`),
      ],
      [isEvery(evalEvery), () => this.#evaluate()],
      [isEvery(run.saveEvery), () => this.#saveOrWarn()],
    ];
    return occasions.filter(([isDue]) => isDue).map(([, occasion]) => occasion);
  }

  /** Measures the model and keeps it where it is the best so far. */
  async #evaluate(): Promise<void> {
    if (this.#progress.evaluatedAt === this.#step && this.#step > 0) return;
    const { subject, method } = this.setup;
    const evaluation = await subject.measure(method.view(), { prompts: method.prompts });
    const { loss, scores } = evaluation;
    this.#illustrate = evaluation.illustrate;
    const step = this.#step;
    this.metrics.append({ step, validationLoss: loss, scores });
    const { best, waited } = this.#progress;
    const { name, isHigher } = subject.selectBy;
    const isBest = best === undefined ||
      (isHigher ? scores[name] > best.scores[name] : scores[name] < best.scores[name]);
    this.output.err(
      `step ${String(step).padStart(4)} | dev loss ${loss.toFixed(4)}, ${formatScores(scores)}${
        isBest ? ", best" : ""
      }`,
    );
    if (isBest) await saveBest(this.folder.path, this.setup);
    this.#progress = {
      best: isBest ? { step, scores } : best,
      waited: isBest ? 0 : waited + 1,
      evaluatedAt: step,
      scores,
    };
  }

  /** A full disk costs a checkpoint, not the run. */
  async #saveOrWarn(): Promise<void> {
    try {
      await this.#save();
    } catch (error) {
      if (!(error instanceof DiskFullError)) throw error;
      this.output.err(`warning: ${error.message}; training goes on`);
    }
  }

  async #save(): Promise<void> {
    if (this.#savedAt === this.#step) return;
    const { optimizer, backend, run } = this.setup;
    const path = await writeFolderDurably(
      this.folder.checkpoints,
      checkpointName(this.#step),
      (writer) =>
        saveCheckpoint(writer, this.setup.method, optimizer, {
          step: this.#step,
          sequences: this.#step * run.gradAccum * run.batch,
          tokens: this.#tokens,
          kernelPath: backend.kernelPath,
          identity: finetuneIdentity(this.setup),
          progress: this.#progress,
        }),
    );
    this.#savedAt = this.#step;
    await pruneCheckpoints(this.folder.path, run.keep);
    this.output.err(`saved ${path}`);
  }

  /** Last evaluation, checkpoint, report and summary. */
  async finish(): Promise<void> {
    if (this.#stop.stopRequested) {
      await this.#save();
      await this.#report();
      this.output.err(`stopped after step ${this.#step}; go on with --resume ${this.folder.path}`);
      return;
    }
    await this.#evaluate();
    await this.#save();
    await this.#report();
    if (this.#isOutOfPatience) {
      this.output.err(`stopped early: ${this.#progress.waited} evaluations without a new best`);
    }
    this.output.out(this.#summary());
    this.output.err(
      `done in ${formatDuration(performance.now() - this.#started)}: ${this.#step} steps; ` +
        `${this.folder.path}/${isWrittenWhole(this.setup) ? BEST : BEST_ADAPTER}, ${this.folder.path}/report.html`,
    );
  }

  #summary(): string {
    const { best, scores } = this.#progress;
    return [`${formatScores(best!.scores)} at step ${best!.step}`, ...this.#facts().map((pair) => pair.join(" "))]
      .concat(best!.step === this.#step ? [] : [`at the end ${formatScores(scores!)}`]).join("; ");
  }

  #facts(): [string, string][] {
    const { subject, method, optimizer, base } = this.setup;
    const { optimizerBytes, projectorBytes } = stateBytesOf(optimizer);
    const trained = method.trained.size;
    const all = method.hasAdapter ? base.size : trained;
    const speed = this.#stepMs > 0 ? [[`${subject.unit}/s`, (this.#examples / this.#stepMs * 1000).toFixed(1)]] : [];
    return [
      ["trained parameters", `${trained.toLocaleString("en-US")} (${(100 * trained / all).toFixed(2)}%)`],
      ["optimizer", formatBytes(optimizerBytes + projectorBytes)],
      ...speed as [string, string][],
    ];
  }

  async #report(): Promise<void> {
    const { run, subject, method, choice, optimizer, backend } = this.setup;
    const rows = await readMetrics(this.folder.metrics);
    const { best } = this.#progress;
    const [head, ...body] = parameterRows({
      ...{ choice, optimizer, method, params: method.trained },
      run: { ...run, dtype: "f32" },
    });
    const scores = best ? Object.entries(best.scores).map(([name, value]) => [name, value.toFixed(4)] as const) : [];
    await writeReport(this.folder.report, {
      title: this.folder.name,
      subtitle: `${this.setup.modelName} on ${subject.task} with ${run.method}, ${run.optimizer}${sizeInWords(run)}, ` +
        `batch ${run.batch * run.gradAccum}, ${subject.words.data}`,
      rows,
      config: { run, model: subject.config },
      lossUnit: subject.lossUnit,
      facts: [
        ...scores,
        ...best ? [["best step", String(best.step)] as const] : [],
        ["steps", String(rows.filter(isStepRow).length)],
        ...this.#facts(),
      ],
      ...await this.#illustrate?.(),
      tables: [{ title: "Which parameter gets what", head, rows: body, align: "lrllrr" }],
      footer: `Made by Lowrank with ${backend.summary}, ${new Date().toISOString().slice(0, 10)}.`,
    });
  }
}

function formatScores(scores: Readonly<Record<string, number>>): string {
  return Object.entries(scores).map(([name, value]) => `${name} ${value.toFixed(4)}`).join(", ");
}
