/**
 * RoBERTa: a bidirectional encoder with norms behind each block, learned positions and exact GELU, under a head that
 * scores the vocabulary at every position (masked-LM) or labels from the first one (classification, regression).
 *
 * Liu et al. 2019 (arXiv 1907.11692); Hugging Face's modeling_roberta.py, whose names and places of dropout it keeps.
 * The first of T tokens has position `pad_token_id + 1`, and padding that of `pad_token_id`. The padding's rows of both
 * tables get no gradient from the look-up. Token types are all 0, as RoBERTa's tokenizer has them. No decoder, no pooler.
 *
 * Dropout is drawn from `dropoutKey`, folded with layer and place; without a key there is none. Attention's weights are
 * dropped too where `attention_probs_dropout_prob` says so, which needs them in memory: [B, H, T, T] a layer, where the
 * fused kernel keeps none. A configuration with 0 there trains in less memory, and is another model of the data.
 *
 *     B batch, T tokens, D model, H heads, K head size, V vocabulary
 */
import {
  add,
  attention,
  type Backend,
  cast,
  checkpoint,
  crossEntropy,
  describe,
  dropout,
  embedding,
  equal,
  foldIn,
  gelu,
  iota,
  isHalf,
  type Key,
  layerNorm,
  less,
  linear,
  matmul,
  meanSquaredError,
  mul,
  type Params,
  type ParamsView,
  reshape,
  sameShape,
  scope,
  slice,
  stopGradient,
  tanh,
  type Tensor,
  where,
} from "../core/mod.ts";
import { type DrawOptions, type DrawSpec, drawWeights } from "./draw.ts";
import { isRegression, type RobertaConfig, type RobertaHead, robertaWeights } from "./roberta_config.ts";

/** How new weights are drawn. */
export interface RobertaDraw {
  readonly seed: number;
  readonly head: RobertaHead;
  readonly dtype?: "f32" | "bf16" | "f16";
}

/**
 * New weights: matrices N(0, initializer_range), the padding's rows and biases 0, norms 1. Each is a function of the
 * seed and its name, drawn in f32 and rounded to nearest in a 16-bit `dtype`.
 */
export function initRoberta(backend: Backend, config: RobertaConfig, { seed, head, dtype }: RobertaDraw): Params {
  return drawWeights(backend, drawnWeights(config, head), { seed, dtype, std: config.initializer_range });
}

/** The head alone of `initRoberta`'s weights, or others for a `purpose`: what a pre-trained encoder gets for a task. */
export function initRobertaHead(
  backend: Backend,
  config: RobertaConfig,
  { seed, head, dtype, purpose }: RobertaDraw & Pick<DrawOptions, "purpose">,
): Params {
  const weights = [...drawnWeights(config, head)].filter(([name]) => !name.startsWith("roberta."));
  return drawWeights(backend, new Map(weights), { seed, dtype, std: config.initializer_range, purpose });
}

function drawnWeights(config: RobertaConfig, head: RobertaHead): Map<string, DrawSpec> {
  const weights = new Map<string, DrawSpec>(robertaWeights(config, head));
  for (const table of ["word_embeddings", "position_embeddings"]) {
    const name = `roberta.embeddings.${table}.weight`;
    weights.set(name, { ...weights.get(name)!, zeroRow: config.pad_token_id });
  }
  return weights;
}

/** Sequences of one length. */
export interface RobertaBatch {
  /** i32 or u32 [B, T] */
  readonly tokens: Tensor;
  /** u32 [B, T]: 1 for a token, 0 for padding, which no token attends to. Default: all are tokens. */
  readonly mask?: Tensor;
}

/** How the layers run. */
export interface RobertaOptions {
  /** Drops activations as the configuration says: another key each step. Without it nothing is dropped. */
  readonly dropoutKey?: Key;
  /** Keeps only each layer's input for backward, which runs the layer again: less memory for a third more time. */
  readonly recompute?: boolean;
  /** Is told of each layer's output [B, T, D], which it may read while it is called. */
  readonly onLayer?: (output: Tensor, layer: number) => void;
}

