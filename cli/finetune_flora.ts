/**
 * FLoRA as a way to fine-tune: one adapter, shared by all examples, that changes weights element by element. It is written as
 * PEFT's HiRA; at serving time every example of a batch can have another one.
 */
import {
  type FloraConfig,
  floraMergedWeights,
  type FolderWriter,
  type HiraConfig,
  initFlora,
  loadHira,
  saveHira,
  withFlora,
} from "../models/mod.ts";
import { saveAdapterLabels } from "./adapter_labels.ts";
import { loraConfigOf } from "./finetune_lora.ts";
import { type FinetuneMethod, mergedModel, type MethodContext } from "./finetune_method.ts";
import type { Finetune } from "./finetune_options.ts";
import type { Subject } from "./finetune_subject.ts";

/** Trains an adapter of FLoRA. @throws RangeError for targets that are not among the model's modules */
export function floraMethod({ base, run, subject, modelFolder }: MethodContext): FinetuneMethod {
  const flora = floraConfigOf(run, subject);
  const trained = initFlora(base, flora, { seed: run.seed });
  base.freeze(base.names());
  const hira: HiraConfig = { flora, taskType: subject.peftTask, baseModel: modelFolder };
  const save = async (writer: FolderWriter) => {
    await saveHira(writer, trained, hira, base.entries());
    await saveAdapterLabels(writer, subject.config);
  };
  return {
    ...{ trained, projected: /\.flora_[AB]$/, hasAdapter: true },
    view: (dropoutKey) => withFlora(base, [{ params: trained, config: flora }], undefined, { dropoutKey }),
    merged: () => mergedModel(floraMergedWeights(base, trained, flora)),
    ...{ saveState: save, saveAdapter: save },
    restoreState: async (folder) => {
      using saved = await loadHira(folder, base, { modelType: subject.modelType, form: flora.form });
      for (const [name, tensor] of trained.entries()) tensor.write(await saved.params.get(name).read());
    },
    [Symbol.dispose]: () => trained.dispose(),
  };
}

/**
 * The settings of a run's factors: begun as no change beside ones, or as parts of ones.
 *
 * @throws RangeError for ones that would decay to 0, and the model's weights with them
 */
function floraConfigOf(run: Finetune, subject: Pick<Subject, "modulesToSave">): FloraConfig {
  if (run.floraInit === "ones" && run.weightDecay > 0) {
    throw new RangeError(
      "Cannot use --weight-decay with --flora-init ones: it would take the model's weights to 0; residual keeps them",
    );
  }
  const { r, dropout, targets, modulesToSave } = loraConfigOf(run, subject);
  return { r, dropout, targets, modulesToSave, form: run.floraInit === "ones" ? "product" : "residual" };
}
