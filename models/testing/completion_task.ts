/**
 * A matrix of low rank of which a part is seen: what adapters of any rank are asked to complete. The adapter stands
 * beside a frozen weight of zeros, so that the change is the whole map.
 */
import { type Backend, backward, fromArray, mean, mul, noGrad, Params, scope, square, sub } from "../../core/mod.ts";
import { foldIn, type Key, keyOf, normal, type ParamsView, svd, type Tensor, uniform, zeros } from "../../core/mod.ts";
import { adamWPreset, Optimizer } from "../../optimizers/mod.ts";
import { product, transpose } from "./host_matrices.ts";

/** What is completed. */
export interface CompletionTask {
  readonly size: number;
  /** [size, size], of spectral norm near 1. */
  readonly target: Float64Array;
  /** 1 where an entry is seen. */
  readonly mask: Float32Array;
}

/** A task of a seed: factors of normal numbers, and each entry seen with probability `observed`. */
export function completionTask(seed: number, { size = 64, rank = 2, observed = 0.3 } = {}): CompletionTask {
  const draw = (name: string): Key => foldIn(keyOf(seed), name);
  const [u, v] = ["u", "v"].map((name) => normal(draw(name), size * rank, 0, 1 / Math.sqrt(size)));
  const mask = uniform(draw("mask"), size * size).map((value) => value < observed ? 1 : 0);
  return { size, target: product(u, transpose(v, size, rank), [size, rank, size]), mask };
}

/** The frozen weights that an adapter completes: `map.weight`, zeros. */
export function emptyMap(backend: Backend, { size }: CompletionTask): Params {
  const base = new Params(backend);
  base.set("map.weight", zeros(backend, [size, size]));
  base.freeze(base.names());
  return base;
}

/** How an adapter did. */
export interface Completed {
  /** |change - target| / |target| over the entries that were not seen. */
  readonly error: number;
  /** Singular values above a thousandth of the largest. */
  readonly numericalRank: number;
}

/** Trains with Adam at 3e-3 on the mean squared error of what is seen. */
export function completeWith(
  task: CompletionTask,
  adapter: Params,
  view: ParamsView,
  { steps, rate = 3e-3 }: { readonly steps: number; readonly rate?: number },
): Completed {
  const { size, target, mask } = task;
  const { backend } = adapter;
  using optimizer = new Optimizer(adapter, adamWPreset({ learningRate: rate, weightDecay: 0 }));
  using constants = new Params(backend);
  const eye = Float32Array.from({ length: size * size }, (_, i) => i % (size + 1) === 0 ? 1 : 0);
  const seen = target.map((value, i) => value * mask[i]);
  for (const [name, values] of Object.entries({ eye, mask, seen })) {
    constants.set(name, fromArray(backend, Float32Array.from(values), [size, size]));
  }
  constants.freeze(constants.names());
  // the rows of the map's result for an identity are the columns of its weight
  const change = (): Tensor => view.linear("map", constants.get("eye"));
  for (let step = 0; step < steps; step++) {
    using _ = scope("step");
    const error = sub(mul(constants.get("mask"), change()), constants.get("seen"));
    backward(mean(square(error)), optimizer.stage);
    optimizer.commit();
  }
  using _ = scope("result");
  const found = Float64Array.from(noGrad(change).readSync());
  let [wrong, all] = [0, 0];
  target.forEach((value, i) => {
    if (mask[i] === 1) return;
    wrong += (found[i] - value) ** 2;
    all += value ** 2;
  });
  const { values } = svd(found, size, size);
  return { error: Math.sqrt(wrong / all), numericalRank: values.filter((value) => value > 1e-3 * values[0]).length };
}
