/**
 * The vision transformer: an image's patches as tokens behind a learned class token, an encoder with norms before each
 * block, and a linear head on the class token behind the last norm.
 *
 * Dosovitskiy et al. 2021 (arXiv 2010.11929); Hugging Face's modeling_vit.py, whose names and places of dropout it
 * keeps (ViTForImageClassification: no pooler). GELU is exact. The map of the patches is a convolution in the file and
 * one product here. Pixels are as the model was trained on: scaling and normalising them is the caller's affair.
 *
 * Prompts (`visual_prompts.ts`) are put into the token sequence. With them the model stands as in evaluation: a dropout
 * key then drops prompts alone, as in the released code of Visual Prompt Tuning.
 *
 *     B batch, C channels, M patches, T tokens (1 + M, and the prompts), D model, H heads, K head size
 */
import {
  add,
  attention,
  type Backend,
  broadcastTo,
  cast,
  checkpoint,
  concat,
  crossEntropy,
  describe,
  dropout,
  foldIn,
  gelu,
  type Key,
  layerNorm,
  type Params,
  type ParamsView,
  patchEmbedding,
  reshape,
  sameShape,
  scope,
  slice,
  type Tensor,
} from "../core/mod.ts";
import { drawWeights } from "./draw.ts";
import type { StoredDType } from "./stored_params.ts";
import { insertPrompts, type VisualPrompts } from "./visual_prompts.ts";
import { imageSides, patchGrid, type VitConfig, vitWeights } from "./vit_config.ts";
import { resizePositions } from "./vit_positions.ts";

/** How new weights are drawn. */
export interface VitDraw {
  readonly seed: number;
  readonly dtype?: StoredDType;
}

/**
 * New weights: matrices, the class token and positions N(0, initializer_range), biases 0, norms 1. Each is a function
 * of the seed and its name, drawn in f32 and rounded to nearest in a 16-bit `dtype`.
 */
export function initVit(backend: Backend, config: VitConfig, { seed, dtype }: VitDraw): Params {
  return drawWeights(backend, vitWeights(config), { seed, dtype, std: config.initializer_range });
}

/** A head for a pre-trained encoder's new task, drawn as in `initVit`, but not the one that this draws with that seed. */
export function initVitHead(backend: Backend, config: VitConfig, { seed, dtype }: VitDraw): Params {
  const weights = [...vitWeights(config)].filter(([name]) => !name.startsWith("vit."));
  return drawWeights(backend, new Map(weights), { seed, dtype, std: config.initializer_range, purpose: "new head" });
}

/** How the layers run. */
export interface VitOptions {
  /** Drops activations as the configuration says, or prompts as theirs says: another key each step. */
  readonly dropoutKey?: Key;
  /** Keeps only each layer's input for backward, which runs the layer again: less memory for a third more time. */
  readonly recompute?: boolean;
  /** Takes images of other sizes than the configuration's, with positions in between. Default: that is an error. */
  readonly interpolatePositions?: boolean;
  /** Learned tokens, whose head is used where they have one. */
  readonly prompts?: VisualPrompts;
  /** Is told of each layer's output, [B, T, D] prompts included, which it may read while it is called. */
  readonly onLayer?: (output: Tensor, layer: number) => void;
}

/** Images' labels, and how the layers run. */
export interface VitLossOptions extends VitOptions {
  /** i32 [B]; -100 where none counts */
  readonly targets: Tensor;
}

function folded(key: Key | undefined, ...data: (number | string)[]): Key | undefined {
  return key && foldIn(key, ...data);
}

function drop(x: Tensor, rate: number, key: Key | undefined): Tensor {
  return key && rate > 0 ? dropout(x, rate, key) : x;
}

function norm(params: ParamsView, name: string, x: Tensor, config: VitConfig): Tensor {
  return layerNorm(x, params.get(`${name}.weight`), params.get(`${name}.bias`), config.layer_norm_eps);
}

/**
 * The tokens that enter the encoder: class token and patches, row by row, with their positions. No prompts yet.
 *
 * @param pixels f32 [B, C, height, width]
 * @returns [B, 1 + M, D] of the weights' dtype
 * @throws RangeError for images that are not the configuration's, or patches that do not fill them
 */
export function vitTokens(
  params: ParamsView,
  config: VitConfig,
  pixels: Tensor,
  { dropoutKey, interpolatePositions = false, prompts }: VitOptions = {},
): Tensor {
  checkPixels(config, pixels, interpolatePositions);
  using inner = scope("vit embeddings");
  const embeddings = params.at("vit.embeddings");
  const [B, , height, width] = pixels.shape;
  const patchMap = embeddings.at("patch_embeddings.projection");
  const weight = patchMap.get("weight"); // [D, C, P, P]
  const patches = patchEmbedding(cast(pixels, weight.dtype), weight, patchMap.get("bias")); // [B, M, D]
  const first = broadcastTo(embeddings.get("cls_token"), [B, 1, config.hidden_size]);
  const grid = patchGrid(config, [height, width]);
  const positions = resizePositions(embeddings.get("position_embeddings"), patchGrid(config), grid);
  const placed = add(concat([first, patches], 1), positions);
  return inner.keep(drop(placed, config.hidden_dropout_prob, prompts ? undefined : folded(dropoutKey, "embeddings")));
}

