/**
 * How GaLore finds a basis: the leading singular vectors of one side of a gradient.
 *
 * A basis is stored with its vectors as rows, [rank, d], whichever side it projects. Only the smaller side's vectors
 * are needed, so no strategy makes a full SVD of a large matrix except the oracle. Signs are canonical: the entry of
 * largest magnitude in each vector is positive, so that equal gradients give equal bases.
 */
import {
  cholesky,
  foldIn,
  fromArray,
  invertLower,
  type Key,
  matmul,
  normal,
  own,
  scope,
  svd,
  symmetricEigen,
  type Tensor,
} from "../core/mod.ts";

/** Which side of G the basis acts on: `left` gives P G (P [rank, m]), `right` gives G P^T (P [rank, n]). */
export type Side = "left" | "right";

/** What a strategy may use beside the gradient. */
export interface BasisRequest {
  readonly side: Side;
  readonly rank: number;
  /** The basis in use, [rank, d], to start from. */
  readonly previous?: Tensor;
  /** For strategies that draw random numbers. */
  readonly key: Key;
}

/** A way to find a basis. Runs outside every scope; the result belongs to the caller. */
export interface BasisStrategy {
  readonly name: string;
  readonly options: Readonly<Record<string, unknown>>;
  readonly compute: (gradient: Tensor, request: BasisRequest) => Promise<Tensor>;
}

/** Full f64 singular value decomposition on the host. The oracle; slow beyond a few hundred. */
export function exactBasis(): BasisStrategy {
  return {
    name: "exact",
    options: {},
    compute: async (gradient, { side, rank }) => {
      const [rows, columns] = gradient.shape;
      const { left, right } = svd(await readContiguous(gradient), rows, columns);
      const small = Math.min(rows, columns);
      const vectors = side === "left" ? left : right;
      return fromRows(gradient, columnsAsRows(vectors, side === "left" ? rows : columns, small, rank));
    },
  };
}

/** Eigenvectors of the side's Gram matrix: the product on the device, the eigenproblem in f64 on the host. */
export function gramBasis(): BasisStrategy {
  return {
    name: "gram",
    options: {},
    compute: async (gradient, { side, rank }) => {
      const gram = detached(
        "gram",
        () =>
          side === "left"
            ? matmul(gradient, gradient, { transposeB: true })
            : matmul(gradient, gradient, { transposeA: true }),
      );
      const d = gram.shape[0];
      const { vectors } = symmetricEigen(await consume(gram), d);
      return fromRows(gradient, columnsAsRows(vectors, d, d, rank));
    },
  };
}

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
      const d = gradient.shape[side === "left" ? 0 : 1];
      const carried = Math.min(d, rank + oversample);
      if (d <= gramBelow || carried >= d) return await gramBasis().compute(gradient, request);
      const backend = gradient.backend;
      const start = () => fromArray(backend, normal(key, carried * d, 0, 1), [carried, d]);
      let rows = detached("basis start", () => warmStart && previous ? padded(previous, start()) : start());
      for (let i = 0; i <= iterations; i++) {
        rows = (await whitened(replaced(rows, (q) => applyGram(gradient, q, side)))).rows;
      }
      return await rotated(gradient, await orthonormalRows(rows, key), side, rank);
    },
  };
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

/**
 * One pass of shifted Cholesky QR (Fukaya et al. 2020): Q = L^-1 Y with Y Y^T + shift = L L^T. The shift covers the
 * rounding of the f32 product, so it never fails on finite rows; directions below it come out short, and grow with
 * further passes. Gives the Gram matrix that it saw as well. Takes `rows`.
 */
async function whitened(rows: Tensor): Promise<{ rows: Tensor; gram: ArrayLike<number> }> {
  const k = rows.shape[0];
  const gram = await consume(detached("basis gram", () => matmul(rows, rows, { transposeB: true })));
  const shifted = Float64Array.from(gram);
  let trace = 0;
  for (let i = 0; i < k; i++) trace += shifted[i * k + i];
  for (let i = 0; i < k; i++) shifted[i * k + i] += Math.max(2e-6 * trace, 1e-37);
  const lower = cholesky(shifted, k);
  if (!lower) throw new RangeError("Cannot find a basis: the gradient is not finite");
  const inverse = Float32Array.from(invertLower(lower, k));
  return { rows: replaced(rows, (y) => matmul(fromArray(y.backend, inverse, [k, k]), y)), gram };
}

/** Largest difference between a Gram matrix and the identity. */
function distanceFromIdentity(gram: ArrayLike<number>, k: number): number {
  let worst = 0;
  for (let i = 0; i < k; i++) {
    for (let j = 0; j < k; j++) worst = Math.max(worst, Math.abs(gram[i * k + j] - (i === j ? 1 : 0)));
  }
  return worst;
}

/**
 * Rows made orthonormal to 1e-5 by repeated passes; where the gradient has fewer directions than the basis, on the host,
 * with random ones in their place. Takes `rows`.
 */
