/**
 * LLaMA's configuration: Hugging Face's `config.json` keys verbatim, the GaLore paper's sizes by name, and the weights
 * that a configuration implies.
 *
 * A key that would change results and is not implemented is refused by name. Keys that cannot change results are kept
 * out of the type and ignored.
 */
import type { Shape } from "../core/mod.ts";
import { isIgnored, wholeNumber } from "./config_json.ts";

/** Stretching of the rotary positions: Hugging Face's `rope_scaling`. */
export type RopeScaling =
  | { readonly rope_type: "default" }
  | { readonly rope_type: "linear"; readonly factor: number }
  | {
    readonly rope_type: "llama3";
    readonly factor: number;
    readonly low_freq_factor: number;
    readonly high_freq_factor: number;
    readonly original_max_position_embeddings: number;
  };

/** Hugging Face's LlamaConfig, as far as it decides results. */
export interface LlamaConfig {
  readonly vocab_size: number;
  readonly hidden_size: number;
  readonly intermediate_size: number;
  readonly num_hidden_layers: number;
  readonly num_attention_heads: number;
  readonly num_key_value_heads: number;
  readonly head_dim: number;
  readonly max_position_embeddings: number;
  readonly rms_norm_eps: number;
  readonly rope_theta: number;
  readonly rope_scaling: RopeScaling | null;
  readonly tie_word_embeddings: boolean;
  readonly attention_bias: boolean;
  readonly mlp_bias: boolean;
  readonly initializer_range: number;
  readonly bos_token_id: number | null;
  readonly eos_token_id: number | readonly number[] | null;
  readonly pad_token_id: number | null;
}

/** hidden, intermediate, heads, layers of the GaLore paper's configuration files. */
const SIZES: Readonly<Record<string, readonly [number, number, number, number]>> = {
  "llama-9m": [128, 352, 4, 4],
  "llama-20m": [256, 688, 4, 4],
  "llama-35m": [384, 1024, 8, 6],
  "llama-40m": [416, 1024, 8, 8],
  "llama-60m": [512, 1376, 8, 8],
  "llama-71m": [512, 1368, 8, 12],
  "llama-100m": [640, 1708, 10, 12],
  "llama-130m": [768, 2048, 12, 12],
  "llama-250m": [768, 2560, 16, 24],
  "llama-350m": [1024, 2736, 16, 24],
  "llama-1b": [2048, 5461, 32, 24],
  "llama-3b": [2560, 6848, 32, 32],
  "llama-7b": [4096, 11008, 32, 32],
};

/** Names that `llamaConfig` knows, smallest first. */
export const LLAMA_NAMES: readonly string[] = Object.keys(SIZES);

/** A configuration from sizes; everything else as in the GaLore paper's files (RoPE 10000, eps 1e-6, untied). */
export function makeLlamaConfig(
  sizes: Pick<
    LlamaConfig,
    "vocab_size" | "hidden_size" | "intermediate_size" | "num_hidden_layers" | "num_attention_heads"
  >,
  overrides: Partial<LlamaConfig> = {},
): LlamaConfig {
  const config = {
    num_key_value_heads: sizes.num_attention_heads,
    head_dim: sizes.hidden_size / sizes.num_attention_heads,
    max_position_embeddings: 1024,
    rms_norm_eps: 1e-6,
    rope_theta: 10000,
    rope_scaling: null,
    tie_word_embeddings: false,
    attention_bias: false,
    mlp_bias: false,
    initializer_range: 0.02,
    bos_token_id: null,
    eos_token_id: null,
    pad_token_id: null,
    ...sizes,
    ...overrides,
  };
  checkConfig(config);
  return config;
}

/**
 * One of the GaLore paper's configurations: `llama-9m` ... `llama-7b`. The vocabulary is 32,000 unless overridden.
 *
 * @throws RangeError for another name
 */
export function llamaConfig(name: string, overrides: Partial<LlamaConfig> = {}): LlamaConfig {
  const sizes = Object.hasOwn(SIZES, name) ? SIZES[name] : undefined;
  if (!sizes) throw new RangeError(`Cannot find model "${name}": expected one of ${LLAMA_NAMES.join(", ")}`);
  const [hidden_size, intermediate_size, num_attention_heads, num_hidden_layers] = sizes;
  return makeLlamaConfig(
    { vocab_size: 32000, hidden_size, intermediate_size, num_attention_heads, num_hidden_layers },
    { max_position_embeddings: name === "llama-7b" ? 2048 : 1024, ...overrides },
  );
}

