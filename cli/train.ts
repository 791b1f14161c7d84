/** `train`: from flags to a trained model in a run folder, with what happened beside it. */
import { formatBytes } from "../core/mod.ts";
import { Batches } from "../data/mod.ts";
import { defineVerb, givenOptions, parseVerb, UsageError } from "./arguments.ts";
import { loadOptimizer, loadParams, loadTrainingState, type TrainingState } from "./checkpoint.ts";
import { FileFolder } from "./files.ts";
import { checkUses, type FlagUses } from "./flag_uses.ts";
import { dataFlags, deviceFlags, modelFlags, optimizerFlags, runFlags, scheduleFlags } from "./flags.ts";
import { formatTable, type Output } from "./log.ts";
import { planMemory, planRequest, planRows } from "./memory_plan.ts";
import type { Run } from "./options.ts";
import { resolveRun } from "./recipe.ts";
import { checkReloraSchedule, restoreRelora } from "./relora.ts";
import { checkIdentity, identityOf, readRun } from "./resume.ts";
import { checkUnused, latestCheckpoint, resumeRun, type RunFolder } from "./run_folder.ts";
import { trainLoop } from "./trainer.ts";
import { trainVision, withoutText } from "./train_vision.ts";
import { runTraining } from "./training_run.ts";
import { prepareTraining, printSetup, reloraParts, type TrainingSetup } from "./training_setup.ts";
import { kebab } from "./verbs.ts";
import { isVitModel } from "./vision_model.ts";
import { imageFlags } from "./vision_options.ts";

/** The verb's flags. */
export const trainVerb = defineVerb({
  name: "train",
  summary:
    "trains a LLaMA, a RoBERTa or a ViT, with GaLore unless told otherwise; without flags, on TypeScript declarations",
  example: [
    "deno task train",
    "deno task train --model llama-60m --data corpus.jsonl --tokenizer ./gpt2 --rank 128 --steps 2000 --save-every 200",
    "deno task train --model roberta-2m --data corpus.txt --optimizer adamw --steps 2000",
    "deno task train --model vit-0.2m --data mnist.zarr --batch 64 --steps 1000",
    "deno task train --resume runs/llama-60m-galore_adamw-20261123-101500",
  ],
  flags: {
    ...{ ...modelFlags, ...dataFlags, ...imageFlags, ...optimizerFlags, ...scheduleFlags, ...deviceFlags, ...runFlags },
  },
});

const RELORA = ["--method relora"];
const USES: FlagUses = {
  ...{ alpha: RELORA, reloraEvery: RELORA, reloraWarmup: RELORA, reloraReset: RELORA, reloraPrune: RELORA },
};

/** Runs the verb. */
export async function train(argv: readonly string[], output: Output): Promise<void> {
  const parsed = parseVerb(trainVerb, argv);
  const { resume, config, dryRun } = parsed.options;
  const { resume: _resume, config: _config, dryRun: _dryRun, ...flags } = givenOptions(parsed);
  if (resume !== undefined && flags.out !== undefined) {
    throw new UsageError("Cannot use --out with --resume: a run goes on in its own folder");
  }
  using folder = resume === undefined ? undefined : await resumeRun(resume);
  const saved = folder ? await readTraining(folder) : {};
  const run = await resolveRun(flags, config, saved);
  if (!folder && run.out !== undefined && !dryRun) await checkUnused(run.out);
  if (await isVitModel(run.model)) {
    if (dryRun) throw new RangeError("Cannot use --dry-run with a ViT: deno task plan says what it needs");
    return await trainVision(run, folder, output);
  }
  checkNoImages(run);
  checkUses(Object.keys(flags), USES, (use) => use === `--method ${run.method}`, `with --method ${run.method}`);
  checkReloraSchedule({ method: run.method, schedule: flags.schedule });
  const setup = await prepareTraining(run, output);
  using _backend = setup.backend;
  using _base = setup.base;
  using _params = setup.params;
  using _optimizer = setup.optimizer;
  printSetup(setup, output);
  if (dryRun) return await dryRunOnce(setup, output);
  const resumed = folder ? await restore(folder, setup, output) : undefined;
  await runTraining(setup, { folder, resumed }, output);
}

/** The options of a run of this verb. @throws RangeError for one of fine-tuning */
async function readTraining(folder: RunFolder): Promise<Partial<Run>> {
  const run: Partial<Run> & { readonly task?: string } = await readRun(folder);
  // runs on images name their task; only those of this verb count steps
  if (run.task === undefined) return run;
  if (run.steps !== undefined) return withoutText(run);
  throw new RangeError(
    `Cannot resume ${folder.path}: it is a fine-tuning run; deno task finetune --resume goes on with it`,
  );
}

/** @throws RangeError for options that only a ViT has a use for */
function checkNoImages(run: Run): void {
  const stray = (Object.keys(imageFlags) as (keyof typeof imageFlags)[]).find((key) => run[key]);
  if (stray === undefined) return;
  throw new RangeError(`Cannot use --${kebab(stray)} to train ${run.model}: it is for images, and a ViT`);
}

async function dryRunOnce(setup: TrainingSetup, output: Output): Promise<void> {
  const plan = await planMemory(setup.model.config, planRequest(setup.run, setup.backend));
  for (const line of formatTable(planRows(plan), "lrr")) output.err(line);
  const { batch, seed } = setup.run;
  await using batches = new Batches(setup.data.path, { batch, seed, readers: 0 });
  const loss = setup.objective.loss;
  await trainLoop({ ...setup, loss, nextBatch: () => batches.next() }, {
    startStep: 0,
    startTokens: 0,
    steps: 1,
    afterSteps: ([row]) => {
      output.out(
        `one step: loss ${row.loss.toFixed(4)}, norm ${row.gradNorm.toFixed(4)}, ${row.stepMs.toFixed(0)} ms, ` +
          `peak ${formatBytes(row.memoryBytes)} (planned ${formatBytes(plan.peakBytes)})`,
      );
      return Promise.resolve(true);
    },
  });
}

/** Weights, optimizer and position of a run's newest checkpoint. */
async function restore(folder: RunFolder, setup: TrainingSetup, output: Output): Promise<TrainingState> {
  const { checkpoint: latest, warnings } = await latestCheckpoint(folder.path);
  for (const warning of warnings) output.err(`warning: ${warning}`);
  if (!latest) throw new RangeError(`Cannot resume ${folder.path}: it has no checkpoint that verifies`);
  const checkpoint = new FileFolder(latest.path);
  const state = await loadTrainingState(checkpoint);
  checkIdentity(folder.path, state.identity, identityOf(setup));
  if (state.kernelPath !== setup.backend.kernelPath) {
    output.err(
      `warning: the run was computed with ${state.kernelPath}, now with ${setup.backend.kernelPath}: last bits may differ`,
    );
  }
  const parts = reloraParts(setup);
  await (parts ? restoreRelora(checkpoint, parts) : loadParams(checkpoint, setup.params));
  await loadOptimizer(checkpoint, setup.optimizer, setup.backend);
  return state;
}
