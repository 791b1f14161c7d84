/**
 * RoBERTa's configuration: Hugging Face's `config.json` keys verbatim, the released sizes by name, and the weights that
 * a configuration implies under each head.
 *
 * A key that would change results and is not implemented is refused by name: relative positions, decoders, another
 * activation, several labels at once. Keys that cannot change results are kept out of the type and ignored.
 */
import { type ConfigJson, isIgnored, numberBelow, wholeNumber, wrong } from "./config_json.ts";
import { label2id, labelsOf, readLabels } from "./config_labels.ts";
import type { WeightSpec } from "./llama_config.ts";

/** What stands on the encoder: scores of each token of the vocabulary, or of each label. */
export type RobertaHead = "masked-lm" | "classification";

/** What a classification head's scores are compared with. `null`: regression with one label, classes with more. */
export type ProblemType = "regression" | "single_label_classification" | null;

/** Hugging Face's RobertaConfig, as far as it decides results. */
export interface RobertaConfig {
  readonly model_type: "roberta";
  readonly vocab_size: number;
  readonly hidden_size: number;
  readonly intermediate_size: number;
  readonly num_hidden_layers: number;
  readonly num_attention_heads: number;
  /** Rows of the position table: `pad_token_id + 1` more than there can be tokens. */
  readonly max_position_embeddings: number;
  readonly type_vocab_size: number;
  readonly layer_norm_eps: number;
  readonly hidden_dropout_prob: number;
  readonly attention_probs_dropout_prob: number;
  /** Rate around the classification head; `null` takes `hidden_dropout_prob`. */
  readonly classifier_dropout: number | null;
  readonly initializer_range: number;
  readonly tie_word_embeddings: boolean;
  readonly pad_token_id: number;
  readonly bos_token_id: number | null;
  readonly eos_token_id: number | null;
  readonly num_labels: number;
  /** Names of the labels by number. */
  readonly id2label: Readonly<Record<string, string>>;
  readonly problem_type: ProblemType;
}

/** The sizes that every configuration must say. */
type Sizes = Pick<
  RobertaConfig,
  "vocab_size" | "hidden_size" | "intermediate_size" | "num_hidden_layers" | "num_attention_heads"
>;

/** hidden, intermediate, heads, layers: of a small one for a CPU, and of the released models. */
const SIZES: Readonly<Record<string, readonly [number, number, number, number]>> = {
  "roberta-2m": [128, 512, 4, 4],
  "roberta-base": [768, 3072, 12, 12],
  "roberta-large": [1024, 4096, 16, 24],
};

/** Names that `robertaConfig` knows, smallest first. */
export const ROBERTA_NAMES: readonly string[] = Object.keys(SIZES);

/** Everything but sizes, as the released models have it. */
const RELEASED = {
  model_type: "roberta",
  max_position_embeddings: 514,
  type_vocab_size: 1,
  layer_norm_eps: 1e-5,
  hidden_dropout_prob: 0.1,
  attention_probs_dropout_prob: 0.1,
  classifier_dropout: null,
  initializer_range: 0.02,
  tie_word_embeddings: true,
  pad_token_id: 1,
  bos_token_id: 0,
  eos_token_id: 2,
  ...labelsOf(2),
  problem_type: null,
} as const;

/** What Hugging Face's class takes for keys that a file leaves out, where that is not what the released models have. */
const DEFAULTS = { ...RELEASED, max_position_embeddings: 512, type_vocab_size: 2, layer_norm_eps: 1e-12 };

/** A configuration from sizes; everything else as the released models have it. @throws RangeError for what cannot be */
export function makeRobertaConfig(sizes: Sizes, overrides: Partial<RobertaConfig> = {}): RobertaConfig {
  return checked({ ...RELEASED, ...sizes, ...overrides });
}

/**
 * The configuration of a model by name: the released `roberta-base` and `roberta-large`, and a small one to train here.
 *
 * @throws RangeError for another name
 */
export function robertaConfig(name: string, overrides: Partial<RobertaConfig> = {}): RobertaConfig {
  const sizes = Object.hasOwn(SIZES, name) ? SIZES[name] : undefined;
  if (!sizes) throw new RangeError(`Cannot find model "${name}": expected one of ${ROBERTA_NAMES.join(", ")}`);
  const [hidden_size, intermediate_size, num_attention_heads, num_hidden_layers] = sizes;
  return makeRobertaConfig(
    { vocab_size: 50265, hidden_size, intermediate_size, num_attention_heads, num_hidden_layers },
    overrides,
  );
}

