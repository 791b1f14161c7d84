/**
 * The numbers of a completion: which entries are trained on and which are held out, in units that make rates mean the same
 * for every file. Values are centred on the mean of what is trained on and divided by what the largest singular value of
 * the whole matrix would be if the unseen entries were like the seen ones.
 */
import { foldIn, keyOf, uniform } from "../core/mod.ts";
import type { Triples } from "../data/mod.ts";
import type { Observed } from "./complete_model.ts";

/** A file's entries, ready to be completed. */
export interface Entries {
  readonly triples: Triples;
  readonly observed: Observed;
  /** Places among the triples. */
  readonly train: Int32Array;
  readonly heldOut: Int32Array;
  /** A value is `mean + scale * matrix[i, j]`. */
  readonly mean: number;
  readonly scale: number;
}

/** How entries are prepared. */
export interface EntryOptions {
  /** The part that is not trained on. */
  readonly holdOut: number;
  /** Whether the mean is taken off. */
  readonly isCentred: boolean;
  readonly seed: number;
}

/** Splits and scales a file's entries; which are held out is a function of the seed. At least one is trained on. */
export function prepareEntries(triples: Triples, { holdOut, isCentred, seed }: EntryOptions): Entries {
  const { row, column, value } = triples;
  const chances = uniform(foldIn(keyOf(seed), "hold-out"), value.length);
  const least = chances.indexOf(chances.reduce((most, chance) => Math.max(most, chance), 0));
  const isHeldOut = (i: number) => chances[i] < holdOut && i !== least;
  const places = Int32Array.from(value, (_, i) => i);
  const train = places.filter((i) => !isHeldOut(i));
  const [rows, columns] = [triples.rows.length, triples.columns.length];
  let mean = 0;
  if (isCentred) { for (const i of train) mean += value[i] / train.length; }
  const norm = spectralNorm(triples, train, mean);
  const scale = norm > 0 ? norm * rows * columns / train.length : 1;
  const mask = new Float32Array(rows * columns);
  const seen = new Float32Array(rows * columns);
  for (const i of train) {
    const at = row[i] * columns + column[i];
    mask[at] = 1;
    seen[at] = (value[i] - mean) / scale;
  }
  return {
    ...{ triples, train, heldOut: places.filter(isHeldOut), mean, scale },
    observed: { rows, columns, mask, seen },
  };
}

const POWER_STEPS = 60;

/** The largest singular value of the matrix that has the entries less the mean, and 0 elsewhere, by power iteration. */
function spectralNorm({ rows, columns, row, column, value }: Triples, train: Int32Array, mean: number): number {
  let right = Float64Array.from(columns, (_, j) => 1 + (j * 0.6180339887) % 1);
  let norm = 0;
  for (let step = 0; step < POWER_STEPS; step++) {
    const left = new Float64Array(rows.length);
    for (const i of train) left[row[i]] += (value[i] - mean) * right[column[i]];
    const next = new Float64Array(columns.length);
    for (const i of train) next[column[i]] += (value[i] - mean) * left[row[i]];
    const length = lengthOf(right);
    if (length === 0) return 0;
    norm = lengthOf(left) / length;
    const size = lengthOf(next);
    if (size === 0) return norm;
    right = next.map((x) => x / size);
  }
  return norm;
}

function lengthOf(values: Float64Array): number {
  return Math.sqrt(values.reduce((sum, value) => sum + value * value, 0));
}

/** What a completed matrix says of an entry, in the file's units. */
export function predictionOf(
  { mean, scale, observed }: Entries,
  matrix: ArrayLike<number>,
  i: number,
  j: number,
): number {
  return mean + scale * matrix[i * observed.columns + j];
}

/** Root of the mean squared error of some entries, in the file's units; NaN of none. */
export function errorOf(entries: Entries, matrix: ArrayLike<number>, places: Int32Array): number {
  const { row, column, value } = entries.triples;
  let total = 0;
  for (const i of places) total += (predictionOf(entries, matrix, row[i], column[i]) - value[i]) ** 2;
  return Math.sqrt(total / places.length);
}
