/**
 * The vision transformer's configuration: Hugging Face's `config.json` keys verbatim, the paper's sizes by name, and
 * the weights that a configuration implies.
 *
 * A key that would change results and is not implemented is refused by name: another activation, regression, several
 * labels at once. Keys that cannot change results are kept out of the type and ignored. Patches are square and fill the
 * image, where Hugging Face drops the rows and columns that are left over.
 */
import { type ConfigJson, isIgnored, numberBelow, wholeNumber, wrong } from "./config_json.ts";
import { label2id, labelsOf, readLabels } from "./config_labels.ts";
import type { WeightSpec } from "./llama_config.ts";

/** Height and width in pixels; one number for both. */
export type ImageSize = number | readonly [height: number, width: number];

/** Hugging Face's ViTConfig, as far as it decides results. */
export interface VitConfig {
  readonly model_type: "vit";
  readonly hidden_size: number;
  readonly intermediate_size: number;
  readonly num_hidden_layers: number;
  readonly num_attention_heads: number;
  /** What the table of positions is for. */
  readonly image_size: ImageSize;
  /** Side of a patch in pixels. */
  readonly patch_size: number;
  readonly num_channels: number;
  /** Whether query, key and value have biases. */
  readonly qkv_bias: boolean;
  readonly layer_norm_eps: number;
  readonly hidden_dropout_prob: number;
  readonly attention_probs_dropout_prob: number;
  readonly initializer_range: number;
  readonly num_labels: number;
  /** Names of the labels by number. */
  readonly id2label: Readonly<Record<string, string>>;
}

/** The sizes that a configuration is made from. */
type Sizes = Pick<VitConfig, "hidden_size" | "intermediate_size" | "num_hidden_layers" | "num_attention_heads">;

/** hidden, intermediate, heads, layers; image, patch, channels. The first is for digits of 28 pixels on a CPU. */
const SIZES: Readonly<Record<string, readonly [number, number, number, number, number, number, number]>> = {
  "vit-0.2m": [64, 256, 4, 4, 28, 7, 1],
  "vit-tiny-16": [192, 768, 3, 12, 224, 16, 3],
  "vit-small-16": [384, 1536, 6, 12, 224, 16, 3],
  "vit-base-16": [768, 3072, 12, 12, 224, 16, 3],
  "vit-base-32": [768, 3072, 12, 12, 224, 32, 3],
  "vit-large-16": [1024, 4096, 16, 24, 224, 16, 3],
};

/** Names that `vitConfig` knows, smallest first. */
export const VIT_NAMES: readonly string[] = Object.keys(SIZES);

/** Everything but sizes, as the released models and Hugging Face's class have it. */
const RELEASED = {
  model_type: "vit",
  image_size: 224,
  patch_size: 16,
  num_channels: 3,
  qkv_bias: true,
  layer_norm_eps: 1e-12,
  hidden_dropout_prob: 0,
  attention_probs_dropout_prob: 0,
  initializer_range: 0.02,
  ...labelsOf(2),
} as const;

/** What Hugging Face's class takes for sizes that a file leaves out: those of ViT-B. */
const BASE: Sizes = { hidden_size: 768, intermediate_size: 3072, num_hidden_layers: 12, num_attention_heads: 12 };

/** A configuration from sizes; everything else as the released models have it. @throws RangeError for what cannot be */
export function makeVitConfig(sizes: Sizes, overrides: Partial<VitConfig> = {}): VitConfig {
  return checked({ ...RELEASED, ...sizes, ...overrides });
}

/**
 * The configuration of a model by name: the sizes of Dosovitskiy et al. 2021 (arXiv 2010.11929) and of DeiT's smaller
 * ones, and one of 0.2 million weights for images of 28 pixels in grey.
 *
 * @throws RangeError for another name
 */
