/**
 * ReLoRA: a sum of low-rank changes. Every so often the adapter is folded into the base, W = W + s B A, and begins again,
 * so that the whole change may have any rank (Lialin et al. 2023, arXiv 2307.05695, algorithm 1).
 *
 * A is drawn anew and B is 0, as a first LoRA: nothing changes at a restart but by rounding. The released code begins with
 * both at 0 behind a warm start, where no gradient reaches either until the first restart; not here. Moments of the factors
 * that were, and the learning rate after a restart, are the optimizer's matter (`pruneMoments`, `jaggedCosine`).
 *
 * Base weights are made anew and replaced, one at a time; the factors are written from the host, as when they are loaded.
 */
import {
  foldIn,
  type HostArray,
  isHalf,
  type Key,
  keyOf,
  normal,
  type Params,
  sizeOf,
  type Tensor,
  uniform,
} from "../core/mod.ts";
import { type LoraConfig, type LoraStart, loraWeights } from "./lora_config.ts";
import { loraMergedWeights } from "./lora_merge.ts";
import { fromFloat32 } from "./safetensors_convert.ts";

/** Which restart it is. */
export interface RestartOptions {
  readonly seed: number;
  /** The optimizer step behind which it is: A is a function of seed, step and name. */
  readonly step: number;
}

/**
 * Folds an adapter into its base and begins it again. Modules that it trains whole stay as they are. Call outside every
 * scope. At its peak it holds one more weight, with the product in it and that product scaled.
 *
 * @param base its adapted weights are replaced, and stay frozen if they were
 * @throws RangeError for an adapter with DoRA, whose directions are no sum
 */
export function restartLora(base: Params, adapter: Params, config: LoraConfig, { seed, step }: RestartOptions): void {
  if (config.dora) throw new RangeError("Cannot restart an adapter with DoRA: only a sum of products can be folded in");
  const factors = [...loraWeights(base.entries(), config)].filter(([, { start }]) => start !== "copy");
  const adapted = new Set(factors.map(([, { weight }]) => weight));
  for (const { name, make } of loraMergedWeights(base, adapter, config)) {
    if (adapted.has(name)) base.replace(name, make());
  }
  const key = foldIn(keyOf(seed), "restart", step);
  for (const [name, { start }] of factors) {
    const factor = adapter.get(name);
    factor.write(firstValues(factor, start, foldIn(key, name)));
  }
}

/** Names of the base weights that restarts change. */
export function reloraWeights(base: Params, config: LoraConfig): string[] {
  const specs = [...loraWeights(base.entries(), config).values()];
  return [...new Set(specs.filter(({ start }) => start !== "copy").map(({ weight }) => weight))];
}

/** A factor's first values, in its dtype: those that `initLora` gives under another key. */
function firstValues({ shape, dtype }: Tensor, start: LoraStart, key: Key): HostArray {
  const size = sizeOf(shape);
  const bound = 1 / Math.sqrt(shape[1]);
  const values = start === "uniform"
    ? uniform(key, size).map((value) => bound * (2 * value - 1))
    : start === "normal"
    ? normal(key, size)
    : new Float32Array(size);
  if (dtype === "f64") return Float64Array.from(values);
  return isHalf(dtype) ? new Uint16Array(fromFloat32(values, dtype === "bf16" ? "BF16" : "F16").buffer) : values;
}
