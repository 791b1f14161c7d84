/**
 * What a fine-tuning run leaves in its folder. `checkpoints/step-N` is for going on: what is trained, the optimizer's state
 * and where the run stands. `best` is for use: a Hugging Face folder of plain weights, with the adapter, where one was
 * trained, as PEFT's files in `best-adapter`.
 */
import type { Backend } from "../core/mod.ts";
import type { FolderWriter } from "../models/mod.ts";
import type { Optimizer } from "../optimizers/mod.ts";
import { loadOptimizer, loadTrainingState, saveModel, saveTraining } from "./checkpoint.ts";
import type { TrainingState } from "./checkpoint.ts";
import { writeFolderDurably } from "./durable.ts";
import type { FileFolder } from "./files.ts";
import type { FinetuneMethod } from "./finetune_method.ts";
import type { Finetune } from "./finetune_options.ts";
import type { Subject } from "./finetune_subject.ts";
import { PREPROCESSOR_FILE } from "./vision_data.ts";

/** The folder of the best model, in a run's folder. */
export const BEST = "best";
/** The folder of its adapter: PEFT's files, or a task's prompts and head. */
export const BEST_ADAPTER = "best-adapter";

/** How far a run has come, evaluations included. */
export interface FinetuneProgress {
  /** The best evaluation so far, of those whose model is written. */
  readonly best?: { readonly step: number; readonly scores: Readonly<Record<string, number>> };
  /** Evaluations since then. */
  readonly waited: number;
  /** The step of the last evaluation. */
  readonly evaluatedAt: number;
  /** What it measured. */
  readonly scores?: Readonly<Record<string, number>>;
  /** Whether it was better than `best`, and the disk was full. */
  readonly isUnwritten?: boolean;
}

/** What a fine-tuning run remembers beside what it trains. */
export interface FinetuneState extends TrainingState {
  readonly progress: FinetuneProgress;
}

/** The parts of a run that are written for use. */
export interface SavedParts {
  readonly method: FinetuneMethod;
  readonly subject: Pick<Subject, "config" | "files">;
  readonly run: Pick<Finetune, "merge">;
}

/** Writes what a resumed run needs to take the same next step. */
export async function saveCheckpoint(
  writer: FolderWriter,
  method: FinetuneMethod,
  optimizer: Optimizer,
  state: FinetuneState,
): Promise<void> {
  await method.saveState(writer);
  await saveTraining(writer, optimizer, state);
}

/** Whether `saveBest` writes the whole model, or what is trained beside it alone. */
export function isWrittenWhole({ method, run }: Pick<SavedParts, "method" | "run">): boolean {
  return method.merged !== undefined && (!method.saveAdapter || run.merge);
}

/** Writes the model as it is for use: whole, unless adapters shall stay alone, and the adapter. */
export async function saveBest(folder: string, parts: SavedParts): Promise<void> {
  const { method, subject } = parts;
  if (isWrittenWhole(parts)) {
    await writeFolderDurably(folder, BEST, async (writer) => {
      using merged = method.merged!();
      await saveModel(writer, merged.weights, subject.config, subject.files);
    });
  }
  if (!method.saveAdapter) return;
  await writeFolderDurably(folder, BEST_ADAPTER, async (writer) => {
    await method.saveAdapter!(writer);
    const preprocessor = subject.files.get(PREPROCESSOR_FILE); // how images are cut: the base model does not know
    if (!preprocessor) return;
    await using sink = await writer.create(PREPROCESSOR_FILE);
    await sink.write(preprocessor);
  });
}

/** Puts a checkpoint's weights and optimizer state into those of a run. */
export async function restoreCheckpoint(
  folder: FileFolder,
  method: FinetuneMethod,
  optimizer: Optimizer,
  backend: Backend,
): Promise<void> {
  await method.restoreState(folder);
  await loadOptimizer(folder, optimizer, backend);
}

/** Where a checkpoint's run stood. */
export async function loadFinetuneState(folder: FileFolder): Promise<FinetuneState> {
  return await loadTrainingState(folder) as FinetuneState;
}
