/**
 * The two ways to compute (W o B A) x: weights changed first, or inputs and outputs scaled, which every example can have done
 * by an adapter of its own.
 *
 * Wen & Chaudhuri 2024 (arXiv 2312.05677), in its form for rank r: with A_j a row of A and B_j a column of B,
 *
 *     (W o B A) x = sum over j of B_j o (W (A_j o x))
 *
 * so that all examples and all r parts are rows of one product with the one W: r B T rows in place of B T. Changing the
 * weights first costs a product and two passes over a matrix of W's size for each adapter, and B T rows: more for few rows,
 * less for many (`plansWeights`).
 *
 *     B examples, T tokens of one, R rank
 */
import {
  add,
  cast,
  concat,
  linear,
  matmul,
  mul,
  ones,
  type ParamsView,
  reshape,
  type Shape,
  sum,
  type Tensor,
  transpose,
} from "../core/mod.ts";
import { type FloraConfig, floraNames, floraShare } from "./flora_config.ts";
import { wide } from "./lora.ts";

/** The factors of a module: B A, whose parts add up, changes the weight in one form or the other. */
export interface FloraFactors {
  /** [R, in] */
  readonly A: Tensor;
  /** [out, R] */
  readonly B: Tensor;
  readonly form: "residual" | "product";
}

/** An adapter's factors at `module`, in f32 where they have 16 bits; undefined where it has none. */
export function floraFactors(
  { params, config }: { readonly params: ParamsView; readonly config: FloraConfig },
  module: string,
): FloraFactors | undefined {
  const names = floraNames(module);
  if (!params.has(names.A)) return undefined;
  const B = wide(params.get(names.B));
  const share = floraShare(config);
  return { A: wide(params.get(names.A)), B: share === 1 ? B : mul(B, share), form: config.form ?? "residual" };
}

/** The same change as a residual: W o B A is W + W o (B A - 1), whose last part is -1 by 1. */
export function asResidual({ A, B, form }: FloraFactors): FloraFactors {
  if (form === "residual") return { A, B, form };
  const one = (shape: Shape) => ones(A.backend, shape, A.dtype);
  return {
    A: concat([A, one([1, A.shape[1]])], 0),
    B: concat([B, mul(one([B.shape[0], 1]), -1)], 1),
    form: "residual",
  };
}

/** W o B A, in f32 where W has 16 bits: what an adapter adds, or in the product form the whole. */
export function floraChange(weight: Tensor, { A, B }: FloraFactors): Tensor {
  return mul(wide(weight), cast(matmul(B, A), wide(weight).dtype));
}

/** The whole weight under an adapter, in f32 where W has 16 bits. */
export function floraWeight(weight: Tensor, factors: FloraFactors): Tensor {
  if (factors.form === "product") return floraChange(weight, factors);
  // where B A is 0 this is W to the bit
  return mul(wide(weight), cast(add(matmul(factors.B, factors.A), 1), wide(weight).dtype));
}

/**
 * The sum over j of B_j o (W (A_j o x)), by one product of R B T rows.
 *
 * @param x [B, .., in]
 * @param weight [out, in]
 * @param A [B, R, in], or [1, R, in] where all examples share it
 * @param B [B, R, out], or [1, R, out]: transposed
 * @returns [B, .., out], in the factors' dtype
 */
export function scaledProduct(x: Tensor, weight: Tensor, A: Tensor, B: Tensor): Tensor {
  const [examples, ...rest] = x.shape;
  const [R, columns] = A.shape.slice(1);
  const spread = reshape(cast(x, A.dtype), [examples, 1, -1, columns]); // [B, 1, T, in]
  const inputs = mul(spread, reshape(A, [-1, R, 1, columns])); // [B, R, T, in]
  const outputs = cast(linear(cast(inputs, weight.dtype), weight), A.dtype); // [B, R, T, out]
  const parts = mul(outputs, reshape(B, [-1, R, 1, weight.shape[0]]));
  return reshape(R === 1 ? parts : sum(parts, 1), [examples, ...rest.slice(0, -1), weight.shape[0]]);
}

/** B [out, R] of an adapter that all examples share as `scaledProduct` takes it, with its A. */
export function sharedFactors({ A, B }: FloraFactors): [Tensor, Tensor] {
  return [reshape(A, [1, ...A.shape]), reshape(transpose(B), [1, B.shape[1], B.shape[0]])];
}

/**
 * What changing a weight costs beside r multiply-adds an element: its two passes over the matrix, which wait for memory, in
 * multiply-adds an element.
 */
const PASSES = 32;

/** What a module has to compute. */
export interface FloraWork {
  /** Rows of its input: examples by tokens. */
  readonly rows: number;
  /** Products that a row takes without changed weights: r, and one for W itself in the residual form. */
  readonly parts: number;
  readonly rank: number;
  /** How many adapters change the weight. Default 1. */
  readonly adapters?: number;
}

/** Whether it is cheaper to change the weights than to scale inputs and outputs, in multiply-adds. */
export function plansWeights({ rows, parts, rank, adapters = 1 }: FloraWork): boolean {
  return rows * (parts - 1) > adapters * (rank + PASSES);
}
