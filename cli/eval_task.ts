/** `eval --task`: a task's measures of a fine-tuned RoBERTa, or of one with adapters on it. */
import { type EncodedExample, encodeExamples, lengthBatches, loadTokenizer, readExamples } from "../data/mod.ts";
import { isRegression, type RobertaConfig, withLabels } from "../models/mod.ts";
import { type AdapterSet, NO_ADAPTER, openAdapters } from "./adapted.ts";
import { headLabels } from "./adapter_labels.ts";
import { type Device, type DeviceRequest, openDevice } from "./device.ts";
import { type AdapterChoice, type AdapterFlags, byAdapter, calledInText, chooseAdapters } from "./eval_adapters.ts";
import { adapterHeads, labelsOfTask, numbersOf } from "./eval_labels.ts";
import { FileFolder } from "./files.ts";
import { type DataParts, openEvaluationData, resolveTask, type TaskOptions } from "./finetune_data.ts";
import { type Judged, judgeRows, summarize } from "./finetune_evaluation.ts";
import { type Finetune, USUAL_LENGTH } from "./finetune_options.ts";
import type { Evaluation } from "./finetune_subject.ts";
import type { Output } from "./log.ts";
import { findModel } from "./resume.ts";
import { loadRoberta, loadRobertaConfig } from "./roberta_folder.ts";
import { configOfRun } from "./run_folder.ts";

/** What is evaluated on what. */
export interface TaskEvaluation extends TaskOptions, AdapterFlags, DeviceRequest {
  readonly model: string;
  readonly batch: number;
  readonly maxLength?: number;
  readonly json: boolean;
}

/** An example and the place of its adapter. */
interface AdaptedExample extends EncodedExample {
  readonly adapter: number;
}

/** Evaluates a model on a task and prints a line a split, and a line for each adapter that has a name. */
export async function evaluateOnTask(options: TaskEvaluation, output: Output): Promise<void> {
  const choice = chooseAdapters(options);
  const path = await findModel(options.model);
  const folder = new FileFolder(path);
  const stored = await loadRobertaConfig(folder);
  const onNote = (line: string) => output.err(line);
  const heads = await adapterHeads(choice.adapters);
  const own = headLabels(stored);
  // an own task has the classes of what answers, whatever occurs in the file
  const usual = own === "score" || heads.length === 0 ? [own].flat() : undefined;
  const labels = labelsOfTask(heads, options.labels?.length ? options.labels : undefined) ?? usual;
  const task = await resolveTask({ ...options, labels });
  const tokenizer = await loadTokenizer(path);
  const positions = stored.max_position_embeddings - stored.pad_token_id - 1;
  const usualLength = await lengthOfRuns(heads.map(({ where }) => where)) ?? await lengthOfRuns([path]) ?? USUAL_LENGTH;
  const maxLength = options.maxLength ?? Math.min(usualLength, positions);
  const splits = await openSplits(options.data, { task, tokenizer, maxLength, positions }, choice);
  for (const { split, examples } of splits) {
    const cut = examples.filter(({ truncated }) => truncated).length;
    if (cut > 0) onNote(`note: ${cut.toLocaleString("en-US")} examples of ${split} are cut to ${maxLength} tokens`);
  }
  const needsHead = splits.some(({ examples }) => examples.some(({ adapter }) => adapter === NO_ADAPTER));
  const config = withLabels(stored, task.labels);
  const numbers = new Map(heads.map((head, place) => [place, numbersOf(head, task, onNote)]));
  if (needsHead) numbers.set(NO_ADAPTER, numbersOf({ where: path, of: "model", labels: own }, task, onNote));
  using backend = await openDevice(options, output);
  using model = await openModel(backend, folder, { stored, config, choice, needsHead, onNote });
  for (const { split, examples } of splits) {
    const judged = await judge(backend, model, config, { examples, batch: options.batch, numbers });
    const measure = (some: readonly Judged[]) => ({ ...summarize(task, some), examples: some.length });
    const all = measure(judged);
    const shares = byAdapter(choice, judged, measure);
    if (options.json) {
      const adapters = shares.map(({ adapter, measured }) => ({ adapter, ...flat(measured) }));
      const said = { model: path, split, task: task.name, ...flat(all) };
      output.out(JSON.stringify(choice.byName ? { ...said, adapters } : said));
      continue;
    }
    output.out(`${inText(all)}, over ${all.examples.toLocaleString("en-US")} examples of ${split}`);
    for (const { adapter, measured } of shares) {
      output.out(`  ${calledInText(adapter)}: ${inText(measured)}, over ${measured.examples.toLocaleString("en-US")}`);
    }
  }
}

