/**
 * ReLoRA as a way to fine-tune: an adapter that is folded into the base and begun again every so often, its moments pruned,
 * under a rate that falls to 0 and rises again each time (Lialin et al. 2023). What else is trained, such as a head, goes
 * on through restarts.
 *
 * There is no adapter to write: all changes together are the product of factors of as many times the rank as there were
 * cycles. What a run leaves is the whole model.
 */
import { initLora, type LoraConfig, loraMergedWeights, withLora } from "../models/mod.ts";
import { loraConfigOf } from "./finetune_lora.ts";
import { type FinetuneMethod, mergedModel, type MethodContext } from "./finetune_method.ts";
import { type ReloraParts, restartsOf, restoreRelora, saveRelora } from "./relora.ts";

/** Trains an adapter of LoRA with restarts. @throws RangeError for restarts that do not divide the run */
export function reloraMethod({ base, run, subject, steps }: MethodContext): FinetuneMethod {
  const restarts = restartsOf(run, steps);
  const lora: LoraConfig = { ...loraConfigOf(run, subject), dora: false };
  const trained = initLora(base, lora, { seed: run.seed });
  base.freeze(base.names());
  const parts: ReloraParts = { base, trained, lora };
  return {
    ...{ trained, projected: /\.lora_[AB]\.weight$/, hasAdapter: true },
    schedule: restarts.schedule,
    view: (dropoutKey) => withLora(base, [{ params: trained, config: lora }], { dropoutKey }),
    merged: () => mergedModel(loraMergedWeights(base, trained, lora)),
    saveState: (writer) => saveRelora(writer, parts),
    restoreState: (folder) => restoreRelora(folder, parts),
    occasion: {
      isDue: restarts.isDue,
      run: (step, optimizer) => restarts.run(parts, step, optimizer),
    },
    [Symbol.dispose]: () => trained.dispose(),
  };
}