/** Scores and what they should have been. */
export interface RobertaLossOptions extends RobertaOptions {
  readonly head: RobertaHead;
  /**
   * Classes: i32 [B]. Regression: f32 [B]. Masked-LM: i32 [B, T], the token that was there, -100 where none counts.
   */
  readonly targets: Tensor;
  /**
   * Masked-LM: the places of the flat batch that are scored, i32 [N], with targets i32 [N]. The vocabulary's scores,
   * which take the most memory of a small model, are then made there alone. Default: everywhere.
   */
  readonly places?: Tensor;
}

/**
 * Position numbers: `padId` and the running count of tokens that are not padding, `padId` itself at those that are.
 *
 * @param tokens i32 or u32 [B, T]
 * @returns i32 [B, T]
 */
export function robertaPositions(tokens: Tensor, padId: number): Tensor {
  using inner = scope("roberta positions");
  const { backend, shape: [, T] } = tokens;
  const isToken = cast(equal(equal(tokens, padId), 0), "f32");
  // a running count is a product with a triangle of ones: whole numbers below 2^24 are exact in f32
  const upTo = cast(less(reshape(iota(backend, T), [T, 1]), iota(backend, T, "i32", 1)), "f32"); // [S, T], s <= t
  const counts = mul(matmul(isToken, upTo), isToken);
  return inner.keep(cast(add(counts, padId), "i32"));
}

/**
 * The last layer's output.
 *
 * @returns [B, T, D]
 * @throws RangeError when there are more tokens than positions
 */
export function robertaHidden(
  params: ParamsView,
  config: RobertaConfig,
  { tokens, mask }: RobertaBatch,
  { dropoutKey, recompute = false, onLayer }: RobertaOptions = {},
): Tensor {
  using forward = scope("roberta");
  const model = params.at("roberta");
  let x = embed(model.at("embeddings"), config, tokens, folded(dropoutKey, "embeddings")); // [B, T, D]
  for (let i = 0; i < config.num_hidden_layers; i++) {
    using block = scope(`layer ${i}`);
    const run = (input: Tensor, seen?: Tensor) =>
      layer(model.at(`encoder.layer.${i}`), config, input, { mask: seen, key: folded(dropoutKey, "layer", i) });
    const inputs: [Tensor, Tensor?] = mask ? [x, mask] : [x];
    const next = block.keep(recompute ? checkpoint(run, ...inputs as Tensor[]) : run(...inputs));
    onLayer?.(next, i);
    x.dispose();
    x = next;
  }
  return forward.keep(x);
}

function folded(key: Key | undefined, ...data: (number | string)[]): Key | undefined {
  return key && foldIn(key, ...data);
}

function drop(x: Tensor, rate: number, key: Key | undefined): Tensor {
  return key && rate > 0 ? dropout(x, rate, key) : x;
}

function norm(params: ParamsView, name: string, x: Tensor, config: RobertaConfig): Tensor {
  return layerNorm(x, params.get(`${name}.weight`), params.get(`${name}.bias`), config.layer_norm_eps);
}

function embed(params: ParamsView, config: RobertaConfig, tokens: Tensor, key: Key | undefined): Tensor {
  const [B, T] = tokens.shape;
  const { pad_token_id: padId, max_position_embeddings: rows, hidden_size: D } = config;
  if (T > rows - padId - 1) {
    throw new RangeError(
      `Cannot run RoBERTa: ${T} tokens exceed the ${rows - padId - 1} positions: max_position_embeddings is ${rows}`,
    );
  }
  using inner = scope("embeddings");
  const words = embedding(params.get("word_embeddings.weight"), tokens);
  const positions = embedding(params.get("position_embeddings.weight"), robertaPositions(tokens, padId));
  const looked = add(words, positions);
  const isPad = reshape(equal(tokens, padId), [B, T, 1]);
  const learned = looked.node ? where(isPad, stopGradient(looked), looked) : looked;
  const type = reshape(slice(params.get("token_type_embeddings.weight"), [{ end: 1 }]), [D]);
  return inner.keep(drop(norm(params, "LayerNorm", add(learned, type), config), config.hidden_dropout_prob, key));
}

/** What a layer has beside its input. */
interface LayerInputs {
  readonly mask?: Tensor;
  readonly key?: Key;
}

