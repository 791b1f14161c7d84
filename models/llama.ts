/**
 * LLaMA: a decoder-only transformer with RMSNorm before each block, rotary positions, SwiGLU and grouped heads.
 *
 * Touvron et al. 2023 (arXiv 2302.13971); Hugging Face's modeling_llama.py, whose names and half-split rotary layout it
 * keeps. Deviations: none in results. Batches are packed or padded behind, which causal attention never sees; with a cache
 * they are padded in front, masked, and each row counts its positions from its own first token. Activations have the
 * weights' dtype; the rotary tables stay f32 beside 16-bit ones, and the loss over them is f32.
 *
 *     B batch, T tokens, S keys, D model, H heads, G key/value heads, K head size, V vocabulary, F feed-forward
 */
import {
  add,
  attention,
  type Backend,
  checkpoint,
  crossEntropy,
  embedding,
  fromArray,
  linear,
  type Params,
  type ParamsView,
  reshape,
  rmsNorm,
  rope,
  ropeTables,
  scope,
  slice,
  swiglu,
  type Tensor,
} from "../core/mod.ts";
import { drawWeights } from "./draw.ts";
import type { KeyValueCache } from "./key_value_cache.ts";
import { type LlamaConfig, llamaWeights } from "./llama_config.ts";

/**
 * New weights: matrices N(0, initializer_range), norms 1, biases 0. Each is a function of the seed and its name, drawn in
 * f32 and rounded to nearest in a 16-bit `dtype`.
 */
export function initLlama(
  backend: Backend,
  config: LlamaConfig,
  seed: number,
  dtype: "f32" | "bf16" | "f16" = "f32",
): Params {
  return drawWeights(backend, llamaWeights(config), { seed, dtype, std: config.initializer_range });
}

/** Rotation per position of each pair of a head, [K/2]: theta^(-2i/K), stretched as `rope_scaling` says. */
export function ropeFrequencies(config: LlamaConfig): number[] {
  const half = config.head_dim / 2;
  const plain = Array.from({ length: half }, (_, i) => config.rope_theta ** (-i / half));
  const scaling = config.rope_scaling;
  if (!scaling || scaling.rope_type === "default") return plain;
  if (scaling.rope_type === "linear") return plain.map((frequency) => frequency / scaling.factor);
  // Llama 3.1: long waves are stretched, short ones kept, those between blended
  const { factor, low_freq_factor: low, high_freq_factor: high, original_max_position_embeddings: context } = scaling;
  return plain.map((frequency) => {
    const turns = context * frequency / (2 * Math.PI);
    if (turns > high) return frequency;
    if (turns < low) return frequency / factor;
    const smooth = (turns - low) / (high - low);
    return (1 - smooth) * frequency / factor + smooth * frequency;
  });
}

/** How the layers run. */
export interface LlamaOptions {
  /** Keeps only each layer's input for backward, which runs the layer again: less memory for a third more time. */
  readonly recompute?: boolean;
  /** Scores the last position alone, [B, 1, V]: what generation needs of a long prompt. */
  readonly last?: boolean;
  /** Is told of each layer's output [B, T, D], which it may read while it is called. */
  readonly onLayer?: (output: Tensor, layer: number) => void;
}

/**
 * Logits of the next token at every position.
 *
 * @param tokens i32 or u32 [B, T]
 * @param cache keys and values of earlier positions, which it extends; for generation, off the tape
 * @returns [B, T, V], or [B, 1, V] of the `last` position
 * @throws RangeError beyond `max_position_embeddings`
 */
export function llama(
  params: ParamsView,
  config: LlamaConfig,
  tokens: Tensor,
  cache?: KeyValueCache,
  options: LlamaOptions = {},
): Tensor {
  using forward = scope("llama");
  const all = llamaHidden(params, config, tokens, cache, options);
  const hidden = options.last ? slice(all, [undefined, { start: tokens.shape[1] - 1 }]) : all;
  const isTied = config.tie_word_embeddings;
  return forward.keep(
    isTied ? linear(hidden, params.get("model.embed_tokens.weight")) : params.linear("lm_head", hidden),
  );
}