type Measured = Evaluation & { readonly examples: number };

function flat({ loss, scores, examples }: Measured): Record<string, number> {
  return { loss, ...scores, examples };
}

function inText({ loss, scores }: Measured): string {
  return Object.entries({ loss, ...scores }).map(([name, value]) => `${name} ${value.toFixed(4)}`).join(", ");
}

/** Examples to evaluate on, each with the place of its adapter. */
async function openSplits(
  paths: readonly string[],
  parts: DataParts,
  choice: AdapterChoice,
): Promise<{ readonly split: string; readonly examples: readonly AdaptedExample[] }[]> {
  if (!choice.byName) {
    const adapter = choice.adapters.length - 1;
    const splits = await openEvaluationData(paths, parts);
    return splits.map(({ split, examples }) => ({ split, examples: examples.map((one) => ({ ...one, adapter })) }));
  }
  if (paths.length === 0) throw new RangeError("Cannot evaluate without data: give --data FILE");
  const splits = [];
  for (const path of paths) {
    const examples = await readExamples(path, parts.task, { split: path });
    const places = await choice.placesOf(path, examples.map(({ row }) => row));
    const encoded = encodeExamples(parts.tokenizer, examples, parts);
    splits.push({ split: path, examples: encoded.map((example, i) => ({ ...example, adapter: places[i] })) });
  }
  return splits;
}

interface Judging {
  readonly examples: readonly AdaptedExample[];
  readonly batch: number;
  /** By an adapter's place: the number that its head has for each class of the task. */
  readonly numbers: ReadonlyMap<number, readonly number[]>;
}

/** What the model says of each example, in batches of about one length and any mixture of adapters. */
async function judge(
  backend: Device,
  model: AdapterSet,
  config: RobertaConfig,
  { examples: given, batch, numbers }: Judging,
): Promise<(Judged & { readonly adapter: number })[]> {
  const judged = [];
  const examples = isRegression(config)
    ? given
    : given.map((one) => ({ ...one, label: numbers.get(one.adapter)![one.label] }));
  for (const rows of lengthBatches(examples, { batch, padId: config.pad_token_id })) {
    const places = Array.from(rows.indices, (i) => examples[i].adapter);
    const classifier = { backend, view: model.view(places), config };
    const said = await judgeRows(classifier, { ...rows, batch: rows.size, seq: rows.length });
    judged.push(...said.map((one, i) => ({ ...one, adapter: places[i] })));
  }
  if (isRegression(config)) return judged;
  return judged.map((one) => {
    const classOf = (number: number) => numbers.get(one.adapter)!.indexOf(number);
    return { ...one, label: classOf(one.label), prediction: classOf(one.prediction) };
  });
}

/** The most tokens that the runs which these folders are of cut their examples to; undefined where none of them is a run's. */
async function lengthOfRuns(folders: readonly string[]): Promise<number | undefined> {
  const configs = await Promise.all(folders.map(configOfRun));
  const lengths = configs.flatMap((config) => (config?.run as Partial<Finetune> | undefined)?.maxLength ?? []);
  return lengths.length === 0 ? undefined : Math.max(...lengths);
}

interface Opening {
  /** The folder's own configuration. */
  readonly stored: RobertaConfig;
  readonly config: RobertaConfig;
  readonly choice: AdapterChoice;
  /** Whether an example is for the model alone. */
  readonly needsHead: boolean;
  readonly onNote: (line: string) => void;
}

async function openModel(
  backend: Device,
  folder: FileFolder,
  { stored, config, choice, needsHead, onNote }: Opening,
): Promise<AdapterSet> {
  // adapters bring their own heads, so that the model need not have one
  const headSeed = needsHead ? undefined : 0;
  const replaceHead = !needsHead && stored.num_labels !== config.num_labels;
  const loading = { head: "classification", config, headSeed, replaceHead } as const;
  const { params, drawn } = await loadRoberta(backend, folder, loading);
  return await openAdapters(params, choice.adapters, { modelType: "roberta", drawn, onNote });
}
