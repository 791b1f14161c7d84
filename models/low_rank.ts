/**
 * A factorisation trained from scratch: W = B A with B [rows, R] and A [R, columns] as the only weights of a linear map.
 *
 * Kamalakara et al. 2022 (arXiv 2209.13569), and the "Low-Rank" baseline of the GaLore paper, table 2. It is no adapter:
 * there is no frozen W beside the factors, and W itself exists only in `mergeLowRank`. The factors of `NAME.weight` are
 * called `NAME.lowrank_B.weight` and `NAME.lowrank_A.weight`; a bias stays `NAME.bias`.
 *
 * First values: A ~ N(0, 1/columns) keeps the scale of x, and B ~ N(0, s^2 columns/R) gives B A the standard deviation s of
 * the whole matrix (its variance is the sum of R products). Kamalakara et al. take the truncated SVD of a whole random
 * matrix instead, whose factors are balanced; it loses the variance that the cut directions had, and needs the SVD.
 */
import {
  type Backend,
  cast,
  concat,
  decorated,
  type DType,
  fromArray,
  isHalf,
  leadingSingularVectors,
  linear,
  matmul,
  noGrad,
  own,
  Params,
  type ParamsView,
  scope,
  type Shape,
  type Tensor,
} from "../core/mod.ts";
import { drawWeights } from "./draw.ts";
import { LLAMA_PROJECTED, type LlamaConfig, llamaWeights, type WeightSpec } from "./llama_config.ts";

/** The names of all factors. */
export const LOW_RANK_FACTORS: RegExp = /\.lowrank_[AB]\.weight$/;

/** What is factorised. */
export interface LowRankOptions {
  /** Columns of B and rows of A. Cut to a matrix's smaller side. */
  readonly rank: number;
  /** Names of the matrices that become factors. Default: the linear maps of attention and MLP. */
  readonly targets?: RegExp;
}

/** A weight, or a factor with its own standard deviation. */
export interface FactorSpec extends WeightSpec {
  readonly std?: number;
}

/** The names of the factors of `module`, B first. */
function factorNames(module: string): { B: string; A: string } {
  return { B: `${module}.lowrank_B.weight`, A: `${module}.lowrank_A.weight` };
}

/**
 * Every weight of a configuration whose `targets` are factors: `llamaWeights` with two entries in place of each target.
 *
 * @throws RangeError for a rank that is no whole number from 1
 */
export function lowRankWeights(
  config: LlamaConfig,
  { rank, targets = LLAMA_PROJECTED }: LowRankOptions,
): Map<string, FactorSpec> {
  checkRank(rank);
  const weights = new Map<string, FactorSpec>();
  for (const [name, spec] of llamaWeights(config)) {
    if (!targets.test(name) || spec.shape.length !== 2) {
      weights.set(name, spec);
      continue;
    }
    const [rows, columns] = spec.shape;
    const R = Math.min(rank, rows, columns);
    const { B, A } = factorNames(name.replace(/\.weight$/, ""));
    const [out, input] = spec.what.split(", ");
    const std = config.initializer_range * Math.sqrt(columns / R);
    weights.set(B, { shape: [rows, R], what: `${out}, rank`, std });
    weights.set(A, { shape: [R, columns], what: `rank, ${input}`, std: 1 / Math.sqrt(columns) });
  }
  return weights;
}

/** New weights whose targets are factors: the other weights are those of `initLlama` with the same seed. */
export function initLowRank(
  backend: Backend,
  config: LlamaConfig,
  { seed, dtype, ...options }: LowRankOptions & { readonly seed: number; readonly dtype?: "f32" | "bf16" | "f16" },
): Params {
  return drawWeights(backend, lowRankWeights(config, options), { seed, dtype, std: config.initializer_range });
}

/**
 * The nearest factors of a model that is there: B = U sqrt(S) and A = sqrt(S) V^T of each target's leading singular
 * vectors, which differ least from it by Eckart and Young's theorem. The other weights are the same tensors, held once
 * more. Call outside every scope: the factorisation is on the host, in f64.
 *
 * @returns the weights, and the share of the targets' squared norm that the factors keep
 * @throws RangeError for a rank that is no whole number from 1
 */
