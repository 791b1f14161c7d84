/**
 * A small RoBERTa of our own on SST-2: pre-trained with the masked-LM objective on the task's training sentences and
 * other texts, then fine-tuned with every method, beside logistic regression on bags of words from the same sentences.
 * The rate of a method is the best of two at seed 1, found at the smallest rank of its kind. In a folder that a study
 * which was stopped goes on from.
 *
 *     deno run -A cli/bench/sst2_study.ts --data FOLDER_WITH_SST2_TSV --text FILE --out runs/sst2
 *
 * Few sentences and a small model of ours: its figures are not comparable with published ones. The development set
 * picks rates, epochs and the baseline's penalty; the test set, where the folder has one, picks nothing.
 */
import { defineVerb, formatHelp, type Options, parseVerb, wantsHelp } from "../arguments.ts";
import { writeFileDurably } from "../durable.ts";
import { exists, join } from "../files.ts";
import { consoleOutput, explainError, formatTable, type Output } from "../log.ts";
import { findModel } from "../resume.ts";
import { accuracyOf, bagOfWords, countWords, type Labelled, wordsOf, wordTokenizerFiles } from "./words.ts";
import { callVerb } from "./call_verb.ts";
import { keptResult, meanOf, percent } from "./kept_result.ts";

const whole = { type: "number", integer: true, min: 1 } as const;

const studyVerb = defineVerb({
  name: "sst2_study",
  summary: "pre-trains a small RoBERTa and fine-tunes it on SST-2 with every method; goes on where it stopped",
  example: "deno run -A cli/bench/sst2_study.ts --data glue/SST-2 --text corpus.txt --out runs/sst2",
  flags: {
    data: { type: "string", required: true, value: "FOLDER", help: "train.tsv, dev.tsv and perhaps test.tsv" },
    text: { type: "strings", value: "FILE", help: "more text to pre-train on (.txt, or .jsonl with a text field)" },
    out: { type: "string", required: true, value: "FOLDER", help: "models, results and the table" },
    steps: { ...whole, default: 3000, help: "steps of pre-training" },
    epochs: { ...whole, default: 3, help: "epochs of each fine-tuning" },
    batch: { ...whole, default: 32, help: "sentences to a batch" },
    warmup: { ...whole, min: 0, default: 50, help: "steps of warm-up of each fine-tuning" },
    only: { type: "string", value: "NAME,NAME", help: "methods to run", defaultHelp: "all" },
    threads: { ...whole, help: "threads of each run", defaultHelp: "all" },
    minCount: { ...whole, default: 2, help: "times that a word of the vocabulary occurs in the training sentences" },
  },
});

/** Flags, and where to say what was found. */
type StudyOptions = Options<typeof studyVerb.flags> & { readonly output: Output };

/** A way to fine-tune, and the rates that are tried; after `like`, only the one that was the best there. */
interface Method {
  readonly name: string;
  readonly flags: string;
  readonly rates: readonly number[];
  readonly like?: string;
  /** From a model that was not pre-trained: what pre-training is worth. */
  readonly isFresh?: boolean;
}

const GALORE = "--method galore --scale 1 --update-proj-gap 100";
/** Every linear map of the encoder. */
const LINEAR = ["query", "key", "value", "dense"].map((name) => `--targets ${name}`).join(" ");
/** And the embeddings, half of so small a model, by factors. */
const WITH_FACTORS = `${LINEAR} --targets word_embeddings`;
/** And the embeddings trained whole: these methods are for linear maps alone. */
const WITH_WHOLE = `${LINEAR} --modules-to-save word_embeddings`;

const METHODS: readonly Method[] = [
  { name: "full", flags: "--method full", rates: [2e-4, 5e-4, 1e-3] },
  { name: "not pre-trained full", flags: "--method full", rates: [2e-4, 5e-4, 1e-3], isFresh: true },
  { name: "galore r=4", flags: `${GALORE} --rank 4`, rates: [3e-4, 1e-3] },
  { name: "galore r=8", flags: `${GALORE} --rank 8`, rates: [3e-4, 1e-3], like: "galore r=4" },
  { name: "lora r=4", flags: `--method lora --rank 4 --alpha 8 ${WITH_FACTORS}`, rates: [1e-3, 3e-3] },
  {
    name: "lora r=8",
    flags: `--method lora --rank 8 --alpha 16 ${WITH_FACTORS}`,
    rates: [1e-3, 3e-3],
    like: "lora r=4",
  },
  { name: "dora r=8", flags: `--method dora --rank 8 --alpha 16 ${WITH_WHOLE}`, rates: [3e-4, 1e-3] },
  { name: "relora r=8", flags: `--method relora --rank 8 --alpha 16 ${WITH_WHOLE}`, rates: [3e-4, 1e-3] },
  { name: "flora r=8", flags: `--method flora --rank 8 ${WITH_WHOLE}`, rates: [3e-4, 1e-3] },
  { name: "deep-lora r=8", flags: `--method deep-lora --rank 8 ${WITH_WHOLE}`, rates: [3e-4, 1e-3] },
  // the embeddings as they are
  { name: "linear lora r=8", flags: `--method lora --rank 8 --alpha 16 ${LINEAR}`, rates: [1e-3, 3e-3] },
  { name: "linear dora r=8", flags: `--method dora --rank 8 --alpha 16 ${LINEAR}`, rates: [1e-3, 3e-3] },
];

