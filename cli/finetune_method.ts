/**
 * From `--method` to what is trained and how the model sees it. A method is a function in a file of its own; the run knows
 * only this interface, so that it never asks which one it has.
 */
import type { Key, Params, ParamsView } from "../core/mod.ts";
import { type FolderWriter, type MergedWeight, mergedWeights, type VisualPrompts } from "../models/mod.ts";
import type { Optimizer, Schedule, ScheduleOptions } from "../optimizers/mod.ts";
import { loadParams, saveModel } from "./checkpoint.ts";
import type { FileFolder } from "./files.ts";
import { deepLoraMethod } from "./finetune_deep_lora.ts";
import { floraMethod } from "./finetune_flora.ts";
import { linearMethod } from "./finetune_linear.ts";
import { loraMethod } from "./finetune_lora.ts";
import { lowRankMethod } from "./finetune_low_rank.ts";
import type { Finetune } from "./finetune_options.ts";
import { vptMethod } from "./finetune_prompts.ts";
import { reloraMethod } from "./finetune_relora.ts";
import type { Subject } from "./finetune_subject.ts";

/** A way to fine-tune a model. */
export interface FinetuneMethod extends Disposable {
  /** What the optimizer trains. */
  readonly trained: Params;
  /** Names of the matrices among it that an optimizer may project. */
  readonly projected: RegExp;
  /** Whether weights of the model stay frozen beside what is trained. */
  readonly hasAdapter: boolean;
  /** Rates as multiples of the run's, by name: the first pattern that matches counts, none is 1. */
  readonly rates?: readonly (readonly [RegExp, number])[];
  /** Adam's eps where the run names none. */
  readonly eps?: number;
  /** What is said of it before the run. */
  readonly notes?: readonly string[];
  /** What is said of it after the run. */
  endNotes?(): Promise<readonly string[]>;
  /** In place of the run's schedule. */
  readonly schedule?: (options: ScheduleOptions) => Schedule;
  /** The weights as the model sees them; with the key of a step's dropout while training. */
  view(dropoutKey?: Key): ParamsView;
  /** Learned tokens that the model sees beside the weights. */
  readonly prompts?: VisualPrompts;
  /** The plain weights of the model, for a folder, where what is trained can be folded into them. Dispose it. */
  merged?(): MergedModel;
  /** Writes what a resumed run needs, beside the optimizer's state, to take the same next step. */
  saveState(writer: FolderWriter): Promise<void>;
  /** Puts back what `saveState` wrote. */
  restoreState(folder: FileFolder): Promise<void>;
  /** Writes the adapter for use, where there is one. */
  saveAdapter?(writer: FolderWriter): Promise<void>;
  /** What is done after some optimizer steps (1 is the first), before anything is measured or saved. */
  readonly occasion?: {
    isDue(step: number): boolean;
    /** Outside every scope. Says what it did, for the log. */
    run(step: number, optimizer: Optimizer): Promise<string>;
  };
}

/** A model to be written, each weight made when its turn comes. */
export interface MergedModel extends Disposable {
  readonly weights: readonly MergedWeight[];
}

/** What a method is made of. */
export interface MethodContext {
  /** The model's weights, which stay the caller's. */
  readonly base: Params;
  readonly run: Finetune;
  readonly subject: Subject;
  /** For people who load an adapter: where its base was. */
  readonly modelFolder: string;
  /** Optimizer steps of the whole run. */
  readonly steps: number;
}

/**
 * What a run trains.
 *
 * @throws RangeError for targets that are not among the model's modules
 */
export async function finetuneMethod(context: MethodContext): Promise<FinetuneMethod> {
  switch (context.run.method) {
    case "full":
    case "galore":
      return everyWeight(context);
    case "lora":
    case "dora":
      return loraMethod(context);
    case "lowrank":
      return await lowRankMethod(context);
    case "relora":
      return await reloraMethod(context);
    case "flora":
      return await floraMethod(context);
    case "deep-lora":
      return await deepLoraMethod(context);
    case "vpt-shallow":
    case "vpt-deep":
      return vptMethod(context);
    case "linear":
      return linearMethod(context);
  }
}

function everyWeight({ base, subject: { projected, config, files } }: MethodContext): FinetuneMethod {
  return {
    ...{ trained: base, projected, hasAdapter: false },
    view: () => base,
    merged: () => mergedModel(mergedWeights(base)),
    saveState: (writer) => saveModel(writer, base, config, files),
    restoreState: (folder) => loadParams(folder, base),
    [Symbol.dispose]: () => {},
  };
}

/** A model of these weights, with what they are made from, which it takes over. */
export function mergedModel(weights: readonly MergedWeight[], source?: Disposable): MergedModel {
  return { weights, [Symbol.dispose]: () => source?.[Symbol.dispose]() };
}