export async function factorise(
  params: Params,
  { rank, targets = LLAMA_PROJECTED }: LowRankOptions,
): Promise<{ params: Params; kept: number }> {
  checkRank(rank);
  const factors = new Params(params.backend);
  let [whole, kept] = [0, 0];
  try {
    for (const [name, weight] of params.entries()) {
      if (!targets.test(name) || weight.shape.length !== 2) {
        factors.set(name, weight.retained());
        continue;
      }
      const wide = isHalf(weight.dtype) ? own(cast(weight, "f32")) : weight.retained();
      const values = await wide.read() as Float32Array;
      wide.dispose();
      const [rows, columns] = weight.shape;
      const R = Math.min(rank, rows, columns);
      const found = leadingSingularVectors(values, rows, columns, R);
      const { B, A } = factorNames(name.replace(/\.weight$/, ""));
      const roots = found.values.map(Math.sqrt);
      const left = Float32Array.from(found.left, (value, i) => value * roots[i % R]);
      const right = Float32Array.from({ length: R * columns }, (_, i) => {
        const [row, column] = [Math.floor(i / columns), i % columns];
        return found.right[column * R + row] * roots[row];
      });
      factors.set(B, own(fromArray(params.backend, left, [rows, R])));
      factors.set(A, own(fromArray(params.backend, right, [R, columns])));
      for (const value of values) whole += value * value;
      for (const value of found.values) kept += value * value;
    }
    return { params: factors, kept: whole > 0 ? kept / whole : 1 };
  } catch (error) {
    factors.dispose();
    throw error;
  }
}

function checkRank(rank: number): void {
  if (Number.isInteger(rank) && rank >= 1) return;
  throw new RangeError(`Cannot factorise weights: the rank must be a whole number from 1: got ${rank}`);
}

/** A view in which a linear map with factors is x A^T B^T (+ bias), and every other one is what it was. */
export function withLowRank(params: ParamsView): ParamsView {
  return decorated(params, {
    linear(name, x, plain) {
      const { B, A } = factorNames(name);
      if (!plain.has(B)) return plain.linear(name, x);
      const bias = `${name}.bias`;
      using product = scope("low-rank linear");
      const inner = linear(x, plain.get(A)); // [.., R]
      return product.keep(linear(inner, plain.get(B), plain.has(bias) ? plain.get(bias) : undefined));
    },
  });
}

/** A weight of the model that a factorisation stands for. */
export interface MergedWeight {
  readonly name: string;
  readonly shape: Shape;
  readonly dtype: DType;
  /** The weight: B A, or the one there is. The caller disposes it, and writes nothing into it. */
  make(): Tensor;
}

/** The weights with W = B A in place of factors, each made when it is asked for: one product in memory at a time. */
export function mergedWeights(params: Params): MergedWeight[] {
  const merged: MergedWeight[] = [];
  for (const [name, tensor] of params.entries()) {
    const module = name.replace(LOW_RANK_FACTORS, "");
    if (module === name) {
      merged.push({ name, shape: tensor.shape, dtype: tensor.dtype, make: () => tensor.retained() });
    } else if (name === factorNames(module).B) {
      const A = params.get(factorNames(module).A);
      const shape = [tensor.shape[0], A.shape[1]];
      merged.push({ name: `${module}.weight`, shape, dtype: tensor.dtype, make: () => productOf(tensor, A) });
    }
  }
  return merged;
}

function productOf(B: Tensor, A: Tensor): Tensor {
  using inner = scope("merge");
  return own(inner.keep(noGrad(() => matmul(B, A))));
}

/** Plain weights of their own with W = B A in place of factors: what Hugging Face's names and files hold. */
export function mergeLowRank(params: Params): Params {
  const plain = new Params(params.backend);
  for (const { name, make } of mergedWeights(params)) {
    using _ = scope("merge");
    using weight = make();
    plain.set(name, weight.isShared ? noGrad(() => concat([weight], 0)) : weight.retained());
  }
  return plain;
}
