/**
 * What a fine-tuning run leaves in its folder. `checkpoints/step-N` is for going on: what is trained, the optimizer's state
 * and where the run stands. `best` is for use: a Hugging Face folder of plain weights, with the adapter, where one was
 * trained, as PEFT's files in `best-adapter`.
 */
import type { Backend, Params } from "../core/mod.ts";
import { type FolderWriter, loadPeft, type PeftConfig, savePeft } from "../models/mod.ts";
import type { Optimizer } from "../optimizers/mod.ts";
import { loadOptimizer, loadParams, loadTrainingState, saveModel, saveTraining } from "./checkpoint.ts";
import type { TrainingState } from "./checkpoint.ts";
import { writeFolderDurably } from "./durable.ts";
import type { FileFolder } from "./files.ts";
import type { FinetuneMethod } from "./finetune_method.ts";
import type { Finetune } from "./finetune_options.ts";
import type { Subject } from "./finetune_subject.ts";

/** The folder of the best model, in a run's folder. */
export const BEST = "best";
/** The folder of its adapter. */
export const BEST_ADAPTER = "best-adapter";

/** How far a run has come, evaluations included. */
export interface FinetuneProgress {
  /** The best evaluation so far. */
  readonly best?: { readonly step: number; readonly scores: Readonly<Record<string, number>> };
  /** Evaluations since then. */
  readonly waited: number;
  /** The step of the last evaluation. */
  readonly evaluatedAt: number;
  /** What it measured. */
  readonly scores?: Readonly<Record<string, number>>;
}

/** What a fine-tuning run remembers beside what it trains. */
export interface FinetuneState extends TrainingState {
  readonly progress: FinetuneProgress;
}

/** The parts of a run that are written. */
export interface SavedParts {
  /** For people who load the adapter: where its base was. */
  readonly modelFolder: string;
  readonly base: Params;
  readonly method: FinetuneMethod;
  readonly subject: Pick<Subject, "config" | "tokenizer" | "modelType" | "peftTask">;
  readonly run: Pick<Finetune, "merge">;
}

/** Writes what a resumed run needs to take the same next step. */
export async function saveCheckpoint(
  writer: FolderWriter,
  parts: SavedParts,
  optimizer: Optimizer,
  state: FinetuneState,
): Promise<void> {
  if (parts.method.lora) await savePeft(writer, parts.method.trained, peftConfig(parts), parts.base.entries());
  else await saveModel(writer, parts.base, parts.subject.config, parts.subject.tokenizer.files);
  await saveTraining(writer, optimizer, state);
}

/** Writes the model as it is for use: whole, unless adapters shall stay alone, and the adapter. */
export async function saveBest(run: string, parts: SavedParts): Promise<void> {
  const { method, base, subject } = parts;
  if (!method.lora || parts.run.merge) {
    await writeFolderDurably(run, BEST, async (writer) => {
      using merged = method.merged();
      await saveModel(writer, merged, subject.config, subject.tokenizer.files);
    });
  }
  if (!method.lora) return;
  await writeFolderDurably(
    run,
    BEST_ADAPTER,
    (writer) => savePeft(writer, method.trained, peftConfig(parts), base.entries()),
  );
}

function peftConfig({ method, modelFolder, subject }: SavedParts): PeftConfig {
  return { lora: method.lora!, taskType: subject.peftTask, baseModel: modelFolder };
}

/** Puts a checkpoint's weights and optimizer state into those of a run. */
export async function restoreCheckpoint(
  folder: FileFolder,
  { base, method, subject }: Pick<SavedParts, "base" | "method" | "subject">,
  optimizer: Optimizer,
  backend: Backend,
): Promise<void> {
  if (method.lora) {
    using saved = await loadPeft(folder, base, { modelType: subject.modelType });
    for (const [name, tensor] of method.trained.entries()) tensor.write(await saved.params.get(name).read());
  } else await loadParams(folder, base);
  await loadOptimizer(folder, optimizer, backend);
}

/** Where a checkpoint's run stood. */
export async function loadFinetuneState(folder: FileFolder): Promise<FinetuneState> {
  return await loadTrainingState(folder) as FinetuneState;
}
