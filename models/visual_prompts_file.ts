/**
 * A task's prompts and head in a folder of a few hundred kilobytes: `prompt_config.json` and `prompts.safetensors`,
 * which plug into a shared backbone. PEFT has no such format; these are Lowrank's own.
 *
 * A file that fits the model in part, or holds a number that is not finite, is an error with names. It does no I/O:
 * whoever holds the folder implements `Folder` or `FolderWriter`. Keys: `prompt_embeddings` [1, P, E],
 * `deep_prompt_embeddings` [layers - 1, P, E], `prompt_proj.weight` and `.bias`, `classifier.weight` and `.bias`.
 */
import { type Backend, Params } from "../core/mod.ts";
import { checkWeights, type Folder } from "./checkpoint_folder.ts";
import { toFloat32 } from "./safetensors_convert.ts";
import { openSafetensors } from "./safetensors.ts";
import { quote, unreadable } from "./safetensors_json.ts";
import type { FolderWriter } from "./safetensors_shards.ts";
import { paramEntries, type StoredDType, storedTensor } from "./stored_params.ts";
import { writeSafetensors } from "./safetensors_write.ts";
import { type VisualPromptConfig, visualPromptWeights } from "./visual_prompts.ts";
import { type VitConfig, withVitLabels } from "./vit_config.ts";

/** The settings' file in a task's folder. */
export const VISUAL_PROMPTS_CONFIG_FILE = "prompt_config.json";
/** The tensors' file in a task's folder. */
export const VISUAL_PROMPTS_WEIGHTS_FILE = "prompts.safetensors";

const MAX_CONFIG_BYTES = 2 ** 22;

/** What a `prompt_config.json` says. */
export interface VisualPromptFile {
  readonly prompts: VisualPromptConfig;
  /** Folder or hub name of the model that the prompts belong to. */
  readonly baseModel?: string;
  /** Names of the labels by number. */
  readonly labels: readonly string[];
}

/** A task that was read. Owns its tensors. */
export interface LoadedVisualPrompts extends VisualPromptFile, Disposable {
  readonly params: Params;
  /** The model's configuration with the task's labels: the one to run it with. */
  readonly config: VitConfig;
}

/** The contents of a `prompt_config.json`. */
export function writeVisualPromptConfig({ prompts, baseModel, labels }: VisualPromptFile): Record<string, unknown> {
  return {
    method: "VPT",
    deep: prompts.deep,
    num_tokens: prompts.numTokens,
    dropout: prompts.dropout ?? 0,
    project: prompts.project ?? null,
    base_model: baseModel ?? null,
    labels: [...labels],
  };
}

const KEYS = ["method", "deep", "num_tokens", "dropout", "project", "base_model", "labels"];

/**
 * Reads the contents of a `prompt_config.json`.
 *
 * @throws SyntaxError for another method, a key that is not known, or a value of the wrong kind
 */
export function readVisualPromptConfig(json: unknown): VisualPromptFile {
  if (typeof json !== "object" || json === null || Array.isArray(json)) throw refused("it must be an object", json);
  const fields = json as Record<string, unknown>;
  if (fields.method !== "VPT") throw refused(`method must be "VPT"`, fields.method);
  const unknown = Object.keys(fields).find((key) => !KEYS.includes(key));
  if (unknown !== undefined) throw refused(`a key must be one of ${KEYS.join(", ")}`, unknown);
  const { deep, num_tokens, dropout = 0, project = null, base_model = null, labels } = fields;
  if (typeof deep !== "boolean") throw refused("deep must be true or false", deep);
  if (!isWhole(num_tokens, 0)) throw refused("num_tokens must be a whole number from 0", num_tokens);
  if (typeof dropout !== "number" || !(dropout >= 0 && dropout < 1)) {
    throw refused("dropout must be in [0, 1)", dropout);
  }
  if (project !== null && !isWhole(project, 1)) {
    throw refused("project must be a whole number from 1, or null", project);
  }
  if (base_model !== null && typeof base_model !== "string") throw refused("base_model must be a name", base_model);
  if (!Array.isArray(labels) || labels.length < 2 || !labels.every((label) => typeof label === "string")) {
    throw refused("labels must be two names or more", labels);
  }
  return {
    prompts: { deep, numTokens: num_tokens, dropout, ...project !== null && { project } },
    ...base_model !== null && { baseModel: base_model },
    labels,
  };
}

