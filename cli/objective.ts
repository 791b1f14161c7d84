/**
 * What a model is pre-trained for, on rows of a token store: the next token (LLaMA), or tokens that are hidden from it
 * (RoBERTa, masked-LM). Where the two differ on the way from rows to a loss, it stands here.
 */
import { type Backend, foldIn, fromArray, keyOf, type ParamsView, sizeOf, type Tensor } from "../core/mod.ts";
import type { Tokenizer } from "../data/mod.ts";
import {
  LLAMA_PROJECTED,
  type LlamaConfig,
  llamaFlopsPerToken,
  llamaWeights,
  maskTokens,
  ROBERTA_PROJECTED,
  type RobertaConfig,
  robertaFlopsPerToken,
  robertaLoss,
  robertaWeights,
  type VitConfig,
  type WeightSpec,
} from "../models/mod.ts";
import { evaluate, meanLoss, rowsLoss, type TokenRows } from "./evaluation.ts";

/** A model that is pre-trained on text. */
export type ModelConfig = LlamaConfig | RobertaConfig;

/** Whether a model finds hidden tokens again rather than the next one. */
export function isMasked(config: ModelConfig | VitConfig): config is RobertaConfig {
  return "model_type" in config && !isVision(config);
}

/** Whether a model tells what images show. */
export function isVision(config: ModelConfig | VitConfig): config is VitConfig {
  return "model_type" in config && config.model_type === "vit";
}

/** Every weight that is pre-trained, under Hugging Face's names. */
export function weightsOf(config: ModelConfig): Map<string, WeightSpec> {
  return isMasked(config) ? robertaWeights(config, "masked-lm") : llamaWeights(config);
}

/** Names of the matrices that an optimizer may project. */
export function projectedOf(config: ModelConfig): RegExp {
  return isMasked(config) ? ROBERTA_PROJECTED : LLAMA_PROJECTED;
}

/** Tokens of a row of the store for `seq` tokens of the model: a masked-LM adds `<s>` and `</s>`. */
export function rowLength(config: ModelConfig, seq: number): number {
  return isMasked(config) ? seq - 2 : seq;
}

/** Model FLOP/s of a step: what a hardware utilisation is a part of. `weights` are those that are trained. */
export function modelFlops(
  config: ModelConfig,
  { seq, tokensPerSecond, weights, frozen = new Map() }: {
    readonly seq: number;
    readonly tokensPerSecond: number;
    readonly weights?: ReadonlyMap<string, Pick<WeightSpec, "shape">>;
    /** Matrices that multiply beside those: forward, and for the gradient of what they are given. */
    readonly frozen?: ReadonlyMap<string, Pick<WeightSpec, "shape">>;
  },
): number {
  const each = isMasked(config) ? robertaFlopsPerToken(config, seq) : llamaFlopsPerToken(config, seq, weights);
  const beside = [...frozen.values()].reduce((sum, { shape }) => sum + 4 * sizeOf(shape), 0);
  return (each + beside) * tokensPerSecond;
}

/** The tokens that masking needs, none of which is ever hidden. */
export interface SpecialTokens {
  readonly bosId: number;
  readonly eosId: number;
  readonly padId: number;
  readonly maskId: number;
  readonly unkId?: number;
}

/** @throws RangeError for a tokenizer without one of them */
export function specialTokens({ name, bosId, eosId, padId, unkId, maskId }: Tokenizer, model: string): SpecialTokens {
  if (bosId !== undefined && padId !== undefined && maskId !== undefined) {
    return { bosId, eosId, padId, maskId, unkId };
  }
  const missing = Object.entries({ "<s>": bosId, "<pad>": padId, "<mask>": maskId }).filter(([, id]) =>
    id === undefined
  );
  throw new RangeError(
    `Cannot train ${model} with tokenizer "${name}": a masked-LM model needs <s>, <pad>, </s> and <mask>: ` +
      `it has no ${missing.map(([token]) => token).join(", ")}; use --tokenizer masked-byte, or a RoBERTa's folder`,
  );
}

/** What stands for a tokenizer's special tokens where nothing is computed. */
export function plannedTokens({ pad_token_id: padId, vocab_size }: RobertaConfig): SpecialTokens {
  return { bosId: 0, eosId: 0, padId, maskId: vocab_size - 1 };
}

/** How an objective is made. */
export interface ObjectiveOptions {
  readonly seed: number;
  readonly recompute?: boolean;
  /** Of a masked-LM model. */
  readonly special?: SpecialTokens;
}

