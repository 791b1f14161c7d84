/**
 * Times whole training steps of a LLaMA on synthetic tokens and prints one JSON line, as `torch_train.py` does beside it:
 * same shapes, same token generator, batch x seq tokens a step, GaLore's first step (with every basis) apart.
 *
 *     deno run -A cli/bench/train_steps.ts --config llama-60m --vocab 4096 --rank 128 --blas auto
 */
import { parseArgs } from "node:util";
import { cpuBackend } from "../../backends/cpu/mod.ts";
import { backward, fromArray, scope } from "../../core/mod.ts";
import { initLlama, LLAMA_PROJECTED, llamaConfig, llamaLoss } from "../../models/mod.ts";
import { adamWPreset, galoreAdamW, Optimizer } from "../../optimizers/mod.ts";
import { makeTokens } from "./tokens.ts";

const { values: flags } = parseArgs({
  options: {
    config: { type: "string", default: "llama-60m" },
    vocab: { type: "string", default: "32000" },
    batch: { type: "string", default: "8" },
    seq: { type: "string", default: "256" },
    steps: { type: "string", default: "7" },
    warmup: { type: "string", default: "2" },
    optimizer: { type: "string", default: "galore" },
    rank: { type: "string", default: "128" },
    threads: { type: "string", default: "2" },
    blas: { type: "string", default: "auto" },
  },
});
const [vocab, batch, seq, steps, warmup, rank] = [
  flags.vocab,
  flags.batch,
  flags.seq,
  flags.steps,
  flags.warmup,
  flags.rank,
]
  .map(Number);

using backend = await cpuBackend({ threads: Number(flags.threads), blas: flags.blas as "auto" | "off" | "require" });
const config = llamaConfig(flags.config, { vocab_size: vocab });
using params = initLlama(backend, config, 1);
const rule = flags.optimizer === "galore"
  ? galoreAdamW({ learningRate: 1e-3, projected: LLAMA_PROJECTED, galore: { rank, updateProjGap: 200, scale: 0.25 } })
  : adamWPreset({ learningRate: 1e-3 });
using optimizer = new Optimizer(params, rule);
const tokens = makeTokens(1, steps * batch * seq, vocab);

const times: number[] = [];
const losses: number[] = [];
let refreshMs = 0;
for (let step = 0; step < steps; step++) {
  const inputs = tokens.slice(step * batch * seq, (step + 1) * batch * seq);
  const targets = new Int32Array(batch * seq).fill(-100);
  for (let i = 0; i < batch * seq; i++) if ((i + 1) % seq !== 0) targets[i] = inputs[i + 1];
  const start = performance.now();
  {
    using train = scope("train step");
    const loss = llamaLoss(
      params,
      config,
      fromArray(backend, inputs, [batch, seq]),
      fromArray(backend, targets, [batch, seq]),
    );
    backward(loss, optimizer.stage);
    losses.push(train.keep(loss).readSync()[0]);
    loss.dispose();
  }
  const before = performance.now();
  if (optimizer.refreshDue) {
    await optimizer.refresh();
    refreshMs += performance.now() - before;
  }
  optimizer.commit();
  times.push(performance.now() - start);
}
const measured = times.slice(warmup).sort((a, b) => a - b);
const stepMs = measured[measured.length >> 1];
const projected = params.names().filter((name) => LLAMA_PROJECTED.test(name)).reduce(
  (sum, name) => sum + params.get(name).size,
  0,
);
console.log(JSON.stringify({
  config: flags.config,
  vocab,
  parameters: params.size,
  projectedShare: projected / params.size,
  optimizer: flags.optimizer,
  rank,
  kernels: backend.kernelPath,
  threads: backend.threads,
  tokens_per_s: batch * seq / stepMs * 1000,
  step_s: stepMs / 1000,
  first_step_s: times[0] / 1000,
  refresh_s: refreshMs / 1000,
  peak_tensor_mb: backend.memory().peak / 1e6,
  losses,
}));
