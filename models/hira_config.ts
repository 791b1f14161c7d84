/**
 * `adapter_config.json` of Hugging Face's PEFT for HiRA adapters, which are FLoRA's residual form: read strictly, written
 * with PEFT's own keys. Source: PEFT 0.20's HiraConfig. What all kinds of adapters share: `peft_fields.ts`.
 */
import type { FloraConfig } from "./flora_config.ts";
import type { NamedShapes } from "./lora_config.ts";
import { peftFields, type PeftUse, readField, readModules, savedJson, targetsJson, useJson } from "./peft_fields.ts";

/** What an `adapter_config.json` of HiRA says. */
export interface HiraConfig extends PeftUse {
  readonly flora: FloraConfig;
}

/** Settings that are offered in one form only: the values that mean "not in use". */
const NOT_OFFERED: Readonly<Record<string, readonly unknown[]>> = {
  fan_in_fan_out: [false],
  rank_pattern: [{}],
  exclude_modules: [[]],
  layers_to_transform: [[]],
};

/**
 * Reads the contents of an `adapter_config.json`. Its factors are of the residual form, and their parts add up.
 *
 * @param modelType the model's `model_type`: PEFT's usual targets, where the file names none
 * @throws SyntaxError for another kind of adapter, a setting of the wrong type, or one that is not offered
 */
export function readHiraConfig(json: unknown, modelType = ""): HiraConfig {
  const fields = peftFields(json, "HIRA", NOT_OFFERED);
  const { targets, modulesToSave, ...use } = readModules(fields, modelType);
  const [r, dropout] = [readField(fields, "r", 32), readField(fields, "hira_dropout", 0)];
  return { flora: { r, form: "residual", reduction: "sum", dropout, targets, modulesToSave }, ...use };
}

/**
 * The contents of an `adapter_config.json` that PEFT loads, of an adapter in the residual form.
 *
 * @param weights the model's, for the names that "all-linear" stands for
 */
export function writeHiraConfig({ flora, ...use }: HiraConfig, weights: NamedShapes): Record<string, unknown> {
  const { r, dropout = 0, targets, modulesToSave } = flora;
  return {
    ...useJson("HIRA", use),
    r,
    hira_dropout: dropout,
    target_modules: targetsJson({ r, alpha: r, targets, modulesToSave }, weights),
    fan_in_fan_out: false,
    modules_to_save: savedJson(modulesToSave),
    init_weights: true,
    layers_to_transform: null,
    layers_pattern: null,
    rank_pattern: {},
  };
}
