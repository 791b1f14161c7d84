/**
 * The optimizers side by side on one text, the same tokens each: learning rates, seeds, tables and plots, in a folder that
 * a study which was stopped goes on from. What a method is stands in `study_methods.ts`.
 *
 * Five methods in full: five rates at seed 1, then two more seeds at the best rate and at its neighbours; the best is then
 * the lowest mean of three seeds, so that it does not hang on one lucky run. The others: three rates at one seed. Other
 * parts: the best six and AdamW on another text (`--best-of`), and GaLore by gap and by rank (`--ablation`).
 *
 *     deno task study --data tinyshakespeare.txt --out runs/study --jobs 2
 *     deno task study --data c4_sample.jsonl --out runs/study-c4 --best-of runs/study
 *     deno task study --data tinyshakespeare.txt --out runs/study --ablation gap
 */
import { defineVerb, formatHelp, type Options, parseVerb, UsageError, wantsHelp } from "../arguments.ts";
import { chooseTokenizer, openData } from "../data_source.ts";
import { writeFileDurably } from "../durable.ts";
import { baseName, join } from "../files.ts";
import { modelFlags } from "../flags.ts";
import { explainError } from "../log.ts";
import { resolveModel } from "../model_source.ts";
import { DEFAULTS } from "../options.ts";
import {
  ABLATED,
  type Ablation,
  ablationPoints,
  chooseMethods,
  CONTROL,
  type Method,
  shardOf,
  studyMethods,
} from "./study_methods.ts";
import { bestRate, type Job, ratesToRepeat, readResults, Results, type Setting } from "./study_results.ts";
import { Runner } from "./study_runs.ts";
import { ablationPlot, ablationTable, mainTable, ratesPlot, ratesTable } from "./study_tables.ts";

const SEEDS = [2, 3];
const BEST = 6;
const whole = { type: "number", integer: true, min: 1 } as const;

const studyVerb = defineVerb({
  name: "study",
  summary: "compares optimizers on a text; goes on where it stopped",
  example: "deno task study --data tinyshakespeare.txt --out runs/study --jobs 2",
  flags: {
    data: { type: "string", required: true, value: "FILE", help: "the text" },
    out: { type: "string", required: true, value: "FOLDER", help: "results, tables and plots" },
    only: { type: "string", value: "NAME,NAME", help: "methods to run", defaultHelp: "all" },
    bestOf: { type: "string", value: "FOLDER", help: "only the best six of that study and AdamW, at their best rates" },
    ablation: { type: "string", choices: ["gap", "rank"], help: "GaLore by gap or by rank, at its best rate" },
    rate: { type: "number", above: 0, help: "rate of an ablation", defaultHelp: "the best in --out or --best-of" },
    shard: { type: "string", value: "I/N", help: "only the I-th of N parts of the methods", defaultHelp: "1/1" },
    jobs: { ...whole, default: 1, help: "runs side by side" },
    threads: { ...whole, help: "threads of each run", defaultHelp: "cores / jobs" },
    device: { type: "string", choices: ["cpu", "webgpu"], default: "cpu", help: "where to compute" },
    blas: { type: "string", choices: ["auto", "off"], default: "auto", help: "native BLAS, where there is one" },
    retry: { type: "boolean", help: "run again what failed" },
    model: { ...modelFlags.model, default: DEFAULTS.model },
    batch: { ...whole, default: DEFAULTS.batch, help: "sequences to a batch" },
    seq: { ...whole, default: DEFAULTS.seq, help: "tokens to a sequence" },
    steps: { ...whole, default: DEFAULTS.steps, help: "steps of each run" },
  },
});

type StudyOptions = Options<typeof studyVerb.flags>;

interface Study {
  readonly options: StudyOptions;
  readonly methods: readonly Method[];
  readonly runner: Runner;
  readonly results: Results;
}

async function main(argv: readonly string[]): Promise<number> {
  if (wantsHelp(argv)) return console.log(formatHelp(studyVerb)), 0;
  const { options } = parseVerb(studyVerb, argv);
  const { setting, hiddenSize } = await settingOf(options);
  const only = options.only?.split(",") ?? [];
  const [index, count] = readShard(options.shard);
  const methods = shardOf(chooseMethods(studyMethods(hiddenSize), only), index, count);
  const file = count === 1 ? "results.jsonl" : `results-${index}-of-${count}.jsonl`;
  const results = await Results.open(options.out, setting, file);
  using runner = new Runner(results, {
    jobs: options.jobs,
    threads: options.threads ?? Math.max(1, Math.floor(navigator.hardwareConcurrency / options.jobs)),
    blas: options.blas,
    retry: options.retry,
    log: (line) => console.error(line),
  });
  const study = { options, methods, runner, results };
  const isDone = options.ablation
    ? await runAblation(study, options.ablation, hiddenSize)
    : options.bestOf
    ? await runBestOf(study, options.bestOf)
    : await runMain(study);
  return isDone ? 0 : 130;
}

