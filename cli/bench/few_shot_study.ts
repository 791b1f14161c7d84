/**
 * Deep LoRA against LoRA from few sentences, over ranks: what a rank that is too large costs each. On a task in SST-2's
 * files and a pre-trained RoBERTa; results are kept one a file, so that a study which was stopped goes on.
 *
 *     deno run -A cli/bench/few_shot_study.ts --data FOLDER_WITH_SST2_TSV --model FOLDER --out runs/few-shot
 *
 * After Yaras et al. 2024 (arXiv 2406.04112), figure of ranks 8 to 64: there LoRA is unscaled with A ~ N(0, 1), and the head
 * stays as it was drawn. Here A is PEFT's, heads are trained, and LoRA is run both unscaled (alpha = r) and with alpha 16
 * whatever the rank is, since part of what they see is that choice. Every run takes as many steps; only the last one is
 * measured. The rate of a method for a number of sentences is the best of its grid at the smallest rank, over the first two
 * seeds. Small models of ours: the figures are not comparable with published ones.
 */
import { foldIn, keyOf, svd, uniform } from "../../core/mod.ts";
import { openSafetensors } from "../../models/mod.ts";
import { defineVerb, formatHelp, type Options, parseVerb, UsageError, wantsHelp } from "../arguments.ts";
import { writeFileDurably } from "../durable.ts";
import { exists, FileSource, join } from "../files.ts";
import { consoleOutput, explainError, formatTable, type Output } from "../log.ts";
import { plotSvg, type Series } from "../report_plot.ts";
import { callVerb } from "./call_verb.ts";
import { keptResult, meanOf, percent } from "./kept_result.ts";

const whole = { type: "number", integer: true, min: 1 } as const;

const studyVerb = defineVerb({
  name: "few_shot_study",
  summary: "Deep LoRA against LoRA from few sentences, over ranks; goes on where it stopped",
  example: "deno run -A cli/bench/few_shot_study.ts --data glue/SST-2 --model runs/sst2/pretrained --out runs/few-shot",
  flags: {
    data: { type: "string", required: true, value: "FOLDER", help: "train.tsv and dev.tsv" },
    model: { type: "string", required: true, value: "FOLDER", help: "a pre-trained RoBERTa" },
    out: { type: "string", required: true, value: "FOLDER", help: "results, tables and plots" },
    sentences: { type: "string", default: "16,64,256", value: "N,N", help: "sizes of the training sets" },
    ranks: { type: "string", default: "8,16,32,64", value: "R,R", help: "ranks, the smallest first" },
    seeds: { ...whole, default: 5, help: "draws of sentences and of factors" },
    steps: { ...whole, default: 200, help: "steps of each run" },
    maxLength: { ...whole, default: 64, help: "tokens of a sentence before it is cut" },
    targets: { type: "strings", value: "NAME", help: "modules that get an adapter", defaultHelp: "all-linear" },
    threads: { ...whole, help: "threads of each run", defaultHelp: "all" },
  },
});

type StudyOptions = Options<typeof studyVerb.flags>;

/** A way to fine-tune, and the rates that are tried. */
interface Method {
  readonly name: string;
  readonly flags: (rank: number) => string;
  readonly rates: readonly number[];
}

const METHODS: readonly Method[] = [
  { name: "Deep LoRA", flags: () => "--method deep-lora", rates: [1e-3, 3e-3, 1e-2] },
  { name: "LoRA, alpha 16", flags: () => "--method lora --alpha 16", rates: [3e-4, 1e-3, 3e-3] },
  { name: "LoRA, alpha r", flags: (rank) => `--method lora --alpha ${rank}`, rates: [3e-4, 1e-3, 3e-3] },
];

/** Seeds whose runs choose a rate. */
const CHOOSING_SEEDS = 2;

/** One run. */
interface Job {
  readonly method: Method;
  readonly sentences: number;
  readonly rank: number;
  readonly rate: number;
  readonly seed: number;
}

/** What it came to. */
interface Result {
  readonly method: string;
  readonly sentences: number;
  readonly rank: number;
  readonly rate: number;
  readonly seed: number;
  /** Accuracy on the development set after the last step. */
  readonly accuracy: number;
  /** Mean over the adapted maps of the singular values above a hundredth of the largest. */
  readonly learnedRank: number;
}

