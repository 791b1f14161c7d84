/** Three real training steps beside their plan: what both say of peak and states. Only tests and benches import this. */
import { makeParams } from "../model_source.ts";
import { llamaConfig } from "../../models/mod.ts";
import { Optimizer } from "../../optimizers/mod.ts";
import { openDevice } from "../device.ts";
import { rowsLoss } from "../evaluation.ts";
import { planMemory, planRequest, stateBytesOf } from "../memory_plan.ts";
import { resolveMethod } from "../method.ts";
import { chooseOptimizer, driverOptions } from "../optimizer_choice.ts";
import { resolveBasis } from "../optimizer_family.ts";
import type { Run } from "../options.ts";
import { trainLoop } from "../trainer.ts";

/** What was measured and what was planned. */
export interface MemoryCheck {
  /** Most bytes of tensors at once in any of the steps. */
  readonly peakBytes: number;
  readonly plannedPeakBytes: number;
  /** Bytes of moments and bases after the steps. */
  readonly stateBytes: number;
  readonly plannedStateBytes: number;
}

/** Trains a built-in model for the run's steps on tokens of no meaning, and plans the same. */
export async function checkMemoryOf(asked: Run): Promise<MemoryCheck> {
  using backend = await openDevice({ ...asked, autotune: "off" });
  const run = { ...asked, basis: resolveBasis(asked, backend.kind) };
  const config = llamaConfig(run.model, { vocab_size: run.vocab, max_position_embeddings: run.seq });
  const method = resolveMethod(run, config);
  using params = await makeParams(backend, { config, name: run.model }, { ...run, rank: method.rank });
  const shapes = new Map([...method.weights].map(([name, { shape }]) => [name, shape]));
  const { basis: _basis, ...context } = run;
  const choice = chooseOptimizer(run, {
    ...context,
    shapes,
    projected: method.projected,
    hiddenSize: config.hidden_size,
  });
  using optimizer = new Optimizer(params, choice.routing, driverOptions(run, backend));
  const tokens = Uint32Array.from({ length: run.batch * (run.seq + 1) }, (_, i) => (7 * i) % config.vocab_size);
  let peakBytes = 0;
  await trainLoop({
    ...{ backend, params, optimizer },
    loss: rowsLoss(backend, method.view(params), config, { recompute: run.checkpointActivations }),
    nextBatch: () => Promise.resolve({ tokens, batch: run.batch, seq: run.seq }),
  }, {
    startStep: 0,
    startTokens: 0,
    steps: run.steps,
    afterSteps: (rows) => {
      for (const row of rows) peakBytes = Math.max(peakBytes, row.memoryBytes);
      return Promise.resolve(false);
    },
  });
  const states = stateBytesOf(optimizer);
  const plan = await planMemory(config, planRequest(run, backend));
  return {
    peakBytes,
    plannedPeakBytes: plan.peakBytes,
    stateBytes: states.optimizerBytes + states.projectorBytes,
    plannedStateBytes: plan.optimizerBytes + plan.projectorBytes,
  };
}
