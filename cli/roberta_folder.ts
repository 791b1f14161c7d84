/**
 * Reads a Hugging Face RoBERTa folder: strict names, shapes and dtypes, as for LLaMA. `saveModel` writes one.
 *
 * A folder made for one head is read for another where the caller draws that head anew: what `run_glue.py` does with a
 * pre-trained model. Left aside are the other head's weights, the pooler, duplicates of tied weights and the buffer of
 * positions of old releases; LayerNorms called `gamma` and `beta`, as in files converted from TensorFlow, are renamed.
 */
import { type Backend, Params } from "../core/mod.ts";
import {
  checkWeights,
  type Folder,
  initRobertaHead,
  openWeights,
  parseRobertaConfig,
  type RobertaConfig,
  type RobertaHead,
  robertaWeights,
  type Weights,
} from "../models/mod.ts";
import { parseJson, readParams } from "./checkpoint.ts";

/** The configuration of a RoBERTa folder. @throws SyntaxError when it is not a RoBERTa that is implemented */
export async function loadRobertaConfig(folder: Folder): Promise<RobertaConfig> {
  if (!await folder.has("config.json")) throw new SyntaxError(`Cannot load ${folder.name}: it has no config.json`);
  return parseRobertaConfig(parseJson(await folder.text("config.json"), `${folder.name}/config.json`));
}

/** How a folder is read. */
export interface RobertaLoading {
  readonly head: RobertaHead;
  /** In which the weights lie on the backend. Default f32. */
  readonly dtype?: "f32" | "bf16";
  /** With other labels than the folder's (`withLabels`), say. Default: the folder's. */
  readonly config?: RobertaConfig;
  /** Draws the head's weights from this seed where the folder has none of them. Default: that is an error. */
  readonly headSeed?: number;
}

/** A model that was read. */
export interface LoadedRoberta {
  readonly params: Params;
  readonly config: RobertaConfig;
  /** Names of the weights that the folder has not got and that were drawn: all of the head's, or none. */
  readonly drawn: readonly string[];
}

const HEADS: Readonly<Record<RobertaHead, RegExp>> = { "masked-lm": /^lm_head\./, "classification": /^classifier\./ };

/** Beside a head's weights in some files; nothing of it decides results. */
const ASIDE: Readonly<Record<RobertaHead, RegExp>> = {
  "masked-lm": /^roberta\.(embeddings\.position_ids$|pooler\.)|^lm_head\.decoder\.|^classifier\./,
  "classification": /^roberta\.(embeddings\.position_ids$|pooler\.)|^lm_head\./,
};

/**
 * Reads a folder's weights onto a backend, as f32 or rounded to bf16.
 *
 * @throws RangeError when weights are missing or extra, TypeError for another shape or dtype
 */
export async function loadRoberta(
  backend: Backend,
  folder: Folder,
  { head, dtype = "f32", config: given, headSeed }: RobertaLoading,
): Promise<LoadedRoberta> {
  const config = given ?? await loadRobertaConfig(folder);
  await using stored = await openWeights(folder);
  const weights = renamed(stored);
  const isEncoder = (name: string) => name.startsWith("roberta.");
  const isDrawn = headSeed !== undefined && !weights.names.some((name) => HEADS[head].test(name));
  const expected = new Map([...robertaWeights(config, head)].filter(([name]) => !isDrawn || isEncoder(name)));
  checkWeights(weights, expected, { optional: (name) => !expected.has(name) && ASIDE[head].test(name) });
  const params = new Params(backend);
  await readParams(params, weights, { expected, dtype });
  if (!isDrawn) return { params, config, drawn: [] };
  using drawn = initRobertaHead(backend, config, { seed: headSeed, head, dtype });
  for (const [name, tensor] of drawn.entries()) params.set(name, tensor.retained());
  return { params, config, drawn: drawn.names() };
}

/** The weights with LayerNorms called as they are today. */
function renamed(weights: Weights): Weights {
  const today = (name: string) =>
    name.replace(/LayerNorm\.gamma$/, "LayerNorm.weight").replace(/LayerNorm\.beta$/, "LayerNorm.bias");
  const stored = new Map(weights.names.map((name) => [today(name), name]));
  if (stored.size !== weights.names.length) return weights;
  const nameOf = (name: string) => stored.get(name) ?? name;
  return {
    name: weights.name,
    names: [...stored.keys()],
    totalBytes: weights.totalBytes,
    has: (name) => stored.has(name),
    info: (name) => weights.info(nameOf(name)),
    bytes: (name) => weights.bytes(nameOf(name)),
    float32: (name) => weights.float32(nameOf(name)),
    [Symbol.asyncDispose]: () => weights[Symbol.asyncDispose](),
  };
}
