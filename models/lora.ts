/**
 * LoRA: small trained factors beside frozen weights, y = W x + s B A drop(x), as a view of a model's weights.
 *
 * Hu et al. 2021 (arXiv 2106.09685). An adapter is `Params` of its own that hold only what is trained: the optimizer
 * gets those, the model gets the view, and the base is frozen (`base.freeze(base.names())`), so that it costs neither
 * gradients nor states. Views cost nothing: another list of adapters is another view, which is how adapters are
 * switched.
 *
 * DoRA (Liu et al. 2024, arXiv 2402.09353, section 4.3): y = m / |W + s B A| (W x + s B A x), norms over the inputs of
 * each output, and no gradient through them. As in PEFT, bias stays outside, and the dropped x is seen by what the
 * adapter changes alone: W x + (m / |..| - 1) W drop(x) + m / |..| s B A drop(x).
 *
 * A starts as PEFT's kaiming_uniform(sqrt 5), U(-1, 1) / sqrt(in), and B as 0: nothing changes at first. Factors are
 * f32 unless asked otherwise; beside 16-bit weights their input and result are cast.
 */
import {
  add,
  type Backend,
  cast,
  concat,
  div,
  dropout,
  foldIn,
  fromArray,
  isHalf,
  type Key,
  keyOf,
  linear,
  matmul,
  maximum,
  mul,
  noGrad,
  normal,
  own,
  Params,
  type ParamsView,
  scope,
  sizeOf,
  sqrt,
  square,
  sub,
  sum,
  type Tensor,
  transpose,
  uniform,
} from "../core/mod.ts";
import { fromFloat32 } from "./safetensors_convert.ts";
import { type LoraConfig, loraNames, loraScale, loraWeights, type LoraWeightSpec } from "./lora_config.ts";

export { LORA_TENSORS, type LoraConfig, loraScale, type LoraStart, loraWeights } from "./lora_config.ts";
export type { LoraWeightSpec, NamedShapes } from "./lora_config.ts";

/** An adapter: its tensors, and how they are meant. */
export interface Lora {
  readonly params: ParamsView;
  readonly config: LoraConfig;
}

/** How a new adapter is drawn. */
export interface InitLoraOptions {
  readonly seed: number;
  /** Of the factors; copies of whole modules keep the model's. Default f32. */
  readonly dtype?: "f32" | "bf16" | "f16";
}

/**
 * A new adapter for a model: the only weights that are trained, each a function of the seed and its name.
 *
 * @throws as `loraWeights`
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
 * const config: LoraConfig = { r: 1, alpha: 2, targets: ["query"] };
 * using adapter = initLora(base, config, { seed: 1 });
 * using _ = scope("step");
 * const view = withLora(base, [{ params: adapter, config }]);
 * const trained: string[] = [];
 * backward(mean(view.linear("layer.query", fromArray(backend, [1, 2, 3], [1, 3]))), (name) => trained.push(name));
 * assert.deepEqual(trained, ["layer.query.lora_B.weight", "layer.query.lora_A.weight"]);
 * ```
 */
export function initLora(base: Params, config: LoraConfig, { seed, dtype = "f32" }: InitLoraOptions): Params {
  const adapter = new Params(base.backend);
  try {
    for (const [name, spec] of loraWeights(base.entries(), config)) {
      using inner = scope("adapter");
      adapter.set(name, own(inner.keep(noGrad(() => first(base, spec, foldIn(keyOf(seed), name), dtype)))));
    }
    return adapter;
  } catch (error) {
    adapter.dispose();
    throw error;
  }
}

/** The first values of an adapter's tensor. */
function first(
  base: Params,
  { shape, start, weight }: LoraWeightSpec,
  key: Key,
  dtype: "f32" | "bf16" | "f16",
): Tensor {
  const { backend } = base;
  if (start === "copy") return concat([base.get(weight)], 0);
  const factors = base.get(weight).dtype === "f64" ? "f64" : dtype;
  if (start === "norms") return cast(rowNorms(wide(base.get(weight))), factors);
  const size = sizeOf(shape);
  const bound = 1 / Math.sqrt(shape[1]);
  const values = start === "uniform"
    ? uniform(key, size).map((value) => bound * (2 * value - 1))
    : start === "normal"
    ? normal(key, size)
    : new Float32Array(size);
  return factors === "f64" || factors === "f32" ? fromArray(backend, values, shape, factors) : fromArray(
    backend,
    new Uint16Array(fromFloat32(values, factors === "bf16" ? "BF16" : "F16").buffer),
    shape,
    factors,
  );
}

/** In f32 where it is stored in 16 bits. */
export function wide(x: Tensor): Tensor {
  return isHalf(x.dtype) ? cast(x, "f32") : x;
}

/** The norm of each row, [rows]. */
export function rowNorms(matrix: Tensor): Tensor {
  return sqrt(sum(square(matrix), 1));
}

/** What a view of an adapted model needs to know besides. */
export interface WithLoraOptions {
  /** The key of this step's dropout. Without it nothing is dropped: evaluation. */
  readonly dropoutKey?: Key;
}

/**
 * A view of `base` with the active `adapters` on it: their products are added up where they meet.
 *
 * @throws RangeError when two active adapters replace the same module, or a DoRA one is not alone
 */