/** A configuration for other labels: class names by number, or `"score"` for regression to one number. */
export function withLabels(config: RobertaConfig, labels: readonly string[] | "score"): RobertaConfig {
  const isScore = labels === "score";
  const names = isScore ? 1 : labels;
  const problem_type = isScore ? "regression" : "single_label_classification";
  return checked({ ...config, ...labelsOf(names), problem_type });
}

/** Whether the classification head gives one number that is compared by squared error. */
export function isRegression({ problem_type, num_labels }: RobertaConfig): boolean {
  return problem_type === "regression" || (problem_type === null && num_labels === 1);
}

function checked(config: RobertaConfig): RobertaConfig {
  const { hidden_size, num_attention_heads: heads, num_labels, problem_type, pad_token_id, vocab_size } = config;
  const refuse = (rule: string) => new RangeError(`Cannot build RoBERTa: ${rule}`);
  if (hidden_size % heads !== 0) throw refuse(`hidden_size ${hidden_size} does not divide into ${heads} heads`);
  if (pad_token_id >= vocab_size) throw refuse(`pad_token_id ${pad_token_id} is outside the ${vocab_size} tokens`);
  if (config.max_position_embeddings < pad_token_id + 2) {
    throw refuse(`max_position_embeddings ${config.max_position_embeddings} leave no position after the padding's`);
  }
  if (!Number.isInteger(num_labels) || num_labels < 1) {
    throw refuse(`num_labels must be a whole number from 1: got ${num_labels}`);
  }
  const isScore = isRegression(config);
  if (isScore && num_labels !== 1) throw refuse(`regression is to one number: got num_labels ${num_labels}`);
  if (!isScore && num_labels === 1) throw refuse(`problem_type ${problem_type} needs two labels at least: got one`);
  return Object.keys(config.id2label).length === num_labels ? config : { ...config, ...labelsOf(num_labels) };
}

/** True for a parsed `config.json`, or a configuration, of a RoBERTa. */
export function isRobertaConfig(json: object): boolean {
  return "model_type" in json && json.model_type === "roberta";
}

/** Keys that are implemented for one value alone; anything else would change results. */
const FIXED: Readonly<Record<string, unknown>> = { hidden_act: "gelu", position_embedding_type: "absolute" };

const SIZE_KEYS = new Set(
  (`vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads max_position_embeddings ` +
    `type_vocab_size`).split(" "),
);

/**
 * Reads a Hugging Face `config.json` object.
 *
 * @throws SyntaxError for another model type, a missing size, or a key that would change results and is not implemented
 */
export function parseRobertaConfig(json: Record<string, unknown>): RobertaConfig {
  if (!isRobertaConfig(json)) {
    throw new SyntaxError(
      `Cannot load config.json: expected model_type "roberta", got ${JSON.stringify(json.model_type)}`,
    );
  }
  const out: Record<string, unknown> = { ...DEFAULTS };
  for (const key of SIZE_KEYS) if (!(key in DEFAULTS)) out[key] = wholeNumber(json, key);
  for (const [key, value] of Object.entries(json)) {
    if (isIgnored(json, key)) continue;
    if (key in FIXED) {
      if (value === FIXED[key] || value === null) continue;
    } else if (key in out) {
      if (value !== null || key === "bos_token_id" || key === "eos_token_id") out[key] = valueOf(json, key);
      continue;
    } else if (value === null || value === false) continue;
    throw new SyntaxError(`Cannot load config.json: ${key} = ${JSON.stringify(value)} is not implemented`);
  }
  return checked({ ...out, ...readLabels(json) } as unknown as RobertaConfig);
}

function valueOf(json: ConfigJson, key: string): unknown {
  const value = json[key];
  if (SIZE_KEYS.has(key)) return wholeNumber(json, key);
  if (/_dropout/.test(key)) return numberBelow(json, key, 1);
  if (key.endsWith("_token_id")) return value === null ? null : wholeNumber(json, key, 0);
  if (key === "layer_norm_eps" || key === "initializer_range") return numberBelow(json, key, Infinity);
  if (key === "tie_word_embeddings") {
    if (typeof value !== "boolean") throw wrong(json, key, "true or false");
    return value;
  }
  if (value !== "regression" && value !== "single_label_classification") {
    throw wrong(json, key, `"regression" or "single_label_classification"`);
  }
  return value;
}

