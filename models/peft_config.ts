/**
 * `adapter_config.json` of Hugging Face's PEFT for LoRA adapters: read strictly, written with PEFT's own keys.
 *
 * A setting that would change what the tensors mean and that is not offered here is an error, never ignored; a key that
 * is not known at all is ignored, as PEFT does, because newer releases add some with each version. Source: PEFT 0.20's
 * LoraConfig. Python's expressions are read as JavaScript's, which agree for what names need.
 */
import { type LoraConfig, loraWeights, type NamedShapes } from "./lora_config.ts";
import { quote, unreadable } from "./safetensors_json.ts";

/** The file's name in an adapter's folder. */
export const PEFT_CONFIG_FILE = "adapter_config.json";

/** What the model is for, as PEFT names it. */
export type PeftTask = "CAUSAL_LM" | "SEQ_CLS" | "FEATURE_EXTRACTION" | "TOKEN_CLS" | "QUESTION_ANS" | "SEQ_2_SEQ_LM";

/** What an `adapter_config.json` says. */
export interface PeftConfig {
  readonly lora: LoraConfig;
  readonly taskType?: PeftTask;
  /** Folder or hub name of the model that the adapter belongs to. */
  readonly baseModel?: string;
}

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
  if (typeof json !== "object" || json === null || Array.isArray(json)) throw refused("it must be an object", json);
  const fields = json as Record<string, unknown>;
  if (fields.peft_type !== "LORA") throw refused(`peft_type must be "LORA"`, fields.peft_type);
  for (const [key, unused] of Object.entries(NOT_OFFERED)) {
    const value = fields[key] ?? null;
    if (value === null || unused.some((one) => JSON.stringify(one) === JSON.stringify(value))) continue;
    throw refused(`${key} is not offered`, value);
  }
  const start = fields.init_lora_weights ?? true;
  if (!STARTS.includes(start)) throw refused("init_lora_weights must leave the base model unchanged", start);
  const read = <T>(key: string, type: string, otherwise: T): T => {
    const value = fields[key] ?? otherwise;
    const found: string = typeof value;
    if (found !== type) throw refused(`${key} must be a ${type}`, value);
    return value as T;
  };
  const taskType = fields.task_type ?? undefined;
  if (taskType !== undefined && !TASKS.includes(taskType as string)) {
    throw refused(`task_type must be one of ${TASKS.join(", ")}`, taskType);
  }
  const modulesToSave = [...namesOf(fields, "modules_to_save") ?? []];
  // PEFT saves a classifier's head whole whether the file says so or not
  if (taskType === "SEQ_CLS") modulesToSave.push(...["classifier", "score"].filter((m) => !modulesToSave.includes(m)));
  const baseModel = read("base_model_name_or_path", "string", "");
  return {
    lora: {
      r: read("r", "number", 8),
      alpha: read("lora_alpha", "number", 8),
      dropout: read("lora_dropout", "number", 0),
      targets: targetsOf(fields, modelType),
      rslora: read("use_rslora", "boolean", false),
      dora: read("use_dora", "boolean", false),
      modulesToSave,
    },
    ...taskType !== undefined && { taskType: taskType as PeftTask },
    ...baseModel !== "" && { baseModel },
  };
}

/**
 * The contents of an `adapter_config.json` that PEFT loads. "all-linear", and an expression with flags, become the
 * names of the modules, so that every reader adapts the same.
 *
 * @param weights the model's, for those names
 */
export function writePeftConfig(
  { lora, taskType, baseModel }: PeftConfig,
  weights: NamedShapes,
): Record<string, unknown> {
  const { targets, modulesToSave = [] } = lora;
  // Python would not know a flag that changes the match
  const isPattern = targets instanceof RegExp && !/[ims]/.test(targets.flags);
  return {
    peft_type: "LORA",
    task_type: taskType ?? null,
    base_model_name_or_path: baseModel ?? null,
    revision: null,
    inference_mode: true,
    r: lora.r,
    lora_alpha: lora.alpha,
    lora_dropout: lora.dropout ?? 0,
    target_modules: isPattern ? targets.source : Array.isArray(targets) ? [...targets] : modulesOf(weights, lora),
    bias: "none",
    fan_in_fan_out: false,
    use_rslora: lora.rslora ?? false,
    use_dora: lora.dora ?? false,
    modules_to_save: modulesToSave.length > 0 ? [...modulesToSave] : null,
    init_lora_weights: true,
    layers_to_transform: null,
    layers_pattern: null,
    rank_pattern: {},
    alpha_pattern: {},
  };
}

function modulesOf(weights: NamedShapes, lora: LoraConfig): string[] {
  const specs = [...loraWeights(weights, lora)].filter(([name]) => /\.lora_(A\.weight|embedding_A)$/.test(name));
  return specs.map(([, { weight }]) => weight.replace(/\.weight$/, ""));
}

function targetsOf(fields: Record<string, unknown>, modelType: string): LoraConfig["targets"] {
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

function namesOf(fields: Record<string, unknown>, key: string): string[] | undefined {
  const value = fields[key] ?? undefined;
  if (value === undefined) return undefined;
  if (!Array.isArray(value) || !value.every((name) => typeof name === "string" && name !== "")) {
    throw refused(`${key} must be a list of names`, value);
  }
  return value;
}

function refused(rule: string, value: unknown): SyntaxError {
  return unreadable(PEFT_CONFIG_FILE, rule, value === undefined ? "nothing" : quote(JSON.stringify(value)));
}
