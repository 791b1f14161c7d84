/**
 * What low rank keeps of a bias: a tiny LLaMA is trained on templates with a bias against one group (`shift_templates.ts`), fine-tuned on
 * counterfactuals with LoRA of rank 1 to 16, GaLore and as a whole, and compared by `eval --group`. In a folder that a study
 * which was stopped goes on from. It needs no data.
 *
 *     deno run -A --no-lock cli/bench/shift_study.ts --out runs/shift --threads 1
 *
 * Every method has the same records, order and number of steps; its rate is the best of three at seed 1 by the loss on records
 * that are no probes. An adapter's alpha is its rank, so that its product counts 1 at every rank and a rank has no other
 * effective rate. The reference is whole fine-tuning at its own rate and a seed of its own. A model of 71,000 weights and made-up
 * words: its figures are ours, and say nothing of published ones, which disagree with each other: Das et al. 2024 (arXiv
 * 2405.18572) find that low rank keeps bias, Ding et al. 2024 (COLM, arXiv 2405.17512) no consistent pattern.
 */
import { loopsBackend } from "../../backends/cpu/mod.ts";
import { byteTokenizer } from "../../data/mod.ts";
import { initLlama, makeLlamaConfig } from "../../models/mod.ts";
import { defineVerb, formatHelp, type Options, parseVerb, wantsHelp } from "../arguments.ts";
import { saveModel } from "../checkpoint.ts";
import { writeFileDurably, writeFolderDurably } from "../durable.ts";
import { exists, join } from "../files.ts";
import { consoleOutput, explainError, formatTable, type Output } from "../log.ts";
import { findMeasure } from "../shift_measures.ts";
import { REFERENCE } from "../shift_options.ts";
import { candidatesOf, type ModelResult, type ShiftResult } from "../shift_result.ts";
import { GROUPS, shiftFiles } from "./shift_templates.ts";
import { callVerb } from "./call_verb.ts";

const whole = { type: "number", integer: true, min: 1 } as const;

const studyVerb = defineVerb({
  name: "shift_study",
  summary:
    "trains a biased tiny LLaMA, fine-tunes it with every method and compares what stays; goes on where it stopped",
  example: "deno run -A --no-lock cli/bench/shift_study.ts --out runs/shift --threads 1",
  flags: {
    out: { type: "string", required: true, value: "FOLDER", help: "records, models, results, table and report" },
    epochs: { ...whole, default: 16, help: "epochs of each fine-tuning" },
    seeds: { ...whole, default: 3, help: "seeds at each method's best rate" },
    only: {
      type: "string",
      value: "NAME,NAME",
      help: "methods to run, by the beginning of a name",
      defaultHelp: "all",
    },
    threads: { ...whole, default: 1, help: "threads of each run" },
  },
});

/** Flags, and where to say what was found. */
type StudyOptions = Options<typeof studyVerb.flags> & { readonly output: Output };

/** A way to fine-tune, and the rates that are tried. */
interface Method {
  readonly name: string;
  readonly flags: string;
  readonly rates: readonly number[];
}

const LORA_RATES = [5e-3, 1.5e-2, 4e-2, 1e-1];
const GALORE_RATES = [1e-3, 3e-3, 9e-3];
/** Everything but the linear maps stays as it was. */
const MAPS_ALONE = "--freeze embed_tokens --freeze lm_head --freeze norm";

function lora(rank: number, targets = ""): Method {
  const name = `lora${targets === "" ? "" : " all"} r${rank}`;
  return { name, flags: `--method lora --rank ${rank} --alpha ${rank} ${targets}`.trim(), rates: LORA_RATES };
}

function galore(name: string, gap: number): Method {
  const flags = `--method galore --rank 4 --scale 1 --update-proj-gap ${gap} --refresh together`;
  return { name, flags, rates: GALORE_RATES };
}

/** A gap longer than any run: the first basis stays. */
const NEVER = 1_000_000;
const FROZEN_BASIS = galore("galore inf", NEVER);

/** Query and value are adapted, as is usual, or all linear maps. GaLore has rank 4 and a new basis every 20 steps, or one. */
const METHODS: readonly Method[] = [
  ...[1, 2, 4, 8, 16].map((rank) => lora(rank)),
  ...[1, 4].map((rank) => lora(rank, "--targets all-linear")),
  { name: "galore inf maps", flags: `${FROZEN_BASIS.flags} ${MAPS_ALONE}`, rates: [3e-3, 9e-3, 2.7e-2] },
  FROZEN_BASIS,
  galore("galore T20", 20),
  { name: "full", flags: "--method full", rates: [3e-4, 1e-3, 3e-3] },
];

/** The reference's seed: none of the candidates'. */
const REFERENCE_SEED = 101;