/** Runs what is not there yet, and writes tables and plots. */
export async function study(argv: readonly string[], output: Output): Promise<void> {
  if (wantsHelp(argv)) return output.out(formatHelp(studyVerb));
  const { options } = parseVerb(studyVerb, argv);
  const [sizes, ranks] = [numbersOf("sentences", options.sentences), numbersOf("ranks", options.ranks)];
  await Deno.mkdir(options.out, { recursive: true });
  const results: Result[] = [];
  for (const sentences of sizes) {
    for (const method of METHODS) {
      const job = { method, sentences, rank: ranks[0] };
      const tried: Result[] = [];
      for (const rate of method.rates) {
        for (let seed = 1; seed <= Math.min(CHOOSING_SEEDS, options.seeds); seed++) {
          tried.push(await resultOf(options, { ...job, rate, seed }, output));
        }
      }
      const accuracyAt = (rate: number) => meanOf(tried.filter((one) => one.rate === rate).map((one) => one.accuracy));
      const rate = method.rates.reduce((best, one) => accuracyAt(one) > accuracyAt(best) ? one : best);
      for (const rank of ranks) {
        for (let seed = 1; seed <= options.seeds; seed++) {
          results.push(await resultOf(options, { ...job, rank, rate, seed }, output));
        }
      }
      await writeFileDurably(join(options.out, "table.txt"), tableOf(results).join("\n") + "\n");
    }
    await writeFileDurably(join(options.out, `ranks-${sentences}.svg`), plotOf(results, sentences, ranks));
  }
  for (const line of tableOf(results)) output.out(line);
}

function numbersOf(flag: string, text: string): number[] {
  const numbers = text.split(",").map(Number);
  if (numbers.every((number) => Number.isInteger(number) && number > 0)) return numbers;
  throw new UsageError(`Cannot use --${flag} ${text}: it must be whole numbers from 1, with commas`);
}

/** A run's result: what an earlier call found, or that of a run now. */
async function resultOf(options: StudyOptions, job: Job, output: Output): Promise<Result> {
  const { method, sentences, rank, rate, seed } = job;
  const name = `${sentences}-${method.name.replace(/\W+/g, "-").toLowerCase()}-rank-${rank}-rate-${rate}-seed-${seed}`;
  return await keptResult({ folder: options.out, name }, async (run) => {
    const train = await fewSentences(options, sentences, seed);
    const batch = Math.min(16, sentences);
    const epochs = options.steps * batch / sentences;
    const targets = (options.targets.length > 0 ? options.targets : ["all-linear"]).map((one) => `--targets ${one}`);
    const threads = options.threads === undefined ? "" : ` --threads ${options.threads}`;
    const command =
      `finetune --model ${options.model} --task sst2 --data ${train} --data ${join(options.data, "dev.tsv")} ` +
      `${method.flags(rank)} --rank ${rank} ${targets.join(" ")} --lr ${rate} --schedule constant --epochs ${epochs} ` +
      `--batch ${batch} --eval-every 0 --max-length ${options.maxLength} --no-merge --seed ${seed} --device cpu${threads} ` +
      `--log-every ${options.steps} --out ${run}`;
    const accuracy = Number(/^accuracy (\S+) at step/m.exec(await callVerb(command))?.[1]);
    if (!Number.isFinite(accuracy)) throw new Error(`Cannot read the accuracy of ${command}`);
    const learnedRank = await meanRank(join(run, "best-adapter"));
    const result = { method: method.name, sentences, rank, rate, seed, accuracy, learnedRank };
    output.err(`${name}: ${percent(accuracy)} of dev, mean rank ${learnedRank.toFixed(1)}`);
    return result;
  });
}

/** A file of as many sentences of each class, by seed. */
async function fewSentences({ data, out }: StudyOptions, count: number, seed: number): Promise<string> {
  const file = join(out, `train-${count}-seed-${seed}.tsv`);
  if (await exists(file)) return file;
  const [head, ...lines] = (await Deno.readTextFile(join(data, "train.tsv"))).trimEnd().split("\n");
  const order = uniform(foldIn(keyOf(seed), "few sentences"), lines.length);
  const shuffled = [...lines.keys()].sort((a, b) => order[a] - order[b]).map((i) => lines[i]);
  const ofClass = (label: string) => shuffled.filter((line) => line.trimEnd().endsWith(`\t${label}`));
  const chosen = [ofClass("0").slice(0, Math.floor(count / 2)), ofClass("1").slice(0, Math.ceil(count / 2))].flat();
  if (chosen.length < count) {
    throw new RangeError(`Cannot draw ${count} sentences of ${data}: it has ${lines.length}, of two classes alike`);
  }
  await writeFileDurably(file, [head, ...chosen].join("\n") + "\n");
  return file;
}

