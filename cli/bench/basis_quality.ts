/**
 * What each way to find a basis captures of a gradient, and what it costs, beside full singular value decompositions:
 * at rank d / 4, from nothing (cold) and from the basis of an earlier gradient (warm).
 *
 *     deno run -A --no-lock cli/bench/save_gradients.ts --data tinyshakespeare.txt --out runs/gradients
 *     deno run -A --no-lock cli/bench/basis_quality.ts --gradients runs/gradients --torch python3
 *     deno run -A --no-lock cli/bench/basis_quality.ts --share
 *
 * Gradients are real ones, which `save_gradients.ts` wrote, warm from the basis of the save before; and a control of
 * normal numbers, which no direction leads, warm from the basis of a copy with a tenth of other numbers added. Times
 * are the best of several, on either side. Overlap counts all directions alike, those of a millionth of the energy too.
 */
import { parseArgs } from "node:util";
import { cpuBackend } from "../../backends/cpu/mod.ts";
import { foldIn, fromArray, keyOf, normal, type Tensor } from "../../core/mod.ts";
import { LLAMA_PROJECTED, llamaConfig, llamaWeights } from "../../models/mod.ts";
import {
  type BasisStrategy,
  exactBasis,
  finishNow,
  gramBasis,
  polarBasis,
  randomizedBasis,
  type Side,
  subspaceBasis,
} from "../../optimizers/mod.ts";
import { formatTable } from "../log.ts";
import { type Exact, exactRows, type Quality, qualityOf } from "./exact_basis.ts";

const { values: flags } = parseArgs({
  options: {
    gradients: { type: "string" },
    torch: { type: "string" },
    threads: { type: "string", default: "2" },
    sizes: { type: "string", default: "512x512,512x1376,1024x1024,1024x2736,2048x5461" },
    /** Only the amortised share of a training step. */
    share: { type: "boolean", default: false },
    json: { type: "boolean", default: false },
  },
});
using backend = await cpuBackend({ threads: Number(flags.threads) });

/** A gradient, and the one whose basis a warm start is given. */
interface Sample {
  readonly name: string;
  readonly shape: readonly [number, number];
  readonly data: Float32Array<ArrayBuffer>;
  readonly before?: Float32Array<ArrayBuffer>;
}

/** One line of the result. */
interface Row extends Partial<Quality> {
  readonly gradient: string;
  readonly shape: string;
  readonly rank: number;
  readonly basis: string;
  readonly ms?: number;
}

const STRATEGIES: readonly (readonly [name: string, strategy: BasisStrategy, isWarm: boolean])[] = [
  ["subspace, cold", subspaceBasis(), false],
  ["subspace, warm", subspaceBasis(), true],
  ["randomized", randomizedBasis(), false],
  ["polar, cold", polarBasis(), false],
  ["polar, warm", polarBasis(), true],
];

if (flags.share) await printShares();
else await printQuality();

async function printQuality(): Promise<void> {
  if (!flags.json) console.log(`${backend.kernelPath}, ${backend.threads} threads; times are the best of several`);
  for (const size of flags.sizes.split(",")) {
    const shape = size.split("x").map(Number) as [number, number];
    const peer: Row = { ...place({ name: "normal numbers", shape }), basis: "PyTorch's svd", ms: await torchMs(shape) };
    const rows = [...samples(shape)].flatMap((sample, i, { length }) => judged(sample, i === length - 1));
    print([...rows, peer]);
  }
}

