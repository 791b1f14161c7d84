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
