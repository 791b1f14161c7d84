/**
 * How FLoRA's factors begin: as no change.
 *
 * The paper (Wen & Chaudhuri 2024) does not say. The residual form begins as PEFT's HiRA: A uniform, B = 0. The product form
 * begins as W itself: A_j = 1 and B_j = (1 + e_j) / r with e_j that add up to 0. Without them (`spread` 0) all r parts are
 * equal, get equal gradients and stay equal: M keeps rank 1 for ever.
 */
import {
  concat,
  fill,
  foldIn,
  fromArray,
  type Key,
  keyOf,
  noGrad,
  normal,
  own,
  Params,
  scope,
  type Shape,
  sizeOf,
  type Tensor,
  uniform,
} from "../core/mod.ts";
import { type FloraConfig, floraShare, floraWeights, type FloraWeightSpec } from "./flora_config.ts";

/** How a new adapter is drawn. */
export interface InitFloraOptions {
  readonly seed: number;
  /** Product form: the size of what sets the r parts apart, whose sum is 0. Default 0.1; 0 keeps M at rank 1. */
  readonly spread?: number;
}

/**
 * A new adapter for a model: the only weights that are trained, f32, each a function of the seed and its name. It changes
 * nothing yet.
 *
 * @throws as `floraWeights`
 */
export function initFlora(base: Params, config: FloraConfig, { seed, spread = 0.1 }: InitFloraOptions): Params {
  const adapter = new Params(base.backend);
  try {
    for (const [name, spec] of floraWeights(base.entries(), config)) {
      using inner = scope("adapter");
      const key = foldIn(keyOf(seed), name);
      adapter.set(name, own(inner.keep(noGrad(() => first(base, spec, { key, spread, share: floraShare(config) })))));
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
  { shape, start, weight }: FloraWeightSpec,
  { key, spread, share }: { readonly key: Key; readonly spread: number; readonly share: number },
): Tensor {
  const { backend } = base;
  if (start === "copy") return concat([base.get(weight)], 0);
  const dtype = base.get(weight).dtype === "f64" ? "f64" : "f32";
  if (start === "ones" || start === "zero") return fill(backend, start === "ones" ? 1 : 0, shape, dtype);
  const bound = 1 / Math.sqrt(shape[1]);
  const values = start === "uniform"
    ? uniform(key, sizeOf(shape)).map((value) => bound * (2 * value - 1))
    : parts(normal(key, sizeOf(shape)), shape, { spread, share });
  return fromArray(backend, values, shape, dtype);
}

/** B [out, R] whose rows, with the share that each part has, add up to 1: r equal parts, and `drawn` less its mean. */
function parts(
  drawn: Float32Array,
  [rows, R]: Shape,
  { spread, share }: { readonly spread: number; readonly share: number },
): Float64Array {
  const values = new Float64Array(rows * R);
  for (let row = 0; row < rows; row++) {
    const given = drawn.subarray(row * R, (row + 1) * R);
    const mean = given.reduce((sum, value) => sum + value, 0) / R;
    for (let j = 0; j < R; j++) values[row * R + j] = (1 + spread * (given[j] - mean)) / (R * share);
  }
  return values;
}