/** Runs what is not there yet, and writes the table. */
export async function study(argv: readonly string[], output: Output): Promise<void> {
  if (wantsHelp(argv)) return output.out(formatHelp(studyVerb));
  const options = { ...parseVerb(studyVerb, argv).options, output };
  await prepare(options);
  const wanted = options.only?.split(",");
  const methods = METHODS.filter(({ name }) =>
    name === "full" || !wanted || wanted.some((part) => name.startsWith(part))
  );
  const rates = new Map<string, number>();
  for (const method of methods) rates.set(method.name, await bestRate(options, method));
  const reference = METHODS.find(({ name }) => name === "full")!;
  const job = { method: reference, rate: rates.get("full")!, seed: REFERENCE_SEED };
  const referenceRun = (await finetune(options, job)).run;
  const compared: ShiftResult[] = [];
  for (let seed = 1; seed <= options.seeds; seed++) {
    const runs: (readonly [string, string])[] = [];
    for (const method of methods) {
      runs.push([method.name, (await finetune(options, { method, rate: rates.get(method.name)!, seed })).run]);
    }
    compared.push(await compare(options, { referenceRun, runs, seed }));
  }
  const lines = [
    ...tableOf(methods, rates, compared),
    ...["lora r", "lora all r"].flatMap((kind) => reached(kind, compared)),
  ];
  await writeFileDurably(join(options.out, "table.txt"), lines.join("\n") + "\n");
  for (const line of lines) output.out(line);
}

/** Records and the biased model, made if they are not there yet. */
async function prepare({ out, threads, output }: StudyOptions): Promise<void> {
  await Deno.mkdir(out, { recursive: true });
  for (const [name, records] of Object.entries(shiftFiles())) {
    await writeFileDurably(
      recordsOf(out, name),
      records.map((record: unknown) => JSON.stringify(record) + "\n").join(""),
    );
  }
  if (await exists(join(out, "biased.json"))) return;
  for (const name of ["random", "biased"]) await removeFolder(join(out, name));
  const config = makeLlamaConfig({
    ...{ vocab_size: 257, hidden_size: 48, intermediate_size: 96, num_hidden_layers: 2, num_attention_heads: 4 },
  }, { max_position_embeddings: 128, initializer_range: 0.08, eos_token_id: 256 });
  using params = initLlama(loopsBackend(), config, 1);
  await writeFolderDurably(out, "random", (writer) => saveModel(writer, params, config, byteTokenizer().files));
  const before = recordsOf(out, "before");
  const said = await callVerb(
    `finetune --model ${join(out, "random")} --task sft --data ${before} --data ${before} --method full --lr 0.004 ` +
      `--schedule cosine --warmup 20 --seq 128 --batch 16 --epochs 40 --eval-every 0 --seed 1 --device cpu ` +
      `--threads ${threads} --log-every 1000 --out ${join(out, "biased")}`,
  );
  await writeFileDurably(join(out, "biased.json"), JSON.stringify({ said }) + "\n");
  output.err(`biased model: ${said.split(";")[0]} on what it was trained on`);
}

function recordsOf(out: string, name: string): string {
  return join(out, `${name}.jsonl`);
}

async function removeFolder(path: string): Promise<void> {
  if (await exists(path)) await Deno.remove(path, { recursive: true });
}

/** The rate with the lowest loss on the records that pick rates. */
async function bestRate(options: StudyOptions, method: Method): Promise<number> {
  const tried = [];
  for (const rate of method.rates) tried.push(await finetune(options, { method, rate, seed: 1 }));
  return tried.reduce((best, one) => one.perplexity < best.perplexity ? one : best).rate;
}

interface Job {
  readonly method: Method;
  readonly rate: number;
  readonly seed: number;
}

interface Tuned {
  readonly run: string;
  readonly rate: number;
  /** On the records that pick rates. */
  readonly perplexity: number;
}

/** One fine-tuning, or what an earlier call found. */
async function finetune({ out, epochs, threads, output }: StudyOptions, { method, rate, seed }: Job): Promise<Tuned> {
  const run = join(out, `${method.name.replace(/\W+/g, "-")}-${rate}-seed-${seed}`);
  const file = `${run}.json`;
  if (await exists(file)) return JSON.parse(await Deno.readTextFile(file));
  await removeFolder(run);
  const said = await callVerb(
    `finetune --model ${join(out, "biased")} --task sft --data ${recordsOf(out, "after")} --data ${
      recordsOf(out, "dev")
    } ` +
      `${method.flags} --lr ${rate} --seed ${seed} --schedule cosine --warmup 5 --seq 128 --batch 16 --epochs ${epochs} ` +
      `--eval-every 0 --log-every 1000 --device cpu --threads ${threads} --out ${run}`,
  );
  const [, perplexity] = /^perplexity (\S+) at/m.exec(said) ?? [];
  if (perplexity === undefined) throw new Error(`Cannot read what finetune said: ${said}`);
  await removeFolder(join(run, "checkpoints"));
  const tuned = { run, rate, perplexity: Number(perplexity) };
  await writeFileDurably(file, JSON.stringify(tuned) + "\n");
  output.err(`${method.name}, rate ${rate}, seed ${seed}: perplexity ${perplexity}`);
  return tuned;
}

