/**
 * What a fine-tuning run would learn, where there is no data: the loss and the shape of its batches, from the model's
 * configuration and the name of a task. Only plans use it; nothing of it can be trained on.
 */
import { fromArray } from "../core/mod.ts";
import { glueTask, type SentenceTask } from "../data/mod.ts";
import {
  isRegression,
  LLAMA_PROJECTED,
  type LlamaConfig,
  ROBERTA_PROJECTED,
  type RobertaConfig,
  robertaLoss,
  VIT_PROJECTED,
  type VitConfig,
  withLabels,
} from "../models/mod.ts";
import { type Finetune, SFT, USUAL_LENGTH } from "./finetune_options.ts";
import type { PlannedSubject } from "./finetune_plan.ts";
import type { FinetuneRows } from "./finetune_data.ts";
import { inputsOf } from "./finetune_evaluation.ts";
import type { Subject, SubjectRows } from "./finetune_subject.ts";
import { isMasked, isVision, type ModelConfig } from "./objective.ts";
import { answerLoss, type SftRows, USUAL_ROW } from "./sft.ts";
import { blankImages, imageLoss } from "./vision.ts";
import type { ImageRows } from "./vision_data.ts";
import { IMAGES } from "./vision_options.ts";

/** What would be learned, and from which batch. */
export interface NamedSubject {
  readonly subject: PlannedSubject;
  readonly rows: SubjectRows;
}

/** Any task of GLUE, with two labels. */
export const GLUE = "glue";

/** The task that is meant where none is named. */
export function usualTask(config: ModelConfig | VitConfig): string {
  if (isVision(config)) return IMAGES;
  return isMasked(config) ? GLUE : SFT;
}

/** What a run would learn. @throws RangeError for a task that is not one of the model's, or that there is not */
export function plannedSubject(run: Finetune, config: ModelConfig | VitConfig): NamedSubject {
  const { task, model } = run;
  if (isVision(config) !== (task === IMAGES)) {
    const [kind, others] = isVision(config) ? ["a ViT", IMAGES] : ["none of images", "of text"];
    throw new RangeError(`Cannot plan to fine-tune ${model} on ${task}: it is ${kind}, and its tasks are ${others}`);
  }
  if (isVision(config)) return images(run, config);
  if (isMasked(config) === (task === SFT)) {
    const [kind, others] = isMasked(config) ? ["a RoBERTa", "those of GLUE"] : ["a LLaMA", SFT];
    throw new RangeError(`Cannot plan to fine-tune ${model} on ${task}: it is ${kind}, and its tasks are ${others}`);
  }
  return isMasked(config) ? sentences(run, config) : conversations(run, config);
}

function labelsOf(task: string): SentenceTask["labels"] {
  return task === GLUE ? ["LABEL_0", "LABEL_1"] : glueTask(task).labels;
}

function sentences({ task, batch, maxLength }: Finetune, stored: RobertaConfig): NamedSubject {
  const config = withLabels(stored, labelsOf(task));
  const positions = config.max_position_embeddings - config.pad_token_id - 1;
  const seq = maxLength ?? Math.min(USUAL_LENGTH, positions);
  const size = batch * seq;
  // one place of padding: a mask is memory too
  const mask = new Uint32Array(size).fill(1, 0, size - 1);
  const rows = { tokens: new Int32Array(size), mask, labels: new Float32Array(batch), batch, seq, index: 0 };
  const loss: Subject<FinetuneRows>["loss"] = (view, rows, options = {}) => {
    const labels = isRegression(config) ? rows.labels : Int32Array.from(rows.labels);
    const targets = fromArray(view.backend, labels, [rows.batch]);
    return robertaLoss(view, config, inputsOf(view.backend, rows), { ...options, head: "classification", targets });
  };
  return always(rows, {
    ...{ task, config, modelType: "roberta", peftTask: "SEQ_CLS", modulesToSave: ["classifier"] },
    ...{ projected: ROBERTA_PROJECTED, loss },
  });
}

function conversations({ task, batch, seq: asked }: Finetune, config: LlamaConfig): NamedSubject {
  const seq = asked ?? Math.min(USUAL_ROW, config.max_position_embeddings);
  const [tokens, targets] = [new Int32Array(batch * seq), new Int32Array(batch * seq)];
  const loss: Subject<SftRows>["loss"] = (view, rows, options) => answerLoss(view, config, rows, options);
  return always({ tokens, targets, counted: batch * seq, batch, seq, index: 0 }, {
    ...{ task, config, modelType: "llama", peftTask: "CAUSAL_LM", modulesToSave: [] },
    ...{ projected: LLAMA_PROJECTED, loss },
  });
}

function images({ task, batch }: Finetune, config: VitConfig): NamedSubject {
  const loss: Subject<ImageRows>["loss"] = (view, rows, options) => imageLoss(view, config, rows, options);
  return always(blankImages(config, batch), {
    ...{ task, config, modelType: "vit", peftTask: undefined, modulesToSave: ["classifier"] },
    ...{ projected: VIT_PROJECTED, loss },
  });
}

/** A subject whose every batch is the same. */
function always<Rows extends SubjectRows>(
  rows: Rows,
  subject: Pick<Subject<Rows>, Exclude<keyof PlannedSubject, "epoch" | "batchesAnEpoch">>,
): NamedSubject {
  return { rows, subject: { ...subject, batchesAnEpoch: 1, epoch: () => [rows].values() } };
}
