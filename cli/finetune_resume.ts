/** Going on with a fine-tuning run, whichever verb began it: its options, and the state of its newest checkpoint. */
import { FileFolder } from "./files.ts";
import { type FinetuneState, loadFinetuneState, restoreCheckpoint } from "./finetune_checkpoint.ts";
import type { Finetune } from "./finetune_options.ts";
import { finetuneIdentity, type FinetuneSetup } from "./finetune_setup.ts";
import type { Output } from "./log.ts";
import { checkIdentity, readRun } from "./resume.ts";
import { latestCheckpoint, type RunFolder } from "./run_folder.ts";

/** The options that a run was started with. @throws RangeError for a run of another verb */
export async function readFinetune(folder: RunFolder): Promise<Partial<Finetune>> {
  const run = await readRun(folder) as Partial<Finetune>;
  if (run.task !== undefined) return run;
  throw new RangeError(
    `Cannot resume ${folder.path}: it is no fine-tuning run; deno task train --resume goes on with it`,
  );
}

/** What was trained, the optimizer and the position of a run's newest checkpoint. */
export async function restoreFinetune(folder: RunFolder, setup: FinetuneSetup, output: Output): Promise<FinetuneState> {
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
  await restoreCheckpoint(checkpoint, setup.method, setup.optimizer, setup.backend);
  return state;
}
