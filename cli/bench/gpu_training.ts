/** Whole training steps of a LLaMA with GaLore on a GPU, without a read inside. */
import { Profile } from "../../backends/webgpu/profile.ts";
import type { WebgpuBackend } from "../../backends/webgpu/mod.ts";
import { backward, fromArray, own, scope, type Tensor } from "../../core/mod.ts";
import { initLlama, LLAMA_PROJECTED, llamaConfig, llamaLoss } from "../../models/mod.ts";
import { adamWPreset, galoreAdamW, Optimizer, polarBasis } from "../../optimizers/mod.ts";
import { makeTokens } from "./tokens.ts";

/** What to train. */
export interface TrainingChoice {
  readonly model: string;
  readonly vocab: number;
  readonly batch: number;
  readonly seq: number;
  /** Steps that are timed together. */
  readonly steps: number;
  readonly optimizer: "galore" | "adamw";
  /** Of the projections. */
  readonly rank: number;
}

/** What a step takes. */
export interface TrainingSpeed extends TrainingChoice {
  readonly parameters: number;
  readonly tokensPerSecond: number;
  readonly stepMs: number;
  /** The host's part of it: until everything is enqueued. */
  readonly hostMs: number;
  /** The first step: compiles kernels and finds every basis. */
  readonly firstStepMs: number;
  readonly peakBytes: number;
  readonly dispatches: number;
  readonly submissions: number;
  /** Of the last step. */
  readonly loss: number;
  /** Share of a step's time on the device by kernel, the largest first; empty where there are no timestamps. */
  readonly shares: readonly (readonly [kernel: string, share: number, dispatches: number, ms: number])[];
}

/** Trains two steps, times `steps` more, and takes one more apart. */
export async function trainingSpeed(backend: WebgpuBackend, choice: TrainingChoice): Promise<TrainingSpeed> {
  const { model, vocab, batch, seq, steps, optimizer: kind, rank } = choice;
  const config = llamaConfig(model, { vocab_size: vocab });
  using params = initLlama(backend, config, 1);
  const rule = kind === "galore"
    ? galoreAdamW({
      learningRate: 1e-3,
      projected: LLAMA_PROJECTED,
      galore: { rank, updateProjGap: 200, scale: 0.25, basis: polarBasis() }, // as the command line has it on a GPU
    })
    : adamWPreset({ learningRate: 1e-3 });
  using optimizer = new Optimizer(params, rule, { guard: true });
  const tokens = makeTokens(1, batch * seq, vocab);
  const targets = tokens.map((_, i) => (i + 1) % seq === 0 ? -100 : tokens[i + 1]);
  const step = async (): Promise<Tensor> => {
    const loss = forwardBackward();
    if (optimizer.refreshDue) await optimizer.refresh();
    optimizer.commit([loss]);
    return loss;
  };
  const forwardBackward = (): Tensor => {
    using train = scope("train step");
    const inputs = fromArray(backend, tokens, [batch, seq]);
    const loss = llamaLoss(params, config, inputs, fromArray(backend, targets, [batch, seq]));
    backward(loss, optimizer.stage);
    return own(train.keep(loss));
  };
  const finished = async (loss: Tensor): Promise<number> => {
    const [value] = await loss.read();
    loss.dispose();
    return value;
  };

  const start = performance.now();
  await finished(await step());
  const firstStepMs = performance.now() - start;
  await finished(await step());
  backend.resetPeak();
  const before = backend.counters();
  const begin = performance.now();
  for (let i = 1; i < steps; i++) (await step()).dispose();
  const last = await step();
  const hostMs = (performance.now() - begin) / steps;
  const loss = await finished(last);
  const stepMs = (performance.now() - begin) / steps;
  const after = backend.counters();
  const shares = await profiled(backend, async () => await finished(await step()));
  return {
    ...choice,
    parameters: params.size,
    tokensPerSecond: batch * seq / stepMs * 1000,
    ...{ stepMs, hostMs, firstStepMs, peakBytes: backend.memory().peak, loss, shares },
    dispatches: (after.dispatches - before.dispatches) / steps,
    submissions: (after.submissions - before.submissions) / steps,
  };
}

/** Shares of the device's time while `run` runs. */
async function profiled(backend: WebgpuBackend, run: () => Promise<unknown>): Promise<TrainingSpeed["shares"]> {
  if (!backend.adapter.features.includes("timestamp-query")) return [];
  const { recorder } = backend.gpu;
  const profile = new Profile(backend.device);
  recorder.profile = profile;
  try {
    await run();
  } finally {
    recorder.profile = undefined;
  }
  const times = [...await profile.totals()];
  profile.dispose();
  const total = times.reduce((sum, [, { ms }]) => sum + ms, 0);
  return times.map(([kernel, { ms, dispatches }]) => [kernel, ms / total, dispatches, ms] as const);
}
