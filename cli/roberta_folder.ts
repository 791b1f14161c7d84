/**
 * Reads a Hugging Face RoBERTa folder: strict names, shapes and dtypes, as for LLaMA. `saveModel` writes one.
 *
 * A folder made for one head, or for other labels, is read for another where the caller draws that head anew: what
 * `run_glue.py` does with a pre-trained model. Left aside are the other head's weights, the pooler, duplicates of tied
 * weights and the buffer of positions of old releases. Names without `roberta.`, as RobertaModel saves them, and
 * LayerNorms called `gamma` and `beta`, as in files converted from TensorFlow, are taken for today's.
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
  withNames,
  withPrefix,
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
  /** Draws them though the folder has a head, which is left aside: one for another number of labels. Default false. */
  readonly replaceHead?: boolean;
}

/** A model that was read. */
export interface LoadedRoberta {
  readonly params: Params;
  readonly config: RobertaConfig;
  /** Names of the weights that the folder has not got and that were drawn: all of the head's, or none. */
  readonly drawn: readonly string[];
}

const ENCODER = "roberta.";
const HEADS: Readonly<Record<RobertaHead, RegExp>> = { "masked-lm": /^lm_head\./, "classification": /^classifier\./ };

/** Draws others than a model that was trained from that seed began with. */
const NEW_HEAD = "new head";

/** Beside a head's weights in some files; nothing of it decides results. */
const ASIDE: Readonly<Record<RobertaHead, RegExp>> = {
  "masked-lm": /^roberta\.(embeddings\.position_ids$|pooler\.)|^lm_head\.decoder\.|^classifier\./,
  "classification": /^roberta\.(embeddings\.position_ids$|pooler\.)|^lm_head\./,
};

/**
 * Reads a folder's weights onto a backend, as f32 or rounded to bf16.
 *
 * @throws RangeError when weights are missing or extra, or a head is to be replaced without a seed
 * @throws TypeError for another shape or dtype
 */
export async function loadRoberta(
  backend: Backend,
  folder: Folder,
  { head, dtype = "f32", config: given, headSeed, replaceHead = false }: RobertaLoading,
): Promise<LoadedRoberta> {
  const config = given ?? await loadRobertaConfig(folder);
  await using weights = named(await openWeights(folder));
  const isOfHead = (name: string) => HEADS[head].test(name);
  const hasHead = weights.names.some(isOfHead);
  const isDrawn = replaceHead || (headSeed !== undefined && !hasHead);
  if (isDrawn && headSeed === undefined) {
    throw new RangeError(`Cannot load ${folder.name}: a new head needs a headSeed: got none`);
  }
  const expected = new Map([...robertaWeights(config, head)].filter(([name]) => !isDrawn || name.startsWith(ENCODER)));
  const isAside = (name: string) => ASIDE[head].test(name) || (isDrawn && isOfHead(name));
  checkWeights(weights, expected, { optional: (name) => !expected.has(name) && isAside(name) });
  const params = new Params(backend);
  await readParams(params, weights, { expected, dtype });
  if (!isDrawn) return { params, config, drawn: [] };
  const purpose = hasHead ? NEW_HEAD : undefined;
  using drawn = initRobertaHead(backend, config, { seed: headSeed!, head, dtype, purpose });
  for (const [name, tensor] of drawn.entries()) params.set(name, tensor.retained());
  return { params, config, drawn: drawn.names() };
}

/** The weights with `roberta.` before those of an encoder alone, and with LayerNorms called as they are today. */
function named(weights: Weights): Weights {
  const isHead = (name: string) => Object.values(HEADS).some((head) => head.test(name));
  return withNames(
    withPrefix(weights, ENCODER, isHead),
    (name) => name.replace(/LayerNorm\.gamma$/, "LayerNorm.weight").replace(/LayerNorm\.beta$/, "LayerNorm.bias"),
  );
}
