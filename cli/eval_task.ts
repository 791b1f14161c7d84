/** `eval --task`: a task's measures of a fine-tuned RoBERTa, or of one with adapters on it. */
import { type EncodedExample, encodeExamples, lengthBatches, loadTokenizer, readExamples } from "../data/mod.ts";
import { type RobertaConfig, withLabels } from "../models/mod.ts";
import { type AdapterSet, NO_ADAPTER, openAdapters } from "./adapted.ts";
import { type Device, type DeviceRequest, openDevice } from "./device.ts";
import { type AdapterChoice, type AdapterFlags, byAdapter, calledInText, chooseAdapters } from "./eval_adapters.ts";
import { FileFolder } from "./files.ts";
import { type DataParts, openEvaluationData, resolveTask, type TaskOptions } from "./finetune_data.ts";
import { type Judged, judgeRows, summarize } from "./finetune_evaluation.ts";
import { USUAL_LENGTH } from "./finetune_options.ts";
import type { Evaluation } from "./finetune_subject.ts";
import type { Output } from "./log.ts";
import { findModel } from "./resume.ts";
import { loadRoberta, loadRobertaConfig } from "./roberta_folder.ts";

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
  const names = Object.values(stored.id2label);
  const isAdapted = choice.adapters.length > 0;
  // an own task has the classes of the model, whatever occurs in the file
  const given = options.labels?.length ? options.labels : undefined;
  const labels = given ?? (stored.num_labels === 1 ? ["score"] : isAdapted ? undefined : names);
  const task = await resolveTask({ ...options, labels });
  const tokenizer = await loadTokenizer(path);
  const positions = stored.max_position_embeddings - stored.pad_token_id - 1;
  const maxLength = options.maxLength ?? Math.min(USUAL_LENGTH, positions);
  const splits = await openSplits(options.data, { task, tokenizer, maxLength, positions }, choice);
  const needsHead = splits.some(({ examples }) => examples.some(({ adapter }) => adapter === NO_ADAPTER));
  const config = needsHead ? checkedLabels(stored, task, path) : withLabels(stored, task.labels);
  using backend = await openDevice(options, output);
  const onNote = (line: string) => output.err(line);
  using model = await openModel(backend, folder, { config, choice, needsHead, onNote });
  for (const { split, examples } of splits) {
    const judged = await judge(backend, model, config, { examples, batch: options.batch });
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

/** What the model says of each example, in batches of about one length and any mixture of adapters. */
async function judge(
  backend: Device,
  model: AdapterSet,
  config: RobertaConfig,
  { examples, batch }: { readonly examples: readonly AdaptedExample[]; readonly batch: number },
): Promise<(Judged & { readonly adapter: number })[]> {
  const judged = [];
  for (const rows of lengthBatches(examples, { batch, padId: config.pad_token_id })) {
    const places = Array.from(rows.indices, (i) => examples[i].adapter);
    const classifier = { backend, view: model.view(places), config };
    const said = await judgeRows(classifier, { ...rows, batch: rows.size, seq: rows.length });
    judged.push(...said.map((one, i) => ({ ...one, adapter: places[i] })));
  }
  return judged;
}

/** @throws RangeError for a model of other classes */
function checkedLabels(
  config: RobertaConfig,
  task: { name: string; labels: readonly string[] | "score" },
  path: string,
) {
  const expected = task.labels === "score" ? 1 : task.labels.length;
  if (config.num_labels === expected) return config;
  throw new RangeError(
    `Cannot evaluate ${path} on ${task.name}: the task has ${expected} labels, the model ${config.num_labels}`,
  );
}

interface Opening {
  readonly config: RobertaConfig;
  readonly choice: AdapterChoice;
  /** Whether an example is for the model alone. */
  readonly needsHead: boolean;
  readonly onNote: (line: string) => void;
}

async function openModel(
  backend: Device,
  folder: FileFolder,
  { config, choice, needsHead, onNote }: Opening,
): Promise<AdapterSet> {
  // adapters bring their own heads, so that the model need not have one
  const headSeed = needsHead ? undefined : 0;
  const { params, drawn } = await loadRoberta(backend, folder, { head: "classification", config, headSeed });
  return await openAdapters(params, choice.adapters, { modelType: "roberta", drawn, onNote });
}
