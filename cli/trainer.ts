/**
 * The training loop: draw a batch, run it forward and backward, renew bases when due, commit, and see to it that nothing
 * that is not finite reaches the weights. What to print, save and evaluate is the caller's: it gets rows of steps.
 *
 * Two modes, by the optimizer. *Checked*: the host reads loss and norms before each commit, and gives a row a step. *Guarded*,
 * where reading is dear: the device keeps the weights clean by itself, a step only enqueues, and at a sync point all
 * steps since the last one are read at once and given as rows.
 *
 * A step is synchronous between its awaits, and the loop yields a macrotask after each, so that signals, timers and
 * reader workers are served.
 */
import { type Backend, backward, type Params, scope, type Tensor } from "../core/mod.ts";
import type { Optimizer } from "../optimizers/mod.ts";
import type { TokenRows } from "./evaluation.ts";
import { badGradient, badLoss, NonFiniteError } from "./nonfinite.ts";
import { PendingSteps } from "./pending_steps.ts";

export { NonFiniteError };

/** What a step did. */
export interface StepRow {
  readonly step: number;
  /** Mean loss of the micro-batches: in nats a token, or whatever the model's loss is in. */
  readonly loss: number;
  readonly lr: number;
  readonly gradNorm: number;
  /** Tokens trained on so far. */
  readonly tokens: number;
  readonly tokensPerSecond: number;
  /** In guarded mode, the mean of the steps that were read together. */
  readonly stepMs: number;
  /** Most bytes of tensors at once in this step, or in those that were read together. */
  readonly memoryBytes: number;
}

/** What a batch must tell of itself, whatever it holds for its loss. */
export interface BatchSize {
  readonly batch: number;
  readonly seq: number;
  /** Tokens that are no padding. Default: all, batch x seq. */
  readonly count?: number;
}

/** The parts that a loop turns. */
export interface TrainerParts<Rows extends BatchSize = TokenRows> {
  readonly backend: Backend;
  /** What the optimizer trains. */
  readonly params: Params;
  readonly optimizer: Optimizer;
  /** The next batch in order. */
  readonly nextBatch: () => Promise<Rows>;
  /** A scalar of a batch, on the tape: the model's forward pass. */
  readonly loss: (rows: Rows) => Tensor;
}

/** Where a loop starts and ends. */
export interface TrainerOptions {
  readonly startStep: number;
  readonly startTokens: number;
  readonly steps: number;
  /** Whether a guarded loop must read at this step. It does so at the last one in any case. Default: at every step. */
  readonly syncDue?: (step: number) => boolean;
  /** Called with the steps since the last call, in order. True stops the loop. */
  readonly afterSteps: (rows: readonly StepRow[]) => Promise<boolean>;
}

/** Runs steps `startStep + 1` to `steps`. @throws NonFiniteError for a step that would have spoiled the weights */
export async function trainLoop<Rows extends BatchSize>(
  parts: TrainerParts<Rows>,
  options: TrainerOptions,
): Promise<void> {
  return parts.optimizer.isGuarded ? await guardedLoop(parts, options) : await checkedLoop(parts, options);
}

async function checkedLoop<Rows extends BatchSize>(
  parts: TrainerParts<Rows>,
  options: TrainerOptions,
): Promise<void> {
  let tokens = options.startTokens;
  for (let step = options.startStep + 1; step <= options.steps; step++) {
    parts.backend.resetPeak();
    const started = performance.now();
    const { loss, count } = await forwardBackward(parts, step);
    if (parts.optimizer.refreshDue) {
      await checkedNorm(parts.optimizer, step); // a basis of what is not finite would be garbage, or never found
      await parts.optimizer.refresh();
    }
    const gradNorm = await checkedNorm(parts.optimizer, step);
    const lr = parts.optimizer.learningRate;
    parts.optimizer.commit();
    tokens += count;
    const stepMs = performance.now() - started;
    const memoryBytes = parts.backend.memory().peak;
    const row = { step, loss, lr, gradNorm, tokens, tokensPerSecond: count / stepMs * 1000, stepMs, memoryBytes };
    if (await options.afterSteps([row])) return;
    await macrotask();
  }
}

