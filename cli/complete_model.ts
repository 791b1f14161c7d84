/**
 * A matrix of low rank from some of its entries, by gradient descent on a deep factorisation: W_L ... W_1 over factors as
 * wide as the matrix, or compressed, left (M_L ... M_1) right with small factors between two subspaces.
 *
 * Yaras et al. 2024 (arXiv 2406.04112). Every factor begins as epsilon times an orthogonal matrix, and the descent finds
 * low rank by itself: there is no penalty, and the rank that is asked for only bounds the compressed form. The loss is half
 * the sum of squared errors of what is observed. The outer factors of the compressed form are right only where everything
 * is observed, so they move as well, gamma times as fast. It reads no file and prints nothing.
 *
 *     m rows, n columns, d = max(m, n) width, L depth, r rank
 */
import {
  type Backend,
  backward,
  foldIn,
  fromArray,
  keyOf,
  matmul,
  mul,
  noGrad,
  own,
  Params,
  scope,
  square,
  sub,
  sum,
  type Tensor,
} from "../core/mod.ts";
import { composeIsometries, deepSubspaces, drawIsometry, formIsometry, type Isometry } from "../models/mod.ts";
import { Optimizer, type Rule, sgd } from "../optimizers/mod.ts";

/** A matrix of which some entries are known. */
export interface Observed {
  readonly rows: number;
  readonly columns: number;
  /** [m, n], 1 where an entry is known and 0 elsewhere. */
  readonly mask: Float32Array | Float64Array;
  /** [m, n], the known entries, and 0 elsewhere. Of spectral norm near 1. */
  readonly seen: Float32Array | Float64Array;
}

/** How a factorisation begins. */
export interface FactorOptions {
  /** L, from 2. */
  readonly depth: number;
  /** Size of the orthogonal factors. */
  readonly epsilon: number;
}

/** The two ways to hold a factorisation. */
export type Form = "full" | "compressed";

/** The outer factors of the compressed form. */
const OUTER = /^(left|right)\./;

/**
 * The orthogonal parts of the factors, W_1 first: [d, n], then [d, d], then [m, d]. A function of the seed.
 *
 * @throws RangeError for a depth below 2
 */
export function drawFactors(
  rows: number,
  columns: number,
  { depth, seed }: { depth: number; seed: number },
): Isometry[] {
  if (!Number.isInteger(depth) || depth < 2) {
    throw new RangeError(`Cannot factorise a matrix: the depth must be a whole number from 2: got ${depth}`);
  }
  const width = Math.max(rows, columns);
  const key = foldIn(keyOf(seed), "factors");
  return Array.from(
    { length: depth },
    (_, i) => drawIsometry(foldIn(key, i), i === depth - 1 ? rows : width, i === 0 ? columns : width),
  );
}

/** The wide factors `factor_1.weight` to `factor_L.weight`. */
export function fullFactors(
  backend: Backend,
  start: readonly Isometry[],
  { epsilon, dtype = "f32" }: { readonly epsilon: number; readonly dtype?: "f32" | "f64" },
): Params {
  const factors = new Params(backend);
  for (const [i, isometry] of start.entries()) {
    const values = formIsometry(isometry).map((value) => epsilon * value);
    setValues(factors, `factor_${i + 1}.weight`, values, [isometry.rows, isometry.columns], dtype);
  }
  return factors;
}

/** What the compressed form is made of. */
export interface CompressedOptions extends FactorOptions {
  readonly rank: number;
  readonly dtype?: "f32" | "f64";
}

/**
 * The compressed form of the factorisation that begins as `start`: `left.weight` [m, 2 r], `inner_1.weight` to
 * `inner_L.weight` [2 r, 2 r] and `right.weight` [2 r, n].
 *
 * @throws RangeError for a rank beyond half the smaller side
 */
export function compressedFactors(
  backend: Backend,
  { rows, columns, mask, seen }: Observed,
  start: readonly Isometry[],
  { depth, epsilon, rank, dtype = "f32" }: CompressedOptions,
): Params {
  if (!Number.isInteger(rank) || rank < 1 || 2 * rank > Math.min(rows, columns)) {
    throw new RangeError(
      `Cannot compress a factorisation of ${rows} x ${columns}: the rank must be from 1 to half the smaller side, ` +
        `${Math.floor(Math.min(rows, columns) / 2)}: got ${rank}`,
    );
  }
  const product = composeIsometries([...start].reverse());
  const first = formIsometry(product);
  const gradient = first.map((value, i) => mask[i] * epsilon ** depth * value - seen[i]);
  const { left, right, corner } = deepSubspaces(gradient, product, rank);
  const width = 2 * rank;
  const factors = new Params(backend);
  setValues(factors, "left.weight", left, [rows, width], dtype);
  const inner = Float64Array.from({ length: width * width }, (_, i) => i % (width + 1) === 0 ? epsilon : 0);
  for (let i = 1; i <= depth; i++) {
    const isCorner = i === (rows < columns ? depth : 1);
    const values = isCorner ? corner.map((value) => epsilon * value) : inner;
    setValues(factors, `inner_${i}.weight`, values, [width, width], dtype);
  }
  const turned = right.map((_, i) => right[(i % columns) * width + Math.floor(i / columns)]);
  setValues(factors, "right.weight", turned, [width, columns], dtype);
  return factors;
}