/** Mean numerical rank of the changes B A of an adapter's folder. */
async function meanRank(folder: string): Promise<number> {
  await using source = await FileSource.open(join(folder, "adapter_model.safetensors"));
  const file = await openSafetensors(source);
  const ranks: number[] = [];
  for (const name of file.tensors.keys()) {
    if (!name.endsWith(".lora_A.weight")) continue;
    const read = async (key: string) => ({
      shape: file.tensors.get(key)!.shape,
      values: new Float32Array((await file.bytes(key)).slice().buffer),
    });
    const [A, B] = [await read(name), await read(name.replace(".lora_A.", ".lora_B."))];
    const values = productValues(B.values, A.values, A.shape[0]);
    ranks.push(values.filter((value) => value > 0.01 * values[0]).length);
  }
  return meanOf(ranks);
}

/** The singular values of B A with r columns of B: those of S_B V_B^T (U_A S_A V_A^T), which is r x r. */
function productValues(B: Float32Array, A: Float32Array, r: number): Float64Array {
  const rows = B.length / r;
  const columns = A.length / r;
  const { values: sizeB, right: VB } = svd(B, rows, r);
  const { left: UA, values: sizeA } = svd(A, r, columns);
  const small = [sizeB.length, sizeA.length];
  const middle = new Float64Array(small[0] * small[1]);
  for (let i = 0; i < small[0]; i++) {
    for (let j = 0; j < small[1]; j++) {
      let sum = 0;
      for (let k = 0; k < r; k++) sum += VB[k * small[0] + i] * UA[k * small[1] + j];
      middle[i * small[1] + j] = sizeB[i] * sum * sizeA[j];
    }
  }
  return svd(middle, small[0], small[1]).values;
}

/** A row for each number of sentences, method and rank: the mean over seeds, its standard error, and the rank learned. */
function tableOf(results: readonly Result[]): string[] {
  const points = new Map<string, Result[]>();
  for (const one of results) {
    const key = `${one.sentences} ${one.method} ${one.rank}`;
    points.set(key, [...points.get(key) ?? [], one]);
  }
  const rows = [...points.values()].map((runs) => {
    const accuracies = runs.map(({ accuracy }) => accuracy);
    const [{ sentences, method, rank, rate }] = runs;
    return [
      ...[
        String(sentences),
        method,
        String(rank),
        String(rate),
        percent(meanOf(accuracies)),
        percent(errorOf(accuracies)),
      ],
      ...[String(runs.length), meanOf(runs.map(({ learnedRank }) => learnedRank)).toFixed(1)],
    ];
  });
  const head = ["sentences", "method", "rank", "rate", "dev mean", "+-", "seeds", "rank learned"];
  return formatTable([head, ...rows], "rlrrrrrr");
}

/** Accuracy over rank, a line a method. */
function plotOf(results: readonly Result[], sentences: number, ranks: readonly number[]): string {
  const series = METHODS.map(({ name }, i): Series => ({
    name,
    points: ranks.map((rank) => {
      const runs = results.filter((one) => one.method === name && one.sentences === sentences && one.rank === rank);
      return [rank, 100 * meanOf(runs.map(({ accuracy }) => accuracy))];
    }),
    style: { color: (i + 1) as 1 | 2 | 3, dots: true },
  }));
  return plotSvg({
    ...{ series, xLabel: "rank", yLabel: "accuracy, %", xScale: "log", xTicks: ranks, standalone: true },
    title: `Accuracy on the development set by rank, from ${sentences} sentences`,
  });
}

/** Standard error of the mean; 0 of one value. */
function errorOf(values: readonly number[]): number {
  if (values.length < 2) return 0;
  const middle = meanOf(values);
  return Math.sqrt(values.reduce((sum, value) => sum + (value - middle) ** 2, 0) / (values.length - 1) / values.length);
}

if (import.meta.main) {
  try {
    await study(Deno.args, consoleOutput());
  } catch (error) {
    console.error(explainError(error));
    Deno.exit(1);
  }
}