const SEEDS = [1, 2, 3];
const PENALTIES = [1e-5, 1e-4, 1e-3, 1e-2];

/** What a fine-tuning came to. */
interface Result {
  readonly method: string;
  readonly rate: number;
  readonly seed: number;
  readonly dev: number;
  readonly test?: number;
  readonly trained: string;
  readonly optimizer: string;
  readonly speed: number;
}

/** Runs what is not there yet, and writes the table. */
export async function study(argv: readonly string[], output: Output): Promise<void> {
  if (wantsHelp(argv)) return output.out(formatHelp(studyVerb));
  const options = { ...parseVerb(studyVerb, argv).options, output };
  await Deno.mkdir(options.out, { recursive: true });
  const splits = await readSplits(options.data);
  const baseline = fitBaseline(splits);
  output.err(`bag of words: ${percent(baseline.dev)} of dev with penalty ${baseline.l2}`);
  const model = await pretrain(options, splits.train, { name: "pretrained", steps: options.steps, lr: 0.001 });
  // one step that moves nothing is a model as it was drawn
  const fresh = await pretrain(options, splits.train, { name: "drawn", steps: 1, lr: 1e-12 });
  const wanted = options.only?.split(",");
  const methods = METHODS.filter(({ name }) => !wanted || wanted.some((part) => name.startsWith(part)));
  const results: Result[] = [];
  for (const method of methods) {
    const isKnown = results.some((one) => one.method === method.like);
    const rates = isKnown ? [bestRate(results, method.like!)] : method.rates;
    const start = { model: method.isFresh ? fresh : model, method };
    for (const rate of rates) results.push(await finetune(options, { ...start, rate, seed: SEEDS[0] }));
    const rate = bestRate(results, method.name);
    for (const seed of SEEDS.slice(1)) results.push(await finetune(options, { ...start, rate, seed }));
    const table = tableOf(methods, results, baseline).join("\n") + "\n";
    await writeFileDurably(join(options.out, "table.txt"), table);
  }
  for (const line of tableOf(methods, results, baseline)) output.out(line);
}

interface Splits {
  readonly train: readonly Labelled[];
  readonly dev: readonly Labelled[];
  readonly test?: readonly Labelled[];
}

async function readSplits(folder: string): Promise<Splits> {
  const read = async (split: string) => {
    const lines = (await Deno.readTextFile(join(folder, `${split}.tsv`))).trim().split("\n");
    const labelled = lines.map((line) => line.split("\t")).filter(([, label]) => label === "0" || label === "1");
    return labelled.map(([sentence, label]) => ({ words: sentence.trim().split(/\s+/), label: Number(label) }));
  };
  const test = await exists(join(folder, "test.tsv")) ? await read("test") : [];
  return { train: await read("train"), dev: await read("dev"), ...test.length > 0 ? { test } : {} };
}

interface Baseline {
  readonly l2: number;
  readonly dev: number;
  readonly test?: number;
}

/** Logistic regression at the penalty that is best on the development set. */
function fitBaseline({ train, dev, test }: Splits): Baseline {
  const fitted = PENALTIES.map((l2) => {
    const score = bagOfWords(train, { l2, steps: 2000 });
    return { l2, dev: accuracyOf(score, dev), test: test && accuracyOf(score, test) };
  });
  return fitted.reduce((best, one) => one.dev > best.dev ? one : best);
}

/** A model folder, pre-trained if it is not there yet. */
async function pretrain(
  options: StudyOptions,
  train: readonly Labelled[],
  { name, steps, lr }: { name: string; steps: number; lr: number },
): Promise<string> {
  const { out, text, minCount } = options;
  const run = join(out, name);
  if (await exists(join(run, "done"))) return await findModel(run);
  const corpus = join(out, "corpus.jsonl");
  if (!await exists(corpus)) {
    const records = [...await passages(text), ...train.map(({ words }) => words.join(" "))];
    await writeFileDurably(corpus, records.map((words) => JSON.stringify({ text: words }) + "\n").join(""));
  }
  const counts = countWords(train.map(({ words }) => words));
  const kept = [...counts].filter(([, count]) => count >= minCount).sort(([, a], [, b]) => b - a).map(([word]) => word);
  const words = join(out, "words");
  await Deno.mkdir(words, { recursive: true });
  for (const [name, content] of Object.entries(wordTokenizerFiles(kept))) {
    await Deno.writeTextFile(join(words, name), content);
  }
  const start = await exists(join(run, "checkpoints"))
    ? ["--resume", run]
    : ["--model", "roberta-2m", "--data", corpus, "--tokenizer", words, "--out", run, "--hold-out", "0.03"];
  await callVerb(
    `train ${start.join(" ")} --device cpu --optimizer adamw --lr ${lr} --weight-decay 0.01 --seq 66 --batch 16 ` +
      `--steps ${steps}${threadsOf(options)} --log-every 50 --eval-every 500 --save-every 500 --keep 1`,
    options.output,
  );
  await writeFileDurably(join(run, "done"), "");
  return await findModel(run);
}

