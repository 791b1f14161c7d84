/**
 * Text from a model, token by token, with a key/value cache: one prompt, or a batch of prompts of different lengths, whose
 * next tokens come from one forward pass. Random choices follow a key of each prompt and the token's number alone, so that
 * a prompt has the same continuation in whatever batch it stands.
 */
import {
  type Backend,
  cast,
  foldIn,
  fromArray,
  isHalf,
  type Key,
  keyOf,
  noGrad,
  own,
  type ParamsView,
  scope,
  type Tensor,
  uniform,
} from "../core/mod.ts";
import { KeyValueCache, llama, type LlamaConfig } from "../models/mod.ts";

/** How tokens are chosen. */
export interface ChoiceOptions {
  readonly tokens: number;
  /** 0 takes the likeliest token. */
  readonly temperature: number;
  /** Only the k likeliest tokens may be drawn; 0: all. */
  readonly topK: number;
  /** Stop at these tokens. */
  readonly stop?: readonly number[];
}

/** How the tokens of one text are chosen. */
export interface SamplingOptions extends ChoiceOptions {
  readonly seed: number;
}

/** A model as batches see it. */
export interface BatchModel {
  readonly backend: Backend;
  readonly config: LlamaConfig;
  /** The weights for a batch of these prompts, by their places: each may have an adapter of its own. */
  view(prompts: readonly number[]): ParamsView;
}

/** What is to be continued. */
export interface Prompt {
  readonly ids: ArrayLike<number>;
  /** Of the draws. */
  readonly key: Key;
}

/** A token of one of the texts. */
export interface TokenOf {
  /** The place of its prompt. */
  readonly prompt: number;
  readonly token: number;
}

/**
 * Yields token ids that continue `prompt`. Where the text outgrows the model's positions, it goes on from the last half
 * of them, so that it may be of any length.
 *
 * @throws RangeError for an empty prompt
 */
export async function* generateTokens(
  backend: Backend,
  params: ParamsView,
  config: LlamaConfig,
  prompt: ArrayLike<number>,
  options: SamplingOptions,
): AsyncGenerator<number> {
  const only = { ids: prompt, key: keyOf(options.seed) };
  for await (const { token } of generateBatch({ backend, config, view: () => params }, [only], options)) yield token;
}

/** A text that is being continued. */
interface Text {
  readonly prompt: number;
  readonly key: Key;
  readonly ids: number[];
  /** The token that has position 0. */
  start: number;
}

/**
 * Yields the tokens that continue each of the prompts, one of each in turn. A text ends at a token of `stop`; the others go
 * on without it. Each outgrows the model's positions for itself, as in `generateTokens`.
 *
 * @throws RangeError for an empty prompt
 */
export async function* generateBatch(
  model: BatchModel,
  prompts: readonly Prompt[],
  options: ChoiceOptions,
): AsyncGenerator<TokenOf> {
  const { tokens, stop = [] } = options;
  const { backend, config } = model;
  const room = config.max_position_embeddings;
  const half = Math.max(1, room >> 1);
  let texts = prompts.map(({ ids, key }, prompt): Text => {
    if (ids.length === 0) throw new RangeError("Cannot generate from an empty prompt");
    return { prompt, key, ids: Array.from(ids), start: ids.length < room ? 0 : ids.length - half };
  });
  const lengthOf = ({ ids, start }: Text) => ids.length - start;
  for (let made = 0; made < tokens && texts.length > 0;) {
    for (const text of texts) if (lengthOf(text) > room) text.start = text.ids.length - half;
    const longest = Math.max(...texts.map(lengthOf));
    const padding = texts.map((text) => longest - lengthOf(text));
    let view = model.view(texts.map(({ prompt }) => prompt));
    let next = texts.flatMap(({ ids, start }, i) => [...new Array<number>(padding[i]).fill(0), ...ids.slice(start)]);
    using cache = makeCache(backend, config, Math.min(room, longest + tokens - made - 1), padding);
    for (; made < tokens && cache.length + next.length / texts.length <= cache.capacity; made++) {
      const rows = await lastLogits(view, config, next, cache);
      const chosen = texts.map(({ key }, i) => choose(rows[i], options, foldIn(key, "sample", made)));
      const going = [...texts.keys()].filter((i) => !stop.includes(chosen[i]));
      for (const i of going) {
        texts[i].ids.push(chosen[i]);
        yield { prompt: texts[i].prompt, token: chosen[i] };
      }
      next = going.map((i) => chosen[i]);
      if (going.length === texts.length) continue;
      texts = going.map((i) => texts[i]);
      if (texts.length === 0) return;
      cache.keep(going);
      view = model.view(texts.map(({ prompt }) => prompt));
    }
  }
}

function makeCache(backend: Backend, config: LlamaConfig, capacity: number, padding: readonly number[]): KeyValueCache {
  const { num_hidden_layers, num_key_value_heads: groups, head_dim: headSize } = config;
  return new KeyValueCache(backend, num_hidden_layers, capacity, { batch: padding.length, groups, headSize, padding });
}

/** The logits after each row's last token. */
async function lastLogits(
  view: ParamsView,
  config: LlamaConfig,
  tokens: readonly number[],
  cache: KeyValueCache,
): Promise<Float32Array[]> {
  using logits = forward(view, config, tokens, cache);
  const values = await logits.read() as Float32Array;
  const size = config.vocab_size;
  return Array.from({ length: values.length / size }, (_, row) => values.subarray(row * size, (row + 1) * size));
}

function forward(view: ParamsView, config: LlamaConfig, tokens: readonly number[], cache: KeyValueCache): Tensor {
  using step = scope("generate");
  const ids = fromArray(view.backend, Int32Array.from(tokens), [cache.batch, tokens.length / cache.batch]);
  const logits = noGrad(() => llama(view, config, ids, cache, { last: true }));
  return own(step.keep(isHalf(logits.dtype) ? cast(logits, "f32") : logits));
}

function choose(logits: Float32Array, { temperature, topK }: ChoiceOptions, key: Key): number {
  let best = 0;
  for (let i = 1; i < logits.length; i++) if (logits[i] > logits[best]) best = i;
  if (temperature === 0) return best;
  const order = Array.from(logits, (_, token) => token).sort((a, b) => logits[b] - logits[a]);
  const kept = topK > 0 ? order.slice(0, topK) : order;
  const weights = kept.map((token) => Math.exp((logits[token] - logits[best]) / temperature));
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  let left = uniform(key, 1)[0] * total;
  for (let i = 0; i < kept.length; i++) {
    left -= weights[i];
    if (left < 0) return kept[i];
  }
  return kept[kept.length - 1];
}
