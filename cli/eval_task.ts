/** `eval --task`: a task's measures of a fine-tuned RoBERTa, or of one with an adapter on it. */
import { loadTokenizer } from "../data/mod.ts";
import { type RobertaConfig, withLabels } from "../models/mod.ts";
import { type AdaptedModel, openAdapted } from "./adapted.ts";
import { type Device, type DeviceRequest, openDevice } from "./device.ts";
import { FileFolder } from "./files.ts";
import { epochRows, openEvaluationData, resolveTask, type TaskOptions } from "./finetune_data.ts";
import { evaluateTask } from "./finetune_evaluation.ts";
import { USUAL_LENGTH } from "./finetune_options.ts";
import type { Output } from "./log.ts";
import { findModel } from "./resume.ts";
import { loadRoberta, loadRobertaConfig } from "./roberta_folder.ts";

/** What is evaluated on what. */
export interface TaskEvaluation extends TaskOptions, DeviceRequest {
  readonly model: string;
  readonly adapter?: string;
  readonly batch: number;
  readonly maxLength?: number;
  readonly json: boolean;
}

/** Evaluates a model on a task and prints a line a split. */
export async function evaluateOnTask(options: TaskEvaluation, output: Output): Promise<void> {
  const path = await findModel(options.model);
  const folder = new FileFolder(path);
  const stored = await loadRobertaConfig(folder);
  const names = Object.values(stored.id2label);
  // an own task has the classes of the model, whatever occurs in the file
  const labels = options.labels ?? (stored.num_labels === 1 ? ["score"] : options.adapter ? undefined : names);
  const task = await resolveTask({ ...options, labels });
  const config = options.adapter ? withLabels(stored, task.labels) : checkedLabels(stored, task, path);
  const tokenizer = await loadTokenizer(path);
  const positions = config.max_position_embeddings - config.pad_token_id - 1;
  const maxLength = options.maxLength ?? Math.min(USUAL_LENGTH, positions);
  const splits = await openEvaluationData(options.data, { task, tokenizer, maxLength, positions });
  using backend = await openDevice(options, output);
  using model = await openModel(backend, folder, config, options.adapter);
  for (const { split, examples } of splits) {
    const rows = epochRows(examples, { batch: options.batch, padId: config.pad_token_id });
    const { loss, scores } = await evaluateTask({ backend, view: model.view, config }, task, rows);
    const said = { model: path, split, task: task.name, loss, ...scores, examples: examples.length };
    const line = Object.entries({ loss, ...scores }).map(([name, value]) => `${name} ${value.toFixed(4)}`).join(", ");
    output.out(
      options.json
        ? JSON.stringify(said)
        : `${line}, over ${examples.length.toLocaleString("en-US")} examples of ${split}`,
    );
  }
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

async function openModel(
  backend: Device,
  folder: FileFolder,
  config: RobertaConfig,
  adapter: string | undefined,
): Promise<AdaptedModel> {
  // an adapter brings its own head, so that the model need not have one
  const headSeed = adapter === undefined ? undefined : 0;
  const { params } = await loadRoberta(backend, folder, { head: "classification", config, headSeed });
  return await openAdapted(params, adapter, "roberta");
}