/** Every strategy on one gradient. */
function judged(sample: Sample, isControl: boolean): Row[] {
  const { shape, data, before } = sample;
  const at = place(sample);
  const side: Side = shape[0] >= shape[1] ? "right" : "left";
  const d = Math.min(...shape);
  const exact = exactRows(data, shape, at.rank);
  if (!flags.json) console.log(`\n${at.gradient} [${at.shape}]: ${spectrum(exact, at.rank)}`);
  using gradient = fromArray(backend, data, shape);
  using previous = before && fromArray(backend, exactRows(before, shape, at.rank).rows, [at.rank, d]);
  const run = (strategy: BasisStrategy, previous?: Tensor) =>
    finishNow(strategy.compute(gradient, { side, rank: at.rank, key: keyOf(3), previous }));
  const rows: Row[] = [];
  for (const [basis, strategy, isWarm] of STRATEGIES) {
    if (isWarm && !previous) continue;
    const given = isWarm ? previous : undefined;
    const ms = bestMs(() => run(strategy, given).dispose());
    using found = run(strategy, given);
    rows.push({ ...at, basis, ms, ...qualityOf(found, gradient, exact) });
  }
  const gramMs = d <= 1024 ? bestMs(() => run(gramBasis()).dispose(), d <= 512 ? 5 : 1) : undefined;
  using gram = d <= 1024 ? run(gramBasis()) : undefined;
  rows.push({ ...at, basis: "gram", ms: gramMs, ...(gram && qualityOf(gram, gradient, exact)) });
  // on the host, in f64
  if (isControl) {
    rows.push({
      ...at,
      basis: "full svd",
      ms: d <= 512 ? bestMs(() => run(exactBasis()).dispose(), 1) : undefined,
    });
  }
  return rows;
}

function place({ name, shape }: Pick<Sample, "name" | "shape">): Pick<Row, "gradient" | "shape" | "rank"> {
  return { gradient: name, shape: shape.join(" x "), rank: Math.min(...shape) / 4 };
}

/** Saved gradients of a shape, the other way round too; the control comes last. */
function* samples(shape: readonly [number, number]): Generator<Sample> {
  for (const { name, data, before } of saved(shape)) yield { name, shape, data, before };
  const numbers = (part: string) => normal(foldIn(keyOf(1), part), shape[0] * shape[1]);
  const [data, noise] = [numbers("gradient"), numbers("noise")];
  yield { name: "normal numbers", shape, data, before: data.map((value, i) => value + 0.1 * noise[i]) };
}

function* saved(shape: readonly [number, number]): Generator<Omit<Sample, "shape">> {
  if (!flags.gradients) return;
  const rows: { file: string; step: number; matrix: string; shape: number[] }[] = Deno
    .readTextFileSync(`${flags.gradients}/index.jsonl`).trim().split("\n").map((line) => JSON.parse(line));
  const read = (file: string) => new Float32Array(Deno.readFileSync(`${flags.gradients}/${file}`).buffer);
  for (const { file, step, matrix } of rows.filter((row) => row.shape.join() === shape.join())) {
    const earlier = rows.filter((row) => row.matrix === matrix && row.shape.join() === shape.join() && row.step < step);
    const last = earlier.sort((a, b) => b.step - a.step)[0];
    const name = `${matrix}, step ${step}${last ? ` (warm from ${last.step})` : ""}`;
    yield { name, data: read(file), before: last && read(last.file) };
  }
}

function spectrum({ values }: Exact, rank: number): string {
  const places = [2, 4, 16, 64, rank, 2 * rank].filter((k) => k <= values.length);
  return `sigma_k / sigma_1 ${places.map((k) => `${k}: ${(values[k - 1] / values[0]).toPrecision(2)}`).join(", ")}`;
}

/** The best of `least` runs or more, for half a second at least. */
function bestMs(run: () => void, least = 5): number {
  let best = Infinity;
  const until = performance.now() + (least > 1 ? 500 : 0);
  for (let i = 0; i < least || performance.now() < until; i++) {
    const start = performance.now();
    run();
    best = Math.min(best, performance.now() - start);
  }
  return best;
}

