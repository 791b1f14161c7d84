/** LoRA and DoRA as ways to fine-tune: an adapter beside frozen weights, in PEFT's files. */
import {
  type FolderWriter,
  initLora,
  loadPeft,
  type LoraConfig,
  loraMergedWeights,
  savePeft,
  withLora,
} from "../models/mod.ts";
import { saveAdapterLabels } from "./adapter_labels.ts";
import { type FinetuneMethod, mergedModel, type MethodContext } from "./finetune_method.ts";
import type { Finetune } from "./finetune_options.ts";
import type { Subject } from "./finetune_subject.ts";

/** Trains an adapter of LoRA or DoRA. @throws RangeError for targets that are not among the model's modules */
export function loraMethod({ base, run, subject, modelFolder }: MethodContext): FinetuneMethod {
  const lora = loraConfigOf(run, subject);
  const trained = initLora(base, lora, { seed: run.seed });
  base.freeze(base.names());
  const peft = { lora, taskType: subject.peftTask, baseModel: modelFolder };
  const save = async (writer: FolderWriter) => {
    await savePeft(writer, trained, peft, base.entries());
    await saveAdapterLabels(writer, subject.config);
  };
  return {
    ...{ trained, projected: /\.lora_[AB]\.weight$/, hasAdapter: true },
    view: (dropoutKey) => withLora(base, [{ params: trained, config: lora }], { dropoutKey }),
    merged: () => mergedModel(loraMergedWeights(base, trained, lora)),
    ...{ saveState: save, saveAdapter: save },
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
    targets: targetsOf(targets),
    modulesToSave: [...new Set([...subject.modulesToSave, ...modulesToSave])],
  };
}

/**
 * Targets as flags say them: names, `all-linear`, or an expression between slashes, which a whole name must match.
 *
 * @throws RangeError for an expression beside others, SyntaxError for one that cannot be read
 */
function targetsOf(targets: readonly string[]): LoraConfig["targets"] {
  const expression = targets.find((target) => /^\/.+\/$/s.test(target));
  if (expression === undefined) return targets.length === 1 && targets[0] === "all-linear" ? "all-linear" : targets;
  if (targets.length > 1) {
    throw new RangeError(
      `Cannot use --targets ${expression}: an expression must be alone: got ${targets.length} targets`,
    );
  }
  try {
    return new RegExp(expression.slice(1, -1), "u");
  } catch (error) {
    throw new SyntaxError(`Cannot use --targets ${expression}: it must be an expression: ${(error as Error).message}`);
  }
}
