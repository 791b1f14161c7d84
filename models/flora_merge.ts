/**
 * A FLoRA adapter folded into its model's weights: W + W o B A, or W o B A.
 *
 * Weights are made, never changed in place: that is the optimizer's privilege. `floraMergedWeights` makes one at a time, for
 * files; `mergeFlora` all of them. There is no way back: a weight that M makes 0 is gone. Products are f32, rounded once where
 * weights have 16 bits.
 */
import { cast, concat, noGrad, own, Params, scope } from "../core/mod.ts";
import { FLORA_TENSORS, type FloraConfig } from "./flora_config.ts";
import { floraFactors, floraWeight } from "./flora_product.ts";
import type { MergedWeight } from "./low_rank.ts";

/**
 * The model's weights with an adapter folded in, each made when it is asked for: one in memory at a time.
 *
 * @throws RangeError for an adapter that has tensors of modules that the model lacks
 */
export function floraMergedWeights(base: Params, adapter: Params, config: FloraConfig): MergedWeight[] {
  checkFits(base, adapter);
  return [...base.entries()].map(([name, weight]) => ({
    name,
    shape: weight.shape,
    dtype: weight.dtype,
    make: () => {
      if (adapter.has(name)) return adapter.get(name).retained();
      using inner = scope("merge");
      const module = name.replace(/\.weight$/, "");
      const factors = noGrad(() => floraFactors({ params: adapter, config }, module));
      if (module === name || !factors) return weight.retained();
      return own(inner.keep(noGrad(() => cast(floraWeight(weight, factors), weight.dtype))));
    },
  }));
}

/** Plain weights of their own with the adapter folded in. The base stays as it was. */
export function mergeFlora(base: Params, adapter: Params, config: FloraConfig): Params {
  const merged = new Params(base.backend);
  for (const { name, make } of floraMergedWeights(base, adapter, config)) {
    using _ = scope("merge");
    using weight = make();
    merged.set(name, weight.isShared ? noGrad(() => concat([weight], 0)) : weight.retained());
  }
  return merged;
}

function checkFits(base: Params, adapter: Params): void {
  const weightOf = (name: string) => FLORA_TENSORS.test(name) ? `${name.replace(FLORA_TENSORS, "")}.weight` : name;
  const lost = adapter.names().filter((name) => !base.has(weightOf(name)));
  if (lost.length === 0) return;
  const more = lost.length > 4 ? ", ..." : "";
  throw new RangeError(
    `Cannot merge the adapter: the model must have its modules: got ${lost.slice(0, 4).join(", ")}${more}`,
  );
}