export function withLora(base: ParamsView, adapters: readonly Lora[], options: WithLoraOptions = {}): ParamsView {
  if (adapters.length > 1 && adapters.some(({ config }) => config.dora)) {
    throw new RangeError(`Cannot combine adapters: one with DoRA must be alone: got ${adapters.length} active`);
  }
  return new LoraView({ base, adapters, options }, "");
}

interface Adapted {
  readonly base: ParamsView;
  readonly adapters: readonly Lora[];
  readonly options: WithLoraOptions;
}

class LoraView implements ParamsView {
  constructor(readonly model: Adapted, readonly prefix: string) {}

  get backend(): Backend {
    return this.model.base.backend;
  }

  get(name: string): Tensor {
    const full = this.prefix + name;
    const weight = this.#saved(full) ?? this.model.base.get(full);
    const { A, embeddingA, embeddingB } = loraNames(full.replace(/\.weight$/, ""));
    if (full.endsWith(".weight") && this.model.adapters.some(({ params }) => params.has(A))) {
      throw new TypeError(
        `Cannot read "${full}": a map with an adapter has no weight of its own; apply it by linear()`,
      );
    }
    let table = weight;
    for (const { params, config } of full.endsWith(".weight") ? this.model.adapters : []) {
      if (!params.has(embeddingA)) continue;
      using inner = scope("adapted table");
      const product = matmul(params.get(embeddingB), mul(params.get(embeddingA), loraScale(config))); // [D, V]
      table = inner.keep(add(table, cast(transpose(product), table.dtype)));
    }
    return table;
  }

  has(name: string): boolean {
    const full = this.prefix + name;
    return this.model.base.has(full);
  }

  at(prefix: string | number): ParamsView {
    return new LoraView(this.model, `${this.prefix}${prefix}.`);
  }

  linear(name: string, x: Tensor): Tensor {
    const full = this.prefix + name;
    const { base, adapters, options } = this.model;
    const { A } = loraNames(full);
    const active = adapters.filter(({ params }) => params.has(A));
    using inner = scope("adapted linear");
    if (active.length === 1 && active[0].config.dora) return inner.keep(doraLinear(this.model, full, x, active[0]));
    let out = this.#saved(`${full}.weight`)
      ? linear(x, this.get(`${name}.weight`), this.has(`${name}.bias`) ? this.get(`${name}.bias`) : undefined)
      : base.linear(full, x);
    for (const [index, adapter] of active.entries()) {
      const key = options.dropoutKey && foldIn(options.dropoutKey, full, index);
      const change = loraProduct(full, dropped(x, adapter, key), adapter);
      out = add(out, cast(change, out.dtype));
    }
    return inner.keep(out);
  }

  /** An adapter's own copy of a weight, if one has it. */
  #saved(full: string): Tensor | undefined {
    const holders = this.model.adapters.filter(({ params }) => params.has(full));
    if (holders.length > 1) {
      throw new RangeError(`Cannot combine adapters: ${holders.length} of them replace "${full}"; activate one`);
    }
    return holders[0]?.params.get(full);
  }
}

/** The input as an adapter sees it: with a key, in training, without what is dropped. */
function dropped(x: Tensor, { config: { dropout: rate = 0 } }: Lora, key: Key | undefined): Tensor {
  return key ? dropout(x, rate, key) : x;
}

/** s B A x in the factors' dtype. */
function loraProduct(module: string, x: Tensor, { params, config }: Lora): Tensor {
  const { A, B } = loraNames(module);
  const a = params.get(A);
  const inner = linear(cast(x, a.dtype), a); // [.., R]
  return linear(mul(inner, loraScale(config)), params.get(B));
}

function doraLinear({ base, options }: Adapted, module: string, x: Tensor, adapter: Lora): Tensor {
  const weight = base.get(`${module}.weight`);
  const seen = dropped(x, adapter, options.dropoutKey && foldIn(options.dropoutKey, module, 0));
  const share = doraShare(weight, module, adapter);
  const change = loraProduct(module, seen, adapter);
  const plain = linear(seen, weight);
  let out = mul(add(cast(plain, change.dtype), change), cast(share, change.dtype));
  if (seen !== x) {
    // the plain product of the whole input stays, and only its change by the norms sees what was dropped
    out = add(out, cast(sub(linear(x, weight), plain), out.dtype));
  }
  const result = cast(out, x.dtype);
  const bias = `${module}.bias`;
  return base.has(bias) ? add(result, base.get(bias)) : result;
}

/** m / |W + s B A| of each output. The norms are constants to the gradient. */
function doraShare(weight: Tensor, module: string, adapter: Lora): Tensor {
  const norms = noGrad(() => rowNorms(adaptedWeight(weight, module, adapter)));
  // a row of zeros keeps its 0, where 0 / 0 would be no number
  return div(wide(adapter.params.get(loraNames(module).magnitude)), noGrad(() => maximum(norms, 1e-30)));
}

/** W + s B A, in f32 where W has 16 bits. DoRA's norms are not applied. */
export function adaptedWeight(weight: Tensor, module: string, { params, config }: Lora): Tensor {
  const { A, B } = loraNames(module);
  const matrix = wide(weight);
  return add(matrix, cast(mul(matmul(wide(params.get(B)), wide(params.get(A))), loraScale(config)), matrix.dtype));
}