/** The last hidden state after the final norm, [B, T, D]. */
export function llamaHidden(
  params: ParamsView,
  config: LlamaConfig,
  tokens: Tensor,
  cache?: KeyValueCache,
  { recompute = false, onLayer }: LlamaOptions = {},
): Tensor {
  const [, T] = tokens.shape;
  const end = (cache?.length ?? 0) + T - Math.min(...cache?.padding ?? [0]);
  if (end > config.max_position_embeddings) {
    throw new RangeError(
      `Cannot run llama(): ${end} positions exceed max_position_embeddings ${config.max_position_embeddings}`,
    );
  }
  const model = params.at("model");
  const table = model.get("embed_tokens.weight");
  const places = placesOf(params.backend, config, T, cache, table.dtype === "f64" ? "f64" : "f32");
  let x = embedding(table, tokens); // [B, T, D]
  for (let i = 0; i < config.num_hidden_layers; i++) {
    using block = scope(`layer ${i}`);
    const run = (input: Tensor, cos: Tensor, sin: Tensor) =>
      layer(model.at(`layers.${i}`), config, input, { ...places, cos, sin }, cache, i);
    const inputs = [x, places.cos, places.sin] as const;
    const next = block.keep(recompute && !cache ? checkpoint(run, ...inputs) : run(...inputs));
    onLayer?.(next, i);
    x.dispose();
    x = next;
  }
  cache?.advance(T);
  return rmsNorm(x, model.get("norm.weight"), config.rms_norm_eps);
}

/** Where a batch's tokens stand. */
interface Places {
  /** [T, K/2], or [B T, K/2] where each row counts its own positions. */
  readonly cos: Tensor;
  readonly sin: Tensor;
  /** u32 [B, S]: 0 at padding. */
  readonly mask?: Tensor;
}

function placesOf(
  backend: Backend,
  config: LlamaConfig,
  T: number,
  cache: KeyValueCache | undefined,
  dtype: "f32" | "f64",
): Places {
  const start = cache?.length ?? 0;
  const padding = cache?.padding;
  const frequencies = ropeFrequencies(config);
  if (!padding) return ropeTables(backend, frequencies, start, T, dtype);
  const positions = padding.flatMap((places) => Array.from({ length: T }, (_, t) => Math.max(0, start + t - places)));
  const first = Math.min(...positions);
  const { cos, sin } = ropeTables(backend, frequencies, first, Math.max(...positions) - first + 1, dtype);
  const picks = fromArray(backend, Int32Array.from(positions, (position) => position - first), [positions.length]);
  const seen = padding.flatMap((places) => Array.from({ length: start + T }, (_, s) => Number(s >= places)));
  const mask = fromArray(backend, Uint32Array.from(seen), [padding.length, start + T], "u32");
  return { cos: embedding(cos, picks), sin: embedding(sin, picks), mask };
}

function layer(params: ParamsView, config: LlamaConfig, x: Tensor, places: Places, cache?: KeyValueCache, index = 0) {
  const normed = rmsNorm(x, params.get("input_layernorm.weight"), config.rms_norm_eps);
  const mixed = add(x, selfAttention(params.at("self_attn"), config, normed, places, cache, index));
  const middle = rmsNorm(mixed, params.get("post_attention_layernorm.weight"), config.rms_norm_eps);
  return add(mixed, feedForward(params.at("mlp"), middle));
}

function selfAttention(
  params: ParamsView,
  config: LlamaConfig,
  x: Tensor,
  { cos, sin, mask }: Places,
  cache: KeyValueCache | undefined,
  index: number,
): Tensor {
  const [B, T] = x.shape;
  const { num_attention_heads: H, num_key_value_heads: G, head_dim: K } = config;
  const turned = (heads: Tensor, count: number) =>
    mask
      ? reshape(rope(reshape(heads, [1, B * T, count, K]), cos, sin), [B, T, count, K])
      : rope(reshape(heads, [B, T, count, K]), cos, sin);
  const q = turned(params.linear("q_proj", x), H);
  const k = turned(params.linear("k_proj", x), G);
  const v = reshape(params.linear("v_proj", x), [B, T, G, K]);
  const seen = cache ? cache.extend(index, k, v) : { k, v };
  const mixed = attention(q, seen.k, seen.v, { causal: true, mask }); // [B, T, H, K]
  return params.linear("o_proj", reshape(mixed, [B, T, H * K]));
}

function feedForward(params: ParamsView, x: Tensor): Tensor {
  return params.linear("down_proj", swiglu(params.linear("gate_proj", x), params.linear("up_proj", x)));
}

/**
 * Mean next-token loss in nats.
 *
 * @param tokens i32 or u32 [B, T]
 * @param targets i32 [B, T]: the token after each position, -100 where none counts
 */
export function llamaLoss(
  params: ParamsView,
  config: LlamaConfig,
  tokens: Tensor,
  targets: Tensor,
  options: LlamaOptions = {},
): Tensor {
  using forward = scope("llama loss");
  const logits = llama(params, config, tokens, undefined, options);
  const flat = reshape(logits, [-1, config.vocab_size]);
  return forward.keep(crossEntropy(flat, reshape(targets, [-1])));
}
