/**
 * LoRA adapters in the files of Hugging Face's PEFT: `adapter_config.json` and `adapter_model.safetensors`, read and
 * written. What is checked: `peft_files.ts`. `hira.ts` does the same for FLoRA.
 */
import type { Params } from "../core/mod.ts";
import type { Folder } from "./checkpoint_folder.ts";
import { loraWeights, matchingConfig, type NamedShapes } from "./lora_config.ts";
import { type PeftConfig, readPeftConfig, writePeftConfig } from "./peft_config.ts";
import { readAdapter, readAdapterJson, writeAdapter } from "./peft_files.ts";
import type { FolderWriter } from "./safetensors_shards.ts";

export { PEFT_CONFIG_FILE, type PeftConfig, type PeftTask, readPeftConfig, writePeftConfig } from "./peft_config.ts";
export { PEFT_WEIGHTS_FILE, peftTensors } from "./peft_files.ts";

/** An adapter that was read. Owns its tensors. */
export interface LoadedPeft extends PeftConfig, Disposable {
  readonly params: Params;
}

/**
 * Reads an adapter and checks every tensor against the model.
 *
 * @param options `modelType`: the model's `model_type`, for files that leave their targets to it
 * @throws SyntaxError for files that are missing, unreadable or ask for something that is not offered
 * @throws RangeError when the adapter is for another model: no module matches, tensors are missing or extra; or when a
 * tensor holds a number that is not finite
 * @throws TypeError for a tensor of another shape or dtype
 */
export async function loadPeft(
  folder: Folder,
  base: Params,
  { modelType }: { readonly modelType?: string } = {},
): Promise<LoadedPeft> {
  const config = readPeftConfig(await readAdapterJson(folder), modelType);
  const lora = matchingConfig(base.entries(), config.lora);
  const params = await readAdapter(folder, base, loraWeights(base.entries(), lora));
  return { ...config, lora, params, [Symbol.dispose]: () => params.dispose() };
}

/**
 * Writes an adapter as PEFT does: the tensors, then the configuration. Call outside every scope.
 *
 * @param base the model's weights, for the names that "all-linear" stands for
 */
export async function savePeft(
  folder: FolderWriter,
  adapter: Params,
  config: PeftConfig,
  base: NamedShapes,
): Promise<void> {
  await writeAdapter(folder, adapter, writePeftConfig(config, base));
}
