/** From `--model` to a configuration and weights: a built-in name starts from scratch, a folder goes on from its weights. */
import type { Backend, Params } from "../core/mod.ts";
import type { Tokenizer } from "../data/mod.ts";
import { initLlama, initLowRank, type LlamaConfig, llamaConfig } from "../models/mod.ts";
import { loadConfig, loadModel } from "./checkpoint.ts";
import { baseName, FileFolder } from "./files.ts";
import type { Run } from "./options.ts";

/** A model before its weights exist. */
export interface ModelSource {
  readonly config: LlamaConfig;
  /** Where weights come from; undefined: they are drawn. */
  readonly folder?: string;
  /** For names of run folders. */
  readonly name: string;
}

/** Whether a model is named rather than in a folder. */
export function isBuiltIn(model: string): boolean {
  return /^llama-\d+[mb]$/.test(model);
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
  const config = await loadConfig(new FileFolder(run.model));
  checkVocabulary(config.vocab_size, tokenizer, run.model);
  // rotary positions have no weights: training on longer sequences is what extends them
  const max_position_embeddings = Math.max(config.max_position_embeddings, run.seq);
  return { config: { ...config, max_position_embeddings }, folder: run.model, name: baseName(run.model) || "model" };
}

/** @throws RangeError when a tokenizer has ids that a model has not. */
export function checkVocabulary(vocab: number, tokenizer: Tokenizer, model: string): void {
  if (vocab < tokenizer.vocabSize) {
    throw new RangeError(
      `Cannot use ${model} with tokenizer "${tokenizer.name}": the model has ${vocab} token ids, the tokenizer ${tokenizer.vocabSize}`,
    );
  }
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
  if (rank !== undefined) {
    if (folder === undefined) return initLowRank(backend, config, { seed, dtype, rank });
    throw new RangeError(
      `Cannot train with --method lowrank: it starts from scratch, by a built-in name: got ${folder}`,
    );
  }
  if (!folder) return initLlama(backend, config, seed, dtype);
  return (await loadModel(backend, new FileFolder(folder), dtype)).params;
}
