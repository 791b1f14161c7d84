/**
 * Deep LoRA: three trained factors beside frozen weights, y = W x + W3 W2 W1 x, as a view of a model's weights.
 *
 * Yaras et al. 2024 (arXiv 2406.04112), "Compressible Dynamics in Deep Overparameterized Low-Rank Learning & Adaptation".
 * Each factor starts as a small multiple of an orthogonal matrix, so that gradient descent finds the few directions that
 * matter whatever the width is, and all factors have one learning rate. The compressed form keeps two outer factors from
 * the gradient at the start (`deep_subspaces.ts`), with small square factors between them; its outer factors move at a
 * fraction of the rate, which is the optimizer's business (`DEEP_LORA_OUTER` names them).
 *
 * Multiplied out it is a LoRA adapter with A = W1, B = W3 W2 and alpha = r, or A = W1 right, B = left W3 W2: the view is
 * LoRA's over these products, and `collapseDeepLora` gives what PEFT's files hold. The change is not 0 at first but of the
 * size of epsilon^3. The paper's released code freezes what it does not factorise, heads included; here `modulesToSave`
 * are trained whole, as with LoRA.
 */
import {
  type Backend,
  concat,
  foldIn,
  fromArray,
  keyOf,
  matmul,
  noGrad,
  own,
  Params,
  type ParamsView,
  scope,
  type Tensor,
} from "../core/mod.ts";
import {
  collapsedConfig,
  DEEP_LORA_TENSORS,
  type DeepLoraConfig,
  deepLoraNames,
  deepLoraWeights,
  type DeepLoraWeightSpec,
} from "./deep_lora_config.ts";
import { deepSubspaces, type Subspaces } from "./deep_subspaces.ts";
import { drawIsometry, formIsometry } from "./isometry.ts";
import { type Lora, withLora, type WithLoraOptions } from "./lora.ts";
import { loraNames } from "./lora_config.ts";
import { mergeLora } from "./lora_merge.ts";

export {
  collapsedConfig,
  DEEP_LORA_OUTER,
  DEEP_LORA_TENSORS,
  type DeepLoraConfig,
  deepLoraWeights,
  type DeepLoraWeightSpec,
} from "./deep_lora_config.ts";

/** An adapter: its tensors, and how they are meant. */
export interface DeepLora {
  readonly params: ParamsView;
  readonly config: DeepLoraConfig;
}

/** How a new adapter is drawn. */
export interface InitDeepLoraOptions {
  readonly seed: number;
  /**
   * For the compressed form: the gradient of the loss by each target's weight at the start, on the host, row-major, by
   * the weight's name.
   */
  readonly gradients?: ReadonlyMap<string, ArrayLike<number>>;
}

/**
 * A new adapter for a model: the only weights that are trained, each a function of the seed, its name and, compressed,
 * the gradients. Factors are f32, or f64 beside f64 weights.
 *
 * @throws as `deepLoraWeights`; RangeError for a compressed form without a target's gradient
 *
 * @example
 * ```ts
 * import assert from "node:assert/strict";
 * import { loopsBackend } from "../backends/cpu/loops/mod.ts";
 * import { backward, fromArray, mean, Params, scope } from "../core/mod.ts";
 * using backend = loopsBackend();
 * using base = new Params(backend);
 * base.set("layer.query.weight", fromArray(backend, [1, 2, 3, 4, 5, 6], [2, 3]));
 * base.freeze(base.names());
 * const config: DeepLoraConfig = { r: 2, targets: ["query"] };
 * using adapter = initDeepLora(base, config, { seed: 1 });
 * using _ = scope("step");
 * const view = withDeepLora(base, [{ params: adapter, config }]);
 * const trained: string[] = [];
 * backward(mean(view.linear("layer.query", fromArray(backend, [1, 2, 3], [1, 3]))), (name) => trained.push(name));
 * assert.deepEqual(trained.sort(), [1, 2, 3].map((i) => `layer.query.deep_lora_${i}.weight`));
 * ```
 */
export function initDeepLora(base: Params, config: DeepLoraConfig, options: InitDeepLoraOptions): Params {
  const adapter = new Params(base.backend);
  const outer = new Map<string, Subspaces>();
  try {
    for (const [name, spec] of deepLoraWeights(base.entries(), config)) {
      if (config.compress && spec.start !== "copy" && !outer.has(spec.weight)) {
        outer.clear(); // those of one module at a time
        outer.set(spec.weight, outerFactors(base.get(spec.weight), spec.weight, config, options));
      }
      using inner = scope("adapter");
      const tensor = noGrad(() => first(base, { name, spec, config, options, outer: outer.get(spec.weight) }));
      adapter.set(name, own(inner.keep(tensor)));
    }
    return adapter;
  } catch (error) {
    adapter.dispose();
    throw error;
  }
}

