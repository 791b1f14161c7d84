/**
 * Rows of a basis made orthonormal: products on the device, small factorisations on the host. The pieces that basis
 * strategies share; not part of the package's public face.
 */
import {
  foldIn,
  fromArray,
  type HostArray,
  type Key,
  matmul,
  normal,
  own,
  scope,
  type Shape,
  type Tensor,
} from "../core/mod.ts";
import type { Reading } from "./reading.ts";
import { inverseFactor } from "./triangular.ts";

/** What a gradient with a NaN or an infinity ends in. */
export const NOT_FINITE = "Cannot find a basis: the gradient is not finite";

/** The numbers of a tensor, which is freed. */
export function* consumed(x: Tensor): Reading<ArrayLike<number>> {
  return yield x;
}

/** Runs `make` in a scope; the result belongs to the caller. */
export function detached(name: string, make: () => Tensor): Tensor {
  using inner = scope(name);
  return own(inner.keep(make()));
}

/** As `detached`, freeing the tensor that the new one replaces, also when making it fails. */
export function replaced(old: Tensor, make: (old: Tensor) => Tensor): Tensor {
  try {
    return detached("basis", () => make(old));
  } finally {
    old.dispose();
  }
}

/** Host numbers as a tensor beside `like`: f64 beside f64, else f32. */
export function upload(like: Tensor, data: HostArray | readonly number[], shape: Shape): Tensor {
  return fromArray(like.backend, data, shape, like.dtype === "f64" ? "f64" : "f32");
}

/** Y Y^T on the host. Frees `rows` when it fails. */
export function* gramOf(rows: Tensor): Reading<ArrayLike<number>> {
  try {
    return yield* consumed(detached("basis gram", () => matmul(rows, rows, { transposeB: true })));
  } catch (error) {
    rows.dispose();
    throw error;
  }
}

/**
 * One pass of shifted Cholesky QR (Fukaya et al. 2020) with scaled rows: Q = L^-1 D^-1 Y, where D holds the lengths of
 * the rows and L L^T = D^-1 Y Y^T D^-1 + shift. The lengths fall like the squared singular values; scaled, small ones
 * keep their digits, and the shift need only cover the rounding of the f32 product. Directions that it swamps come out
 * short, and the next pass scales them up. Takes `rows`.
 *
 * @throws RangeError when the rows are not finite
 */
export function whitened(rows: Tensor, gram: ArrayLike<number>, start = 2e-6): Tensor {
  const k = rows.shape[0];
  const scales = Float64Array.from({ length: k }, (_, i) => gram[i * k + i] > 0 ? 1 / Math.sqrt(gram[i * k + i]) : 1);
  const scaled = new Float64Array(k * k);
  for (let i = 0; i < k; i++) {
    for (let j = 0; j < k; j++) scaled[i * k + j] = gram[i * k + j] * scales[i] * scales[j];
  }
  for (let shift = start; shift < 1; shift = Math.max(8 * shift, 2e-6)) {
    for (let i = 0; i < k; i++) scaled[i * k + i] = gram[i * k + i] * scales[i] * scales[i] + shift;
    const inverse = inverseFactor(scaled, k);
    if (!inverse) continue;
    for (let j = 0; j < k; j++) for (let i = j; i < k; i++) inverse[j * k + i] *= scales[j];
    return replaced(rows, (y) => matmul(upload(y, inverse, [k, k]), y, { transposeA: true }));
  }
  rows.dispose();
  throw new RangeError(NOT_FINITE);
}

/** What rows may differ from orthonormal by. */
const ORTHONORMAL = 5e-6;

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
export function* orthonormalRows(start: Tensor, key: Key): Reading<Tensor> {
  const [k, d] = start.shape;
  let rows = start;
  for (let pass = 0; pass < 4; pass++) {
    const gram = yield* gramOf(rows);
    const off = distanceFromIdentity(gram, k);
    if (off < ORTHONORMAL) return rows;
    // this near the identity the factor needs no shift, and one pass leaves only rounding
    const isNear = off < 0.01;
    rows = whitened(rows, gram, isNear ? 0 : undefined);
    if (isNear) return rows;
  }
  const host = Float64Array.from(yield* consumed(rows));
  gramSchmidt(host, k, d, key);
  return detached("basis", () => upload(rows, host, [k, d]));
}

/** Modified Gram-Schmidt over rows, each projected twice; a row that vanishes is drawn anew. */
function gramSchmidt(rows: Float64Array, count: number, d: number, key: Key): void {
  for (let j = 0; j < count; j++) {
    const row = rows.subarray(j * d, (j + 1) * d);
    for (let attempt = 0;; attempt++) {
      const before = lengthOf(row);
      for (let pass = 0; pass < 2; pass++) {
        for (let i = 0; i < j; i++) subtractProjection(row, rows.subarray(i * d, (i + 1) * d));
      }
      const length = lengthOf(row);
      if (length > 1e-4 * before) {
        for (let i = 0; i < d; i++) row[i] /= length;
        break;
      }
      if (attempt === 8) throw new RangeError(NOT_FINITE);
      row.set(normal(foldIn(key, "repair", j, attempt), d));
    }
  }
}

function lengthOf(row: Float64Array): number {
  let squares = 0;
  for (let i = 0; i < row.length; i++) squares += row[i] * row[i];
  return Math.sqrt(squares);
}

function subtractProjection(row: Float64Array, unit: Float64Array): void {
  let dot = 0;
  for (let i = 0; i < row.length; i++) dot += row[i] * unit[i];
  for (let i = 0; i < row.length; i++) row[i] -= dot * unit[i];
}
