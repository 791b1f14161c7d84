/**
 * What a Deep LoRA adapter is: its settings, and its tensors by name, for any model's weights.
 *
 * Yaras et al. 2024 (arXiv 2406.04112): W + W3 W2 W1, each factor a small multiple of an orthogonal matrix, and no scale
 * alpha / r. Modules are matched as LoRA's are. Tensors of a module are `MODULE.deep_lora_1.weight` [R, in],
 * `.deep_lora_2.weight` [R, R] and `.deep_lora_3.weight` [out, R]: applied in that order, each as a linear map's weight.
 * The compressed form, left (W3 W2 W1) right with three square factors of 2 R, has two more, `.deep_lora_right.weight`
 * [2 R, in] and `.deep_lora_left.weight` [out, 2 R].
 *
 * The paper's code trains three factors; more depths are not offered. Embedding tables, which that code adapts as well,
 * are not offered either: their gradient has a row for every word and no map to read it through.
 */
import type { Shape } from "../core/mod.ts";
import { type LoraConfig, loraNames, loraWeights, type NamedShapes } from "./lora_config.ts";
import { quote } from "./safetensors_json.ts";

/** Settings of an adapter. */
export interface DeepLoraConfig {
  /**
   * Columns of the factors; in the compressed form the directions of the gradient that are kept of each side, which take
   * factors of 2 r. Too large a rank does little harm: that is the method's point.
   */
  readonly r: number;
  /** Each factor begins as so many times an orthogonal matrix. Default 1e-3, the paper's. */
  readonly epsilon?: number;
  /** Trains small factors between the subspaces that the gradient names at the start. Default false. */
  readonly compress?: boolean;
  /** As of `LoraConfig`. */
  readonly dropout?: number;
  /** As of `LoraConfig`, for linear maps only. */
  readonly targets: LoraConfig["targets"];
  /** As of `LoraConfig`. */
  readonly modulesToSave?: readonly string[];
}

/** Names of all adapter tensors but whole copies of modules. */
export const DEEP_LORA_TENSORS: RegExp = /\.deep_lora_([1-3]|left|right)\.weight$/;

/** Names of the outer factors of the compressed form, which move at a rate of their own. */
export const DEEP_LORA_OUTER: RegExp = /\.deep_lora_(left|right)\.weight$/;

/** Names of an adapter's tensors for `module`. */
export function deepLoraNames(module: string): Record<"first" | "second" | "third" | "left" | "right", string> {
  const name = (part: string | number) => `${module}.deep_lora_${part}.weight`;
  return { first: name(1), second: name(2), third: name(3), left: name("left"), right: name("right") };
}

/** A tensor of an adapter. */
export interface DeepLoraWeightSpec {
  readonly shape: Shape;
  readonly what: string;
  /**
   * Times epsilon: an orthogonal matrix, the identity, or what joins both subspaces (`Subspaces.corner`); a subspace that
   * the gradient names; the model's own.
   */
  readonly start: "orthogonal" | "identity" | "corner" | "subspace" | "copy";
  /** The name of the model's weight that it changes or replaces. */
  readonly weight: string;
}

/** The LoRA adapter that a Deep LoRA one is once its factors are multiplied: alpha = r, since nothing is scaled. */
export function collapsedConfig({ r, compress = false, dropout, targets, modulesToSave }: DeepLoraConfig): LoraConfig {
  const width = compress ? 2 * r : r;
  return { r: width, alpha: width, dropout, targets, modulesToSave };
}

/**
 * Every tensor of an adapter for a model with these weights: the factors of each target, then the copies of whole modules.
 *
 * @throws RangeError for a setting out of its range, an entry of `targets` or `modulesToSave` that matches no module, or a
 * compressed form that is wider than a target
 * @throws TypeError for a target that is no linear map
 */
export function deepLoraWeights(weights: NamedShapes, config: DeepLoraConfig): Map<string, DeepLoraWeightSpec> {
  const { epsilon = 1e-3 } = config;
  if (!(epsilon > 0 && Number.isFinite(epsilon))) {
    throw new RangeError(`Cannot make an adapter: epsilon must be a number above 0: got ${epsilon}`);
  }
  const listed = [...weights];
  const shapes = new Map(listed.map(([name, { shape }]) => [name, shape]));
  const adapter = new Map<string, DeepLoraWeightSpec>();
  for (const [name, { shape, start, what, weight }] of loraWeights(listed, collapsedConfig(config))) {
    const module = weight.replace(/\.weight$/, "");
    if (start === "copy") adapter.set(name, { shape, what, start, weight });
    else if (name === loraNames(module).embeddingA) {
      throw new TypeError(
        `Cannot adapt ${quote(module)}: Deep LoRA is offered for linear maps only: got an embedding table`,
      );
    } else if (name === loraNames(module).A) addTarget(adapter, module, shapes.get(weight)!, config);
  }
  return adapter;
}

function addTarget(
  adapter: Map<string, DeepLoraWeightSpec>,
  module: string,
  shape: Shape,
  { r, compress = false }: DeepLoraConfig,
): void {
  const [rows, columns] = shape;
  const names = deepLoraNames(module);
  const weight = `${module}.weight`;
  if (!compress) {
    const start = "orthogonal";
    adapter.set(names.first, { shape: [r, columns], what: "r, input", start, weight });
    adapter.set(names.second, { shape: [r, r], what: "r, r", start, weight });
    adapter.set(names.third, { shape: [rows, r], what: "output, r", start, weight });
    return;
  }
  const width = 2 * r;
  if (width > Math.min(rows, columns)) {
    throw new RangeError(
      `Cannot adapt ${quote(module)}: the compressed form needs 2 r of at most its smaller side: ` +
        `got r ${r} and shape [${shape}]`,
    );
  }
  adapter.set(names.right, { shape: [width, columns], what: "2 r, input", start: "subspace", weight });
  const corner = rows < columns ? names.third : names.first;
  for (const name of [names.first, names.second, names.third]) {
    const start = name === corner ? "corner" : "identity";
    adapter.set(name, { shape: [width, width], what: "2 r, 2 r", start, weight });
  }
  adapter.set(names.left, { shape: [rows, width], what: "output, 2 r", start: "subspace", weight });
}
