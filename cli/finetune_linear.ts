/**
 * Linear probing as a way to fine-tune: the head is trained, every other weight stays as it is and costs neither gradients
 * nor states. Of a ViT the head is written as a task's file too, as prompts are that there are none of.
 */
import { Params } from "../core/mod.ts";
import { mergedWeights, saveVisualPrompts } from "../models/mod.ts";
import { type FinetuneMethod, mergedModel, type MethodContext } from "./finetune_method.ts";
import { restoreTrained, saveTrained } from "./trained_file.ts";

/** The head in a checkpoint. */
const HEAD_FILE = "head.safetensors";

/** Trains the modules that a task adds to a model, in their place. */
export function linearMethod({ base, subject, modelFolder }: MethodContext): FinetuneMethod {
  const { modulesToSave, modelType, config } = subject;
  const isHead = (name: string) => modulesToSave.some((module) => name.startsWith(`${module}.`));
  const trained = new Params(base.backend);
  for (const [name, tensor] of base.entries()) if (isHead(name)) trained.set(name, tensor.retained());
  base.freeze(base.names().filter((name) => !isHead(name)));
  const labels = "id2label" in config ? Object.values(config.id2label) : [];
  const task = { prompts: { deep: false, numTokens: 0 }, labels, baseModel: modelFolder };
  return {
    ...{ trained, projected: /(?!)/, hasAdapter: true },
    view: () => base,
    merged: () => mergedModel(mergedWeights(base)),
    saveState: (writer) => saveTrained(writer, HEAD_FILE, trained),
    restoreState: (folder) => restoreTrained(folder, HEAD_FILE, trained),
    ...modelType === "vit" ? { saveAdapter: (writer) => saveVisualPrompts(writer, trained, task) } : {},
    [Symbol.dispose]: () => trained.dispose(),
  };
}