/** From rows of a store to losses. */
export interface Objective {
  /**
   * Mean loss of a batch, on the tape. Masks and dropout are functions of the seed and of the rows' place in the run.
   */
  loss(rows: TokenRows): Tensor;
  /** Exact mean over held-out tokens, or over the hidden ones of them, which are the same in every run. */
  evaluate(batches: AsyncIterable<TokenRows>): Promise<{ loss: number; tokens: number }>;
}

/** The objective of a model. @throws TypeError for a masked-LM model without special tokens */
export function makeObjective(
  backend: Backend,
  view: ParamsView,
  config: ModelConfig,
  { seed, recompute, special }: ObjectiveOptions,
): Objective {
  if (!isMasked(config)) {
    return {
      loss: rowsLoss(backend, view, config, { recompute }),
      evaluate: (batches) => evaluate(backend, view, config, batches),
    };
  }
  if (!special) throw new TypeError("Cannot train a masked-LM model: it needs its special tokens");
  const maskKey = foldIn(keyOf(seed), "mask");
  const dropKey = foldIn(keyOf(seed), "dropout");
  const fixedKey = foldIn(keyOf(0), "held-out mask");
  const score = (rows: TokenRows, key: typeof maskKey, dropoutKey?: typeof dropKey) => {
    const { tokens, shape, places, targets, count } = maskRows(rows, { special, key, vocab: config.vocab_size });
    const loss = robertaLoss(view, config, { tokens: fromArray(backend, tokens, shape) }, {
      head: "masked-lm",
      targets: fromArray(backend, targets, [targets.length]),
      places: fromArray(backend, places, [places.length]),
      ...{ dropoutKey, recompute },
    });
    return { loss, size: count };
  };
  return {
    loss: (rows) => score(rows, maskKey, foldIn(dropKey, placeOf(rows))).loss,
    evaluate: (batches) => meanLoss(backend, batches, (rows) => score(rows, fixedKey)),
  };
}

/** Share of the tokens that are hidden. */
const MASK_RATE = 0.15;

function placeOf({ index = 0 }: TokenRows): number {
  return index;
}

/** What rows are masked with. */
export interface RowMasking {
  readonly special: SpecialTokens;
  readonly key: ReturnType<typeof keyOf>;
  readonly vocab: number;
}

/** Rows that a masked-LM model sees, and what it must find. */
export interface MaskedRows {
  /** [batch, seq + 2], flat. */
  readonly tokens: Int32Array<ArrayBuffer>;
  readonly shape: readonly [number, number];
  /** The hidden tokens' places in `tokens`. */
  readonly places: Int32Array<ArrayBuffer>;
  /** What stood there; -100 behind the last one. */
  readonly targets: Int32Array<ArrayBuffer>;
  /** How many there are. */
  readonly count: number;
}

/**
 * Rows as `<s> ... </s>` with some of their tokens hidden. Each row's masks are a function of the key and its place, so
 * that they do not depend on how rows are batched. There is room for as many as nearly every batch hides, so that
 * tensors keep their shapes.
 */
export function maskRows(rows: TokenRows, { special, key, vocab }: RowMasking): MaskedRows {
  const { bosId, eosId, padId, maskId, unkId } = special;
  const specialIds = [bosId, eosId, padId, maskId, ...unkId === undefined ? [] : [unkId]];
  const length = rows.seq + 2;
  const tokens = new Int32Array(rows.batch * length);
  const found: [place: number, token: number][] = [];
  for (let row = 0; row < rows.batch; row++) {
    const framed = new Int32Array(length);
    framed[0] = bosId;
    framed.set(rows.tokens.subarray(row * (rows.seq + 1), row * (rows.seq + 1) + rows.seq), 1);
    framed[length - 1] = eosId;
    const masked = maskTokens(framed, {
      key: foldIn(key, placeOf(rows) + row),
      maskId,
      vocab,
      specialIds,
      rate: MASK_RATE,
    });
    tokens.set(masked.tokens, row * length);
    masked.targets.forEach((target, i) => target === -100 || found.push([row * length + i, target]));
  }
  const room = Math.max(roomFor(rows.batch * rows.seq), found.length);
  const places = new Int32Array(room);
  const targets = new Int32Array(room).fill(-100);
  for (const [i, [place, target]] of found.entries()) [places[i], targets[i]] = [place, target];
  return { tokens, shape: [rows.batch, length], places, targets, count: found.length };
}

/** Hidden ones among so many tokens, and four standard deviations more: one batch in 30,000 has more. */
function roomFor(tokens: number): number {
  return Math.min(tokens, Math.ceil(MASK_RATE * tokens + 4 * Math.sqrt(MASK_RATE * (1 - MASK_RATE) * tokens)));
}
