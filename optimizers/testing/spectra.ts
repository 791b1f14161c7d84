/** Matrices with known singular vectors, and how much of them rows of a basis capture. */
import assert from "node:assert/strict";
import {
  type Backend,
  foldIn,
  fromArray,
  keyOf,
  normal,
  OutOfMemoryError,
  scope,
  type Tensor,
} from "../../core/mod.ts";
import { assertNoLeak } from "../../core/testing/leaks.ts";
import { type BasisRequest, type BasisStrategy, finishNow, finishReading, type Side } from "../mod.ts";

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

/** The squared length of Q G, or of G Q^T: what rows capture of a matrix. */
export function captured(
  rows: readonly Float64Array[],
  { shape: [m, n], data }: Pick<Known, "shape" | "data">,
  side: Side,
) {
  let total = 0;
  for (const row of rows) {
    const out = new Float64Array(side === "left" ? n : m);
    for (let i = 0; i < m; i++) {
      for (let j = 0; j < n; j++) {
        if (side === "left") out[j] += row[i] * data[i * n + j];
        else out[i] += row[j] * data[i * n + j];
      }
    }
    total += dot(out, out);
  }
  return total;
}

/** Rows as a basis on a backend. */
export function tensorOf(backend: Backend, rows: readonly Float64Array[], dtype: "f32" | "f64" = "f32"): Tensor {
  return fromArray(backend, rows.flatMap((row) => [...row]), [rows.length, rows[0].length], dtype);
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
  using basis = await finishReading(strategy.compute(gradient, asked));
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

/** As `basisRows`, checked to be of canonical sign. */
export async function canonicalRows(...request: Parameters<typeof basisRows>): Promise<Float64Array[]> {
  const rows = await basisRows(...request);
  for (const [i, row] of rows.entries()) {
    const peak = row.reduce((most, value) => Math.abs(value) > Math.abs(most) ? value : most, 0);
    assert.ok(peak > 0, `row ${i} has the sign of ${peak}`);
  }
  return rows;
}

/** A computation at once, inside a scope that it must outlive. */
function inScope(make: () => Tensor): Tensor {
  using _ = scope("a train step");
  return make();
}

/**
 * Asserts that a strategy gives the same bits at once, inside an open scope, as with reads that are waited for, and
 * leaves nothing behind but its result, nor that where memory runs out on the way.
 */
export async function assertRunsNow(
  plain: Backend,
  strategy: BasisStrategy,
  { shape, data }: Pick<Known, "shape" | "data">,
  { start, ...request }: Partial<Omit<BasisRequest, "previous">> & { readonly start?: readonly Float64Array[] } = {},
): Promise<void> {
  let left = Infinity;
  const backend: Backend = {
    ...plain,
    alloc: (bytes, label) => {
      if (left-- <= 0) throw new OutOfMemoryError(bytes, 0, 0);
      return plain.alloc(bytes, label);
    },
  };
  using gradient = fromArray(backend, data, shape, "f32");
  using previous = start && tensorOf(backend, start);
  const asked: BasisRequest = { side: "right", rank: 10, key: keyOf(5), previous, ...request };
  const compute = () => strategy.compute(gradient, asked);
  await assertNoLeak(strategy.name, backend, async () => {
    using expected = await finishReading(compute());
    using basis = inScope(() => finishNow(compute()));
    assert.deepEqual(await basis.read(), await expected.read());
    let count = 0;
    for (let fails = true; fails; count += 1 + (count >> 3)) { // the first sixteen, then ever fewer
      for (const run of [() => finishReading(compute()), async () => await inScope(() => finishNow(compute()))]) {
        left = count;
        try {
          (await run()).dispose();
          fails = false;
        } catch (error) {
          assert.ok(error instanceof OutOfMemoryError, String(error));
        } finally {
          left = Infinity;
        }
      }
    }
    assert.ok(count > 1, "memory must have run out");
  });
  assert.equal((await gradient.read()).length, data.length, "the gradient is the caller's");
}
