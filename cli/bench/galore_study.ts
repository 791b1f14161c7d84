/**
 * AdamW, GaLore at two ranks and three controls on one text, the same tokens each: five learning rates, two more seeds at
 * the best, a table and a plot. Results are kept in OUT/results.jsonl as they come, so that a study that was stopped goes on.
 *
 *     deno run -A cli/bench/galore_study.ts --data tinyshakespeare.txt --out runs/study
 *     deno run -A cli/bench/galore_study.ts --data c4_sample.jsonl --out runs/study-c4 --rates runs/study
 */
import { parseArgs } from "node:util";
import { formatBytes } from "../../core/mod.ts";
import { formatTable } from "../log.ts";
import { plotSvg } from "../report_plot.ts";

const { values: flags } = parseArgs({
  options: {
    data: { type: "string" },
    out: { type: "string" },
    steps: { type: "string", default: "500" },
    gap: { type: "string", default: "200" },
    blas: { type: "string", default: "auto" },
    /** A finished study: only its best rate of each method is run. */
    rates: { type: "string" },
  },
});
if (!flags.data || !flags.out) throw new Error("give --data FILE and --out FOLDER");

/** One way to train. */
interface Method {
  readonly name: string;
  readonly flags: readonly string[];
  readonly rates: readonly number[];
  /** Run at two more seeds. */
  readonly seeds: boolean;
}

const galore = (rank: number, gap: string) => [
  "--optimizer",
  "galore_adamw",
  "--rank",
  `${rank}`,
  "--update-proj-gap",
  gap,
  "--scale",
  "0.25",
];
const ADAM_RATES = [0.001, 0.002, 0.004, 0.008, 0.016];
const GALORE_RATES = [0.005, 0.01, 0.02, 0.04, 0.08];
const METHODS: readonly Method[] = [
  { name: "AdamW", flags: ["--optimizer", "adamw"], rates: ADAM_RATES, seeds: true },
  { name: "GaLore d/4", flags: galore(32, flags.gap), rates: GALORE_RATES, seeds: true },
  { name: "GaLore d/8", flags: galore(16, flags.gap), rates: GALORE_RATES, seeds: true },
  { name: "GaLore d/4, gap infinite", flags: galore(32, "1000000"), rates: [0.02, 0.04], seeds: false },
  { name: "GaLore rank 1", flags: galore(1, flags.gap), rates: [0.02, 0.04], seeds: false },
  {
    name: "projected matrices frozen",
    flags: ["--optimizer", "adamw", "--freeze", "_proj\\.weight$"],
    rates: [0.008, 0.016],
    seeds: false,
  },
];

/** What one run came to. */
interface Result {
  readonly method: string;
  readonly rate: number;
  readonly seed: number;
  readonly loss: number;
  readonly tokens: number;
  readonly tokensPerSecond: number;
  readonly optimizerBytes: number;
}

const resultsPath = (folder: string) => `${folder}/results.jsonl`;

function readResults(folder: string): Result[] {
  try {
    return Deno.readTextFileSync(resultsPath(folder)).trim().split("\n").filter(Boolean).map((line) =>
      JSON.parse(line)
    );
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return [];
    throw error;
  }
}

const main = new URL("../main.ts", import.meta.url).pathname;

