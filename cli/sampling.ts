/** Text from a model, token by token, with a key/value cache. Random choices follow the seed alone. */
import {
  type Backend,
  foldIn,
  fromArray,
  keyOf,
  noGrad,
  own,
  type ParamsView,
  scope,
  slice,
  uniform,
} from "../core/mod.ts";
import { KeyValueCache, llama, type LlamaConfig } from "../models/mod.ts";

/** How tokens are chosen. */
export interface SamplingOptions {
  readonly tokens: number;
  /** 0 takes the likeliest token. */
  readonly temperature: number;
  /** Only the k likeliest tokens may be drawn; 0: all. */
  readonly topK: number;
  readonly seed: number;
  /** Stop at these tokens. */
  readonly stop?: readonly number[];
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
  if (prompt.length === 0) throw new RangeError("Cannot generate from an empty prompt");
  const room = config.max_position_embeddings;
  const text = Array.from(prompt);
  const shape = { batch: 1, groups: config.num_key_value_heads, headSize: config.head_dim };
  for (let made = 0; made < options.tokens;) {
    let next = Int32Array.from(text.slice(text.length < room ? 0 : -Math.max(1, room >> 1)));
    const capacity = Math.min(room, next.length + options.tokens - made);
    using cache = new KeyValueCache(backend, config.num_hidden_layers, capacity, shape);
    for (; made < options.tokens && cache.length + next.length <= capacity; made++) {
      const logits = lastLogits(backend, params, config, next, cache);
      const values = await logits.read() as Float32Array;
      logits.dispose();
      const token = choose(values, options, made);
      if (options.stop?.includes(token)) return;
      yield token;
      text.push(token);
      next = Int32Array.of(token);
    }
  }
}

function lastLogits(
  backend: Backend,
  params: ParamsView,
  config: LlamaConfig,
  tokens: Int32Array,
  cache: KeyValueCache,
) {
  using step = scope("generate");
  const logits = noGrad(() => llama(params, config, fromArray(backend, tokens, [1, tokens.length]), cache));
  const last = slice(logits, [undefined, { start: tokens.length - 1 }]);
  return own(step.keep(last));
}

function choose(logits: Float32Array, { temperature, topK, seed }: SamplingOptions, index: number): number {
  let best = 0;
  for (let i = 1; i < logits.length; i++) if (logits[i] > logits[best]) best = i;
  if (temperature === 0) return best;
  const order = Array.from(logits, (_, token) => token).sort((a, b) => logits[b] - logits[a]);
  const kept = topK > 0 ? order.slice(0, topK) : order;
  const weights = kept.map((token) => Math.exp((logits[token] - logits[best]) / temperature));
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  let left = uniform(foldIn(keyOf(seed), "sample", index), 1)[0] * total;
  for (let i = 0; i < kept.length; i++) {
    left -= weights[i];
    if (left < 0) return kept[i];
  }
  return kept[kept.length - 1];
}