function layer(params: ParamsView, config: RobertaConfig, x: Tensor, { mask, key }: LayerInputs): Tensor {
  const rate = config.hidden_dropout_prob;
  const attended = selfAttention(params.at("attention.self"), config, x, { mask, key: folded(key, "attention") });
  const mixed = drop(params.linear("attention.output.dense", attended), rate, folded(key, "attention output"));
  const middle = norm(params, "attention.output.LayerNorm", add(mixed, x), config);
  const wide = gelu(params.linear("intermediate.dense", middle));
  const fed = drop(params.linear("output.dense", wide), rate, folded(key, "output"));
  return norm(params, "output.LayerNorm", add(fed, middle), config);
}

function selfAttention(params: ParamsView, config: RobertaConfig, x: Tensor, { mask, key }: LayerInputs): Tensor {
  const [B, T, D] = x.shape;
  const { num_attention_heads: H, attention_probs_dropout_prob: rate } = config;
  const [q, k, v] = ["query", "key", "value"].map((name) => reshape(params.linear(name, x), [B, T, H, D / H]));
  const mixed = attention(q, k, v, { mask, dropout: key && { rate, key } }); // [B, T, H, K]
  return reshape(mixed, [B, T, D]);
}

/**
 * Scores of the head.
 *
 * @returns classification: [B, num_labels]; masked-LM: [B, T, V]
 * @throws as `robertaHidden`
 */
export function robertaLogits(
  params: ParamsView,
  config: RobertaConfig,
  batch: RobertaBatch,
  head: RobertaHead,
  options: RobertaOptions = {},
): Tensor {
  using forward = scope("roberta logits");
  const hidden = robertaHidden(params, config, batch, options);
  if (head === "masked-lm") return forward.keep(vocabularyScores(params, config, hidden));
  const [B, , D] = hidden.shape;
  const rate = config.classifier_dropout ?? config.hidden_dropout_prob;
  const first = reshape(slice(hidden, [undefined, { end: 1 }]), [B, D]);
  const given = drop(first, rate, folded(options.dropoutKey, "classifier input"));
  const dense = tanh(params.linear("classifier.dense", given));
  const kept = drop(dense, rate, folded(options.dropoutKey, "classifier"));
  return forward.keep(params.linear("classifier.out_proj", kept));
}

/** Rows of a batch: [B, T, D] at the flat places [N] to [N, D]. */
function pick(hidden: Tensor, places: Tensor): Tensor {
  return embedding(reshape(hidden, [-1, hidden.shape[2]]), places);
}

function vocabularyScores(params: ParamsView, config: RobertaConfig, hidden: Tensor): Tensor {
  const normed = norm(params, "lm_head.layer_norm", gelu(params.linear("lm_head.dense", hidden)), config);
  const table = config.tie_word_embeddings ? "roberta.embeddings.word_embeddings" : "lm_head.decoder";
  return linear(normed, params.get(`${table}.weight`), params.get("lm_head.bias"));
}

/**
 * Mean loss: cross-entropy in nats over the targets that count, or the squared error of a regression.
 *
 * @throws TypeError for targets of another shape or dtype than the head's
 * @throws RangeError as `robertaHidden`
 */
export function robertaLoss(
  params: ParamsView,
  config: RobertaConfig,
  batch: RobertaBatch,
  { head, targets, places, ...options }: RobertaLossOptions,
): Tensor {
  const { shape } = batch.tokens;
  const isScore = head === "classification" && isRegression(config);
  const expected = head === "masked-lm" ? (places ?? batch.tokens).shape : shape.slice(0, 1);
  if (!sameShape(targets.shape, expected) || (targets.dtype === "i32") === isScore) {
    throw new TypeError(
      `Cannot score in robertaLoss(): expected targets ${isScore ? "f32" : "i32"}[${expected.join(", ")}]: got ${
        describe(targets)
      }`,
    );
  }
  using forward = scope("roberta loss");
  const logits = places && head === "masked-lm"
    ? vocabularyScores(params, config, pick(robertaHidden(params, config, batch, options), places))
    : robertaLogits(params, config, batch, head, options);
  if (!isScore) return forward.keep(crossEntropy(reshape(logits, [targets.size, -1]), reshape(targets, [-1])));
  const scores = isHalf(logits.dtype) ? cast(logits, "f32") : logits;
  return forward.keep(meanSquaredError(reshape(scores, [-1]), targets));
}
