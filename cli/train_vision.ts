/**
 * `train` of a vision transformer on a store of images: by a built-in name from drawn weights, or on from those of a folder.
 * It is fine-tuning of every weight, by the options and for as many steps as `train` is told.
 */
import { loadVitConfig, vitConfig } from "../models/mod.ts";
import { exists, FileFolder } from "./files.ts";
import { USUAL_TARGETS } from "./finetune_method_options.ts";
import { type Finetune, FINETUNE_DEFAULTS } from "./finetune_options.ts";
import { restoreFinetune } from "./finetune_resume.ts";
import { runFinetune } from "./finetune_run.ts";
import { prepareFinetune, printFinetune } from "./finetune_setup.ts";
import type { Output } from "./log.ts";
import { DEFAULTS, type Run } from "./options.ts";
import { findModel } from "./resume.ts";
import type { RunFolder } from "./run_folder.ts";
import { kebab } from "./verbs.ts";
import { IMAGES } from "./vision_options.ts";

/** Options that a ViT has no use for. */
const FOR_TEXT = [
  ...["tokenizer", "vocab", "seq", "holdOut", "dtype", "evalBatches", "sampleEvery", "sampleTokens", "prompt"] as const,
  ...["overfitBatch", "alpha", "reloraEvery", "reloraWarmup", "reloraReset", "reloraPrune", "method"] as const,
] as const;

/** Trains a ViT, or goes on with a run that did. */
export async function trainVision(run: Run, folder: RunFolder | undefined, output: Output): Promise<void> {
  using setup = await prepareFinetune(await visionRun(run), output);
  printFinetune(setup, output);
  const resumed = folder ? await restoreFinetune(folder, setup, output) : undefined;
  await runFinetune(setup, { folder, resumed }, output);
}

/** The same run as fine-tuning has it. @throws RangeError for options that a ViT has no use for */
async function visionRun(run: Run): Promise<Finetune> {
  const stray = FOR_TEXT.find((key) => run[key] !== DEFAULTS[key]);
  if (stray !== undefined) {
    throw new RangeError(`Cannot use --${kebab(stray)} to train ${run.model}: a ViT has no use for it`);
  }
  return {
    ...FINETUNE_DEFAULTS,
    ...withoutText(run),
    ...{ task: IMAGES, method: "full", targets: USUAL_TARGETS.images },
    // what `train` takes where no rank is given
    rank: run.rank ?? Math.max(1, Math.floor(await hiddenSizeOf(run.model) / 4)),
  };
}

/** The options that text has no part in. */
export function withoutText<Options extends Partial<Run>>(options: Options): Omit<Options, typeof FOR_TEXT[number]> {
  const kept = Object.entries(options).filter(([key]) => !FOR_TEXT.some((other) => other === key));
  return Object.fromEntries(kept) as Omit<Options, typeof FOR_TEXT[number]>;
}

async function hiddenSizeOf(model: string): Promise<number> {
  const config = await exists(model) ? await loadVitConfig(new FileFolder(await findModel(model))) : vitConfig(model);
  return config.hidden_size;
}