async function orthonormalRows(start: Tensor, key: Key): Promise<Tensor> {
  const [k, d] = start.shape;
  let rows = start;
  for (let pass = 0; pass < 6; pass++) {
    const next = await whitened(rows);
    rows = next.rows;
    // the shift costs 1e-6 k at the last pass; a Gram matrix this near the identity leaves the next one exact
    if (distanceFromIdentity(next.gram, k) < 1e-3) break;
  }
  const gram = await consume(detached("basis check", () => matmul(rows, rows, { transposeB: true })));
  if (distanceFromIdentity(gram, k) <= 1e-5) return rows;
  const host = Float64Array.from(await readContiguous(rows));
  gramSchmidt(host, k, d, key);
  rows.write(Float32Array.from(host));
  return rows;
}

/** Modified Gram-Schmidt over rows, each projected twice; a row that vanishes is drawn anew. */
function gramSchmidt(rows: Float64Array, count: number, d: number, key: Key): void {
  for (let j = 0; j < count; j++) {
    const row = rows.subarray(j * d, (j + 1) * d);
    for (let attempt = 0;; attempt++) {
      const before = Math.hypot(...row);
      for (let pass = 0; pass < 2; pass++) {
        for (let i = 0; i < j; i++) subtractProjection(row, rows.subarray(i * d, (i + 1) * d));
      }
      const length = Math.hypot(...row);
      if (length > 1e-4 * before && length > 1e-30) {
        for (let i = 0; i < d; i++) row[i] /= length;
        break;
      }
      if (attempt === 8) throw new RangeError("Cannot orthonormalise a basis: the gradient is not finite");
      row.set(normal(foldIn(key, "repair", j, attempt), d, 0, 1));
    }
  }
}

function subtractProjection(row: Float64Array, unit: Float64Array): void {
  let dot = 0;
  for (let i = 0; i < row.length; i++) dot += row[i] * unit[i];
  for (let i = 0; i < row.length; i++) row[i] -= dot * unit[i];
}

/** Rayleigh-Ritz: rotates the carried rows to the leading singular vectors and keeps `rank`. Takes `rows`. */
async function rotated(gradient: Tensor, rows: Tensor, side: Side, rank: number): Promise<Tensor> {
  const k = rows.shape[0];
  const small = await consume(detached("basis rotation", () => {
    const projected = side === "left" ? matmul(rows, gradient) : matmul(rows, gradient, { transposeB: true });
    return matmul(projected, projected, { transposeB: true });
  }));
  const { vectors } = symmetricEigen(small, k);
  const rotation = columnsAsRows(vectors, k, k, rank);
  const basis = replaced(rows, (q) => matmul(fromArray(q.backend, Float32Array.from(rotation.data), [rank, k]), q));
  const host = await readContiguous(basis);
  canonicalSigns(host as Float32Array, rank, rows.shape[1]);
  basis.write(host as Float32Array);
  return basis;
}

/** The first `count` columns of a [d, n] row-major matrix as rows, with canonical signs. */
function columnsAsRows(
  matrix: Float64Array,
  d: number,
  n: number,
  count: number,
): { data: Float64Array; shape: number[] } {
  const data = new Float64Array(count * d);
  for (let j = 0; j < count; j++) {
    for (let i = 0; i < d; i++) data[j * d + i] = matrix[i * n + j];
  }
  canonicalSigns(data, count, d);
  return { data, shape: [count, d] };
}

/** Flips each row whose entry of largest magnitude is negative. */
export function canonicalSigns(rows: Float32Array | Float64Array, count: number, d: number): void {
  for (let j = 0; j < count; j++) {
    const row = rows.subarray(j * d, (j + 1) * d);
    let peak = 0;
    for (let i = 0; i < d; i++) if (Math.abs(row[i]) > Math.abs(peak)) peak = row[i];
    if (peak < 0) { for (let i = 0; i < d; i++) row[i] = -row[i]; }
  }
}

function fromRows(like: Tensor, rows: { data: Float64Array; shape: number[] }): Tensor {
  return own(fromArray(like.backend, rows.data, rows.shape, like.dtype === "f64" ? "f64" : "f32"));
}

async function readContiguous(x: Tensor): Promise<ArrayLike<number>> {
  return await x.read() as ArrayLike<number>;
}

/** Reads a tensor and frees it. */
async function consume(x: Tensor): Promise<ArrayLike<number>> {
  try {
    return await readContiguous(x);
  } finally {
    x.dispose();
  }
}

/** Runs `make` in a scope; the result belongs to the caller. */
export function detached(name: string, make: () => Tensor): Tensor {
  using inner = scope(name);
  return own(inner.keep(make()));
}

/** As `detached`, freeing the tensor that the new one replaces. */
function replaced(old: Tensor, make: (old: Tensor) => Tensor): Tensor {
  const next = detached("basis", () => make(old));
  old.dispose();
  return next;
}
