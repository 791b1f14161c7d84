/** LoRA and DoRA as ways to fine-tune: an adapter beside frozen weights, in PEFT's files. */
import { initLora, loadPeft, type LoraConfig, loraMergedWeights, savePeft, withLora } from "../models/mod.ts";
import { type FinetuneMethod, mergedModel, type MethodContext } from "./finetune_method.ts";
import type { Finetune } from "./finetune_options.ts";
import type { Subject } from "./finetune_subject.ts";

/** Trains an adapter of LoRA or DoRA. @throws RangeError for targets that are not among the model's modules */
export function loraMethod({ base, run, subject, modelFolder }: MethodContext): FinetuneMethod {
  const lora = loraConfigOf(run, subject);
  const trained = initLora(base, lora, { seed: run.seed });
  base.freeze(base.names());
  const peft = { lora, taskType: subject.peftTask, baseModel: modelFolder };
  return {
    ...{ trained, projected: /\.lora_[AB]\.weight$/, hasAdapter: true },
    view: (dropoutKey) => withLora(base, [{ params: trained, config: lora }], { dropoutKey }),
    merged: () => mergedModel(loraMergedWeights(base, trained, lora)),
    saveState: (writer) => savePeft(writer, trained, peft, base.entries()),
    saveAdapter: (writer) => savePeft(writer, trained, peft, base.entries()),
    restoreState: async (folder) => {
      using saved = await loadPeft(folder, base, { modelType: subject.modelType });
      for (const [name, tensor] of trained.entries()) tensor.write(await saved.params.get(name).read());
    },
    [Symbol.dispose]: () => trained.dispose(),
  };
}

/** The settings of a run's factors. */
export function loraConfigOf(
  { method, rank, alpha, rslora, loraDropout, targets, modulesToSave }: Finetune,
  subject: Pick<Subject, "modulesToSave">,
): LoraConfig {
  return {
    ...{ r: rank, alpha, rslora, dropout: loraDropout, dora: method === "dora" },
    targets: targets.length === 1 && targets[0] === "all-linear" ? "all-linear" : targets,
    modulesToSave: [...new Set([...subject.modulesToSave, ...modulesToSave])],
  };
}
