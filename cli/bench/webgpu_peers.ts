/**
 * Our WebGPU backend beside jax-js and TensorFlow.js on the same adapter, in one run: matrix products, and a training step
 * of llama-9m's shape. Prints ratios, then one line of JSON. Peers are imported by name, so that only a bench fetches
 * them; one that does not run here is named and left out.
 *
 *     deno run -A --no-lock cli/bench/webgpu_peers.ts [--rounds 5] [--small]
 *
 * Each engine runs in a process of its own, in turn: `--engine` and `--task` are how this file calls itself. Times are
 * from enqueuing to a value on the host: the best of a few bundles of products (a read costs 10 ms in Deno, for everyone,
 * so they are enqueued several at a time), the mean of three steps.
 */
import { parseArgs } from "node:util";
import { webgpuBackend } from "../../backends/webgpu/mod.ts";
import { llamaConfig } from "../../models/mod.ts";
import { formatTable } from "../log.ts";
import { Stopwatch } from "./gpu_kernels.ts";
import { trainingSpeed } from "./gpu_training.ts";
import { makeTokens } from "./tokens.ts";
import { type PeerShape, peerStep } from "./jax_js_step.ts";

const PEERS = {
  "jax-js": "npm:@jax-js/jax@0.1.25",
  tfjs: "npm:@tensorflow/tfjs@4.22.0",
  tfjsWebgpu: "npm:@tensorflow/tfjs-backend-webgpu@4.22.0",
} as const;

const { values: flags } = parseArgs({
  options: {
    engine: { type: "string" },
    task: { type: "string" },
    n: { type: "string", default: "512" },
    rounds: { type: "string", default: "5" },
    small: { type: "boolean", default: false },
  },
});

const STEP = flags.small
  ? { model: "llama-9m", vocab: 512, batch: 1, seq: 32 }
  : { model: "llama-9m", vocab: 32000, batch: 2, seq: 256 };
const SIZES = flags.small ? [128] : [512, 1024];

/** GFLOP/s of the best of several bundles of products. `run` enqueues some and waits. */
async function bestRate(n: number, run: (count: number) => Promise<void>): Promise<number> {
  await run(1);
  const start = performance.now();
  await run(1);
  const count = Math.max(1, Math.min(200, Math.round(300 / (performance.now() - start))));
  let best = Infinity;
  for (let round = 0; round < 4; round++) {
    const begin = performance.now();
    await run(count);
    best = Math.min(best, (performance.now() - begin) / count);
  }
  return 2 * n ** 3 / best / 1e6;
}

async function ourMatmul(n: number): Promise<number> {
  using backend = await webgpuBackend();
  using watch = new Stopwatch(backend);
  const [a, b, out] = [1.5, 0.5, 0].map((value) => watch.operand([n, n], "f32", value));
  return await bestRate(n, async (count) => {
    for (let i = 0; i < count; i++) backend.kernels.matmul(a, b, out, { transposeA: false, transposeB: false });
    await backend.read(out.buffer, 0, 4);
  });
}

async function jaxMatmul(n: number): Promise<number> {
  const jax = await import(PEERS["jax-js"]);
  await jax.init("webgpu");
  jax.defaultDevice("webgpu");
  const { numpy } = jax;
  const a = numpy.full([n, n], 1.5);
  const b = numpy.full([n, n], 0.5);
  await Promise.all([a.ref.data(), b.ref.data()]);
  return await bestRate(n, async (count) => {
    const products = Array.from({ length: count }, () => numpy.matmul(a.ref, b.ref));
    await jax.blockUntilReady(products);
    for (const product of products) product.dispose();
  });
}

async function tfjsMatmul(n: number): Promise<number> {
  const tf = await import(PEERS.tfjs);
  await import(PEERS.tfjsWebgpu);
  if (!await tf.setBackend("webgpu")) throw new Error("TensorFlow.js does not take its webgpu backend here");
  await tf.ready();
  const a = tf.fill([n, n], 1.5);
  const b = tf.fill([n, n], 0.5);
  return await bestRate(n, async (count) => {
    for (let i = 1; i < count; i++) tf.matMul(a, b).dispose();
    const last = tf.matMul(a, b);
    await tf.slice(last, [0, 0], [1, 1]).data();
    last.dispose();
  });
}

async function ourStep(): Promise<number> {
  using backend = await webgpuBackend();
  const { stepMs } = await trainingSpeed(backend, { ...STEP, steps: 3, optimizer: "adamw", rank: 32 });
  return stepMs;
}

async function jaxStep(): Promise<number> {
  const jax = await import(PEERS["jax-js"]);
  await jax.init("webgpu");
  jax.defaultDevice("webgpu");
  const { hidden_size: hidden, intermediate_size: inner, ...config } = llamaConfig(STEP.model);
  const { num_attention_heads: heads, num_hidden_layers: layers } = config;
  const shape: PeerShape = { ...STEP, hidden, inner, heads, layers };
  const step = peerStep(jax, shape, makeTokens(1, STEP.batch * STEP.seq, STEP.vocab), await gathers(jax));
  await step();
  await step();
  const start = performance.now();
  for (let i = 0; i < 3; i++) await step();
  return (performance.now() - start) / 3;
}

