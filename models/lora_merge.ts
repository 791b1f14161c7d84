/**
 * An adapter folded into its model's weights, and taken out again: W' = W + s B A, with DoRA's norms where it has them.
 *
 * Weights are made, never changed in place: that is the optimizer's privilege. `loraMergedWeights` makes one at a time,
 * for files; `mergeLora` all of them, as a plain model that knows nothing of adapters. Sums are f32, rounded once where
 * weights have 16 bits. What merging destroys (norms, the replaced modules) can be kept aside by `loraRemains`.
 */
import {
  cast,
  concat,
  div,
  maximum,
  mul,
  noGrad,
  own,
  Params,
  type ParamsView,
  reshape,
  scope,
  type Tensor,
} from "../core/mod.ts";
import { adaptedWeight, type Lora, rowNorms, wide, withLora } from "./lora.ts";
import { LORA_TENSORS, type LoraConfig, loraNames } from "./lora_config.ts";
import type { MergedWeight } from "./low_rank.ts";

/** What DoRA's merging divided by, per output of a module: among what `loraRemains` gives. */
const NORMS = ".lora_weight_norm";

/**
 * The model's weights with an adapter folded in, each made when it is asked for: one in memory at a time.
 *
 * @throws RangeError for an adapter that has tensors of modules that the model lacks
 */
export function loraMergedWeights(base: Params, adapter: Params, config: LoraConfig): MergedWeight[] {
  checkFits(base, adapter);
  const lora = { params: adapter, config };
  return [...base.entries()].map(([name, { shape, dtype }]) => ({
    name,
    shape,
    dtype,
    make: () => {
      using inner = scope("merge");
      const merged = noGrad(() => mergedWeight(base, name, lora));
      // a weight of somebody else's, or one of this scope's own
      return merged.owner === inner ? own(merged) : merged.retained();
    },
  }));
}

/** Plain weights of their own with the adapter folded in. The base stays as it was. */
export function mergeLora(base: Params, adapter: Params, config: LoraConfig): Params {
  const merged = new Params(base.backend);
  for (const { name, make } of loraMergedWeights(base, adapter, config)) {
    using _ = scope("merge");
    using weight = make();
    merged.set(name, weight.isShared ? noGrad(() => concat([weight], 0)) : weight.retained());
  }
  return merged;
}

/**
 * What merging destroys: the norms of DoRA's rows, and the modules that the adapter replaces. Empty for an adapter of
 * factors alone. `unmergeLora` wants it back.
 */
export function loraRemains(base: Params, adapter: Params, config: LoraConfig): Params {
  checkFits(base, adapter);
  const remains = new Params(base.backend);
  for (const name of adapter.names()) {
    using inner = scope("remains");
    if (!LORA_TENSORS.test(name)) {
      remains.set(name, own(inner.keep(noGrad(() => concat([base.get(name)], 0)))));
    } else if (name.endsWith(".lora_magnitude_vector")) {
      const module = moduleOf(name);
      const lora = { params: adapter, config };
      const norms = noGrad(() => rowNorms(adaptedWeight(base.get(`${module}.weight`), module, lora)));
      remains.set(module + NORMS, own(inner.keep(norms)));
    }
  }
  remains.freeze(remains.names());
  return remains;
}

/**
 * Plain weights of their own without the adapter that was folded in: the base, to rounding.
 *
 * @param remains of `loraRemains`, for an adapter with DoRA or whole modules
 * @throws RangeError when they are needed and missing
 */
export function unmergeLora(merged: Params, adapter: Params, config: LoraConfig, remains?: ParamsView): Params {
  checkFits(merged, adapter);
  const base = new Params(merged.backend);
  try {
    for (const name of merged.names()) {
      using inner = scope("unmerge");
      const weight = noGrad(() => unmergedWeight(merged, name, { params: adapter, config }, remains));
      base.set(name, weight.owner === inner ? own(weight) : noGrad(() => concat([weight], 0)));
    }
    return base;
  } catch (error) {
    base.dispose();
    throw error;
  }
}

function mergedWeight(base: Params, name: string, lora: Lora): Tensor {
  const module = name.replace(/\.weight$/, "");
  const names = loraNames(module);
  const weight = base.get(name);
  // a copied module or an adapted table is what the view reads
  if (module === name || !lora.params.has(names.A)) return withLora(base, [lora]).get(name);
  const sum = adaptedWeight(weight, module, lora);
  if (!lora.config.dora) return cast(sum, weight.dtype);
  const share = div(wide(lora.params.get(names.magnitude)), maximum(rowNorms(sum), 1e-30));
  return cast(mul(sum, cast(reshape(share, [-1, 1]), sum.dtype)), weight.dtype);
}

function unmergedWeight(merged: Params, name: string, lora: Lora, remains: ParamsView | undefined): Tensor {
  const weight = merged.get(name);
  const need = (key: string): Tensor => {
    if (remains?.has(key)) return remains.get(key);
    throw new RangeError(`Cannot unmerge "${name}": what merging destroyed is needed: got no "${key}"; loraRemains()`);
  };
  if (lora.params.has(name)) return need(name);
  const module = name.replace(/\.weight$/, "");
  const names = loraNames(module);
  const minus = { ...lora, config: { ...lora.config, alpha: -lora.config.alpha } };
  if (module === name) return weight;
  if (lora.params.has(names.embeddingA)) return withLora(merged, [minus]).get(name);
  if (!lora.params.has(names.A)) return weight;
  if (!lora.config.dora) return cast(adaptedWeight(weight, module, minus), weight.dtype);
  const share = div(need(module + NORMS), wide(lora.params.get(names.magnitude)));
  const sum = mul(wide(weight), cast(reshape(share, [-1, 1]), wide(weight).dtype));
  return cast(adaptedWeight(sum, module, minus), weight.dtype);
}

function moduleOf(tensor: string): string {
  return tensor.replace(LORA_TENSORS, "");
}

function checkFits(base: Params, adapter: Params): void {
  const lost = adapter.names().filter((name) => !base.has(LORA_TENSORS.test(name) ? `${moduleOf(name)}.weight` : name));
  if (lost.length === 0) return;
  const more = lost.length > 4 ? ", ..." : "";
  throw new RangeError(
    `Cannot merge the adapter: the model must have its modules: got ${lost.slice(0, 4).join(", ")}${more}`,
  );
}