function outerFactors(
  weight: Tensor,
  name: string,
  { r }: DeepLoraConfig,
  { seed, gradients }: InitDeepLoraOptions,
): Subspaces {
  const gradient = gradients?.get(name);
  if (gradient?.length !== weight.size) {
    throw new RangeError(
      `Cannot make a compressed adapter: the gradient of "${name}" must have its ${weight.size} numbers: ` +
        `got ${gradient?.length ?? "none"}`,
    );
  }
  for (let i = 0; i < gradient.length; i++) {
    if (Number.isFinite(gradient[i])) continue;
    throw new RangeError(
      `Cannot make a compressed adapter: the gradient of "${name}" must be finite: got ${gradient[i]}`,
    );
  }
  const [rows, columns] = weight.shape;
  return deepSubspaces(gradient, drawIsometry(foldIn(keyOf(seed), name), rows, columns), r);
}

interface NewTensor {
  readonly name: string;
  readonly spec: DeepLoraWeightSpec;
  readonly config: DeepLoraConfig;
  readonly options: InitDeepLoraOptions;
  /** The outer factors of the module, compressed. */
  readonly outer: Subspaces | undefined;
}

/** The first values of an adapter's tensor. */
function first(base: Params, { name, spec, config, options, outer }: NewTensor): Tensor {
  const { shape: [rows, columns], start, weight } = spec;
  const { epsilon = 1e-3 } = config;
  const model = base.get(weight);
  if (start === "copy") return concat([model], 0);
  const values = new Float64Array(rows * columns);
  if (start === "orthogonal") {
    formIsometry(drawIsometry(foldIn(keyOf(options.seed), name), rows, columns))
      .forEach((value, i) => values[i] = epsilon * value);
  } else if (start === "corner") outer!.corner.forEach((value, i) => values[i] = epsilon * value);
  else if (start === "identity") {
    for (let i = 0; i < rows; i++) values[i * columns + i] = epsilon;
  } else if (name === deepLoraNames(weight.replace(/\.weight$/, "")).left) values.set(outer!.left);
  else outer!.right.forEach((value, i) => values[(i % rows) * columns + Math.floor(i / rows)] = value);
  const dtype = model.dtype === "f64" ? "f64" : "f32";
  return fromArray(base.backend, dtype === "f64" ? values : Float32Array.from(values), spec.shape, dtype);
}

/**
 * A view of `base` with the active `adapters` on it: their products are added up where they meet.
 *
 * @throws RangeError when two active adapters replace the same module
 */
export function withDeepLora(
  base: ParamsView,
  adapters: readonly DeepLora[],
  options: WithLoraOptions = {},
): ParamsView {
  return withLora(base, adapters.map(asLora), options);
}

function asLora({ params, config }: DeepLora): Lora {
  return { params: new CollapsedView(params), config: collapsedConfig(config) };
}

/** The factors of a Deep LoRA adapter as those of a LoRA one, multiplied when they are asked for, on the tape. */
class CollapsedView implements ParamsView {
  constructor(readonly params: ParamsView) {}

  get backend(): Backend {
    return this.params.backend;
  }

  has(name: string): boolean {
    const { module, part } = partOf(name);
    return part === undefined ? this.params.has(name) : this.params.has(deepLoraNames(module).first);
  }

  get(name: string): Tensor {
    const { module, part } = partOf(name);
    if (part === undefined) return this.params.get(name);
    const { first, second, third, left, right } = deepLoraNames(module);
    const product = (a: string, b: Tensor) => matmul(this.params.get(a), b);
    if (part === "A") {
      const W1 = this.params.get(first);
      return this.params.has(right) ? matmul(W1, this.params.get(right)) : W1;
    }
    using inner = scope("collapsed factors");
    const W3W2 = product(third, this.params.get(second));
    return inner.keep(this.params.has(left) ? product(left, W3W2) : W3W2);
  }

  at(): ParamsView {
    throw new TypeError("Cannot take a part of an adapter: its tensors are read by whole names");
  }

  linear(name: string): Tensor {
    throw new TypeError(`Cannot apply "${name}": an adapter is no model; ask the view of the adapted model`);
  }
}

/** Which factor of which module a LoRA tensor's name stands for. */
function partOf(name: string): { module: string; part?: "A" | "B" } {
  const [, module, part] = /^(.*)\.lora_([AB])\.weight$/.exec(name) ?? [];
  return part === undefined ? { module: name } : { module, part: part as "A" | "B" };
}

/**
 * The LoRA adapter that a Deep LoRA one is, with tensors of its own: what `savePeft` writes with `collapsedConfig`, and
 * PEFT loads.
 */
export function collapseDeepLora(adapter: Params): Params {
  const view = new CollapsedView(adapter);
  const collapsed = new Params(adapter.backend);
  for (const name of adapter.names()) {
    const module = name.replace(DEEP_LORA_TENSORS, "");
    const { A, B } = loraNames(module);
    if (name !== module && name !== deepLoraNames(module).first) continue;
    for (const made of name === module ? [name] : [A, B]) {
      using inner = scope("collapse");
      const tensor = noGrad(() => view.get(made));
      collapsed.set(made, own(inner.keep(tensor.owner === inner ? tensor : noGrad(() => concat([tensor], 0)))));
    }
  }
  return collapsed;
}

/** Plain weights of their own with the adapter folded in. The base stays as it was. */
export function mergeDeepLora(base: Params, adapter: Params, config: DeepLoraConfig): Params {
  using collapsed = collapseDeepLora(adapter);
  return mergeLora(base, collapsed, collapsedConfig(config));
}