/** PyTorch's thin decomposition of normal numbers, the best of three or more; undefined without --torch. */
async function torchMs([m, n]: readonly [number, number]): Promise<number | undefined> {
  if (!flags.torch) return undefined;
  const code = `import os,time
os.environ["OMP_WAIT_POLICY"]="passive";os.environ["OMP_NUM_THREADS"]=os.environ["OPENBLAS_NUM_THREADS"]="${flags.threads}"
import torch
torch.set_num_threads(${flags.threads});torch.manual_seed(0)
g=torch.randn(${m},${n});ts=[]
while len(ts)<3 or sum(ts)<3:
    t=time.perf_counter();torch.linalg.svd(g,full_matrices=False);ts.append(time.perf_counter()-t)
print(min(ts)*1e3)`;
  const { code: exit, stdout, stderr } = await new Deno.Command(flags.torch, { args: ["-c", code] }).output();
  if (exit === 0) return Number(new TextDecoder().decode(stdout));
  console.error(`PyTorch: left out: ${new TextDecoder().decode(stderr).trim().split("\n").pop()}`);
}

function print(rows: readonly Row[]): void {
  if (flags.json) return rows.forEach((row) => console.log(JSON.stringify(row)));
  const share = (value: number | undefined) => value === undefined ? "-" : value.toFixed(4);
  const cells = rows.map(({ gradient, shape, rank, basis, ms, energy, head, overlap }) => [
    ...[gradient, shape, `${rank}`, basis, ms === undefined ? "-" : ms.toFixed(1)],
    ...[energy, head, overlap].map(share),
  ]);
  const heads = ["gradient", "shape", "rank", "basis", "ms", "energy", "head", "overlap"];
  console.log(formatTable([heads, ...cells], "llrlrrrr").join("\n"));
}

/** Refreshing all bases of a model once in 200 steps, as a share of those steps. */
async function printShares(): Promise<void> {
  const rows = [["model", "rank", "step ms", "cold ms", "warm ms", "warm share"]];
  for (const [model, vocab] of [["llama-9m", 256], ["llama-60m", 4096]] as const) {
    const config = llamaConfig(model, { vocab_size: vocab });
    const rank = config.hidden_size / 4;
    const stepMs = await stepMsOf(model, vocab, rank);
    const counts = new Map<string, number>();
    for (const [name, { shape }] of llamaWeights(config)) {
      if (LLAMA_PROJECTED.test(name)) counts.set(shape.join(), (counts.get(shape.join()) ?? 0) + 1);
    }
    let [cold, warm] = [0, 0];
    for (const [shape, count] of counts) {
      const [coldMs, warmMs] = refreshMs(shape.split(",").map(Number), rank);
      cold += count * coldMs;
      warm += count * warmMs;
    }
    const share = `${(100 * warm / (200 * stepMs + warm)).toFixed(2)} %`;
    rows.push([model, `${rank}`, stepMs.toFixed(0), cold.toFixed(0), warm.toFixed(0), share]);
  }
  console.log(formatTable(rows, "lrrrrr").join("\n"));
}

/** A matrix's basis from nothing and from itself. */
function refreshMs(shape: readonly number[], rank: number): [cold: number, warm: number] {
  using gradient = fromArray(backend, normal(keyOf(1), shape[0] * shape[1]), shape);
  const side: Side = shape[0] >= shape[1] ? "right" : "left";
  const run = (previous?: Tensor) =>
    finishNow(subspaceBasis().compute(gradient, { side, rank, key: keyOf(3), previous }));
  using previous = run();
  return [bestMs(() => run().dispose()), bestMs(() => run(previous).dispose())];
}

/** A step of 16 x 128 tokens with GaLore, no basis in it. */
async function stepMsOf(model: string, vocab: number, rank: number): Promise<number> {
  const file = new URL("train_steps.ts", import.meta.url).pathname;
  const choice = ["--config", model, "--vocab", `${vocab}`, "--rank", `${rank}`, "--batch", "16", "--seq", "128"];
  const args = ["run", "-A", "--no-lock", file, ...choice, "--threads", flags.threads];
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), { args }).output();
  if (code !== 0) throw new Error(new TextDecoder().decode(stderr).trim().split("\n").pop());
  return 1000 * JSON.parse(new TextDecoder().decode(stdout).trim().split("\n").pop()!).step_s;
}