export function vitConfig(name: string, overrides: Partial<VitConfig> = {}): VitConfig {
  const sizes = Object.hasOwn(SIZES, name) ? SIZES[name] : undefined;
  if (!sizes) throw new RangeError(`Cannot find model "${name}": expected one of ${VIT_NAMES.join(", ")}`);
  const [hidden_size, intermediate_size, num_attention_heads, num_hidden_layers] = sizes;
  const [image_size, patch_size, num_channels] = sizes.slice(4);
  return makeVitConfig(
    { hidden_size, intermediate_size, num_attention_heads, num_hidden_layers },
    { image_size, patch_size, num_channels, ...overrides },
  );
}

/** A configuration for other labels: their names by number, or how many there are. */
export function withVitLabels(config: VitConfig, labels: readonly string[] | number): VitConfig {
  return checked({ ...config, ...labelsOf(labels) });
}

/** Height and width of images of this size. */
export function imageSides(size: ImageSize): readonly [height: number, width: number] {
  return typeof size === "number" ? [size, size] : size;
}

/** Rows and columns of the patches of an image, by default of the size that the positions are for. */
export function patchGrid(
  { image_size, patch_size }: Pick<VitConfig, "image_size" | "patch_size">,
  size: ImageSize = image_size,
): readonly [rows: number, columns: number] {
  const [height, width] = imageSides(size);
  return [height / patch_size, width / patch_size];
}

function checked(config: VitConfig): VitConfig {
  const { hidden_size, num_attention_heads: heads, patch_size, num_labels, id2label } = config;
  const refuse = (rule: string) => new RangeError(`Cannot build ViT: ${rule}`);
  if (hidden_size % heads !== 0) throw refuse(`hidden_size ${hidden_size} does not divide into ${heads} heads`);
  const sides = imageSides(config.image_size);
  if (!sides.every((side) => Number.isInteger(side) && side > 0 && side % patch_size === 0)) {
    throw refuse(`patches of ${patch_size} pixels do not fill images of ${sides.join(" x ")}`);
  }
  if (!Number.isInteger(num_labels) || num_labels < 2) {
    throw refuse(`num_labels must be a whole number from 2: got ${num_labels}`);
  }
  return Object.keys(id2label).length === num_labels ? config : { ...config, ...labelsOf(num_labels) };
}

/** True for a parsed `config.json`, or a configuration, of a ViT. */
export function isVitConfig(json: object): boolean {
  return "model_type" in json && json.model_type === "vit";
}

/** Keys of a ViT that classification has no use for: those of masked patches and of the pooler. */
const IGNORED = new Set(["encoder_stride", "pooler_output_size", "pooler_act"]);

/** Keys that are implemented for one value alone; anything else would change results. */
const FIXED: Readonly<Record<string, unknown>> = {
  hidden_act: "gelu",
  problem_type: "single_label_classification",
};

const SIZE_KEYS = new Set([...Object.keys(BASE), "patch_size", "num_channels"]);

/**
 * Reads a Hugging Face `config.json` object.
 *
 * @throws SyntaxError for another model type, or a key that would change results and is not implemented
 * @throws RangeError for sizes that do not fit each other
 */
export function parseVitConfig(json: Record<string, unknown>): VitConfig {
  if (!isVitConfig(json)) {
    throw new SyntaxError(`Cannot load config.json: expected model_type "vit", got ${JSON.stringify(json.model_type)}`);
  }
  const out: Record<string, unknown> = { ...RELEASED, ...BASE };
  for (const [key, value] of Object.entries(json)) {
    if (isIgnored(json, key) || IGNORED.has(key) || value === null) continue;
    if (key in FIXED) {
      if (value === FIXED[key]) continue;
    } else if (key in out) {
      out[key] = valueOf(json, key);
      continue;
    } else if (value === false) continue;
    throw new SyntaxError(`Cannot load config.json: ${key} = ${JSON.stringify(value)} is not implemented`);
  }
  return checked({ ...out, ...readLabels(json) } as unknown as VitConfig);
}

function valueOf(json: ConfigJson, key: string): unknown {
  const value = json[key];
  if (SIZE_KEYS.has(key)) return wholeNumber(json, key);
  if (/_dropout_/.test(key)) return numberBelow(json, key, 1);
  if (key === "qkv_bias") {
    if (typeof value !== "boolean") throw wrong(json, key, "true or false");
    return value;
  }
  if (key !== "image_size") return numberBelow(json, key, Infinity);
  const sides = Array.isArray(value) ? value : [value, value];
  if (sides.length !== 2 || !sides.every((side) => Number.isInteger(side) && side > 0)) {
    throw wrong(json, key, "a whole number from 1, or a height and a width");
  }
  return value;
}

