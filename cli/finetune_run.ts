/** A fine-tuning run from its first step to its report: logs, metrics, evaluations, best model, checkpoints, signals. */
import { foldIn, formatBytes, type Key, keyOf, type Tensor } from "../core/mod.ts";
import { writeFolderDurably } from "./durable.ts";
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
import { diskFullIn, writeOrWarn } from "./full_disk.ts";
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
  await folder.writeConfig({ run: setup.run, trained: setup.method.trained.size, model: setup.subject.config });
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
    const { steps, backend, method, optimizer, subject: { speedUnit } } = this.setup;
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
          if (this.#isLogged(row.step)) this.output.err(formatStep({ ...row, steps, speedUnit }));
        }
        const last: StepRow = rows[rows.length - 1];
        this.#step = last.step;
        this.#tokens = last.tokens;
        const { tokensPerSecond, loss } = last;
        progress.update(last.step, { tokensPerSecond, speedUnit, note: `loss ${loss.toFixed(3)}` });
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
      [isEvery(evalEvery), () => writeOrWarn(() => this.#evaluate(), this.output)],
      [isEvery(run.saveEvery), () => writeOrWarn(() => this.#save(), this.output)],
    ];
    return occasions.filter(([isDue]) => isDue).map(([, occasion]) => occasion);
  }

  async #measure(): Promise<Evaluation> {
    const { subject, method } = this.setup;
    const evaluation = await subject.measure(method.view(), { prompts: method.prompts });
    this.#illustrate = evaluation.illustrate;
    return evaluation;
  }

  /** Measures the model and keeps it where it is the best so far. @throws DiskFullError when there is no room for it */
  async #evaluate(): Promise<void> {
    const step = this.#step;
    const { best, waited, evaluatedAt, isUnwritten } = this.#progress;
    const isKnown = evaluatedAt === step && step > 0;
    if (isKnown && !isUnwritten) return;
    const { loss, scores } = await this.#measure();
    if (!isKnown) this.metrics.append({ step, validationLoss: loss, scores });
    const { name, isHigher } = this.setup.subject.selectBy;
    const isBest = best === undefined ||
      (isHigher ? scores[name] > best.scores[name] : scores[name] < best.scores[name]);
    this.output.err(
      `step ${String(step).padStart(4)} | dev loss ${loss.toFixed(4)}, ${formatScores(scores)}${
        isBest ? ", best" : ""
      }`,
    );
    const full = isBest ? await diskFullIn(() => saveBest(this.folder.path, this.setup)) : undefined;
    this.#progress = {
      best: isBest && !full ? { step, scores } : best,
      waited: isBest ? 0 : waited + 1,
      evaluatedAt: step,
      scores,
      ...full ? { isUnwritten: true } : {},
    };
    if (full) throw full;
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

  /**
   * Last evaluation, checkpoint, report and summary.
   *
   * @throws DiskFullError for the first of them that found no room, once all were tried
   */
  async finish(): Promise<void> {
    const isStopped = this.#stop.stopRequested;
    const evaluate = isStopped ? [] : [() => this.#evaluate()];
    const full = await diskFullIn(...evaluate, () => this.#save(), () => this.#report());
    if (!isStopped) this.#conclude();
    for (const note of await this.setup.method.endNotes?.() ?? []) this.output.err(`note: ${note}`);
    if (full) throw full;
    this.output.err(
      isStopped
        ? `stopped after step ${this.#step}; go on with --resume ${this.folder.path}`
        : `done in ${formatDuration(performance.now() - this.#started)}: ${this.#step} steps; ` +
          `${this.folder.path}/${isWrittenWhole(this.setup) ? BEST : BEST_ADAPTER}, ${this.folder.path}/report.html`,
    );
  }

  /** Tells what the run came to. */
  #conclude(): void {
    if (this.#isOutOfPatience) {
      this.output.err(`stopped early: ${this.#progress.waited} evaluations without a new best`);
    }
    const { best, scores } = this.#progress;
    const parts = [
      ...best ? [`${formatScores(best.scores)} at step ${best.step}`] : [],
      ...this.#facts().map((pair) => pair.join(" ")),
      ...best?.step === this.#step ? [] : [`at the end ${formatScores(scores!)}`],
    ];
    this.output.out(parts.join("; "));
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
    const { best, scores: evaluated } = this.#progress;
    // a report that was illustrated stays so, though nothing was left to evaluate
    if (subject.isIllustrated && evaluated && !this.#illustrate) await this.#measure();
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
      ...{ lossUnit: subject.lossUnit, speedUnit: subject.speedUnit },
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
