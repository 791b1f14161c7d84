/** `finetune`: from a pre-trained model and files to a classifier, or a LLaMA that answers, in a run folder. */
import { defineVerb, givenOptions, parseVerb, UsageError } from "./arguments.ts";
import { FileFolder } from "./files.ts";
import { type FinetuneState, loadFinetuneState, restoreCheckpoint } from "./finetune_checkpoint.ts";
import { completeFinetune, type Finetune, finetuneFlags } from "./finetune_options.ts";
import { runFinetune } from "./finetune_run.ts";
import { finetuneIdentity, type FinetuneSetup, prepareFinetune, printFinetune } from "./finetune_setup.ts";
import type { Output } from "./log.ts";
import { loadRecipe } from "./recipe.ts";
import { checkIdentity, readRun } from "./resume.ts";
import { checkUnused, latestCheckpoint, resumeRun, type RunFolder } from "./run_folder.ts";

/** The verb's flags. */
export const finetuneVerb = defineVerb({
  name: "finetune",
  summary: "trains a RoBERTa for a task, or a LLaMA to answer: all of it, with GaLore, or adapters",
  example: [
    "deno task finetune --model ./roberta-base --task sst2 --data glue/SST-2",
    "deno task finetune --model ./roberta-base --task mrpc --data glue --method lora --rank 4 --alpha 32",
    "deno task finetune --model ./roberta-base --task rte --data glue --config cli/recipes/glue.ts --method galore --rank 4",
    "deno task finetune --model ./llama --task sft --data cli/examples/chat.jsonl --method lora --targets all-linear",
    "deno task finetune --resume runs/roberta-base-sst2-full-20261126-101500",
  ],
  flags: finetuneFlags,
});

/** Runs the verb. */
export async function finetune(argv: readonly string[], output: Output): Promise<void> {
  const parsed = parseVerb(finetuneVerb, argv);
  const { resume } = parsed.options;
  const { resume: _resume, config, ...flags } = givenOptions(parsed);
  if (resume !== undefined && flags.out !== undefined) {
    throw new UsageError("Cannot use --out with --resume: a run goes on in its own folder");
  }
  using folder = resume === undefined ? undefined : await resumeRun(resume);
  const saved = folder ? await readFinetune(folder) : {};
  const recipe = config === undefined ? {} : await loadRecipe(config, finetuneFlags, { ...saved, ...flags });
  const run = completeFinetune({ ...saved, ...recipe as Partial<Finetune>, ...flags });
  if (!folder && run.out !== undefined) await checkUnused(run.out);
  using setup = await prepareFinetune(run, output);
  printFinetune(setup, output);
  const resumed = folder ? await restore(folder, setup, output) : undefined;
  await runFinetune(setup, { folder, resumed }, output);
}

/** The options that a run was started with. @throws RangeError for a run of another verb */
async function readFinetune(folder: RunFolder): Promise<Partial<Finetune>> {
  const run = await readRun(folder) as Partial<Finetune>;
  if (run.task !== undefined) return run;
  throw new RangeError(
    `Cannot resume ${folder.path}: it is no fine-tuning run; deno task train --resume goes on with it`,
  );
}

/** What was trained, the optimizer and the position of a run's newest checkpoint. */
async function restore(folder: RunFolder, setup: FinetuneSetup, output: Output): Promise<FinetuneState> {
  const { checkpoint: latest, warnings } = await latestCheckpoint(folder.path);
  for (const warning of warnings) output.err(`warning: ${warning}`);
  if (!latest) throw new RangeError(`Cannot resume ${folder.path}: it has no checkpoint that verifies`);
  const checkpoint = new FileFolder(latest.path);
  const state = await loadFinetuneState(checkpoint);
  checkIdentity(folder.path, state.identity, finetuneIdentity(setup));
  if (state.kernelPath !== setup.backend.kernelPath) {
    output.err(
      `warning: the run was computed with ${state.kernelPath}, now with ${setup.backend.kernelPath}: last bits may differ`,
    );
  }
  await restoreCheckpoint(checkpoint, setup, setup.optimizer, setup.backend);
  return state;
}
