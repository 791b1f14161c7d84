/**
 * What all kinds of adapters share in PEFT's `adapter_config.json`: fields of a type, targets, whole modules, task and base
 * model. `peft_config.ts` has LoRA's own, `hira_config.ts` HiRA's.
 *
 * A setting that would change what the tensors mean and that is not offered here is an error, never ignored; a key that
 * is not known at all is ignored, as PEFT does, because newer releases add some with each version. Python's expressions are
 * read as JavaScript's, which agree for what names need.
 */
import { type LoraConfig, loraWeights, type NamedShapes } from "./lora_config.ts";
import { quote, unreadable } from "./safetensors_json.ts";

/** The file's name in an adapter's folder. */
export const PEFT_CONFIG_FILE = "adapter_config.json";

/** What the model is for, as PEFT names it. */
export type PeftTask = "CAUSAL_LM" | "SEQ_CLS" | "FEATURE_EXTRACTION" | "TOKEN_CLS" | "QUESTION_ANS" | "SEQ_2_SEQ_LM";

/** What an adapter belongs to. */
export interface PeftUse {
  readonly taskType?: PeftTask;
  /** Folder or hub name of the model that the adapter belongs to. */
  readonly baseModel?: string;
}

/** Which modules an adapter has, and what it belongs to. */
export interface PeftModules extends PeftUse {
  readonly targets: LoraConfig["targets"];
  readonly modulesToSave: readonly string[];
}

/** An object that was read. */
export type PeftFields = Readonly<Record<string, unknown>>;

const TASKS: readonly string[] = [
  "CAUSAL_LM",
  "SEQ_CLS",
  "FEATURE_EXTRACTION",
  "TOKEN_CLS",
  "QUESTION_ANS",
  "SEQ_2_SEQ_LM",
];

/** PEFT's targets where a file names none, by model_type. */
const USUAL_TARGETS: Readonly<Record<string, readonly string[]>> = {
  llama: ["q_proj", "v_proj"],
  roberta: ["query", "value"],
};

/**
 * The fields of an adapter's configuration of one kind.
 *
 * @param notOffered settings that are offered in one form only: the values that mean "not in use"
 * @throws SyntaxError for something that is no object, another kind, or a setting that is not offered
 */
export function peftFields(
  json: unknown,
  type: string,
  notOffered: Readonly<Record<string, readonly unknown[]>>,
): PeftFields {
  if (typeof json !== "object" || json === null || Array.isArray(json)) throw refused("it must be an object", json);
  const fields = json as PeftFields;
  if (fields.peft_type !== type) throw refused(`peft_type must be ${quote(type)}`, fields.peft_type);
  for (const [key, unused] of Object.entries(notOffered)) {
    const value = fields[key] ?? null;
    if (value === null || unused.some((one) => JSON.stringify(one) === JSON.stringify(value))) continue;
    throw refused(`${key} is not offered`, value);
  }
  return fields;
}

/** A field of a type; `otherwise` where it is missing or null. @throws SyntaxError for another type */
export function readField<T extends string | number | boolean>(fields: PeftFields, key: string, otherwise: T): T {
  const value = fields[key] ?? otherwise;
  if (typeof value !== typeof otherwise) throw refused(`${key} must be a ${typeof otherwise}`, value);
  return value as T;
}

/**
 * Targets, whole modules, task and base model.
 *
 * @param modelType the model's `model_type`: PEFT's usual targets, where the file names none
 * @throws SyntaxError for a field of the wrong type
 */
export function readModules(fields: PeftFields, modelType: string): PeftModules {
  const taskType = fields.task_type ?? undefined;
  if (taskType !== undefined && !TASKS.includes(taskType as string)) {
    throw refused(`task_type must be one of ${TASKS.join(", ")}`, taskType);
  }
  const modulesToSave = [...namesOf(fields, "modules_to_save") ?? []];
  // PEFT saves a classifier's head whole whether the file says so or not
  if (taskType === "SEQ_CLS") modulesToSave.push(...["classifier", "score"].filter((m) => !modulesToSave.includes(m)));
  const baseModel = readField(fields, "base_model_name_or_path", "");
  return {
    targets: targetsOf(fields, modelType),
    modulesToSave,
    ...taskType !== undefined && { taskType: taskType as PeftTask },
    ...baseModel !== "" && { baseModel },
  };
}

/** What comes first in every configuration that is written. */
export function useJson(type: string, { taskType, baseModel }: PeftUse): Record<string, unknown> {
  return {
    peft_type: type,
    task_type: taskType ?? null,
    base_model_name_or_path: baseModel ?? null,
    revision: null,
    inference_mode: true,
  };
}

/**
 * Targets as PEFT reads them: "all-linear", and an expression with flags, become the names of the modules, so that every
 * reader adapts the same.
 *
 * @param weights the model's, for those names
 */
export function targetsJson(lora: LoraConfig, weights: NamedShapes): string | string[] {
  const { targets } = lora;
  // Python would not know a flag that changes the match
  if (targets instanceof RegExp && !/[ims]/.test(targets.flags)) return targets.source;
  if (Array.isArray(targets)) return [...targets];
  const specs = [...loraWeights(weights, lora)].filter(([name]) => /\.lora_(A\.weight|embedding_A)$/.test(name));
  return specs.map(([, { weight }]) => weight.replace(/\.weight$/, ""));
}

/** Whole modules as PEFT reads them. */
export function savedJson(modulesToSave: readonly string[] = []): string[] | null {
  return modulesToSave.length > 0 ? [...modulesToSave] : null;
}

function targetsOf(fields: PeftFields, modelType: string): LoraConfig["targets"] {
  const targets = fields.target_modules ?? USUAL_TARGETS[modelType];
  if (targets === "all-linear") return targets;
  if (typeof targets !== "string") {
    const names = namesOf({ target_modules: targets }, "target_modules");
    if (!names || names.length === 0) throw refused("target_modules must name a module", targets);
    return names;
  }
  try {
    return new RegExp(targets, "u");
  } catch {
    throw refused("target_modules must be an expression that JavaScript reads", targets);
  }
}

function namesOf(fields: PeftFields, key: string): string[] | undefined {
  const value = fields[key] ?? undefined;
  if (value === undefined) return undefined;
  if (!Array.isArray(value) || !value.every((name) => typeof name === "string" && name !== "")) {
    throw refused(`${key} must be a list of names`, value);
  }
  return value;
}

/** What is wrong with the file. */
export function refused(rule: string, value: unknown): SyntaxError {
  return unreadable(PEFT_CONFIG_FILE, rule, value === undefined ? "nothing" : quote(JSON.stringify(value)));
}
