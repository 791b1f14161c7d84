/** Matrices with known singular vectors, and how much of them rows of a basis capture. */
import assert from "node:assert/strict";
import { type Backend, foldIn, fromArray, keyOf, normal } from "../../core/mod.ts";
import type { BasisRequest, BasisStrategy, Side } from "../mod.ts";

export const SIDES: readonly Side[] = ["left", "right"];

/** `count` orthonormal rows [count, d] that depend on the name alone. */
export function orthonormal(name: string, count: number, d: number): Float64Array[] {
  const rows: Float64Array[] = [];
  for (let j = 0; j < count; j++) {
    const row = Float64Array.from(normal(foldIn(keyOf(21), name, j), d));
    for (let pass = 0; pass < 2; pass++) {
      for (const other of rows) addScaled(row, other, -dot(row, other));
    }
    const length = Math.sqrt(dot(row, row));
    rows.push(row.map((value) => value / length));
  }
  return rows;
}

export function dot(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let total = 0;
  for (let i = 0; i < a.length; i++) total += a[i] * b[i];
  return total;
}

export function addScaled(target: Float64Array, x: ArrayLike<number>, factor: number): void {
  for (let i = 0; i < target.length; i++) target[i] += factor * x[i];
}

/** A matrix with known singular vectors. */
export interface Known {
  readonly shape: readonly [number, number];
  readonly values: readonly number[];
  readonly vectors: Readonly<Record<Side, readonly Float64Array[]>>;
  readonly data: Float64Array;
}

/** A matrix of random singular vectors, which depend on `name` alone. */
export function known([rows, columns]: readonly [number, number], spectrum: (i: number) => number, name = ""): Known {
  const small = Math.min(rows, columns);
  const vectors = {
    left: orthonormal(`${name}left`, small, rows),
    right: orthonormal(`${name}right`, small, columns),
  };
  const values = Array.from({ length: small }, (_, i) => spectrum(i));
  const data = new Float64Array(rows * columns);
  values.forEach((value, k) => {
    for (let i = 0; i < rows; i++) {
      addScaled(data.subarray(i * columns, (i + 1) * columns), vectors.right[k], value * vectors.left[k][i]);
    }
  });
  return { shape: [rows, columns], values, vectors, data };
}

/** Sine of the angle between a unit vector and the span of orthonormal rows. */
export function sineTo(vector: Float64Array, rows: readonly Float64Array[]): number {
  const rest = vector.slice();
  for (let pass = 0; pass < 2; pass++) for (const row of rows) addScaled(rest, row, -dot(rest, row));
  return Math.sqrt(dot(rest, rest));
}

/** Share of the energy of the leading vectors that the rows capture. */
export function energy({ values, vectors }: Known, side: Side, rows: readonly Float64Array[]): number {
  let captured = 0;
  values.forEach((value, k) => captured += value ** 2 * (1 - sineTo(vectors[side][k], rows) ** 2));
  return captured / values.slice(0, rows.length).reduce((total, value) => total + value ** 2, 0);
}

/** Runs a strategy with rank 10 on the right side, or as `request` says; its rows on the host, checked to be orthonormal. */
export async function basisRows(
  backend: Backend,
  strategy: BasisStrategy,
  { shape, data }: Pick<Known, "shape" | "data">,
  request: Partial<BasisRequest> = {},
  dtype: "f32" | "f64" = "f32",
): Promise<Float64Array[]> {
  using gradient = fromArray(backend, data, shape, dtype);
  const asked: BasisRequest = { side: "right", rank: 10, key: keyOf(5), ...request };
  using basis = await strategy.compute(gradient, asked);
  const d = shape[asked.side === "left" ? 0 : 1];
  assert.deepEqual([basis.dtype, basis.shape], [dtype, [asked.rank, d]]);
  const host = Float64Array.from(await basis.read());
  const rows = Array.from({ length: asked.rank }, (_, j) => host.subarray(j * d, (j + 1) * d));
  for (const [i, row] of rows.entries()) {
    for (const [j, other] of rows.entries()) {
      const off = Math.abs(dot(row, other) - (i === j ? 1 : 0));
      assert.ok(off <= (dtype === "f32" ? 1e-5 : 1e-11), `rows ${i} and ${j}: ${dot(row, other)}`);
    }
  }
  return rows;
}