function setValues(
  factors: Params,
  name: string,
  values: Float64Array,
  shape: readonly number[],
  dtype: "f32" | "f64",
): void {
  const host = dtype === "f64" ? values.slice() : Float32Array.from(values);
  factors.set(name, own(fromArray(factors.backend, host, shape, dtype)));
}

/** The matrix that the factors make, [m, n], on the tape. */
export function productOf(factors: Params): Tensor {
  const chain = factors.has("left.weight")
    ? ["left.weight", ...namesOf(factors, "inner"), "right.weight"]
    : namesOf(factors, "factor");
  const tensors = chain.map((name) => factors.get(name));
  const [rows, columns] = [tensors[0].shape[0], tensors[tensors.length - 1].shape[1]];
  using inner = scope("product of factors");
  // the small side first; between subspaces everything small before the two large products
  if (factors.has("left.weight")) {
    const [left, right] = [tensors[0], tensors[tensors.length - 1]];
    const middle = tensors.slice(1, -1).reduce((product, factor) => matmul(product, factor));
    return inner.keep(rows < columns ? matmul(matmul(left, middle), right) : matmul(left, matmul(middle, right)));
  }
  return inner.keep(
    rows < columns
      ? tensors.reduce((product, factor) => matmul(product, factor))
      : tensors.reduceRight((product, factor) => matmul(factor, product)),
  );
}

/** Names of the factors of a kind, the one that is applied last first. */
function namesOf(factors: Params, kind: string): string[] {
  return factors.names().filter((name) => name.startsWith(`${kind}_`)).reverse();
}

/** How the factors move. */
export interface DescentOptions {
  readonly learningRate: number;
  /** The rate of the outer factors as a multiple of the others'; 0 leaves them where they are. */
  readonly gamma: number;
}

/** Gradient descent on the factors of one matrix. Owns what is observed on the device, not the factors. */
export class Descent implements Disposable {
  readonly #constants: Params;
  readonly #optimizer: Optimizer;
  readonly #observed: Observed;

  constructor(readonly factors: Params, observed: Observed, { learningRate, gamma }: DescentOptions) {
    const { backend } = factors;
    const { rows, columns, mask, seen } = observed;
    const dtype = factors.get(factors.names()[0]).dtype === "f64" ? "f64" : "f32";
    this.#observed = observed;
    this.#constants = new Params(backend);
    for (const [name, values] of Object.entries({ mask, seen })) {
      const isAsIs = dtype === "f32" && values instanceof Float32Array;
      const host = isAsIs ? values : dtype === "f64" ? Float64Array.from(values) : Float32Array.from(values);
      this.#constants.set(name, own(fromArray(backend, host, [rows, columns], dtype)));
    }
    this.#constants.freeze(this.#constants.names());
    const rates: [RegExp, Rule | null][] = [
      [OUTER, gamma === 0 ? null : sgd({ learningRate: gamma * learningRate })],
      [/(?:)/, sgd({ learningRate })],
    ];
    const hasOuter = factors.names().some((name) => OUTER.test(name));
    this.#optimizer = new Optimizer(factors, { routes: hasOuter ? rates : rates.slice(1) });
  }

  /** Steps so far. */
  get step(): number {
    return this.#optimizer.step;
  }

  /** One step. Waits for nothing. */
  advance(): void {
    using _ = scope("descent");
    const error = sub(mul(this.#constants.get("mask"), productOf(this.factors)), this.#constants.get("seen"));
    backward(mul(sum(square(error)), 0.5), this.#optimizer.stage);
    this.#optimizer.commit();
  }

  /** The matrix now, on the host. */
  async matrix(): Promise<Float32Array | Float64Array> {
    using product = this.#currentProduct();
    return await product.read() as Float32Array | Float64Array;
  }

  #currentProduct(): Tensor {
    using inner = scope("matrix");
    return own(inner.keep(noGrad(() => productOf(this.factors))));
  }

  /** The loss of a matrix. */
  lossOf(matrix: ArrayLike<number>): number {
    const { mask, seen } = this.#observed;
    let total = 0;
    for (let i = 0; i < mask.length; i++) total += (mask[i] * matrix[i] - seen[i]) ** 2;
    return total / 2;
  }

  [Symbol.dispose](): void {
    this.#optimizer.dispose();
    this.#constants.dispose();
  }
}