/**
 * The `config.json` that Hugging Face loads. The number of labels is that of `id2label`, as in its own files.
 *
 * @param isBackbone for weights without a head
 */
export function vitConfigJson(
  config: VitConfig,
  { isBackbone = false }: { readonly isBackbone?: boolean } = {},
): Record<string, unknown> {
  const { num_labels: _, id2label, ...rest } = config;
  return {
    architectures: [isBackbone ? "ViTModel" : "ViTForImageClassification"],
    ...rest,
    hidden_act: "gelu",
    ...(isBackbone ? {} : { id2label, label2id: label2id(config), problem_type: "single_label_classification" }),
    torch_dtype: "float32",
  };
}

/** Every weight of a configuration under Hugging Face's names, in its order; the head's are `classifier.*`. */
export function vitWeights(config: VitConfig): Map<string, WeightSpec> {
  const { hidden_size: D, intermediate_size: F, num_channels: C, patch_size: P, qkv_bias } = config;
  const [rows, columns] = patchGrid(config);
  const weights = new Map<string, WeightSpec>();
  const add = (name: string, shape: readonly number[], what: string) => weights.set(name, { shape, what });
  const dense = (name: string, [out, input]: readonly [number, number], what: string, bias = true) => {
    add(`${name}.weight`, [out, input], what);
    if (bias) add(`${name}.bias`, [out], what.split(", ")[0]);
  };
  const norm = (name: string) => {
    for (const part of ["weight", "bias"]) add(`${name}.${part}`, [D], "hidden_size");
  };
  const embeddings = "vit.embeddings";
  add(`${embeddings}.cls_token`, [1, 1, D], "1, 1, hidden_size");
  add(`${embeddings}.position_embeddings`, [1, 1 + rows * columns, D], "1, 1 + patches, hidden_size");
  const patches = `${embeddings}.patch_embeddings.projection`;
  add(`${patches}.weight`, [D, C, P, P], "hidden_size, num_channels, patch_size, patch_size");
  add(`${patches}.bias`, [D], "hidden_size");
  for (let i = 0; i < config.num_hidden_layers; i++) {
    const layer = `vit.encoder.layer.${i}`;
    const square = "hidden_size, hidden_size";
    for (const part of ["query", "key", "value"]) {
      dense(`${layer}.attention.attention.${part}`, [D, D], square, qkv_bias);
    }
    dense(`${layer}.attention.output.dense`, [D, D], square);
    dense(`${layer}.intermediate.dense`, [F, D], "intermediate_size, hidden_size");
    dense(`${layer}.output.dense`, [D, F], "hidden_size, intermediate_size");
    norm(`${layer}.layernorm_before`);
    norm(`${layer}.layernorm_after`);
  }
  norm("vit.layernorm");
  dense("classifier", [config.num_labels, D], "num_labels, hidden_size");
  return weights;
}

/** The matrices that GaLore projects and LoRA adapts: the linear maps of attention and feed-forward. */
export const VIT_PROJECTED: RegExp =
  /\.layer\.\d+\.(attention\.attention\.(query|key|value)|(attention\.output|intermediate|output)\.dense)\.weight$/;

/**
 * Floating-point operations to train on an image: six a multiplied weight, and attention's.
 *
 * @param numPrompts tokens beside the class token and the patches
 */
export function vitFlopsPerImage(config: VitConfig, numPrompts = 0): number {
  const { hidden_size: D, intermediate_size: F, num_hidden_layers: layers, patch_size: P, num_channels: C } = config;
  const [rows, columns] = patchGrid(config);
  const T = 1 + numPrompts + rows * columns;
  const layer = T * (4 * D * D + 2 * D * F + 2 * T * D);
  return 6 * (layers * layer + rows * columns * C * P * P * D + config.num_labels * D);
}
