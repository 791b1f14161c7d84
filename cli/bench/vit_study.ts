/**
 * Ways to adapt a vision transformer that is kept for many tasks: a small one is pre-trained on some digits of MNIST, then
 * adapted to the others with few labelled images a class, by prompts, by the head alone, by adapters and by all of its
 * weights. A row of the table is a way: accuracy on the images that are left, what is trained, what a task takes on disk,
 * speed. In a folder that a study which was stopped goes on from.
 *
 *     deno run -A cli/bench/vit_study.ts --images train-images-idx3-ubyte.gz --labels train-labels-idx1-ubyte.gz \
 *       --out runs/vit
 *
 * Each seed draws the images to train on, the prompts, adapters and heads, and the order. The rate of a way is the best of
 * its grid at seed 1 by the images that are left, so that this one seed is seen in the best light; or, with `--rates-of`,
 * that of an earlier study. A small model on small images: its figures are not comparable with published ones.
 */
import { defineVerb, formatHelp, type Options, parseVerb, wantsHelp } from "../arguments.ts";
import { namesIn, writeFileDurably } from "../durable.ts";
import { exists, join } from "../files.ts";
import { consoleOutput, explainError, formatTable, type Output } from "../log.ts";
import { callVerb } from "./call_verb.ts";
import { keptResult, meanOf, percent } from "./kept_result.ts";

const whole = { type: "number", integer: true, min: 1 } as const;

const studyVerb = defineVerb({
  name: "vit_study",
  summary: "pre-trains a small ViT on some classes and adapts it to others in every way; goes on where it stopped",
  example: "deno run -A cli/bench/vit_study.ts --images images.gz --labels labels.gz --out runs/vit",
  flags: {
    images: { type: "string", required: true, value: "IDX", help: "images, such as those of MNIST" },
    labels: { type: "string", required: true, value: "IDX", help: "their labels" },
    out: { type: "string", required: true, value: "FOLDER", help: "stores, models, results and the table" },
    model: { type: "string", default: "vit-0.2m", value: "NAME", help: "what is pre-trained" },
    known: { type: "string", default: "0,1,2,3,4", value: "A,B,...", help: "classes to pre-train on" },
    novel: { type: "string", default: "5,6,7,8,9", value: "A,B,...", help: "classes to adapt to" },
    perClass: { ...whole, default: 100, help: "labelled images of each to train on" },
    steps: { ...whole, default: 900, help: "steps of pre-training" },
    epochs: { ...whole, default: 40, help: "epochs of each adaptation" },
    batch: { ...whole, default: 32, help: "images to a batch" },
    warmup: { ...whole, min: 0, default: 20, help: "steps of warm-up of each adaptation" },
    prompts: { ...whole, default: 10, help: "prompts of a layer" },
    seeds: { ...whole, default: 3, help: "seeds" },
    ratesOf: {
      type: "string",
      value: "FOLDER",
      help: "an earlier study, on another device say, whose best rates are taken",
      defaultHelp: "the best of a grid",
    },
    only: { type: "string", value: "NAME,NAME", help: "ways to run", defaultHelp: "all" },
    device: { type: "string", choices: ["cpu", "webgpu"], default: "cpu", help: "where to compute" },
    threads: { ...whole, help: "threads of each run", defaultHelp: "all" },
  },
});

/** Flags, and where to say what was found. */
type StudyOptions = Options<typeof studyVerb.flags> & { readonly output: Output };

/** A way to adapt, and the rates that are tried. */
interface Way {
  readonly name: string;
  readonly flags: string;
  readonly rates: readonly number[];
  /** Whether a task is a small file beside the model. */
  readonly isSmall: boolean;
}

/** Rates of what begins from nothing, beside a model that stays as it is. */
const SMALL = [0.03, 0.1, 0.3, 1];

