/**
 * The training that the page shows: a tiny LLaMA over bytes, with GaLore. Nothing here knows of the page.
 *
 * No step waits for the device: bases are found by products alone (`polarBasis`), the guard keeps a bad step out without
 * being read, and losses are read once every few steps.
 */
import {
  type Backend,
  backward,
  foldIn,
  fromArray,
  keyOf,
  type Params,
  reshape,
  scope,
  stack,
  type Tensor,
  uniform,
} from "../../../core/mod.ts";
import { initLlama, LLAMA_PROJECTED, llamaLoss, makeLlamaConfig } from "../../../models/mod.ts";
import { cosine, galoreAdamW, Optimizer, polarBasis } from "../../../optimizers/mod.ts";
import { generateTokens } from "../../sampling.ts";
import { TEXT } from "./text.ts";

const [BATCH, SEQ] = [8, 64];
const BYTES = new TextEncoder().encode(TEXT);

const CONFIG = makeLlamaConfig({
  vocab_size: 257,
  hidden_size: 64,
  intermediate_size: 176,
  num_hidden_layers: 2,
  num_attention_heads: 4,
});

/** Fresh weights of the page's model. The caller's to dispose. */
export function makeModel(backend: Backend): Params {
  return initLlama(backend, CONFIG, 1);
}

/** How a training goes. */
export interface TrainingOptions {
  readonly steps: number;
  /** Steps between two reads of losses. */
  readonly every: number;
}

/** What is known after some steps. */
export interface Progress {
  /** Steps done. */
  readonly step: number;
  /** Of the steps since the last report, nats a byte. */
  readonly losses: readonly number[];
  readonly tokensPerSecond: number;
  readonly bytesInUse: number;
}

/**
 * Trains, and reports every few steps. Leave the loop to stop.
 *
 * @throws Error when a loss is not finite
 */
export async function* train(
  backend: Backend,
  params: Params,
  { steps, every }: TrainingOptions,
): AsyncGenerator<Progress> {
  const rule = galoreAdamW({
    learningRate: cosine({ peak: 0.01, warmup: Math.ceil(steps / 10), total: steps }),
    projected: LLAMA_PROJECTED,
    // a pair of products is enough where the next basis is never far; each pair is some 250 kernels a matrix
    galore: { rank: 16, updateProjGap: 50, basis: polarBasis({ iterations: 1, warmIterations: 1 }) },
  });
  using optimizer = new Optimizer(params, rule, { guard: true });
  let unread: Tensor[] = [];
  try {
    let start = performance.now();
    for (let step = 1; step <= steps; step++) {
      const loss = forwardBackward(params, optimizer, step);
      unread.push(loss);
      if (optimizer.refreshDue) await optimizer.refresh();
      optimizer.commit([loss]);
      if (step % every > 0 && step < steps) continue;
      const losses = await readScalars(unread);
      unread = [];
      if (!losses.every(Number.isFinite)) throw new Error(`a loss before step ${step} is not a number: stopped`);
      const seconds = (performance.now() - start) / 1000;
      const tokensPerSecond = losses.length * BATCH * SEQ / seconds;
      yield { step, losses, tokensPerSecond, bytesInUse: backend.memory().inUse };
      start = performance.now();
    }
  } finally {
    for (const loss of unread) loss.dispose();
  }
}

/** The loss, []. Gradients go to the optimizer. The caller's to dispose. */
function forwardBackward(params: Params, optimizer: Optimizer, step: number): Tensor {
  using train = scope("train step");
  const { backend } = params;
  const starts = Array.from(
    uniform(foldIn(keyOf(1), "batch", step), BATCH),
    (u) => Math.floor(u * (BYTES.length - SEQ)),
  );
  const rows = (shift: number) =>
    Int32Array.from({ length: BATCH * SEQ }, (_, i) => BYTES[starts[Math.floor(i / SEQ)] + i % SEQ + shift]);
  const tokens = fromArray(backend, rows(0), [BATCH, SEQ]);
  const targets = fromArray(backend, rows(1), [BATCH, SEQ]);
  const loss = llamaLoss(params, CONFIG, tokens, targets);
  backward(loss, optimizer.stage);
  return train.keep(loss);
}

/** Reads scalars in one go, and disposes them. */
async function readScalars(scalars: readonly Tensor[]): Promise<number[]> {
  using packed = pack(scalars);
  return Array.from(await packed.read() as Float32Array);
}

function pack(scalars: readonly Tensor[]): Tensor {
  using inner = scope("losses");
  const packed = inner.keep(stack(scalars.map((scalar) => reshape(scalar, [])), 0));
  for (const scalar of scalars) scalar.dispose();
  return packed;
}

/** Text as it comes, after `prompt`: a character a piece. */
export async function* recite(
  backend: Backend,
  params: Params,
  prompt: string,
  tokens: number,
): AsyncGenerator<string> {
  const decoder = new TextDecoder();
  const options = { tokens, temperature: 0.5, topK: 0, seed: 1 };
  for await (const token of generateTokens(backend, params, CONFIG, new TextEncoder().encode(prompt), options)) {
    if (token < 256) yield decoder.decode(Uint8Array.of(token), { stream: true });
  }
}