const ARCHITECTURES = { "masked-lm": "RobertaForMaskedLM", "classification": "RobertaForSequenceClassification" };

/** The `config.json` that Hugging Face loads. The number of labels is that of `id2label`, as in its own files. */
export function robertaConfigJson(config: RobertaConfig, head: RobertaHead): Record<string, unknown> {
  const { num_labels: _, id2label, problem_type, ...rest } = config;
  return {
    architectures: [ARCHITECTURES[head]],
    ...rest,
    hidden_act: "gelu",
    position_embedding_type: "absolute",
    ...(head === "classification" ? { id2label, label2id: label2id(config), problem_type } : {}),
    torch_dtype: "float32",
    use_cache: true,
  };
}

/** Every weight of a configuration with a head under Hugging Face's names, in file order. */
export function robertaWeights(config: RobertaConfig, head: RobertaHead): Map<string, WeightSpec> {
  const { vocab_size: V, hidden_size: D, intermediate_size: F } = config;
  const weights = new Map<string, WeightSpec>();
  const matrix = (name: string, rows: number, columns: number, what: string) =>
    weights.set(`${name}.weight`, { shape: [rows, columns], what });
  const dense = (name: string, out: number, input: number, what: string) => {
    matrix(name, out, input, what);
    weights.set(`${name}.bias`, { shape: [out], what: what.split(", ")[0] });
  };
  const square = (name: string) => dense(name, D, D, "hidden_size, hidden_size");
  const norm = (name: string) => {
    for (const part of ["weight", "bias"]) weights.set(`${name}.${part}`, { shape: [D], what: "hidden_size" });
  };
  const embeddings = "roberta.embeddings";
  matrix(`${embeddings}.word_embeddings`, V, D, "vocab_size, hidden_size");
  const { max_position_embeddings: positions, type_vocab_size: types } = config;
  matrix(`${embeddings}.position_embeddings`, positions, D, "max_position_embeddings, hidden_size");
  matrix(`${embeddings}.token_type_embeddings`, types, D, "type_vocab_size, hidden_size");
  norm(`${embeddings}.LayerNorm`);
  for (let i = 0; i < config.num_hidden_layers; i++) {
    const layer = `roberta.encoder.layer.${i}`;
    for (const part of ["query", "key", "value"]) square(`${layer}.attention.self.${part}`);
    square(`${layer}.attention.output.dense`);
    norm(`${layer}.attention.output.LayerNorm`);
    dense(`${layer}.intermediate.dense`, F, D, "intermediate_size, hidden_size");
    dense(`${layer}.output.dense`, D, F, "hidden_size, intermediate_size");
    norm(`${layer}.output.LayerNorm`);
  }
  if (head === "classification") {
    square("classifier.dense");
    dense("classifier.out_proj", config.num_labels, D, "num_labels, hidden_size");
    return weights;
  }
  square("lm_head.dense");
  norm("lm_head.layer_norm");
  if (!config.tie_word_embeddings) matrix("lm_head.decoder", V, D, "vocab_size, hidden_size");
  weights.set("lm_head.bias", { shape: [V], what: "vocab_size" });
  return weights;
}

/** The matrices that GaLore projects and LoRA adapts: the linear maps of attention and feed-forward. */
export const ROBERTA_PROJECTED: RegExp =
  /\.layer\.\d+\.(attention\.self\.(query|key|value)|(attention\.output|intermediate|output)\.dense)\.weight$/;

/**
 * Floating-point operations to train a masked-LM on a token in a sequence of `seq`: six a multiplied weight, and
 * attention's. The head's count at the places that are scored, by default the 15 % that are hidden.
 */
export function robertaFlopsPerToken(config: RobertaConfig, seq: number, scored = 0.15): number {
  const { hidden_size: D, intermediate_size: F, num_hidden_layers: layers, vocab_size: V } = config;
  return 6 * (layers * (4 * D * D + 2 * D * F + 2 * seq * D) + scored * (D * D + V * D));
}