async function runOne(method: Method, rate: number, seed: number): Promise<Result> {
  const out = `${flags.out}/${method.name.replace(/\W+/g, "-")}-${rate}-${seed}`;
  await Deno.remove(out, { recursive: true }).catch(() => {});
  const args = [
    "run",
    "-A",
    main,
    "train",
    "--data",
    flags.data!,
    "--out",
    out,
    "--steps",
    flags.steps,
    "--lr",
    `${rate}`,
    "--seed",
    `${seed}`,
    "--batch",
    "16",
    "--seq",
    "128",
    "--eval-every",
    "0",
    "--log-every",
    "100",
    "--blas",
    flags.blas,
    ...method.flags,
  ];
  const { code, stderr } = await new Deno.Command(Deno.execPath(), { args }).output();
  const text = new TextDecoder().decode(stderr);
  if (code !== 0) throw new Error(`${method.name} at ${rate}: ${text.trim().split("\n").pop()}`);
  const rows = Deno.readTextFileSync(`${out}/metrics.jsonl`).trim().split("\n").map((line) => JSON.parse(line));
  const steps = rows.filter((row) => "loss" in row);
  const speeds = steps.map((row) => row.tokensPerSecond).sort((a, b) => a - b);
  const state = `${out}/checkpoints/step-${flags.steps}/optimizer.safetensors`;
  return {
    method: method.name,
    rate,
    seed,
    loss: rows[rows.length - 1].validationLoss,
    tokens: steps[steps.length - 1].tokens,
    tokensPerSecond: speeds[speeds.length >> 1],
    optimizerBytes: Deno.statSync(state).size,
  };
}

const best = (results: readonly Result[], method: string) =>
  results.filter((result) => result.method === method && result.seed === 1).sort((a, b) => a.loss - b.loss)[0];

Deno.mkdirSync(flags.out, { recursive: true });
const results = readResults(flags.out);
async function need(method: Method, rate: number, seed: number): Promise<void> {
  if (results.some((result) => result.method === method.name && result.rate === rate && result.seed === seed)) return;
  const result = await runOne(method, rate, seed);
  results.push(result);
  Deno.writeTextFileSync(resultsPath(flags.out!), JSON.stringify(result) + "\n", { append: true });
  console.error(`${method.name}, rate ${rate}, seed ${seed}: ${result.loss.toFixed(4)} nats`);
}

const earlier = flags.rates ? readResults(flags.rates) : undefined;
for (const method of METHODS) {
  for (const rate of earlier ? [best(earlier, method.name).rate] : method.rates) await need(method, rate, 1);
}
if (!earlier) {
  for (const method of METHODS.filter(({ seeds }) => seeds)) {
    for (const seed of [2, 3]) await need(method, best(results, method.name).rate, seed);
  }
}

const frozen = best(results, "projected matrices frozen").loss;
const adamW = best(results, "AdamW").loss;
const table = [[
  "method",
  "best rate",
  "held-out nats, seed 1",
  "seeds 2, 3",
  "perplexity",
  "of the way frozen to AdamW",
  "optimizer",
  "tok/s",
]];
for (const { name } of METHODS) {
  const top = best(results, name);
  const others = results.filter((result) => result.method === name && result.rate === top.rate && result.seed > 1);
  table.push([
    name,
    `${top.rate}`,
    top.loss.toFixed(4),
    others.map(({ loss }) => loss.toFixed(4)).join(", "),
    Math.exp(top.loss).toFixed(3),
    `${(100 * (frozen - top.loss) / (frozen - adamW)).toFixed(1)}%`,
    formatBytes(top.optimizerBytes),
    Math.round(top.tokensPerSecond).toLocaleString("en-US"),
  ]);
}
for (const line of formatTable(table, "lrrrrrrr")) console.log(line);

if (!earlier) {
  const series = METHODS.map(({ name }) => ({
    name: name.replace("projected matrices ", "").replace("GaLore d/4, gap", "d/4, gap"),
    style: { dots: true },
    points: results.filter((result) => result.method === name && result.seed === 1)
      .sort((a, b) => a.rate - b.rate)
      .map(({ rate, loss }) => [rate, loss] as [number, number]),
  }));
  const svg = plotSvg({
    series,
    xLabel: "peak learning rate",
    yLabel: "held-out loss, nats a byte",
    xScale: "log",
    xTicks: [0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.08],
    standalone: true,
    width: 1000,
    height: 440,
  });
  Deno.writeTextFileSync(`${flags.out}/study.svg`, svg);
}