/** Stages the gradients of every micro-batch; mean loss and number of tokens. */
async function forwardBackward<Rows extends BatchSize>(
  parts: TrainerParts<Rows>,
  step: number,
): Promise<{ loss: number; count: number }> {
  const { optimizer } = parts;
  let total = 0;
  let count = 0;
  for (let micro = 0; micro < optimizer.microBatches; micro++) {
    const rows = await parts.nextBatch();
    const loss = stageBatch(parts, rows);
    const [value] = await loss.read();
    loss.dispose();
    if (!Number.isFinite(value)) {
      optimizer.discard();
      throw await badLoss(parts.params, step, value);
    }
    total += value;
    count += rows.count ?? rows.batch * rows.seq;
  }
  return { loss: total / optimizer.microBatches, count };
}

async function checkedNorm(optimizer: Optimizer, step: number): Promise<number> {
  const { norm, nonFinite } = await optimizer.gradientNorm();
  if (nonFinite.length > 0) {
    optimizer.discard();
    throw badGradient(step, nonFinite);
  }
  return norm;
}

async function guardedLoop<Rows extends BatchSize>(
  parts: TrainerParts<Rows>,
  options: TrainerOptions,
): Promise<void> {
  const { syncDue = () => true, steps } = options;
  using pending = new PendingSteps(parts, options.startTokens);
  for (let step = options.startStep + 1; step <= steps; step++) {
    try {
      await guardedStep(parts, step, pending);
    } catch (error) {
      await rescue(pending, options);
      throw error;
    }
    if (step === steps || syncDue(step)) {
      if (await flush(pending, options)) return;
      pending.begin();
    }
    await macrotask();
  }
}

async function flush(pending: PendingSteps, { afterSteps }: TrainerOptions): Promise<boolean> {
  const { rows, fault } = await pending.read();
  const isStopped = rows.length > 0 && await afterSteps(rows);
  if (fault) throw fault;
  return isStopped;
}

/** After an error: the steps before it belong to the caller, who may save them. A bad one among them is the news. */
async function rescue(pending: PendingSteps, options: TrainerOptions): Promise<void> {
  try {
    await flush(pending, options);
  } catch (second) {
    if (second instanceof NonFiniteError) throw second;
  }
}

/** Enqueues a step and remembers where its figures lie. */
async function guardedStep<Rows extends BatchSize>(
  parts: TrainerParts<Rows>,
  step: number,
  pending: PendingSteps,
): Promise<void> {
  const { optimizer } = parts;
  const losses: Tensor[] = [];
  try {
    let count = 0;
    for (let micro = 0; micro < optimizer.microBatches; micro++) {
      const rows = await parts.nextBatch();
      losses.push(stageBatch(parts, rows));
      count += rows.count ?? rows.batch * rows.seq;
    }
    if (optimizer.refreshDue) await guardedRefresh(optimizer, step);
    pending.commit(step, losses, count);
  } finally {
    for (const loss of losses) loss.dispose();
  }
}

/** A basis that is sought on the host is never found in what is not finite: that, then, is what is told. */
async function guardedRefresh(optimizer: Optimizer, step: number): Promise<void> {
  try {
    await optimizer.refresh();
  } catch (error) {
    await checkedNorm(optimizer, step);
    throw error;
  }
}

/** One forward and backward pass; every activation dies with the scope, even on a throw. */
function stageBatch<Rows extends BatchSize>(parts: TrainerParts<Rows>, rows: Rows): Tensor {
  using step = scope("train step");
  const loss = parts.loss(rows);
  backward(loss, parts.optimizer.stage); // each gradient is projected, or held, and freed as it is finished
  return step.keep(loss);
}

/** Lets timers, signals and worker messages run. */
export function macrotask(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 0));
}