/** Keys of a LLaMA beside those of any model that cannot change results, or that are read apart. */
const IGNORED = new Set(["problem_type", "max_sequence_length", "rope_scaling", "rope_parameters"]);

/** Keys that are implemented for one value alone; anything else would change results. */
const FIXED: Readonly<Record<string, unknown>> = { hidden_act: "silu", pretraining_tp: 1, attention_dropout: 0 };

/**
 * Reads a Hugging Face `config.json` object.
 *
 * @throws SyntaxError for another model type, a missing size, or a key that would change results and is not implemented
 */
export function parseLlamaConfig(json: Record<string, unknown>): LlamaConfig {
  if (json.model_type !== "llama") {
    throw new SyntaxError(
      `Cannot load config.json: expected model_type "llama", got ${JSON.stringify(json.model_type)}`,
    );
  }
  const rope = (json.rope_parameters ?? {}) as Record<string, unknown>;
  const config = makeLlamaConfig({
    vocab_size: wholeNumber(json, "vocab_size"),
    hidden_size: wholeNumber(json, "hidden_size"),
    intermediate_size: wholeNumber(json, "intermediate_size"),
    num_hidden_layers: wholeNumber(json, "num_hidden_layers"),
    num_attention_heads: wholeNumber(json, "num_attention_heads"),
  }, json.head_dim == null ? {} : { head_dim: wholeNumber(json, "head_dim") });
  const out: Record<string, unknown> = { ...config, max_position_embeddings: 2048 };
  for (const [key, value] of Object.entries(json)) {
    if (isIgnored(json, key) || IGNORED.has(key)) continue;
    if (key in FIXED) {
      if (value === FIXED[key] || value === null) continue;
    } else if (key in config) {
      if (key.endsWith("_token_id")) out[key] = value;
      else if (value !== null) out[key] = alike(json, key, config[key as keyof LlamaConfig]);
      continue;
    } else if (value === null || value === false) continue;
    throw new SyntaxError(`Cannot load config.json: ${key} = ${JSON.stringify(value)} is not implemented`);
  }
  if (typeof rope.rope_theta === "number") out.rope_theta = rope.rope_theta;
  out.rope_scaling = parseRopeScaling(json.rope_scaling ?? json.rope_parameters ?? null);
  const parsed = out as unknown as LlamaConfig;
  checkConfig(parsed);
  return parsed;
}

const WHOLE = new Set(["num_key_value_heads", "head_dim", "max_position_embeddings"]);

/** The value of a key, which must be of its default's type. */
function alike(json: Record<string, unknown>, key: string, example: unknown): unknown {
  const value = json[key];
  if (WHOLE.has(key)) return wholeNumber(json, key);
  if (typeof value === typeof example) return value;
  const what = typeof example === "boolean" ? "true or false" : "a number";
  throw new SyntaxError(`Cannot load config.json: ${key} must be ${what}, got ${JSON.stringify(value)}`);
}

function parseRopeScaling(value: unknown): RopeScaling | null {
  if (value === null) return null;
  const scaling = value as Record<string, unknown>;
  const type = scaling.rope_type ?? scaling.type ?? "default";
  const number = (key: string) => {
    if (typeof scaling[key] !== "number") {
      throw new SyntaxError(`Cannot load config.json: rope_scaling.${key} must be a number`);
    }
    return scaling[key];
  };
  switch (type) {
    case "default":
      return null;
    case "linear":
      return { rope_type: "linear", factor: number("factor") };
    case "llama3":
      return {
        rope_type: "llama3",
        factor: number("factor"),
        low_freq_factor: number("low_freq_factor"),
        high_freq_factor: number("high_freq_factor"),
        original_max_position_embeddings: number("original_max_position_embeddings"),
      };
    default:
      throw new SyntaxError(`Cannot load config.json: rope_scaling type ${JSON.stringify(type)} is not implemented`);
  }
}

