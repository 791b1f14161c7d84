/**
 * GaLore's basis by randomised subspace iteration: what large matrices use, with all large products on the device.
 *
 * Halko, Martinsson & Tropp 2011, "Finding structure with randomness", algorithms 4.4 and 5.1. Trailing vectors whose
 * singular values lie close together may come out mixed with their neighbours; more `iterations` part them.
 */
import { add, less, matmul, max, min, mul, normal, symmetricEigen, type Tensor, where } from "../core/mod.ts";
import { type BasisStrategy, checkRank, columnsAsRows, gramBasis, gramMatrix, normalised, type Side } from "./basis.ts";
import { consume, detached, gramOf, orthonormalRows, replaced, upload, whitened } from "./orthonormal.ts";

/** Options of `subspaceBasis`. */
export interface SubspaceOptions {
  /** Products with G^T G after the first. More separate close singular values better. Default 4. */
  readonly iterations?: number;
  /** Extra vectors carried and then dropped. Default 8. */
  readonly oversample?: number;
  /** Start from the basis in use, if there is one. Default false: the result depends on the gradient alone. */
  readonly warmStart?: boolean;
  /** Sides up to this size are solved by `gramBasis` instead, which is exact and cheap there. Default 96. */
  readonly gramBelow?: number;
}

/**
 * Randomised subspace iteration (Halko, Martinsson & Tropp 2011, algorithms 4.4 and 5.1): all large products on the
 * device, orthonormalised by Cholesky QR with a small factorisation on the host, then rotated to singular vectors.
 */
export function subspaceBasis(options: SubspaceOptions = {}): BasisStrategy {
  const { iterations = 4, oversample = 8, warmStart = false, gramBelow = 96 } = options;
  return {
    name: "subspace",
    options: { iterations, oversample, warmStart, gramBelow },
    compute: async (gradient, request) => {
      const { side, rank, previous, key } = request;
      checkRank(gradient, rank);
      const d = gradient.shape[side === "left" ? 0 : 1];
      const carried = Math.min(...gradient.shape, rank + oversample);
      if (d <= gramBelow || carried >= d) return await gramBasis().compute(gradient, request);
      using unit = detached("basis gradient", () => normalised(gradient));
      using gram = prefersGram(unit.shape, d, carried) ? detached("gram", () => gramMatrix(unit, side)) : undefined;
      let rows = detached("basis start", () => {
        const start = upload(unit, normal(key, carried * d), [carried, d]);
        return warmStart && previous ? padded(previous, start) : start;
      });
      for (let i = 0; i <= iterations; i++) {
        // the last product goes through the factors: the matrix holds singular values squared, and loses the small ones
        const product = replaced(rows, (q) => gram && i < iterations ? matmul(q, gram) : applyGram(unit, q, side));
        rows = whitened(product, await gramOf(product));
      }
      return await rotated(unit, await orthonormalRows(rows, key), side, rank);
    },
  };

  /** Whether forming G^T G once costs clearly less than multiplying by both factors each time. */
  function prefersGram([m, n]: readonly number[], d: number, carried: number): boolean {
    return m * n * d + iterations * carried * d * d < 0.8 * iterations * 2 * carried * m * n;
  }
}

/** Rows of Q times the side's Gram matrix, without forming it: (Q G) G^T or (Q G^T) G. */
function applyGram(gradient: Tensor, q: Tensor, side: Side): Tensor {
  return side === "left"
    ? matmul(matmul(q, gradient), gradient, { transposeB: true })
    : matmul(matmul(q, gradient, { transposeB: true }), gradient);
}

function padded(previous: Tensor, start: Tensor): Tensor {
  start.backend.kernels.copyStrided(previous, start.view(previous.shape, start.strides, 0));
  return start;
}

/** Rayleigh-Ritz: rotates the carried rows to the leading singular vectors and keeps `rank`. Takes `rows`. */
async function rotated(gradient: Tensor, rows: Tensor, side: Side, rank: number): Promise<Tensor> {
  const k = rows.shape[0];
  try {
    const small = await consume(detached("basis projection", () => {
      const projected = side === "left" ? matmul(rows, gradient) : matmul(rows, gradient, { transposeB: true });
      return matmul(projected, projected, { transposeB: true });
    }));
    const rotation = columnsAsRows(symmetricEigen(small, k).vectors, k, k, rank);
    return detached("basis", () => {
      const basis = matmul(upload(rows, rotation, [rank, k]), rows);
      // canonical signs without a readback: negative where the smallest entry outweighs the largest
      const isNegative = less(add(max(basis, -1, true), min(basis, -1, true)), 0);
      return mul(basis, where(isNegative, upload(rows, [-1], []), 1));
    });
  } finally {
    rows.dispose();
  }
}