function waysOf({ prompts }: StudyOptions): readonly Way[] {
  const linear = ["query", "key", "value", "dense"].map((name) => `--targets ${name}`).join(" ");
  return [
    { name: "linear", flags: "--method linear", rates: SMALL, isSmall: true },
    { name: "vpt-shallow", flags: `--method vpt-shallow --prompts ${prompts}`, rates: SMALL, isSmall: true },
    { name: "vpt-deep", flags: `--method vpt-deep --prompts ${prompts}`, rates: SMALL, isSmall: true },
    {
      name: "lora r=4",
      flags: `--method lora --rank 4 --alpha 8 ${linear}`,
      rates: [0.003, 0.01, 0.03],
      isSmall: true,
    },
    { name: "galore r=8", flags: "--method galore --rank 8 --scale 1", rates: [0.001, 0.003, 0.01], isSmall: false },
    { name: "full", flags: "--method full", rates: [0.0005, 0.0015, 0.005], isSmall: false },
  ];
}

/** What an adaptation came to. */
interface Result {
  readonly way: string;
  readonly rate: number;
  readonly seed: number;
  readonly accuracy: number;
  readonly trained: string;
  /** Of the model's weights, as a percentage. */
  readonly share: string;
  readonly optimizer: string;
  /** Of the files that a task takes beside the model, or in its place. */
  readonly bytes: number;
  /** Images a second. */
  readonly speed: number;
}

/** Runs what is not there yet, and writes the table. */
export async function study(argv: readonly string[], output: Output): Promise<void> {
  if (wantsHelp(argv)) return output.out(formatHelp(studyVerb));
  const options = { ...parseVerb(studyVerb, argv).options, output };
  await Deno.mkdir(options.out, { recursive: true });
  const model = await pretrain(options);
  const wanted = options.only?.split(",");
  const ways = waysOf(options).filter(({ name }) => !wanted || wanted.some((part) => name.startsWith(part)));
  const seeds = Array.from({ length: options.seeds }, (_, i) => i + 1);
  const earlier = options.ratesOf === undefined ? [] : await resultsIn(options.ratesOf);
  const results: Result[] = [];
  for (const way of ways) {
    const rates = earlier.length > 0 ? [bestRate(earlier, way.name)] : way.rates;
    for (const rate of rates) results.push(await adapt(options, { model, way, rate, seed: seeds[0] }));
    const rate = bestRate(results, way.name);
    for (const seed of seeds.slice(1)) results.push(await adapt(options, { model, way, rate, seed }));
    await writeFileDurably(join(options.out, "table.txt"), tableOf(ways, results, seeds).join("\n") + "\n");
  }
  for (const line of tableOf(ways, results, seeds)) output.out(line);
}

/** A store, made if it is not there yet. */
async function storeOf({ out, images, labels }: StudyOptions, name: string, flags: string): Promise<string> {
  const store = join(out, name);
  if (!await exists(store)) await callVerb(`prepare --images ${images} --labels ${labels} ${flags} --out ${store}`);
  return store;
}

/** The model to adapt, pre-trained if it is not there yet. */
async function pretrain(options: StudyOptions): Promise<string> {
  const { out, model, known, steps } = options;
  const run = join(out, "pretrained");
  const best = join(run, "best");
  if (await exists(join(run, "done"))) return best;
  const store = await storeOf(options, "known.zarr", `--classes ${known} --hold-out 0.1`);
  const start = await exists(join(run, "checkpoints"))
    ? `--resume ${run}`
    : `--model ${model} --data ${store} --out ${run} --crop-padding 2`;
  const device = deviceOf(options);
  await callVerb(
    `train ${start} ${device} --optimizer adamw --lr 0.002 --batch 64 --steps ${steps} --log-every 50 ` +
      `--eval-every 150 --save-every 150 --keep 1`,
    options.output,
  );
  await writeFileDurably(join(run, "done"), "");
  return best;
}

function deviceOf({ device, threads }: StudyOptions): string {
  return `--device ${device}${threads === undefined ? "" : ` --threads ${threads}`}`;
}

