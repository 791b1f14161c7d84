/**
 * `deno task bench:gpu`: what the WebGPU backend reaches on this machine's adapter, in one call. Prints tables, then one
 * line of JSON.
 *
 *     deno task bench:gpu --peak-tflops 67 --peak-gbs 3350 --torch python3
 *
 * --peak-tflops, --peak-gbs  the card's data sheet: shares of them are printed (else of the copy that is measured)
 * --models, --batch, --seq, --steps, --vocab  the training runs; --models none leaves them out
 * --torch PYTHON             the same training steps by `torch_train.py` on the same card, in f32 without TF32
 * --autotune                 measures matmul tiles first
 * --small                    sizes for a rasteriser on the CPU
 */
import { parseArgs } from "node:util";
import { webgpuBackend } from "../../backends/webgpu/mod.ts";
import type { WebgpuBackend } from "../../backends/webgpu/mod.ts";
import { llamaConfig } from "../../models/mod.ts";
import { formatTable } from "../log.ts";
import { type ProductSpeed, productSpeeds, type StreamSizes, type StreamSpeed, streamSpeeds } from "./gpu_kernels.ts";
import { type TrainingSpeed, trainingSpeed } from "./gpu_training.ts";

const { values: flags } = parseArgs({
  options: {
    small: { type: "boolean", default: false },
    autotune: { type: "boolean", default: false },
    "peak-tflops": { type: "string" },
    "peak-gbs": { type: "string" },
    models: { type: "string" },
    batch: { type: "string" },
    seq: { type: "string" },
    steps: { type: "string" },
    vocab: { type: "string" },
    optimizer: { type: "string", default: "galore" },
    torch: { type: "string" },
  },
});

interface Settings {
  readonly sizes: readonly number[];
  readonly designsAt: readonly number[];
  readonly streams: StreamSizes;
  readonly models: readonly string[];
  readonly batch: number;
  readonly seq: number;
  readonly steps: number;
  readonly vocab: number;
}

const FULL: Settings = {
  sizes: [512, 1024, 2048, 4096],
  designsAt: [1024, 4096],
  streams: { elements: 2 ** 25, rows: 8192, width: 1024, attention: [8, 1024, 16, 64] },
  models: ["llama-9m", "llama-60m", "llama-350m"],
  batch: 8,
  seq: 256,
  steps: 10,
  vocab: 32000,
};

const SMALL: Settings = {
  sizes: [128],
  designsAt: [],
  streams: { elements: 2 ** 18, rows: 128, width: 128, attention: [1, 64, 2, 32] },
  models: ["llama-9m"],
  batch: 1,
  seq: 64,
  steps: 2,
  vocab: 512,
};

function settings(): Settings {
  const base = flags.small ? SMALL : FULL;
  const number = (text: string | undefined, standard: number) => text === undefined ? standard : Number(text);
  const models = flags.models?.split(",").filter((name) => name !== "none");
  return {
    ...base,
    models: models ?? base.models,
    batch: number(flags.batch, base.batch),
    seq: number(flags.seq, base.seq),
    steps: number(flags.steps, base.steps),
    vocab: number(flags.vocab, base.vocab),
  };
}

const figure = (value: number | undefined, digits = 1) => value === undefined ? "-" : value.toFixed(digits);
const share = (value: number, whole: number | undefined) => whole ? `${(100 * value / whole).toFixed(1)}%` : "-";

function print(rows: readonly (readonly string[])[], align: string): void {
  for (const line of formatTable(rows, align)) console.log(line);
  console.log();
}

function report(backend: WebgpuBackend): void {
  const { name, vendor, architecture, isSoftware, features, limits } = backend.adapter;
  const { deno, v8 } = Deno.version;
  console.log(`${backend.kernelPath}${isSoftware ? " (in software)" : ""}`);
  console.log(
    `${[vendor, architecture].filter(Boolean).join(" ") || name}; ${features.join(", ")}; Deno ${deno}, V8 ${v8}`,
  );
  const shown = ["maxStorageBufferBindingSize", "maxComputeWorkgroupStorageSize", "maxComputeInvocationsPerWorkgroup"];
  console.log(shown.map((limit) => `${limit} ${limits[limit]}`).join(", "), "\n");
}

function printProducts(speeds: readonly ProductSpeed[]): void {
  const peak = flags["peak-tflops"] === undefined ? undefined : 1000 * Number(flags["peak-tflops"]);
  const rows = speeds.map(({ n, dtype, layout, design, gflops }) =>
    [`${n}`, dtype, layout, design, figure(gflops), share(gflops, peak)] as const
  );
  print([["matmul", "dtype", "layout", "design", "GFLOP/s", "of the f32 peak"], ...rows], "rlllrr");
}

