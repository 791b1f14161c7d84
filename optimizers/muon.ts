/**
 * Muon (Jordan et al. 2024): momentum whose singular values are all set to about one.
 *
 *     mu = momentum mu + (1 - momentum) g;  m = mu, or momentum mu + (1 - momentum) g with `nesterov`
 *     X = m / |m|_F, then `iterations` times X = a X + (b A + c A^2) X with A = X X^T
 *
 * The quintic Newton-Schulz iteration with a, b, c = 3.4445, -4.7750, 2.0315 does not converge to U V^T: five steps bring
 * singular values above 0.2 % of the norm to between 0.68 and 1.21, which serves as well and is faster. A is formed on
 * the smaller side. Scaling: `spectral`, Jordan's sqrt(max(1, rows / columns)); `rms`, 0.2 sqrt(max(rows, columns)) (Liu
 * et al. 2025, Moonshot), with which an update is as large as AdamW's and takes its learning rate. Only matrices: give
 * embeddings, heads and vectors to another rule.
 */
import {
  abs,
  add,
  describe,
  div,
  matmul,
  max,
  maximum,
  mul,
  sqrt,
  sumOfSquares,
  type Tensor,
  zeros,
} from "../core/mod.ts";
import type { GradientRule } from "./rule.ts";
import { scaled, type TraceState } from "./sgd.ts";

/** Options of `scaleByMuon`. */
export interface MuonOptions {
  /** Default 0.95. */
  readonly momentum?: number;
  /** Default true. */
  readonly nesterov?: boolean;
  /** Newton-Schulz steps. Default 5. */
  readonly iterations?: number;
  /** Default `spectral`. */
  readonly scale?: "spectral" | "rms";
}

/** Jordan's coefficients: the steepest rise at 0 of a quintic that keeps [0, 1] bounded near one. */
const [A, B, C] = [3.4445, -4.775, 2.0315];

/** Smallest magnitude that a division takes for a number. Only a matrix of zeros is below it. */
const TINY = 1e-37;

/** The direction of Muon, for matrices: orthogonalised momentum. Momentum in f32. */
export function scaleByMuon(options: MuonOptions = {}): GradientRule<TraceState> {
  const { momentum = 0.95, nesterov = true, iterations = 5, scale = "spectral" } = options;
  if (!Number.isInteger(iterations) || iterations < 1) {
    throw new RangeError(`Cannot orthogonalise in ${iterations} iterations: expected a whole number from 1`);
  }
  return {
    name: "scaleByMuon",
    options: { momentum, nesterov, iterations, scale },
    slots: { mu: "signed" },
    init: (spec) => {
      if (spec.shape.length !== 2) {
        throw new TypeError(`Cannot orthogonalise "${spec.name}": expected a matrix, got ${describe(spec)}`);
      }
      return { mu: zeros(spec.backend, spec.shape, spec.dtype === "f64" ? "f64" : "f32") };
    },
    update: (gradient, state, { factor }) => {
      const fresh = mul(scaled(gradient, factor), 1 - momentum);
      const mu = add(mul(state.mu, momentum), fresh);
      const direction = orthogonalised(nesterov ? add(mul(mu, momentum), fresh) : mu, iterations);
      return [mul(direction, sizeOfUpdate(gradient.shape, scale)), { mu }];
    },
  };
}

function sizeOfUpdate([rows, columns]: readonly number[], scale: "spectral" | "rms"): number {
  return scale === "spectral" ? Math.sqrt(Math.max(1, rows / columns)) : 0.2 * Math.sqrt(Math.max(rows, columns));
}

/** U V^T of a matrix, roughly: Newton-Schulz from the matrix over its Frobenius norm. Zeros stay zeros. */
export function orthogonalised(matrix: Tensor, iterations: number): Tensor {
  const isTall = matrix.shape[0] > matrix.shape[1];
  // by the largest entry first: squares of small gradients would vanish
  const bounded = div(matrix, maximum(max(abs(matrix)), TINY));
  let x = div(bounded, maximum(sqrt(sumOfSquares(bounded)), TINY));
  for (let i = 0; i < iterations; i++) {
    const gram = matmul(x, x, isTall ? { transposeA: true } : { transposeB: true });
    const polynomial = add(mul(gram, B), mul(matmul(gram, gram), C));
    x = add(mul(x, A), isTall ? matmul(x, polynomial) : matmul(polynomial, x));
  }
  return x;
}
