/** `finetune`: from a pre-trained model and data to a classifier, or a LLaMA that answers, in a run folder. */
import { defineVerb, givenOptions, parseVerb, UsageError } from "./arguments.ts";
import { checkFinetuneFlags, completeFinetune, type Finetune, finetuneFlags } from "./finetune_options.ts";
import { readFinetune, restoreFinetune } from "./finetune_resume.ts";
import { runFinetune } from "./finetune_run.ts";
import { prepareFinetune, printFinetune } from "./finetune_setup.ts";
import type { Output } from "./log.ts";
import { loadRecipe } from "./recipe.ts";
import { checkUnused, resumeRun } from "./run_folder.ts";

/** The verb's flags. */
export const finetuneVerb = defineVerb({
  name: "finetune",
  summary: "trains a RoBERTa or a ViT for a task, or a LLaMA to answer: all of it, with GaLore, adapters or prompts",
  example: [
    "deno task finetune --model ./roberta-base --task sst2 --data glue/SST-2",
    "deno task finetune --model ./roberta-base --task mrpc --data glue --method lora --rank 4 --alpha 32",
    "deno task finetune --model ./roberta-base --task rte --data glue --config cli/recipes/glue.ts --method galore --rank 4",
    "deno task finetune --model ./llama --task sft --data cli/examples/chat.jsonl --method lora --targets all-linear",
    "deno task finetune --model ./vit --task images --data flowers.zarr --method vpt-deep --prompts 50",
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
  checkFinetuneFlags(run, flags as Partial<Finetune>);
  if (!folder && run.out !== undefined) await checkUnused(run.out);
  using setup = await prepareFinetune(run, output);
  printFinetune(setup, output);
  const resumed = folder ? await restoreFinetune(folder, setup, output) : undefined;
  await runFinetune(setup, { folder, resumed }, output);
}