function checkPixels(config: VitConfig, pixels: Tensor, isAnySize: boolean): void {
  const { num_channels: C, patch_size } = config;
  const [B, channels, ...sides] = pixels.shape;
  const fits = isAnySize
    ? sides.length === 2 && sides.every((side) => side > 0 && side % patch_size === 0)
    : sameShape(sides, imageSides(config.image_size));
  if (channels === C && fits) return;
  const size = isAnySize
    ? `height, width] with sides in patches of ${patch_size}`
    : `${imageSides(config.image_size).join(", ")}]`;
  throw new RangeError(`Cannot run ViT: expected pixels [${B ?? 1}, ${C}, ${size}: got ${describe(pixels)}`);
}

/**
 * Runs the encoder's layers over a token sequence.
 *
 * @param tokens [B, T, D]
 * @returns the last layer's output before the norm behind it, [B, T, D], with prompts [B, T + P, D]
 */
export function vitEncode(
  params: ParamsView,
  config: VitConfig,
  tokens: Tensor,
  { dropoutKey, recompute = false, prompts, onLayer }: VitOptions = {},
): Tensor {
  using forward = scope("vit encoder");
  let x = tokens;
  for (let i = 0; i < config.num_hidden_layers; i++) {
    using block = scope(`layer ${i}`);
    const key = prompts ? undefined : folded(dropoutKey, "layer", i);
    const run = (input: Tensor) => {
      const sequence = prompts ? insertPrompts(input, i, prompts, dropoutKey) : input;
      return layer(params.at(`vit.encoder.layer.${i}`), config, sequence, key);
    };
    const next = block.keep(recompute ? checkpoint(run, x) : run(x));
    onLayer?.(next, i);
    if (x !== tokens) x.dispose();
    x = next;
  }
  return forward.keep(x);
}

function layer(params: ParamsView, config: VitConfig, x: Tensor, key: Key | undefined): Tensor {
  const rate = config.hidden_dropout_prob;
  const seen = norm(params, "layernorm_before", x, config);
  const attended = selfAttention(params.at("attention.attention"), config, seen, folded(key, "attention"));
  const mixed = drop(params.linear("attention.output.dense", attended), rate, folded(key, "attention output"));
  const middle = add(mixed, x);
  const wide = gelu(params.linear("intermediate.dense", norm(params, "layernorm_after", middle, config)));
  return add(drop(params.linear("output.dense", wide), rate, folded(key, "output")), middle);
}

function selfAttention(params: ParamsView, config: VitConfig, x: Tensor, key: Key | undefined): Tensor {
  const [B, T, D] = x.shape;
  const { num_attention_heads: H, attention_probs_dropout_prob: rate } = config;
  const [q, k, v] = ["query", "key", "value"].map((name) => reshape(params.linear(name, x), [B, T, H, D / H]));
  return reshape(attention(q, k, v, { dropout: key && { rate, key } }), [B, T, D]);
}

/** The class token behind the last norm: what a head sees. @returns [B, D] @throws as `vitTokens` */
export function vitFeatures(params: ParamsView, config: VitConfig, pixels: Tensor, options: VitOptions = {}): Tensor {
  using forward = scope("vit");
  const tokens = vitTokens(params, config, pixels, options);
  const hidden = vitEncode(params, config, tokens, options);
  const [B, , D] = hidden.shape;
  // a norm is of each token alone, so that of the others is not needed
  const first = reshape(slice(hidden, [undefined, { end: 1 }]), [B, D]);
  return forward.keep(norm(params, "vit.layernorm", first, config));
}

/** Scores of the labels, by the prompts' head where they have one. @returns [B, num_labels] @throws as `vitTokens` */
export function vitLogits(params: ParamsView, config: VitConfig, pixels: Tensor, options: VitOptions = {}): Tensor {
  using forward = scope("vit logits");
  const features = vitFeatures(params, config, pixels, options);
  const task = options.prompts?.params;
  const head = task?.has("classifier.weight") ? task : params;
  // a task's f32 head beside a base in 16 bits
  return forward.keep(head.linear("classifier", task === head ? cast(features, dtypeOf(task)) : features));
}

function dtypeOf(task: ParamsView) {
  return task.get("classifier.weight").dtype;
}

/**
 * Mean cross-entropy in nats over the images whose labels count.
 *
 * @throws TypeError for targets of another shape or dtype
 * @throws RangeError as `vitTokens`
 */
export function vitLoss(
  params: ParamsView,
  config: VitConfig,
  pixels: Tensor,
  { targets, ...options }: VitLossOptions,
): Tensor {
  if (targets.dtype !== "i32" || !sameShape(targets.shape, pixels.shape.slice(0, 1))) {
    throw new TypeError(
      `Cannot score in vitLoss(): expected targets i32[${pixels.shape[0]}]: got ${describe(targets)}`,
    );
  }
  using forward = scope("vit loss");
  return forward.keep(crossEntropy(vitLogits(params, config, pixels, options), targets));
}