/** Whether the gradient of a look-up runs: its shader is not valid to every compiler. */
// deno-lint-ignore no-explicit-any
async function gathers({ numpy, grad }: any): Promise<boolean> {
  try {
    const ids = numpy.array(Int32Array.of(1, 0), { shape: [2], dtype: numpy.int32 });
    // deno-lint-ignore no-explicit-any
    const total = (table: any) => numpy.take(table, ids, 0).sum();
    await grad(total)(numpy.ones([2, 2])).data();
    return true;
  } catch {
    return false;
  }
}

const TASKS: Readonly<Record<string, Readonly<Record<string, (n: number) => Promise<number>>>>> = {
  matmul: { lowrank: ourMatmul, "jax-js": jaxMatmul, tfjs: tfjsMatmul },
  step: { lowrank: ourStep, "jax-js": jaxStep },
};

/** Runs one task in a process of its own. */
async function measure(task: string, engine: string, n: number): Promise<number | undefined> {
  const file = new URL(import.meta.url).pathname;
  const args = ["run", "-A", "--no-lock", file, "--task", task, "--engine", engine, "--n", `${n}`];
  const command = new Deno.Command(Deno.execPath(), { args: flags.small ? [...args, "--small"] : args });
  const { code, stdout, stderr } = await command.output();
  const lines = new TextDecoder().decode(stdout).trim().split("\n");
  const result = /^result (.+)$/.exec(lines[lines.length - 1]);
  if (code === 0 && result) return Number(result[1]);
  const reason = new TextDecoder().decode(stderr).split("\n").find((line) => /error/i.test(line) && !/XDG/.test(line));
  console.error(`${engine} ${task}: left out: ${reason ?? `exit code ${code}`}`);
  return undefined;
}

/** What an engine gave in each round. */
type Rounds = Record<string, (number | undefined)[]>;

/** All engines in turn, round after round, so that what else the machine does falls on each of them. */
async function rounds(task: string, n: number): Promise<Rounds> {
  const results: Rounds = {};
  for (let round = 0; round < Number(flags.rounds); round++) {
    for (const engine of Object.keys(TASKS[task])) (results[engine] ??= []).push(await measure(task, engine, n));
  }
  return results;
}

/** Median, smallest and largest of what was measured. */
function spread(values: readonly (number | undefined)[], digits: number): string {
  const sorted = values.filter((value) => value !== undefined).sort((a, b) => a - b);
  if (sorted.length === 0) return "-";
  const [median, low, high] = [sorted[sorted.length >> 1], sorted[0], sorted[sorted.length - 1]];
  return `${median.toFixed(digits)} (${low.toFixed(digits)} to ${high.toFixed(digits)})`;
}

/** Ratios of pairs of one round. */
function ratios(over: Rounds[string], under: Rounds[string] = []): string {
  return spread(over.map((a, i) => a !== undefined && under[i] !== undefined ? a / under[i] : undefined), 2);
}

async function compare(): Promise<void> {
  const { adapter } = await probe();
  console.log(`${adapter}; medians of ${flags.rounds} rounds (smallest to largest)`);
  const rows = [["", "Lowrank", "jax-js 0.1.25", "ratio", "tfjs 4.22.0", "ratio"]];
  const results: Record<string, Rounds> = {};
  for (const n of SIZES) {
    const each = results[`matmul ${n} GFLOP/s`] = await rounds("matmul", n);
    const [own, jax, tf] = [each.lowrank, each["jax-js"], each.tfjs];
    const figures = [spread(own, 1), spread(jax, 1), ratios(own, jax), spread(tf, 1), ratios(own, tf)];
    rows.push([`matmul ${n}, GFLOP/s`, ...figures]);
  }
  const each = results["step ms"] = await rounds("step", 0);
  const { model, vocab, batch, seq } = STEP;
  const figures = [spread(each.lowrank, 0), spread(each["jax-js"], 0), ratios(each["jax-js"], each.lowrank), "", ""];
  rows.push([`${model} step, ${batch} x ${seq}, vocabulary ${vocab}, ms`, ...figures]);
  for (const line of formatTable(rows, "lrrrrr")) console.log(line);
  console.log(JSON.stringify({ adapter, deno: Deno.version.deno, date: new Date(), results }));
}

async function probe(): Promise<{ adapter: string }> {
  using backend = await webgpuBackend();
  return { adapter: backend.adapter.name };
}

if (flags.task === undefined) await compare();
else {
  const result = await TASKS[flags.task][flags.engine!](Number(flags.n));
  console.log(`result ${result}`);
  Deno.exit(0); // peers keep the process alive
}
