/**
 * The training loop: draw a batch, run it forward and backward, renew bases when due, check that everything is finite,
 * commit. What to print, save and evaluate is the caller's: it gets an event a step.
 *
 * A step is synchronous between its awaits, and the loop yields a macrotask after each, so that signals, timers and
 * reader workers are served.
 */
import { type Backend, backward, fromArray, type Params, scope, type Tensor } from "../core/mod.ts";
import { type LlamaConfig, llamaFlopsPerToken, llamaLoss } from "../models/mod.ts";
import type { Optimizer } from "../optimizers/mod.ts";
import { splitRows, type TokenRows } from "./evaluation.ts";

/** What a step did. */
export interface StepRow {
  readonly step: number;
  /** Mean loss in nats a token. */
  readonly loss: number;
  readonly lr: number;
  readonly gradNorm: number;
  /** Tokens trained on so far. */
  readonly tokens: number;
  readonly tokensPerSecond: number;
  readonly stepMs: number;
  /** Most bytes of tensors at once in this step. */
  readonly memoryBytes: number;
}

/** The parts that a loop turns. */
export interface TrainerParts {
  readonly backend: Backend;
  readonly params: Params;
  readonly config: LlamaConfig;
  readonly optimizer: Optimizer;
  /** The next batch in order. */
  readonly nextBatch: () => Promise<TokenRows>;
}

/** Where a loop starts and ends. */
export interface TrainerOptions {
  readonly startStep: number;
  readonly startTokens: number;
  readonly steps: number;
  /** Called after each commit. True stops the loop. */
  readonly afterStep: (row: StepRow) => Promise<boolean>;
}

/** Thrown before the update when a loss or a gradient is not finite: the weights are as the last step left them. */
export class NonFiniteError extends Error {
  override readonly name = "NonFiniteError";
  constructor(readonly step: number, what: string) {
    super(`Cannot take step ${step}: ${what}; the weights are those of step ${step - 1}. Lower --lr or set --clip`);
  }
}

/** Runs steps `startStep + 1` to `steps`. @throws NonFiniteError before an update that would spoil the weights. */
export async function trainLoop(parts: TrainerParts, options: TrainerOptions): Promise<void> {
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
    if (await options.afterStep(row)) return;
    await macrotask();
  }
}

/** Stages the gradients of every micro-batch; mean loss and number of tokens. */
async function forwardBackward(parts: TrainerParts, step: number): Promise<{ loss: number; count: number }> {
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
      throw new NonFiniteError(step, `the loss is ${value}; ${await suspect(parts.params)}`);
    }
    total += value;
    count += rows.batch * rows.seq;
  }
  return { loss: total / optimizer.microBatches, count };
}

/** One forward and backward pass; every activation dies with the scope, even on a throw. */
function stageBatch({ backend, params, config, optimizer }: TrainerParts, rows: TokenRows): Tensor {
  using step = scope("train step");
  const { inputs, targets } = splitRows(rows);
  const shape = [rows.batch, rows.seq];
  const loss = llamaLoss(params, config, fromArray(backend, inputs, shape), fromArray(backend, targets, shape));
  backward(loss, optimizer.stage); // each gradient is projected, or held, and freed as it is finished
  return step.keep(loss);
}

/** Which weight may be at fault for a loss that is not finite: one that is not finite itself, else the largest. */
async function suspect(params: Params): Promise<string> {
  let largest = { name: "", size: -1 };
  for (const [name, tensor] of params.entries()) {
    for (const value of await tensor.read()) {
      if (!Number.isFinite(value)) return `${name} holds ${value}`;
      if (Math.abs(value) > largest.size) largest = { name, size: Math.abs(value) };
    }
  }
  return `the largest weight is ${largest.size.toPrecision(3)} in ${largest.name}`;
}

async function checkedNorm(optimizer: Optimizer, step: number): Promise<number> {
  const { norm, nonFinite } = await optimizer.gradientNorm();
  if (nonFinite.length > 0) {
    optimizer.discard();
    const others = nonFinite.length > 1 ? ` and ${nonFinite.length - 1} others` : "";
    throw new NonFiniteError(step, `the gradient of ${nonFinite[0]}${others} is not finite`);
  }
  return norm;
}

/** Lets timers, signals and worker messages run. */
export function macrotask(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 0));
}

/** Model FLOP/s of a step: what a hardware utilisation is a part of. */
export function modelFlops(config: LlamaConfig, seq: number, tokensPerSecond: number): number {
  return llamaFlopsPerToken(config, seq) * tokensPerSecond;
}
