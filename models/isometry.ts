/**
 * Random matrices with orthonormal columns, or rows where there are more columns, uniform among all such (Haar).
 *
 * The Q of a matrix of normal numbers is one (Stewart 1980): here the reflections are drawn, and the normal matrix never
 * exists. As reflections a matrix can be applied to a few vectors at a price of its size, without being formed; that is
 * how a compressed adapter meets the wide one that it stands for. All in f64 on the host, each a function of its key.
 */
import { foldIn, type Key, normal } from "../core/mod.ts";

/** A matrix known by what it does to vectors, which are the columns of row-major [size, width] arrays. */
export interface Isometry {
  readonly rows: number;
  readonly columns: number;
  /** Q x, for x [columns, width]; [rows, width]. */
  apply(x: ArrayLike<number>, width: number): Float64Array;
  /** Q^T x, for x [rows, width]; [columns, width]. */
  applyTransposed(x: ArrayLike<number>, width: number): Float64Array;
}

/** Draws an isometry of `rows` x `columns`. It keeps about as many numbers as the matrix has. */
export function drawIsometry(key: Key, rows: number, columns: number): Isometry {
  if (rows < columns) return transposed(drawIsometry(key, columns, rows));
  const signs = new Float64Array(columns);
  const reflectors = Array.from({ length: columns }, (_, k) => {
    const direction = Float64Array.from(normal(foldIn(key, k), rows - k));
    // a column (v_1, ...) is reflected onto -sign(v_1) |v|; for R's diagonal to be above 0 Q's column takes that sign
    signs[k] = direction[0] > 0 ? -1 : 1;
    direction[0] -= signs[k] * norm(direction);
    const length = norm(direction);
    return direction.map((value) => value / length);
  });
  return {
    rows,
    columns,
    apply(x, width) {
      const out = new Float64Array(rows * width);
      for (let i = 0; i < columns * width; i++) out[i] = signs[Math.floor(i / width)] * x[i];
      for (let k = columns - 1; k >= 0; k--) reflect(out, width, reflectors[k]);
      return out;
    },
    applyTransposed(x, width) {
      const out = Float64Array.from(x);
      for (const reflector of reflectors) reflect(out, width, reflector);
      return out.subarray(0, columns * width).map((value, i) => signs[Math.floor(i / width)] * value);
    },
  };
}

/** The matrix itself, [rows, columns] row-major. */
export function formIsometry(isometry: Isometry): Float64Array {
  const { rows, columns } = isometry;
  const isTall = rows >= columns;
  const size = Math.min(rows, columns);
  const identity = new Float64Array(size * size);
  for (let i = 0; i < size; i++) identity[i * size + i] = 1;
  if (isTall) return isometry.apply(identity, size);
  const flipped = isometry.applyTransposed(identity, size); // [columns, rows]
  return Float64Array.from(
    { length: rows * columns },
    (_, i) => flipped[(i % columns) * rows + Math.floor(i / columns)],
  );
}

/** The product of isometries, applied from the last to the first: what `[C, B, A]` does is C (B (A x)). */
export function composeIsometries(factors: readonly Isometry[]): Isometry {
  return {
    rows: factors[0].rows,
    columns: factors[factors.length - 1].columns,
    apply: (x, width) =>
      factors.reduceRight<ArrayLike<number>>((image, factor) => factor.apply(image, width), x) as Float64Array,
    applyTransposed: (x, width) =>
      factors.reduce<ArrayLike<number>>((image, factor) => factor.applyTransposed(image, width), x) as Float64Array,
  };
}

function transposed({ rows, columns, apply, applyTransposed }: Isometry): Isometry {
  return { rows: columns, columns: rows, apply: applyTransposed, applyTransposed: apply };
}

function norm(values: Float64Array): number {
  return Math.sqrt(values.reduce((sum, value) => sum + value * value, 0));
}

/** (I - 2 v v^T) on the last rows of x [size, width], in place: as many as v has numbers. */
function reflect(x: Float64Array, width: number, v: Float64Array): void {
  const start = x.length - v.length * width;
  const along = new Float64Array(width);
  for (let i = 0; i < v.length; i++) {
    const [value, row] = [v[i], start + i * width];
    for (let j = 0; j < width; j++) along[j] += value * x[row + j];
  }
  for (let i = 0; i < v.length; i++) {
    const [value, row] = [2 * v[i], start + i * width];
    for (let j = 0; j < width; j++) x[row + j] -= value * along[j];
  }
}
