/**
 * Bases that are drawn and not found: APOLLO's (Zhu et al. 2024, arXiv 2412.05270), which need not be stored, for the
 * key makes them again.
 *
 * Gaussian rows are N(0, 1 / rank) in each entry, so that E[P^T P] = I, and P G keeps the lengths of G's columns in the
 * mean (Johnson & Lindenstrauss 1984). They are not orthonormal, and P^T P G is no projection of G. Orthonormal ones
 * are the polar factor of these, uniform among all frames; they keep rank / d of the squared lengths. Normal numbers
 * come from threefry bits by Box and Muller's method on the device, so backends agree as far as their log, sin and cos do.
 * They are not the numbers of core's `normal`, which are made on the host in f64.
 */
import {
  abs,
  add,
  type Backend,
  cast,
  concat,
  cos,
  log,
  mul,
  randomBits,
  reshape,
  sin,
  slice,
  sqrt,
  sub,
  type Tensor,
} from "../core/mod.ts";
import { type BasisStrategy, checkRank, computedIn, type GenerateRequest } from "./basis.ts";
import { detached } from "./orthonormal.ts";
import { identity, polarFactor, stepsForRandom } from "./polar_factor.ts";

/** Options of `randomBasis`. */
export interface RandomOptions {
  /** `gaussian` (default): entries N(0, 1 / rank). `orthonormal`: the polar factor of such rows. */
  readonly distribution?: "gaussian" | "orthonormal";
}

/** Just below pi in f32: cos and sin are accurate in [-pi, pi] on every device, and in WGSL nowhere else. */
const HALF_TURN = 3.1415925;

/**
 * A random basis, a function of the request's key alone. Gaussian rows are orthonormal on average only: they suit rules that
 * look at ratios (`apollo`) or scale each row (Adam); under a linear rule, such as gradient descent, P^T P can amplify.
 *
 * @throws TypeError for another distribution
 */
export function randomBasis({ distribution = "gaussian" }: RandomOptions = {}): BasisStrategy {
  if (distribution !== "gaussian" && distribution !== "orthonormal") {
    throw new TypeError(`Cannot draw a basis: expected gaussian or orthonormal: got "${distribution}"`);
  }
  const generate = distribution === "gaussian" ? gaussianRows : orthonormalRows;
  return {
    name: "random",
    options: { distribution },
    deviceOnly: true,
    generate,
    // deno-lint-ignore require-yield -- nothing to wait for
    *compute(gradient, { side, rank, key }) {
      checkRank(gradient, rank);
      const size = gradient.shape[side === "left" ? 0 : 1];
      return generate(gradient.backend, { side, rank, size, key, dtype: computedIn(gradient.dtype) });
    },
  };
}

/** Independent entries N(0, 1 / rank), [rank, size], none beyond 6.8 standard deviations. */
function gaussianRows(backend: Backend, { rank, size, key, dtype }: GenerateRequest): Tensor {
  return detached("random basis", () => {
    const half = Math.ceil(rank * size / 2);
    const words = cast(randomBits(backend, key, [2, half]), dtype);
    const [first, second] = [0, 1].map((row) => slice(words, [{ start: row, end: row + 1 }]));
    // half a step away from 0, so that the logarithm is finite; abs() where rounding makes one positive
    const uniform = add(mul(first, 2 ** -32), 2 ** -33);
    const radius = sqrt(mul(abs(log(uniform)), 2 / rank));
    const angle = sub(mul(second, HALF_TURN * 2 ** -31), HALF_TURN);
    const normals = concat([mul(radius, cos(angle)), mul(radius, sin(angle))], 0); // [2, half]
    return reshape(slice(reshape(normals, [2 * half]), [{ end: rank * size }]), [rank, size]);
  });
}

function orthonormalRows(backend: Backend, request: GenerateRequest): Tensor {
  const { rank, size, dtype } = request;
  using one = detached("basis identity", () => identity(backend, rank, dtype));
  return polarFactor(gaussianRows(backend, request), one, stepsForRandom(rank, size));
}
