/** From `--model` to a configuration and weights: a built-in name starts from scratch, a folder goes on from its weights. */
import type { Backend, Params } from "../core/mod.ts";
import type { Tokenizer } from "../data/mod.ts";
import {
  initLlama,
  initLowRank,
  initRoberta,
  isRobertaConfig,
  type LlamaConfig,
  llamaConfig,
  parseLlamaConfig,
  parseRobertaConfig,
  robertaConfig,
} from "../models/mod.ts";
import { loadModel, parseJson } from "./checkpoint.ts";
import { baseName, exists, FileFolder, join } from "./files.ts";
import { isMasked, type ModelConfig, type SpecialTokens, specialTokens } from "./objective.ts";
import type { Run } from "./options.ts";
import { loadRoberta } from "./roberta_folder.ts";

/** A model before its weights exist. */
export interface ModelSource {
  readonly config: ModelConfig;
  /** What a masked-LM model is masked with. */
  readonly special?: SpecialTokens;
  /** Where weights come from; undefined: they are drawn. */
  readonly folder?: string;
  /** For names of run folders. */
  readonly name: string;
}

/** Whether a model is named rather than in a folder. */
export function isBuiltIn(model: string): boolean {
  return /^llama-\d+[mb]$/.test(model) || isBuiltInRoberta(model);
}

function isBuiltInRoberta(model: string): boolean {
  return /^roberta-(\d+[mb]|base|large)$/.test(model);
}

/** Whether a model, built-in or in a folder, finds hidden tokens again: it needs a tokenizer with a mask. */
export async function isMaskedModel(model: string): Promise<boolean> {
  if (isBuiltIn(model)) return isBuiltInRoberta(model);
  return await exists(join(model, "config.json")) && isMasked(await loadModelConfig(model));
}

/** The configuration of a folder, whichever of the models it is. */
export async function loadModelConfig(path: string): Promise<ModelConfig> {
  const folder = new FileFolder(path);
  if (!await folder.has("config.json")) throw new SyntaxError(`Cannot load ${folder.name}: it has no config.json`);
  const json = parseJson(await folder.text("config.json"), `${folder.name}/config.json`);
  return isRobertaConfig(json) ? parseRobertaConfig(json) : parseLlamaConfig(json);
}

/**
 * The configuration that a run asks for. A built-in model takes the tokenizer's vocabulary unless `vocab` says
 * otherwise, and `seq` positions; a folder's model gets at least that many.
 *
 * @throws RangeError when the vocabulary is smaller than the tokenizer's
 */
export async function resolveModel(
  run: Pick<Run, "model" | "vocab" | "seq">,
  tokenizer: Tokenizer,
): Promise<ModelSource> {
  if (isBuiltInRoberta(run.model)) return builtInRoberta(run, tokenizer);
  if (isBuiltIn(run.model)) {
    const vocab_size = run.vocab ?? tokenizer.vocabSize;
    checkVocabulary(vocab_size, tokenizer, run.model);
    const config = llamaConfig(run.model, {
      vocab_size,
      eos_token_id: tokenizer.eosId,
      max_position_embeddings: run.seq,
    });
    return { config, name: run.model };
  }
  const config = await loadModelConfig(run.model);
  const name = baseName(run.model) || "model";
  checkVocabulary(config.vocab_size, tokenizer, run.model);
  if (isMasked(config)) {
    const positions = config.max_position_embeddings - config.pad_token_id - 1;
    if (run.seq > positions) {
      throw new RangeError(`Cannot train ${run.model} on sequences of ${run.seq}: it has positions for ${positions}`);
    }
    return { config, folder: run.model, name, special: specialTokens(tokenizer, run.model) };
  }
  // rotary positions have no weights: training on longer sequences is what extends them
  const max_position_embeddings = Math.max(config.max_position_embeddings, run.seq);
  return { config: { ...config, max_position_embeddings }, folder: run.model, name };
}

function builtInRoberta(
  { model, vocab, seq }: Pick<Run, "model" | "vocab" | "seq">,
  tokenizer: Tokenizer,
): ModelSource {
  const special = specialTokens(tokenizer, model);
  const vocab_size = vocab ?? tokenizer.vocabSize;
  checkVocabulary(vocab_size, tokenizer, model);
  const config = robertaConfig(model, {
    vocab_size,
    ...{ bos_token_id: special.bosId, eos_token_id: special.eosId, pad_token_id: special.padId },
    max_position_embeddings: seq + special.padId + 1,
  });
  return { config, name: model, special };
}

/** The configuration of a run without a tokenizer: built-in models have the vocabulary asked for, or the usual one. */
export async function plannedConfig({ model, vocab, seq }: Pick<Run, "model" | "vocab" | "seq">): Promise<ModelConfig> {
  const isNew = isBuiltIn(model);
  if (isBuiltInRoberta(model) || !isNew) {
    const config = isNew
      ? robertaConfig(model, vocab === undefined ? {} : { vocab_size: vocab })
      : await loadModelConfig(model);
    const kept = isMasked(config) ? config.pad_token_id + 1 : 0;
    return { ...config, max_position_embeddings: Math.max(config.max_position_embeddings, seq + kept) };
  }
  const config = llamaConfig(model, { vocab_size: vocab ?? 32000 });
  return { ...config, max_position_embeddings: Math.max(config.max_position_embeddings, seq) };
}

/** @throws RangeError when a tokenizer has ids that a model has not. */
export function checkVocabulary(vocab: number, tokenizer: Tokenizer, model: string): void {
  if (vocab < tokenizer.vocabSize) {
    throw new RangeError(
      `Cannot use ${model} with tokenizer "${tokenizer.name}": the model has ${vocab} token ids, the tokenizer ${tokenizer.vocabSize}`,
    );
  }
}

/** The id that fills rows: the model's where it is a token of its own (GaLore's files say -1), else the tokenizer's. */
export function paddingId({ pad_token_id, vocab_size }: LlamaConfig, { padId, eosId }: Tokenizer): number {
  const isToken = pad_token_id !== null && pad_token_id >= 0 && pad_token_id < vocab_size;
  return isToken ? pad_token_id : padId ?? eosId;
}

/**
 * The weights of a model source on a backend: whole, or factors of `rank`.
 *
 * @throws RangeError for factors of a folder's weights
 */
export async function makeParams(
  backend: Backend,
  { config, folder }: ModelSource,
  { seed, dtype, rank }: Pick<Run, "seed" | "dtype"> & { readonly rank?: number },
): Promise<Params> {
  if (isMasked(config)) {
    const head = "masked-lm";
    if (!folder) return initRoberta(backend, config, { seed, head, dtype });
    return (await loadRoberta(backend, new FileFolder(folder), { head, dtype, headSeed: seed })).params;
  }
  if (rank !== undefined) {
    if (folder === undefined) return initLowRank(backend, config, { seed, dtype, rank });
    throw new RangeError(
      `Cannot train with --method lowrank: it starts from scratch, by a built-in name: got ${folder}`,
    );
  }
  if (!folder) return initLlama(backend, config, seed, dtype);
  return (await loadModel(backend, new FileFolder(folder), dtype)).params;
}
