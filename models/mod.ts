/**
 * Models of Lowrank: functions over `Params`, under Hugging Face's names, and the files that hold them.
 *
 * @module
 */
export * from "./key_value_cache.ts";
export * from "./llama.ts";
export * from "./llama_config.ts";
export {
  initLora,
  type InitLoraOptions,
  type Lora,
  LORA_TENSORS,
  type LoraConfig,
  loraScale,
  type LoraStart,
  loraWeights,
  type LoraWeightSpec,
  type NamedShapes,
  withLora,
  type WithLoraOptions,
} from "./lora.ts";
export * from "./lora_merge.ts";
export * from "./low_rank.ts";
export * from "./masked_lm.ts";
export * from "./peft.ts";
export * from "./roberta.ts";
export * from "./roberta_config.ts";
export * from "./checkpoint_folder.ts";
export * from "./safetensors.ts";
export { paramEntries, type StoredDType } from "./stored_params.ts";
export * from "./visual_prompts.ts";
export * from "./visual_prompts_file.ts";
export * from "./vit.ts";
export * from "./vit_config.ts";
export * from "./vit_folder.ts";
export * from "./vit_positions.ts";
export * from "./relora.ts";
export { withLoraBatch } from "./adapter_batch.ts";
export { groupExamples, linearByGroup, takeExamples } from "./adapter_groups.ts";
export * from "./deep_lora.ts";
export * from "./deep_subspaces.ts";
export {
  type Flora,
  FLORA_TENSORS,
  type FloraConfig,
  floraWeights,
  type FloraWeightSpec,
  initFlora,
  type InitFloraOptions,
  withFlora,
  type WithFloraOptions,
} from "./flora.ts";
export * from "./flora_merge.ts";
export { scaledProduct } from "./flora_product.ts";
export * from "./hira.ts";
export * from "./isometry.ts";
export * from "./logit_lens.ts";