interface Job {
  readonly model: string;
  readonly way: Way;
  readonly rate: number;
  readonly seed: number;
}

/** One adaptation, or what an earlier call found. */
async function adapt(options: StudyOptions, { model, way, rate, seed }: Job): Promise<Result> {
  const { out, novel, perClass, epochs, batch, warmup, output } = options;
  const name = `${way.name.replace(/\W+/g, "-")}-${rate}-${epochs}-epochs-seed-${seed}`;
  return await keptResult({ folder: out, name }, async (run) => {
    const choice = `--classes ${novel} --per-class ${perClass} --hold-out-rest --seed ${seed}`;
    const store = await storeOf(options, `novel-${seed}.zarr`, choice);
    const said = await callVerb(
      `finetune --model ${model} --task images --data ${store} ${way.flags} --lr ${rate} --seed ${seed} ` +
        `--epochs ${epochs} --batch ${batch} --warmup ${warmup} --schedule cosine --eval-every 0 --no-merge ` +
        `--log-every 100 ${deviceOf(options)} --out ${run}`,
    );
    const parts = new RegExp(
      /^accuracy (\S+) at step \d+; trained parameters ([\d,]+) \(([\d.]+)%\); optimizer (.*?); images\/s ([\d.]+)/,
      "m",
    ).exec(said);
    if (!parts) throw new Error(`Cannot read what finetune said: ${said}`);
    const [, accuracy, trained, share, optimizer, speed] = parts;
    const result: Result = {
      ...{ way: way.name, rate, seed, accuracy: Number(accuracy), trained, share, optimizer, speed: Number(speed) },
      bytes: await bytesIn(join(run, way.isSmall ? "best-adapter" : "best")),
    };
    output.err(`${name}: ${percent(result.accuracy)}`);
    return result;
  });
}

async function bytesIn(folder: string): Promise<number> {
  let bytes = 0;
  for await (const { name } of Deno.readDir(folder)) bytes += (await Deno.stat(join(folder, name))).size;
  return bytes;
}

/** What a study has kept. */
async function resultsIn(folder: string): Promise<Result[]> {
  const names = (await namesIn(folder)).filter((name) => name.endsWith(".json"));
  return await Promise.all(names.map(async (name) => JSON.parse(await Deno.readTextFile(join(folder, name)))));
}

function bestRate(results: readonly Result[], way: string): number {
  const tried = results.filter((one) => one.way === way && one.seed === 1);
  if (tried.length === 0) throw new RangeError(`Cannot take the rate of ${way}: the earlier study has not tried it`);
  return tried.reduce((best, one) => one.accuracy > best.accuracy ? one : best).rate;
}

/** A row a way. */
function tableOf(ways: readonly Way[], results: readonly Result[], seeds: readonly number[]): string[] {
  const rows = ways.filter(({ name }) => results.some(({ way }) => way === name)).map(({ name }) => {
    const rate = bestRate(results, name);
    const runs = results.filter((one) => one.way === name && one.rate === rate);
    const { trained, share, optimizer, bytes } = runs[0];
    return [
      ...[name, String(rate), ...seeds.map((seed) => percent(runs.find((one) => one.seed === seed)?.accuracy))],
      ...[percent(meanOf(runs.map(({ accuracy }) => accuracy))), trained, `${share}%`, optimizer],
      ...[bytes.toLocaleString("en-US"), meanOf(runs.map(({ speed }) => speed)).toFixed(0)],
    ];
  });
  const head = ["way", "rate", ...seeds.map((seed) => `seed ${seed}`), "mean", "trained", "share", "optimizer"];
  return formatTable([[...head, "bytes a task", "images/s"], ...rows], `l${"r".repeat(head.length + 1)}`);
}

if (import.meta.main) {
  try {
    await study(Deno.args, consoleOutput());
  } catch (error) {
    console.error(explainError(error));
    Deno.exit(1);
  }
}
