/**
 * LLaMA: a decoder-only transformer with RMSNorm before each block, rotary positions, SwiGLU and grouped heads.
 *
 * Touvron et al. 2023 (arXiv 2302.13971); Hugging Face's modeling_llama.py, whose names and half-split rotary layout it
 * keeps. Deviations: none in results; no padding mask (batches are packed). Activations have the weights' dtype; the
 * rotary tables stay f32 beside 16-bit ones, and the loss over them is f32.
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
  linear,
  type Params,
  type ParamsView,
  reshape,
  rmsNorm,
  rope,
  ropeTables,
  scope,
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
}

/**
 * Logits of the next token at every position.
 *
 * @param tokens i32 or u32 [B, T]
 * @param cache keys and values of earlier positions, which it extends; for generation, off the tape
 * @returns [B, T, V]
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
  const hidden = llamaHidden(params, config, tokens, cache, options);
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
  { recompute = false }: LlamaOptions = {},
): Tensor {
  const [, T] = tokens.shape;
  const start = cache?.length ?? 0;
  if (start + T > config.max_position_embeddings) {
    throw new RangeError(
      `Cannot run llama(): ${start + T} positions exceed max_position_embeddings ${config.max_position_embeddings}`,
    );
  }
  const model = params.at("model");
  const table = model.get("embed_tokens.weight");
  const dtype = table.dtype === "f64" ? "f64" : "f32";
  const angles = ropeTables(params.backend, ropeFrequencies(config), start, T, dtype);
  let x = embedding(table, tokens); // [B, T, D]
  for (let i = 0; i < config.num_hidden_layers; i++) {
    using block = scope(`layer ${i}`);
    const run = (input: Tensor, cos: Tensor, sin: Tensor) =>
      layer(model.at(`layers.${i}`), config, input, { cos, sin }, cache, i);
    const inputs = [x, angles.cos, angles.sin] as const;
    const next = block.keep(recompute && !cache ? checkpoint(run, ...inputs) : run(...inputs));
    x.dispose();
    x = next;
  }
  cache?.advance(T);
  return rmsNorm(x, model.get("norm.weight"), config.rms_norm_eps);
}

interface Angles {
  readonly cos: Tensor;
  readonly sin: Tensor;
}

function layer(params: ParamsView, config: LlamaConfig, x: Tensor, angles: Angles, cache?: KeyValueCache, index = 0) {
  const normed = rmsNorm(x, params.get("input_layernorm.weight"), config.rms_norm_eps);
  const mixed = add(x, selfAttention(params.at("self_attn"), config, normed, angles, cache, index));
  const middle = rmsNorm(mixed, params.get("post_attention_layernorm.weight"), config.rms_norm_eps);
  return add(mixed, feedForward(params.at("mlp"), middle));
}

function selfAttention(
  params: ParamsView,
  config: LlamaConfig,
  x: Tensor,
  { cos, sin }: Angles,
  cache: KeyValueCache | undefined,
  index: number,
): Tensor {
  const [B, T] = x.shape;
  const { num_attention_heads: H, num_key_value_heads: G, head_dim: K } = config;
  const q = rope(reshape(params.linear("q_proj", x), [B, T, H, K]), cos, sin);
  const k = rope(reshape(params.linear("k_proj", x), [B, T, G, K]), cos, sin);
  const v = reshape(params.linear("v_proj", x), [B, T, G, K]);
  const seen = cache ? cache.extend(index, k, v) : { k, v };
  const mixed = attention(q, seen.k, seen.v, { causal: true }); // [B, T, H, K]
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
