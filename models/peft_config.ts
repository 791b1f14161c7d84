/**
 * `adapter_config.json` of Hugging Face's PEFT for LoRA adapters: read strictly, written with PEFT's own keys.
 *
 * What LoRA has beside all kinds of adapters (`peft_fields.ts`). Source: PEFT 0.20's LoraConfig.
 */
import type { LoraConfig, NamedShapes } from "./lora_config.ts";
import {
  peftFields,
  type PeftUse,
  readField,
  readModules,
  refused,
  savedJson,
  targetsJson,
  useJson,
} from "./peft_fields.ts";

export { PEFT_CONFIG_FILE, type PeftTask } from "./peft_fields.ts";

/** What an `adapter_config.json` says. */
export interface PeftConfig extends PeftUse {
  readonly lora: LoraConfig;
}

/** Settings that are offered in one form only: the values that mean "not in use". */
const NOT_OFFERED: Readonly<Record<string, readonly unknown[]>> = {
  bias: ["none"],
  fan_in_fan_out: [false],
  lora_bias: [false],
  rank_pattern: [{}],
  alpha_pattern: [{}],
  exclude_modules: [[]],
  layers_to_transform: [[]],
  layer_replication: [],
  trainable_token_indices: [],
  target_parameters: [[]],
  use_qalora: [false],
  alora_invocation_tokens: [],
};

/** First values that leave the base model as it is; others (PiSSA, OLoRA, LoftQ, CorDA) change it. */
const STARTS: readonly unknown[] = [true, false, "gaussian", "orthogonal", "eva"];

/**
 * Reads the contents of an `adapter_config.json`.
 *
 * @param modelType the model's `model_type`: PEFT's usual targets, where the file names none
 * @throws SyntaxError for another kind of adapter, a setting of the wrong type, or one that is not offered
 */
export function readPeftConfig(json: unknown, modelType = ""): PeftConfig {
  const fields = peftFields(json, "LORA", NOT_OFFERED);
  const start = fields.init_lora_weights ?? true;
  if (!STARTS.includes(start)) throw refused("init_lora_weights must leave the base model unchanged", start);
  const { targets, modulesToSave, ...use } = readModules(fields, modelType);
  return {
    lora: {
      r: readField(fields, "r", 8),
      alpha: readField(fields, "lora_alpha", 8),
      dropout: readField(fields, "lora_dropout", 0),
      targets,
      rslora: readField(fields, "use_rslora", false),
      dora: readField(fields, "use_dora", false),
      modulesToSave,
    },
    ...use,
  };
}

/**
 * The contents of an `adapter_config.json` that PEFT loads. "all-linear", and an expression with flags, become the
 * names of the modules, so that every reader adapts the same.
 *
 * @param weights the model's, for those names
 */
export function writePeftConfig({ lora, ...use }: PeftConfig, weights: NamedShapes): Record<string, unknown> {
  return {
    ...useJson("LORA", use),
    r: lora.r,
    lora_alpha: lora.alpha,
    lora_dropout: lora.dropout ?? 0,
    target_modules: targetsJson(lora, weights),
    bias: "none",
    fan_in_fan_out: false,
    use_rslora: lora.rslora ?? false,
    use_dora: lora.dora ?? false,
    modules_to_save: savedJson(lora.modulesToSave),
    init_lora_weights: true,
    layers_to_transform: null,
    layers_pattern: null,
    rank_pattern: {},
    alpha_pattern: {},
  };
}