function checkConfig(config: LlamaConfig): void {
  const { num_attention_heads: heads, num_key_value_heads: groups, head_dim } = config;
  if (heads % groups !== 0) {
    throw new RangeError(`Cannot build LLaMA: ${heads} heads do not divide into ${groups} key/value heads`);
  }
  if (!Number.isInteger(head_dim) || head_dim % 2 !== 0) {
    throw new RangeError(`Cannot build LLaMA: the head size must be even for rotary positions, got ${head_dim}`);
  }
}

/** The `config.json` that Hugging Face loads. */
export function llamaConfigJson(config: LlamaConfig): Record<string, unknown> {
  return {
    architectures: ["LlamaForCausalLM"],
    model_type: "llama",
    hidden_act: "silu",
    ...config,
    attention_dropout: 0,
    pretraining_tp: 1,
    torch_dtype: "float32",
    use_cache: true,
  };
}

/** What a weight is: its shape, and the config keys that the sizes come from (for messages). */
export interface WeightSpec {
  readonly shape: Shape;
  readonly what: string;
}

/** Every weight of a configuration under Hugging Face's names, in file order. */
export function llamaWeights(config: LlamaConfig): Map<string, WeightSpec> {
  const { vocab_size: V, hidden_size: D, intermediate_size: F, head_dim: K } = config;
  const query = config.num_attention_heads * K;
  const value = config.num_key_value_heads * K;
  const weights = new Map<string, WeightSpec>();
  const matrix = (name: string, out: number, input: number, what: string, bias: boolean) => {
    weights.set(`${name}.weight`, { shape: [out, input], what });
    if (bias) weights.set(`${name}.bias`, { shape: [out], what: what.split(", ")[0] });
  };
  const vector = (name: string) => weights.set(`${name}.weight`, { shape: [D], what: "hidden_size" });
  matrix("model.embed_tokens", V, D, "vocab_size, hidden_size", false);
  for (let i = 0; i < config.num_hidden_layers; i++) {
    const layer = `model.layers.${i}`;
    vector(`${layer}.input_layernorm`);
    const bias = config.attention_bias;
    matrix(`${layer}.self_attn.q_proj`, query, D, "num_attention_heads * head_dim, hidden_size", bias);
    matrix(`${layer}.self_attn.k_proj`, value, D, "num_key_value_heads * head_dim, hidden_size", bias);
    matrix(`${layer}.self_attn.v_proj`, value, D, "num_key_value_heads * head_dim, hidden_size", bias);
    matrix(`${layer}.self_attn.o_proj`, D, query, "hidden_size, num_attention_heads * head_dim", bias);
    vector(`${layer}.post_attention_layernorm`);
    matrix(`${layer}.mlp.gate_proj`, F, D, "intermediate_size, hidden_size", config.mlp_bias);
    matrix(`${layer}.mlp.up_proj`, F, D, "intermediate_size, hidden_size", config.mlp_bias);
    matrix(`${layer}.mlp.down_proj`, D, F, "hidden_size, intermediate_size", config.mlp_bias);
  }
  vector("model.norm");
  if (!config.tie_word_embeddings) matrix("lm_head", V, D, "vocab_size, hidden_size", false);
  return weights;
}

/** The matrices that GaLore projects: the linear maps of attention and MLP. */
export const LLAMA_PROJECTED: RegExp = /\.(self_attn|mlp)\.\w+_proj\.weight$/;

/**
 * Floating-point operations of one training token: 6 per weight that multiplies, and attention's two products.
 *
 * @param weights those of the model as it is trained, factors instead of matrices included
 */
export function llamaFlopsPerToken(
  config: LlamaConfig,
  seq: number,
  weights: ReadonlyMap<string, Pick<WeightSpec, "shape">> = llamaWeights(config),
): number {
  let multiplied = config.vocab_size * config.hidden_size;
  for (const [name, { shape }] of weights) {
    if (/\.(self_attn|mlp)\./.test(name) && shape.length === 2) multiplied += shape[0] * shape[1];
  }
  const attention = 2 * seq * config.num_attention_heads * config.head_dim * config.num_hidden_layers;
  return 6 * (multiplied + attention);
}