function printStreams(speeds: readonly StreamSpeed[]): void {
  const copy = speeds[0].gbPerSecond;
  const peak = flags["peak-gbs"] === undefined ? undefined : Number(flags["peak-gbs"]);
  const rows = speeds.map(({ name, ms, gbPerSecond, gflops }) =>
    [
      name,
      figure(ms, 3),
      figure(gbPerSecond),
      share(gbPerSecond, peak),
      share(gbPerSecond, copy),
      figure(gflops),
    ] as const
  );
  print([["kernel", "ms", "GB/s", "of the peak", "of the copy", "GFLOP/s"], ...rows], "lrrrrr");
}

function printTraining(speed: TrainingSpeed, peer: Record<string, number> | undefined): void {
  const { model, batch, seq, vocab, optimizer, rank, tokensPerSecond, stepMs, hostMs, firstStepMs } = speed;
  console.log(`${model}, vocabulary ${vocab}, batch ${batch} x ${seq}, ${optimizer} (rank ${rank})`);
  const ratio = peer
    ? ` (PyTorch ${figure(peer.tokens_per_s, 0)}: ${(tokensPerSecond / peer.tokens_per_s).toFixed(2)}x)`
    : "";
  const { dispatches, submissions, peakBytes, shares, loss } = speed;
  console.log(
    `  ${figure(tokensPerSecond, 0)} tokens/s${ratio}, step ${figure(stepMs, 2)} ms (host ${figure(hostMs, 2)})`,
  );
  console.log(
    `  first step ${figure(firstStepMs, 0)} ms, peak ${figure(peakBytes / 1e6, 0)} MB, loss ${figure(loss, 4)}`,
  );
  console.log(`  ${figure(dispatches, 0)} dispatches and ${figure(submissions)} submissions a step`);
  const rows = shares.slice(0, 16).map(([kernel, part, count, ms]) =>
    [`  ${share(part, 1)}`, `${figure(ms, 3)} ms`, `${count} x`, kernel] as const
  );
  print(rows, "rrrl");
}

/** The last line of `torch_train.py` as JSON; undefined (with the reason on stderr) when it fails. */
async function torchSpeed({ model, vocab, batch, seq, steps, optimizer, rank }: TrainingSpeed) {
  const file = new URL("torch_train.py", import.meta.url).pathname;
  const sizes = { config: model, vocab, batch, seq, steps: steps + 2, warmup: 2, optimizer, rank, device: "cuda" };
  const args = Object.entries(sizes).flatMap(([name, value]) => [`--${name}`, `${value}`]);
  try {
    const { code, stdout, stderr } = await new Deno.Command(flags.torch!, { args: [file, ...args] }).output();
    if (code === 0) return JSON.parse(new TextDecoder().decode(stdout).trim().split("\n").pop()!);
    console.error(`PyTorch: left out: ${new TextDecoder().decode(stderr).trim().split("\n").pop()}`);
  } catch (error) {
    console.error(`PyTorch: left out: ${(error as Error).message}`);
  }
  return undefined;
}

const chosen = settings();
const start = performance.now();
using backend = await webgpuBackend({ autotune: flags.autotune });
report(backend);
const autotuneMs = performance.now() - start;
if (flags.autotune) console.log(`opened and tuned in ${figure(autotuneMs, 0)} ms:`, backend.gpu.tiles.entries(), "\n");
const products = await productSpeeds(backend, chosen.sizes, chosen.designsAt);
printProducts(products);
const streams = await streamSpeeds(backend, chosen.streams);
printStreams(streams);
const trainings: (TrainingSpeed & { torchTokensPerSecond?: number })[] = [];
for (const model of chosen.models) {
  const { batch, seq, steps, vocab } = chosen;
  const rank = Math.floor(llamaConfig(model).hidden_size / 4);
  const optimizer = flags.optimizer === "adamw" ? "adamw" : "galore";
  try {
    const speed = await trainingSpeed(backend, { model, vocab, batch, seq, steps, optimizer, rank });
    const peer = flags.torch === undefined ? undefined : await torchSpeed(speed);
    printTraining(speed, peer);
    trainings.push({ ...speed, torchTokensPerSecond: peer?.tokens_per_s });
  } catch (error) {
    console.error(`${model}: left out: ${(error as Error).message}\n`);
  }
}
const { name, isSoftware } = backend.adapter;
const about = { adapter: name, isSoftware, kernelPath: backend.kernelPath, deno: Deno.version.deno, date: new Date() };
console.log(JSON.stringify({ ...about, products, streams, trainings }));
