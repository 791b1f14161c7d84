/**
 * `plan --task NAME --compare`: the ways to fine-tune side by side. Of text they are those of the GaLore paper's table 4, by
 * its printed figures, by its rule from the model's shapes, and in the bytes that a run here takes. The two differ for
 * reasons that can be named: the paper counts two bytes a weight where weights are f32 here, and leaves out the states of
 * what GaLore trains in full, which are embeddings, norms and the head. Of a ViT, for which it has no figures, they are
 * adapters, prompts and the head alone beside GaLore and all of the weights.
 */
import { robertaConfig } from "../models/mod.ts";
import { modelShapes, PAPER_FINETUNE, paperFinetuneMemory, type PaperFinetuneMethod } from "./accounting.ts";
import { type FinetuneMethodName, hasPrompts } from "./finetune_method_options.ts";
import { completeFinetune } from "./finetune_options.ts";
import { finetunedWeights, type FinetunePlan, type FinetunePlanRequest, planFinetune } from "./finetune_plan.ts";
import type { Subject } from "./finetune_subject.ts";
import { formatShare } from "./log.ts";
import { isMasked, isVision } from "./objective.ts";

/** A way to fine-tune, in figures. */
export interface ComparedMethod {
  readonly method: FinetuneMethodName;
  readonly rank?: number;
  /** Of Visual Prompt Tuning. */
  readonly prompts?: number;
  /** Weights and states as the paper prints them; left out for other models and ranks. */
  readonly printed?: number;
  /** The same from the shapes, by the paper's rule; of text alone. */
  readonly paperBytes?: number;
  readonly plan: FinetunePlan;
}

/** What is compared. */
export interface CompareRequest extends Omit<FinetunePlanRequest, "weights"> {
  /** Default: the paper's. */
  readonly ranks?: readonly number[];
}

/** Plans a run of each method: of text in the paper's order, of images from what trains least to what trains most. */
export async function compareFinetune(request: CompareRequest): Promise<ComparedMethod[]> {
  return isVision(request.subject.config) ? await compareVision(request) : await compareText(request);
}

/** LoRA adapts every linear map, as the paper's does. */
async function compareText({ ranks, ...request }: CompareRequest): Promise<ComparedMethod[]> {
  const { config, projected } = request.subject;
  const shapes = modelShapes(new Map(finetunedWeights(config)), projected);
  const { method: _method, optimizer: _optimizer, lr: _lr, rank: _rank, ...shared } = request.run;
  const compared: ComparedMethod[] = [];
  for (const { method, rank, printed } of waysOf(ranks, config)) {
    const run = completeFinetune({ ...shared, method, targets: ["all-linear"], ...rank === undefined ? {} : { rank } });
    const { weights, states } = paperFinetuneMemory(shapes, method, rank ?? 0);
    const plan = await planFinetune({ ...request, run, weights: finetunedWeights(config) });
    compared.push({ method, rank, printed, paperBytes: weights + states, plan });
  }
  return compared;
}

/** LoRA adapts what it usually does. */
async function compareVision({ ranks: [rank] = [], ...request }: CompareRequest): Promise<ComparedMethod[]> {
  const { method: _method, optimizer: _optimizer, lr: _lr, rank: _rank, ...shared } = request.run;
  const weights = finetunedWeights(request.subject.config);
  const compared: ComparedMethod[] = [];
  for (const method of VISION_WAYS) {
    const run = completeFinetune({ ...shared, method, ...rank === undefined ? {} : { rank } });
    const size = hasPrompts(method)
      ? { prompts: run.prompts }
      : ["lora", "galore"].includes(method)
      ? { rank: run.rank }
      : {};
    compared.push({ method, ...size, plan: await planFinetune({ ...request, run, weights }) });
  }
  return compared;
}

/** From what trains least to what trains most. */
const VISION_WAYS = ["linear", "vpt-shallow", "vpt-deep", "lora", "galore", "full"] as const;

interface PaperWay extends Omit<ComparedMethod, "paperBytes" | "plan"> {
  readonly method: PaperFinetuneMethod;
}

function waysOf(ranks: readonly number[] | undefined, config: Subject["config"]): PaperWay[] {
  const paper = PAPER_FINETUNE.map((row) => isPaperModel(config) ? row : { ...row, printed: undefined });
  if (!ranks) return paper;
  const ways = ranks.flatMap((rank) => (["galore", "lora"] as const).map((method) => ({ method, rank })));
  return [{ method: "full" as const, rank: undefined }, ...ways].map(({ method, rank }) => ({
    ...{ method, rank },
    printed: paper.find((row) => row.method === method && row.rank === rank)?.printed,
  }));
}

/** Whether a model has the shapes of the paper's. */
function isPaperModel(config: Subject["config"]): boolean {
  const paper = robertaConfig("roberta-base");
  const sizes = ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"] as const;
  return isMasked(config) && sizes.every((size) => config[size] === paper[size]);
}

/** Why the paper's figures and ours differ, below the table. */
export const COMPARISON_NOTE =
  "the paper counts 2 bytes a weight, 4 where the rank is low, and no state of what GaLore " +
  "trains in full; here everything is f32, and counted";

/** Rows of a table of text, figures in millions of bytes. */
export function compareFinetuneRows(compared: readonly ComparedMethod[]): string[][] {
  const rows = compared.map(({ method, rank, printed, paperBytes, plan }) => [
    ...[method, cellOf(rank), printed === undefined ? "" : mega(printed, 0), mega(paperBytes!)],
    ...planCells(plan),
  ]);
  return [
    ["MB", "rank", "paper printed", "paper's rule", "weights+state here", "gradients", "peak"],
    ...rows,
  ];
}

/** Rows of a table of a ViT, figures in millions of bytes. */
export function compareVisionRows(compared: readonly ComparedMethod[]): string[][] {
  const rows = compared.map(({ method, rank, prompts, plan }) => [
    ...[method, cellOf(rank), cellOf(prompts), plan.trainedParameters.toLocaleString("en-US")],
    ...[formatShare(plan.trainedParameters / plan.parameters), ...planCells(plan)],
  ]);
  return [
    ["MB", "rank", "prompts", "trained", "of the model", "weights+state", "gradients", "peak"],
    ...rows,
  ];
}

function cellOf(size: number | undefined): string {
  return size === undefined ? "" : `${size}`;
}

/** Weights with states, gradients and the peak. */
function planCells(plan: FinetunePlan): string[] {
  const { weightBytes, adapterBytes, optimizerBytes, projectorBytes } = plan;
  const kept = weightBytes + adapterBytes + optimizerBytes + projectorBytes;
  return [kept, plan.gradientBytes, plan.peakBytes].map((bytes) => mega(bytes));
}

function mega(bytes: number, digits = 1): string {
  return (bytes / 1e6).toFixed(digits);
}