/** Runs of one seed by `eval --group`; the first seed's report is the study's. */
async function compare(
  { out, threads }: StudyOptions,
  { referenceRun, runs, seed }: { referenceRun: string; runs: readonly (readonly [string, string])[]; seed: number },
): Promise<ShiftResult> {
  const candidates = runs.flatMap(([name, run]) => ["--candidate", `${name}=${run}`]);
  const said = await callVerb([
    ...["eval", "--group", "group", "--base", join(out, "biased"), "--reference", referenceRun, ...candidates],
    ...["--data", recordsOf(out, "probes"), "--device", "cpu", "--threads", `${threads}`, "--json"],
    ...seed === 1 ? ["--out", join(out, "compared")] : [],
  ]);
  return JSON.parse(said);
}

const COLUMNS: readonly (readonly [title: string, measure: string, group: string | null])[] = [
  ["captured", "shiftCapture", null],
  ...GROUPS.map((group) => [`of ${group}`, "shiftCapture", group] as const),
  ["retained", "retained", null],
  ...GROUPS.map((group) => [`of ${group}`, "retained", group] as const),
  ["accuracy gap", "accuracyGap", null],
  ...GROUPS.map((group) => [`excess ${group}`, "excessLoss", group] as const),
];

/** A row a method: the mean over seeds, and of retained behaviour the least and the most as well. */
function tableOf(methods: readonly Method[], rates: ReadonlyMap<string, number>, compared: readonly ShiftResult[]) {
  const cells = (models: readonly ModelResult[]) =>
    COLUMNS.map(([, measure, group]) => {
      const values = models.map(({ measures }) => findMeasure(measures, measure, group)?.value);
      const known = values.filter((value): value is number => typeof value === "number");
      if (known.length < values.length) return String(values.find((value) => typeof value !== "number") ?? "");
      const mean = known.reduce((sum, value) => sum + value, 0) / known.length;
      const isSpread = measure === "retained" && group === null && known.length > 1;
      return mean.toFixed(3) + (isSpread ? ` (${Math.min(...known).toFixed(2)}-${Math.max(...known).toFixed(2)})` : "");
    });
  const rows = methods.map(({ name, rates: tried }) => {
    const models = compared.map((result) => candidatesOf(result).find((one) => one.name === name)!);
    const rate = rates.get(name)!;
    const isEdge = rate === tried[0] || rate === tried[tried.length - 1];
    const ranks = models.flatMap(({ explanation }) => explanation?.rank ?? []);
    return [
      ...[name, `${rate}${isEdge ? "*" : ""}`, models[0].size.toLocaleString("en-US"), String(Math.max(...ranks))],
      ...cells(models),
    ];
  });
  const head = ["method", "rate", "trained", "rank of change", ...COLUMNS.map(([title]) => title)];
  const reference = compared[0].models.find(({ name }) => name === REFERENCE)!;
  const last = [REFERENCE, "", reference.size.toLocaleString("en-US"), "", ...cells([reference])];
  return formatTable([head, ...rows, last], "l" + "r".repeat(head.length - 1));
}

/** At which rank adapters of a kind retain what whole fine-tuning does, to one probe, on the mean over seeds. */
function reached(kind: string, compared: readonly ShiftResult[]): string[] {
  const retained = (name: string): number => {
    const found = compared.map((result) => candidatesOf(result).find((one) => one.name === name));
    const values = found.map((one) => Number(findMeasure(one?.measures ?? [], "retained")?.value ?? NaN));
    return values.reduce((sum, value) => sum + value, 0) / values.length;
  };
  const names = METHODS.map(({ name }) => name).filter((name) =>
    name.startsWith(kind) && Number.isFinite(retained(name))
  );
  if (names.length === 0) return [];
  const probes = compared[0].groups.reduce((sum, { n }) => sum + n, 0);
  const first = names.find((name) => retained(name) <= retained("full") + 1 / probes);
  const whole = `one probe in ${probes} of what whole fine-tuning retains, ${retained("full").toFixed(3)}`;
  return [first === undefined ? `no ${kind}N comes within ${whole}` : `${first} is the first to come within ${whole}`];
}

if (import.meta.main) {
  try {
    await study(Deno.args, consoleOutput());
  } catch (error) {
    console.error(explainError(error));
    Deno.exit(1);
  }
}
