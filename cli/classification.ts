/** Fine-tuning of RoBERTa on a task over sentences: a `Subject` from the task's files and a model folder. */
import { type Backend, fromArray, type Params, type ParamsView, type Tensor } from "../core/mod.ts";
import { loadTokenizer, numLengthBatches, type Tokenizer } from "../data/mod.ts";
import {
  isRegression,
  openWeights,
  ROBERTA_PROJECTED,
  type RobertaConfig,
  robertaLoss,
  withLabels,
} from "../models/mod.ts";
import { FileFolder } from "./files.ts";
import {
  type Batching,
  epochRows,
  type FinetuneData,
  type FinetuneRows,
  openFinetuneData,
  resolveTask,
} from "./finetune_data.ts";
import { evaluateTask, inputsOf } from "./finetune_evaluation.ts";
import { type Finetune, USUAL_LENGTH } from "./finetune_options.ts";
import type { Evaluation, LossOptions, Subject } from "./finetune_subject.ts";
import type { Output } from "./log.ts";
import { loadRoberta, loadRobertaConfig } from "./roberta_folder.ts";

/** Head of a classifier: trained whole beside adapters, since it starts from nothing. */
const HEAD = "classifier";

/** Reads what a run over a task of sentences needs before there is a device. */
export async function openClassification(run: Finetune, output: Output): Promise<Subject<FinetuneRows>> {
  const task = await resolveTask(run);
  const folder = new FileFolder(run.model);
  const stored = await loadRobertaConfig(folder);
  const config = { ...withLabels(stored, task.labels), ...dropoutOf(run) };
  const positions = config.max_position_embeddings - config.pad_token_id - 1;
  const maxLength = run.maxLength ?? Math.min(USUAL_LENGTH, positions);
  const tokenizer = await loadTokenizer(run.model);
  checkTokens(tokenizer, config, run.model);
  const data = await openFinetuneData(run.data, { task, tokenizer, maxLength, positions }, output);
  const batching = { batch: run.batch, seed: run.seed, padId: config.pad_token_id };
  const many = (count: number) => count.toLocaleString("en-US");
  const dev = data.dev.map(({ split, examples }) => `${many(examples.length)} in ${split}`).join(", ");
  return {
    ...{ task: task.name, modelType: "roberta", peftTask: "SEQ_CLS", modulesToSave: [HEAD] },
    ...{ config, files: tokenizer.files, projected: ROBERTA_PROJECTED, unit: "sentences", lossUnit: "loss" },
    batchesAnEpoch: numLengthBatches(data.train.length, run.batch),
    selectBy: { name: task.selectBy, isHigher: true },
    words: {
      model: `${config.num_labels} labels`,
      data: `${many(data.train.length)} examples to train on, ${dev}`,
    },
    resolved: { maxLength },
    identity: { tokenizer: tokenizer.hash, data: data.hash, maxLength },
    load: (backend, output) => loadBase(backend, folder, { stored, config, run, output }),
    epoch: (epoch, start) => epochRows(data.train, batching, epoch, start),
    loss: (view, rows, options) => classificationLoss(view, config, rows, options),
    heldOut: () => heldOutRows(data, batching),
    measure: (view) => measureTask(view, config, data, batching),
  };
}

/** What `--dropout` changes of a configuration. */
function dropoutOf({ dropout }: Finetune): Partial<RobertaConfig> {
  return dropout === undefined ? {} : { hidden_dropout_prob: dropout, attention_probs_dropout_prob: dropout };
}

/** @throws RangeError when a tokenizer has ids that a model has not */
function checkTokens(tokenizer: Tokenizer, config: RobertaConfig, model: string): void {
  if (config.vocab_size >= tokenizer.vocabSize) return;
  throw new RangeError(
    `Cannot use ${model} with tokenizer "${tokenizer.name}": the model has ${config.vocab_size} token ids, ` +
      `the tokenizer ${tokenizer.vocabSize}`,
  );
}

/** What a model is loaded by. */
interface Loading {
  /** The folder's own configuration. */
  readonly stored: RobertaConfig;
  readonly config: RobertaConfig;
  readonly run: Finetune;
  readonly output: Output;
}

async function loadBase(
  backend: Backend,
  folder: FileFolder,
  { stored, config, run, output }: Loading,
): Promise<Params> {
  const replaceHead = stored.num_labels !== config.num_labels;
  const loading = { head: "classification", config, headSeed: run.seed, replaceHead } as const;
  const { params, drawn } = await loadRoberta(backend, folder, loading);
  try {
    for (const note of await headNotes(run, folder, { stored, config, drawn })) output.err(`note: ${note}`);
    return params;
  } catch (error) {
    params.dispose();
    throw error;
  }
}

/** What became of the folder's head. */
async function headNotes(
  { model, seed }: Finetune,
  folder: FileFolder,
  { stored, config, drawn }: Pick<Loading, "stored" | "config"> & { readonly drawn: readonly string[] },
): Promise<string[]> {
  const [before, now] = [stored, config].map(({ id2label }) => Object.values(id2label).join(", "));
  if (drawn.length === 0) {
    return before === now ? [] : [`the head of ${model} goes on as it is: its labels were ${before}, now ${now}`];
  }
  await using weights = await openWeights(folder);
  if (weights.names.some((name) => name.startsWith(`${HEAD}.`))) {
    const what = isRegression(config) ? "a score" : `${config.num_labels} labels`;
    return [`the head of ${model}, for ${before}, is left aside: one for ${what} is drawn from seed ${seed}`];
  }
  const notes = [`${model} has no classification head: ${drawn.join(", ")} drawn from seed ${seed}`];
  const isOther = weights.names.some((name) => name.startsWith("lm_head."));
  return isOther ? [...notes, `lm_head of ${model} is for another task and left aside`] : notes;
}

function classificationLoss(
  view: ParamsView,
  config: RobertaConfig,
  rows: FinetuneRows,
  options: LossOptions = {},
): Tensor {
  const labels = isRegression(config) ? Float32Array.from(rows.labels) : Int32Array.from(rows.labels);
  const targets = fromArray(view.backend, labels, [rows.batch]);
  return robertaLoss(view, config, inputsOf(view.backend, rows), { ...options, head: "classification", targets });
}

function* heldOutRows({ dev }: FinetuneData, batching: Batching): Generator<FinetuneRows, void> {
  for (const { examples } of dev) yield* epochRows(examples, { ...batching, seed: undefined });
}

/** On every split to evaluate on: the first gives the loss and the plain names. */
async function measureTask(
  view: ParamsView,
  config: RobertaConfig,
  { task, dev }: FinetuneData,
  batching: Batching,
): Promise<Evaluation> {
  const model = { backend: view.backend, config, view };
  const scores: Record<string, number> = {};
  let first: Evaluation | undefined;
  for (const { split, examples } of dev) {
    const found = await evaluateTask(model, task, epochRows(examples, { ...batching, seed: undefined }));
    for (const [name, value] of Object.entries(found.scores)) scores[first ? `${name} ${split}` : name] = value;
    first ??= found;
  }
  return { loss: first!.loss, scores };
}