function readShard(shard = "1/1"): [number, number] {
  const [, index, count] = /^(\d+)\/(\d+)$/.exec(shard)?.map(Number) ?? [];
  if (index >= 1 && index <= count) return [index, count];
  throw new UsageError(`Cannot use --shard ${shard}: expected a part of a number of parts, such as 1/3`);
}

/** Tokenises the text, so that runs side by side find it done, and says what makes runs comparable. */
async function settingOf({ data, model, batch, seq, steps, device }: StudyOptions) {
  const request = { ...DEFAULTS, model, data: [data], seq, modelFolder: model };
  const tokenizer = await chooseTokenizer(request);
  const { config } = await resolveModel(request, tokenizer);
  const { store } = await openData(request, tokenizer);
  const sha256 = store.info.sources.map((source) => source.sha256);
  const setting: Setting = { model, batch, seq, steps, data, sha256, device };
  return { setting, hiddenSize: config.hidden_size };
}

const jobOf = (study: Job["study"], { name, flags }: Pick<Method, "name" | "flags">, rate: number, seed = 1): Job => ({
  study,
  method: name,
  flags,
  rate,
  seed,
});

async function runMain({ options, methods, runner, results }: Study): Promise<boolean> {
  const first = methods.flatMap((method) => method.rates.map((rate) => jobOf("main", method, rate)));
  if (!await runner.run(first)) return false;
  const more = methods.filter(({ group }) => group === "full").flatMap((method) =>
    ratesToRepeat(results.all(), method).flatMap((rate) => SEEDS.map((seed) => jobOf("main", method, rate, seed)))
  );
  if (!await runner.run(more)) return false;
  const all = results.all();
  const full = methods.filter(({ group }) => group !== "short");
  const short = methods.filter(({ group }) => group === "short");
  const parts = [`# Study of ${baseName(options.data)}`, mainTable(all, methods, "main")];
  parts.push(
    "Mean of three seeds where three are given, else of seed 1 alone. `*`: the best rate is at an edge of its grid.",
    ratesTable(all, methods),
  );
  await publish(options.out, "study", parts);
  for (const [name, shown] of [["study", full], ["study-others", short]] as const) {
    if (shown.length > 0) await writeFileDurably(join(options.out, `${name}.svg`), ratesPlot(all, shown));
  }
  return true;
}

async function runBestOf({ options, methods, runner, results }: Study, folder: string): Promise<boolean> {
  const earlier = await readResults(folder);
  const ranked = methods.filter(({ name }) => name !== CONTROL).flatMap((method) => {
    const best = bestRate(earlier, "main", method.name);
    return best ? [{ method, best }] : [];
  }).sort((a, b) => a.best.mean - b.best.mean);
  if (ranked.length === 0) throw new RangeError(`Cannot repeat the best of ${folder}: it has no results`);
  const kept = ranked.filter(({ method }, i) => i < BEST || method.name === "AdamW");
  if (!await runner.run(kept.map(({ method, best }) => jobOf("best-of", method, best.rate)))) return false;
  const table = mainTable(results.all(), kept.map(({ method }) => method), "best-of");
  await publish(options.out, "best-of", [`# The best of ${folder} on ${baseName(options.data)}, seed 1`, table]);
  return true;
}

async function runAblation({ options, runner, results }: Study, ablation: Ablation, d: number): Promise<boolean> {
  const earlier = options.bestOf ? await readResults(options.bestOf) : results.all();
  const rate = options.rate ?? bestRate(earlier, "main", ABLATED)?.rate;
  if (rate === undefined) {
    throw new RangeError(
      `Cannot run an ablation: ${options.bestOf ?? options.out} has no result of ${ABLATED}: give --rate`,
    );
  }
  const points = ablationPoints(ablation, d);
  if (!await runner.run(points.map((point) => jobOf(ablation, point, rate)))) return false;
  const mine = results.all().filter((one) => one.rate === rate);
  const title = `# GaLore by ${ablation} on ${baseName(options.data)}, rate ${rate}, seed 1`;
  await publish(options.out, `ablation-${ablation}`, [title, ablationTable(mine, ablation, points)]);
  await writeFileDurably(join(options.out, `ablation-${ablation}.svg`), ablationPlot(mine, ablation, points));
  return true;
}

/** Prints tables, and keeps them as markdown. */
async function publish(folder: string, name: string, parts: readonly string[]): Promise<void> {
  const text = parts.join("\n\n") + "\n";
  console.log(text);
  await writeFileDurably(join(folder, `${name}.md`), text);
}

if (import.meta.main) {
  try {
    Deno.exit(await main(Deno.args));
  } catch (error) {
    console.error(explainError(error));
    Deno.exit(error instanceof UsageError ? 2 : 1);
  }
}
