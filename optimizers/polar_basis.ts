/**
 * GaLore's basis without a readback: what a device uses, where the host would stall the step to wait for numbers.
 *
 * Block power iteration with one factor at a time, Z = orth(D Q G) and Q = orth(D Z G^T) (Halko, Martinsson & Tropp 2011,
 * algorithm 4.4), so that what is orthonormalised is conditioned as sigma_1 / sigma_k and not as its square. orth is
 * the polar factor, found by products alone (The Polar Express, Amsel et al. 2025, arXiv 2505.16932). Everything is
 * enqueued; nothing waits, branches or fails on a value.
 *
 * Polar factors keep the frame that they are given, and a frame of mixed singular vectors serves Adam badly, which scales
 * each row by itself. So rows are weighted by their lengths, D: the polar factor of D Q G raises sum_j (q_j G z_j^T)^2,
 * whose maxima are the singular vectors (a convex function, and the best frame for its tangent). It refuses to sort:
 * rows come near to singular vectors, in any order and of either sign. Started from the basis in use each row moves to
 * the nearest, so that moments keep their meaning. `exactBasis` is the oracle.
 */
import {
  abs,
  add,
  type Backend,
  cast,
  div,
  type DType,
  foldIn,
  type Key,
  matmul,
  max,
  maximum,
  mul,
  randomBits,
  type Shape,
  sqrt,
  square,
  sub,
  sum,
  type Tensor,
} from "../core/mod.ts";
import { type BasisRequest, type BasisStrategy, checkRank, computedIn, widened } from "./basis.ts";
import { detached, replaced } from "./orthonormal.ts";
import { identity, polarFactor, polarSteps, stepsForRandom } from "./polar_factor.ts";

/** Options of `polarBasis`. */
export interface PolarOptions {
  /** Products with G and G^T, in pairs, from a random start: once a parameter. Default 6. */
  readonly iterations?: number;
  /** The same from the basis in use. Default 2: 99.8 % of what exact bases capture, 100 steps into a llama-9m. */
  readonly warmIterations?: number;
  /** Start from the basis in use, if there is one. Default true. */
  readonly warmStart?: boolean;
}

/** Between two products only the conditioning matters: six steps raise small singular values 4,600 times. */
const STEPS_BETWEEN = polarSteps().slice(0, 6);

/** Rows shorter than this part of the longest weigh as if they were so long: weights cost condition. */
const LEAST_WEIGHT = 0.1;

/** Length of the random row added to rows of mean length 1: enough to fill directions that the gradient lacks. */
const NOISE = 1e-3;

/**
 * Block power iteration with polar factors: device work alone, at any size. Rows [rank, d] are orthonormal to 1e-5, span
 * the leading singular vectors, and come near to them in no order. A gradient that is not finite gives a basis that is
 * not finite: gate the update. Where the rank is the whole side the basis is the identity. f64 is computed in f64, all
 * else in f32.
 *
 * @throws RangeError for a number of iterations that is no positive integer
 */
export function polarBasis(options: PolarOptions = {}): BasisStrategy {
  const { iterations = 6, warmIterations = 2, warmStart = true } = options;
  for (const count of [iterations, warmIterations]) {
    if (Number.isInteger(count) && count >= 1) continue;
    throw new RangeError(`Cannot iterate ${count} times in polarBasis(): expected a whole number from 1`);
  }
  return {
    name: "polar",
    options: { iterations, warmIterations, warmStart },
    deviceOnly: true,
    // deno-lint-ignore require-yield -- nothing to wait for
    *compute(gradient, request) {
      checkRank(gradient, request.rank);
      const isWarm = warmStart && fits(request, gradient);
      return powerIteration(gradient, request, isWarm ? warmIterations : iterations, isWarm);
    },
  };
}

function fits({ previous, rank, side }: BasisRequest, { shape, dtype }: Tensor): boolean {
  if (!previous) return false;
  const d = shape[side === "left" ? 0 : 1];
  return previous.shape[0] === rank && previous.shape[1] === d && previous.dtype === computedIn(dtype);
}

/** `rounds` times Z = orth(D Q G), Q = orth(D Z G^T), with G^T for G on the right side. Owned by the caller. */
function powerIteration(gradient: Tensor, request: BasisRequest, rounds: number, isWarm: boolean): Tensor {
  const { side, rank, key, previous } = request;
  const { backend } = gradient;
  const dtype = computedIn(gradient.dtype);
  const d = gradient.shape[side === "left" ? 0 : 1];
  if (rank === d) return detached("basis", () => identity(backend, d, dtype));
  using values = widened(gradient);
  using one = detached("basis identity", () => identity(backend, rank, dtype));
  const last = stepsForRandom(rank, d);
  let rows = isWarm ? previous!.retained() : random(backend, foldIn(key, "start"), [rank, d], dtype);
  for (let half = 1; half <= 2 * rounds; half++) {
    const isOutward = half % 2 === 1;
    rows = replaced(rows, (q) => matmul(q, values, { transposeB: isOutward === (side === "right") }));
    rows = polarFactor(weighted(rows, foldIn(key, half)), one, half < 2 * rounds ? STEPS_BETWEEN : last);
  }
  return rows;
}

/**
 * Rows over their mean length, plus noise, times their lengths: a gradient of lower rank than the basis, or zero, still
 * gives as many directions, and long rows keep their direction better than short ones. Takes `rows`.
 */
function weighted(rows: Tensor, key: Key): Tensor {
  // by the largest magnitude first, whose square may not be a number of f32
  const unit = replaced(rows, (y) => div(y, maximum(max(abs(y)), 1e-37)));
  const level = replaced(unit, (y) => div(y, maximum(sqrt(mul(sum(square(y)), 1 / y.shape[0])), 1e-37)));
  const full = replaced(level, (y) => {
    using noise = random(y.backend, key, y.shape, y.dtype, NOISE);
    return add(y, noise);
  });
  return replaced(full, (y) => {
    const lengths = sqrt(sum(square(y), -1, true)); // [k, 1]
    return mul(y, maximum(div(lengths, max(lengths)), LEAST_WEIGHT));
  });
}

/** Random rows of about `length`, uniform in each entry: bits are made on the device, normal numbers on the host. */
function random(backend: Backend, key: Key, shape: Shape, dtype: DType, length = 1): Tensor {
  const most = length * Math.sqrt(3 / shape[1]);
  const words = detached("basis random", () => cast(randomBits(backend, key, shape), dtype));
  return replaced(replaced(words, (w) => mul(w, most * 2 ** -31)), (w) => sub(w, most));
}
