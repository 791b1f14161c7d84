/**
 * A model of billions of weights on one card: steps of 8-bit GaLore, layer by layer, in bf16 under a memory limit, with what
 * the allocator, the card and the plan say of memory. Weights are drawn on the device and tokens mean nothing.
 *
 *     deno run -A cli/bench/seven_b.ts --memory-limit 24GB [--model llama-7b --rank 1024 --batch 1 --seq 256 --steps 10]
 *
 * `--iterations` are those of the first bases, 1 by default: as much memory as the six of a training run, a fifth of the time.
 */
import { parseArgs } from "node:util";
import {
  cast,
  empty,
  fill,
  foldIn,
  formatBytes,
  keyOf,
  mul,
  own,
  Params,
  randomBits,
  scope,
  sub,
} from "../../core/mod.ts";
import type { Backend, Key, Shape, Tensor } from "../../core/mod.ts";
import { LLAMA_PROJECTED, llamaConfig, llamaWeights } from "../../models/mod.ts";
import { Optimizer, polarBasis } from "../../optimizers/mod.ts";
import { openWebgpu } from "../device.ts";
import { rowsLoss } from "../evaluation.ts";
import { planMemory, planRequest, stateBytesOf } from "../memory_plan.ts";
import { chooseOptimizer, driverOptions } from "../optimizer_choice.ts";
import { DEFAULTS, type OptimizerName, type Run } from "../options.ts";
import { trainLoop } from "../trainer.ts";

import { makeTokens } from "./tokens.ts";

const { values: flags } = parseArgs({
  options: {
    model: { type: "string", default: "llama-7b" },
    vocab: { type: "string", default: "32000" },
    optimizer: { type: "string", default: "galore_adamw_8bit" },
    rank: { type: "string", default: "1024" },
    batch: { type: "string", default: "1" },
    seq: { type: "string", default: "256" },
    steps: { type: "string", default: "10" },
    iterations: { type: "string", default: "1" },
    "memory-limit": { type: "string", default: "24GB" },
    "keep-activations": { type: "boolean", default: false },
  },
});

const memoryLimit = bytesIn(flags["memory-limit"]);
const run: Run = {
  ...DEFAULTS,
  ...{ model: flags.model, vocab: Number(flags.vocab), optimizer: flags.optimizer as OptimizerName, memoryLimit },
  ...{ rank: Number(flags.rank), batch: Number(flags.batch), seq: Number(flags.seq), steps: Number(flags.steps) },
  ...{ dtype: "bf16", device: "webgpu", autotune: "off", perLayer: true, clip: 0, basis: "polar", lr: 1e-3 },
  ...{ refresh: "together", checkpointActivations: !flags["keep-activations"] },
};
const config = llamaConfig(run.model, { vocab_size: run.vocab, max_position_embeddings: run.seq });

const idleBytes = await cardBytes();
using backend = await openWebgpu(run);
console.log(
  `${backend.summary}: ${run.model}, ${run.optimizer} of rank ${run.rank}, batch ${run.batch} x ${run.seq}, bf16`,
);
const planStart = performance.now();
const plan = await planMemory(config, planRequest(run, backend));
console.log(
  `planned in ${seconds(planStart)}: weights ${formatBytes(plan.weightBytes)}, states ` +
    `${formatBytes(plan.optimizerBytes + plan.projectorBytes)}, peak ${formatBytes(plan.peakBytes)} ` +
    `(${gib(plan.peakBytes)}), in blocks ${formatBytes(plan.heldBytes)}; limit ${formatBytes(memoryLimit)}`,
);

const drawStart = performance.now();
using params = drawParams(backend);
await params.get("model.norm.weight").read();
console.log(`${params.size.toLocaleString("en-US")} weights drawn on the device in ${seconds(drawStart)}`);

const { basis: _basis, ...context } = run;
const shapes = new Map([...llamaWeights(config)].map(([name, { shape }]) => [name, shape]));
const choice = chooseOptimizer(run, {
  ...context,
  shapes,
  projected: LLAMA_PROJECTED,
  hiddenSize: config.hidden_size,
  basis: polarBasis({ iterations: Number(flags.iterations) }),
});
using optimizer = new Optimizer(params, choice.routing, driverOptions(run, backend));