function isWhole(value: unknown, from: number): value is number {
  return Number.isSafeInteger(value) && (value as number) >= from;
}

function refused(rule: string, value: unknown): SyntaxError {
  return unreadable(VISUAL_PROMPTS_CONFIG_FILE, rule, value === undefined ? "nothing" : quote(JSON.stringify(value)));
}

/** Writes a task: the tensors in their own dtypes, then the settings. Call outside every scope. */
export async function saveVisualPrompts(writer: FolderWriter, task: Params, file: VisualPromptFile): Promise<void> {
  {
    await using sink = await writer.create(VISUAL_PROMPTS_WEIGHTS_FILE);
    await writeSafetensors(sink, paramEntries(task), { format: "pt" });
  }
  await using sink = await writer.create(VISUAL_PROMPTS_CONFIG_FILE);
  await sink.write(new TextEncoder().encode(JSON.stringify(writeVisualPromptConfig(file), undefined, 2) + "\n"));
}

/**
 * Reads a task and checks every tensor against the model that it is for.
 *
 * @param model the backbone's configuration; its labels do not matter
 * @param options `dtype`: in which the tensors lie on the backend. Default f32
 * @throws SyntaxError for files that are missing or unreadable
 * @throws RangeError when tensors are missing or extra, or hold a number that is not finite
 * @throws TypeError for a tensor of another shape or dtype: the task is for another model
 */
export async function loadVisualPrompts(
  backend: Backend,
  folder: Folder,
  model: VitConfig,
  { dtype = "f32" }: { readonly dtype?: StoredDType } = {},
): Promise<LoadedVisualPrompts> {
  const file = readVisualPromptConfig(await readJson(folder));
  const config = withVitLabels(model, file.labels);
  const expected = visualPromptWeights(config, file.prompts);
  if (!await folder.has(VISUAL_PROMPTS_WEIGHTS_FILE)) {
    throw unreadable(folder.name, `a task must have ${VISUAL_PROMPTS_WEIGHTS_FILE}`, "none");
  }
  await using source = await folder.open(VISUAL_PROMPTS_WEIGHTS_FILE);
  const { tensors, bytes } = await openSafetensors(source);
  checkWeights({
    name: `prompts ${folder.name}`,
    names: [...tensors.keys()],
    has: (name) => tensors.has(name),
    info: (name) => tensors.get(name)!,
  }, expected);
  const params = new Params(backend);
  try {
    for (const [name, { shape }] of expected) {
      const values = toFloat32(await bytes(name), tensors.get(name)!.dtype);
      const odd = values.findIndex((value) => !Number.isFinite(value));
      if (odd >= 0) {
        throw new RangeError(`Cannot load ${quote(name)}: every number must be finite: got ${values[odd]} at ${odd}`);
      }
      params.set(name, storedTensor(backend, values, shape, dtype));
    }
  } catch (error) {
    params.dispose();
    throw error;
  }
  return { ...file, params, config, [Symbol.dispose]: () => params.dispose() };
}

async function readJson(folder: Folder): Promise<unknown> {
  if (!await folder.has(VISUAL_PROMPTS_CONFIG_FILE)) {
    throw unreadable(folder.name, `a task must have ${VISUAL_PROMPTS_CONFIG_FILE}`, "none");
  }
  await using source = await folder.open(VISUAL_PROMPTS_CONFIG_FILE);
  if (source.size > MAX_CONFIG_BYTES) {
    throw unreadable(
      VISUAL_PROMPTS_CONFIG_FILE,
      `it must be at most ${MAX_CONFIG_BYTES} bytes`,
      `${source.size} bytes`,
    );
  }
  const text = new TextDecoder().decode(await source.read(0, source.size));
  try {
    return JSON.parse(text);
  } catch {
    throw unreadable(VISUAL_PROMPTS_CONFIG_FILE, "it must be JSON", quote(text));
  }
}
