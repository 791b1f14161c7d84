/**
 * Models of Lowrank: functions over `Params`, under Hugging Face's names, and the files that hold them.
 *
 * @module
 */
export * from "./key_value_cache.ts";
export * from "./llama.ts";
export * from "./llama_config.ts";
export * from "./low_rank.ts";
export * from "./checkpoint_folder.ts";
export * from "./safetensors.ts";
