/** What a fine-tuned model says of examples, beside what they are: the task's measures and the mean loss, on the host. */
import { type Backend, fromArray, noGrad, type ParamsView, scope, type Tensor } from "../core/mod.ts";
import { METRICS, type SentenceTask } from "../data/mod.ts";
import { isRegression, type RobertaBatch, type RobertaConfig, robertaLogits } from "../models/mod.ts";
import type { FinetuneRows } from "./finetune_data.ts";
import type { Evaluation } from "./finetune_subject.ts";

/** A model with a classification head. */
export interface Classifier {
  readonly backend: Backend;
  readonly view: ParamsView;
  readonly config: RobertaConfig;
}

/** Evaluates a model on every batch. @throws RangeError when there is none */
export async function evaluateTask(
  model: Classifier,
  task: SentenceTask,
  batches: Iterable<FinetuneRows>,
): Promise<Evaluation> {
  const judged: Judged[] = [];
  for (const rows of batches) judged.push(...await judgeRows(model, rows));
  return summarize(task, judged);
}

/** What a model says of one example. */
export interface Judged {
  readonly label: number;
  /** The class's number, or the score. */
  readonly prediction: number;
  readonly loss: number;
}

/** Examples of one length, padded. */
export type PaddedExamples = Omit<FinetuneRows, "count" | "index">;

/** What a model says of each example of a batch. */
export async function judgeRows(model: Classifier, rows: PaddedExamples): Promise<Judged[]> {
  const compare = isRegression(model.config) ? compareScore : compareClass;
  using scores = logitsOf(model, rows);
  const values = await scores.read() as Float32Array;
  const width = values.length / rows.batch;
  return Array.from(rows.labels, (label, row) => compare(values.subarray(row * width, (row + 1) * width), label));
}

/** The measures of a task, and the mean loss. */
export function summarize(task: SentenceTask, judged: readonly Judged[]): Evaluation {
  const [predictions, labels] = [judged.map(({ prediction }) => prediction), judged.map(({ label }) => label)];
  const total = judged.reduce((sum, { loss }) => sum + loss, 0);
  const scores = Object.fromEntries(task.metrics.map((name) => [name, METRICS[name](predictions, labels)]));
  return { loss: total / judged.length, scores };
}

/** Tokens and mask of a batch on the device. */
export function inputsOf(backend: Backend, { tokens, mask, batch, seq }: PaddedExamples): RobertaBatch {
  const shape = [batch, seq];
  // where nothing is padded no mask is needed, and the fused kernel is the plain one
  const isFull = mask.every((one) => one === 1);
  return {
    tokens: fromArray(backend, tokens, shape),
    mask: isFull ? undefined : fromArray(backend, mask, shape, "u32"),
  };
}

function logitsOf({ backend, view, config }: Classifier, rows: PaddedExamples): Tensor {
  using evaluation = scope("evaluate");
  return evaluation.keep(noGrad(() => robertaLogits(view, config, inputsOf(backend, rows), "classification")));
}

function compareScore([prediction]: Float32Array, label: number): Judged {
  return { label, prediction, loss: (prediction - label) ** 2 };
}

function compareClass(scores: Float32Array, label: number): Judged {
  let prediction = 0;
  for (let i = 1; i < scores.length; i++) if (scores[i] > scores[prediction]) prediction = i;
  const largest = scores[prediction];
  const rest = scores.reduce((sum, score) => sum + Math.exp(score - largest), 0);
  return { label, prediction, loss: largest + Math.log(rest) - scores[label] };
}