function threadsOf({ threads }: StudyOptions): string {
  return threads === undefined ? "" : ` --threads ${threads}`;
}

/** Paragraphs of other texts, their words apart as in the task's sentences. */
async function passages(files: readonly string[] = []): Promise<string[]> {
  let found: string[] = [];
  for (const file of files) {
    const content = await Deno.readTextFile(file);
    const texts = file.endsWith(".jsonl")
      ? content.trim().split("\n").map((line) => String(JSON.parse(line).text))
      : content.split(/\n\s*\n/);
    found = found.concat(texts.map((text) => wordsOf(text).join(" ")).filter((text) => text !== ""));
  }
  return found;
}

interface Job {
  readonly model: string;
  readonly method: Method;
  readonly rate: number;
  readonly seed: number;
}

/** One fine-tuning, or what an earlier call found. */
async function finetune(options: StudyOptions, { model, method, rate, seed }: Job): Promise<Result> {
  const { data, out, epochs, batch, warmup, output } = options;
  const name = `${method.name.replace(/\W+/g, "-")}-${rate}-seed-${seed}`;
  return await keptResult({ folder: out, name }, async (run) => {
    const said = await callVerb(
      `finetune --model ${model} --task sst2 --data ${join(data, "train.tsv")} --data ${join(data, "dev.tsv")} ` +
        `${method.flags} --lr ${rate} --seed ${seed} --epochs ${epochs} --batch ${batch} --warmup ${warmup} --max-length 64 ` +
        `--weight-decay 0.01 --device cpu${threadsOf(options)} --log-every 100 --out ${run}`,
    );
    const parts = /^accuracy (\S+) at step \d+; trained parameters ([\d,]+).*?; optimizer (.*?); \S+\/s ([\d.]+)/m.exec(
      said,
    );
    if (!parts) throw new Error(`Cannot read what finetune said: ${said}`);
    const [, dev, trained, optimizer, speed] = parts;
    const test = await testAccuracy(run, data);
    const result = {
      method: method.name,
      rate,
      seed,
      dev: Number(dev),
      test,
      trained,
      optimizer,
      speed: Number(speed),
    };
    output.err(`${name}: ${percent(result.dev)} of dev${test === undefined ? "" : `, ${percent(test)} of test`}`);
    return result;
  });
}

async function testAccuracy(run: string, data: string): Promise<number | undefined> {
  const file = join(data, "test.tsv");
  if (!await exists(file)) return undefined;
  const said = await callVerb(
    `eval --model ${join(run, "best")} --task sst2 --data ${file} --device cpu --max-length 64`,
  );
  return Number(/accuracy[":\s]+([\d.]+)/.exec(said)![1]);
}

function bestRate(results: readonly Result[], method: string): number {
  const tried = results.filter((one) => one.method === method && one.seed === SEEDS[0]);
  return tried.reduce((best, one) => one.dev > best.dev ? one : best).rate;
}

/** A row a method, the baseline last. */
function tableOf(methods: readonly Method[], results: readonly Result[], baseline: Baseline): string[] {
  const rows = methods.filter(({ name }) => results.some((one) => one.method === name)).map(({ name }) => {
    const rate = bestRate(results, name);
    const runs = results.filter((one) => one.method === name && one.rate === rate);
    const { trained, optimizer } = runs[0];
    const tests = runs.flatMap(({ test }) => test ?? []);
    return [
      ...[name, rate.toExponential(0), ...SEEDS.map((seed) => percent(runs.find((one) => one.seed === seed)?.dev))],
      ...[percent(meanOf(runs.map(({ dev }) => dev))), tests.length > 0 ? percent(meanOf(tests)) : ""],
      ...[trained, optimizer, meanOf(runs.map(({ speed }) => speed)).toFixed(0)],
    ];
  });
  const head = ["method", "rate", ...SEEDS.map((seed) => `seed ${seed}`), "dev mean", "test mean", "trained"];
  const last = ["bag of words", `L2 ${baseline.l2}`, "", "", "", percent(baseline.dev), percent(baseline.test)];
  return formatTable(
    [[...head, "optimizer", "sentences/s"], ...rows, [...last, "", "", ""]],
    "lrrrrrrrrr",
  );
}

if (import.meta.main) {
  try {
    await study(Deno.args, consoleOutput());
  } catch (error) {
    console.error(explainError(error));
    Deno.exit(1);
  }
}