let worst = 0;
let drawn = 0;
await trainLoop({
  ...{ backend, params, optimizer },
  loss: rowsLoss(backend, params, config, { recompute: run.checkpointActivations }),
  nextBatch: () => {
    const tokens = Uint32Array.from(makeTokens(++drawn, run.batch * (run.seq + 1), config.vocab_size));
    return Promise.resolve({ tokens, batch: run.batch, seq: run.seq });
  },
}, {
  startStep: 0,
  startTokens: 0,
  steps: run.steps,
  afterSteps: async ([row]) => {
    worst = Math.max(worst, row.memoryBytes);
    const card = await cardBytes();
    console.log(
      `step ${row.step}  ${row.stepMs.toFixed(0)} ms  loss ${row.loss.toFixed(4)}  ` +
        `peak ${formatBytes(row.memoryBytes)}  reserved ${formatBytes(backend.memory().reserved)}` +
        (card === undefined ? "" : `  card ${formatBytes(card)} (${formatBytes(card - (idleBytes ?? 0))} of it ours)`),
    );
    return false;
  },
});
const states = stateBytesOf(optimizer);
console.log(JSON.stringify({
  ...{ device: backend.kernelPath, model: run.model, optimizer: run.optimizer, rank: run.rank, batch: run.batch },
  ...{ seq: run.seq, steps: run.steps, memoryLimit, peakBytes: worst, plannedPeakBytes: plan.peakBytes },
  ...{
    plannedHeldBytes: plan.heldBytes,
    reservedBytes: backend.memory().reserved,
    weightBytes: params.bytes,
    ...states,
  },
  ...{ cardBytes: await cardBytes(), cardIdleBytes: idleBytes },
}));

/** Weights of the standard deviation that training starts with, uniform instead of normal: no number comes from the host. */
function drawParams(backend: Backend): Params {
  const params = new Params(backend);
  for (const [name, { shape }] of llamaWeights(config)) {
    using _ = scope(name);
    const weight = shape.length === 1
      ? fill(backend, 1, shape, "bf16")
      : uniform(backend, foldIn(keyOf(run.seed), name), shape, config.initializer_range);
    params.set(name, own(weight));
  }
  return params;
}

/** Uniform in [-sqrt(3) std, sqrt(3) std], drawn in rows so that a large table takes little memory beside itself. */
function uniform(backend: Backend, key: Key, [rows, columns]: Shape, std: number): Tensor {
  const table = empty(backend, [rows, columns], "bf16");
  const most = Math.sqrt(3) * std;
  const each = 2 * Math.max(1, Math.floor(2 ** 24 / columns / 2)); // even, so that pieces begin at whole words
  for (let begin = 0; begin < rows; begin += each) {
    using _ = scope("piece");
    const count = Math.min(each, rows - begin);
    const bits = cast(randomBits(backend, foldIn(key, begin), [count, columns]), "f32");
    const piece = cast(sub(mul(bits, most * 2 ** -31), most), "bf16");
    backend.kernels.copyStrided(piece, table.view([count, columns], [columns, 1], begin * columns));
  }
  return table;
}

/** Bytes in use on the card as its driver tells; undefined where there is no nvidia-smi. */
async function cardBytes(): Promise<number | undefined> {
  try {
    const args = ["--query-gpu=memory.used", "--format=csv,noheader,nounits"];
    const { code, stdout } = await new Deno.Command("nvidia-smi", { args }).output();
    const mebibytes = Number(new TextDecoder().decode(stdout).split("\n")[0]);
    return code === 0 && Number.isFinite(mebibytes) ? mebibytes * 2 ** 20 : undefined;
  } catch {
    return undefined;
  }
}

function bytesIn(text: string): number {
  const [, amount, unit = "B"] = /^([\d.]+)\s*([KMG]i?B|B)?$/i.exec(text) ?? [];
  const scales: Record<string, number> = { b: 1, kb: 1e3, mb: 1e6, gb: 1e9, kib: 2 ** 10, mib: 2 ** 20, gib: 2 ** 30 };
  const bytes = Number(amount) * scales[unit.toLowerCase()];
  if (bytes > 0) return bytes;
  throw new RangeError(`Cannot read --memory-limit ${text}: expected a size such as 24GB`);
}

function seconds(since: number): string {
  return `${((performance.now() - since) / 1000).toFixed(1)} s`;
}

function gib(bytes: number): string {
  return `${(bytes / 2 ** 30).toFixed(2)} GiB`;
}
