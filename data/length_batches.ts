/**
 * Batches of sequences of about one length, padded to the longest among them: fewer padding tokens than batches at random,
 * and still another order in every epoch. The order is a pure function of (seed, epoch), so that a run can be resumed at
 * any batch. An epoch has every example once; its last batch may be short, and holds examples drawn before the sorting.
 *
 * The scheme: examples are permuted; those that a full batch lacks are set apart; the others are cut into pools of 50
 * batches, each pool is sorted by length and cut into batches, and all full batches are permuted.
 */

import { foldKey, Permutation } from "./shuffle.ts";

const POOL_BATCHES = 50;

/** Sequences with labels, as `encodeExamples` gives them. */
export interface LabelledIds {
  readonly ids: Int32Array;
  readonly label: number;
}

/** B sequences, padded to T tokens. */
export interface LengthBatch {
  /** i32 [B, T], padding after each sequence. */
  readonly tokens: Int32Array;
  /** u32 [B, T], 1 where a token stands, 0 at padding. */
  readonly mask: Uint32Array;
  /** f32 [B]: class numbers, which are exact, or scores. */
  readonly labels: Float32Array;
  /** [B]: which of the given examples each one is. */
  readonly indices: Int32Array;
  /** B. */
  readonly size: number;
  /** T. */
  readonly length: number;
}

/** How batches are made. */
export interface LengthBatchesOptions {
  /** Examples in a batch. */
  readonly batch: number;
  /** The id that fills up shorter sequences. */
  readonly padId: number;
  /** Without a seed the examples come sorted by length, as evaluation wants them. */
  readonly seed?: number;
  /** From 0; another order in each. */
  readonly epoch?: number;
  /** T is rounded up to a multiple of this, so that fewer shapes occur. 1 rounds nothing. */
  readonly multipleOf?: number;
  /** T is never rounded beyond this: the model's positions. */
  readonly maxLength?: number;
  /** The first batch to give: where a resumed epoch goes on. */
  readonly start?: number;
}

/** How many batches an epoch has. */
export function numLengthBatches(examples: number, batch: number): number {
  return Math.ceil(examples / batch);
}

/**
 * The batches of one epoch.
 *
 * @throws {RangeError} when there are no examples, or `batch` is no whole number from 1.
 */
export function* lengthBatches(
  examples: readonly LabelledIds[],
  options: LengthBatchesOptions,
): Generator<LengthBatch> {
  const { batch, start = 0 } = options;
  if (examples.length === 0) throw new RangeError("Cannot make batches: expected at least one example, got none");
  if (!Number.isSafeInteger(batch) || batch < 1) {
    throw new RangeError(`Cannot make batches: their size must be a whole number from 1: got ${batch}`);
  }
  for (const group of groups(examples, options).slice(start)) yield padGroup(examples, group, options);
}

/** Which examples stand in each batch. */
function groups(examples: readonly LabelledIds[], options: LengthBatchesOptions): number[][] {
  const { batch, seed, epoch = 0 } = options;
  const byLength = (a: number, b: number): number => examples[a].ids.length - examples[b].ids.length;
  const all = Array.from({ length: examples.length }, (_, i) => i);
  if (seed === undefined) return cut(all.sort(byLength), batch);
  const order = new Permutation(examples.length, foldKey(seed, epoch, 3));
  const permuted = all.map((place) => order.at(place));
  const full = permuted.length - permuted.length % batch;
  const batches = cut(permuted.slice(0, full), batch * POOL_BATCHES)
    .flatMap((pool) => cut(pool.sort(byLength), batch));
  const places = new Permutation(Math.max(1, batches.length), foldKey(seed, epoch, 4));
  const shuffled = batches.map((_, place) => batches[places.at(place)]);
  return full < permuted.length ? [...shuffled, permuted.slice(full)] : shuffled;
}

function cut(values: readonly number[], size: number): number[][] {
  const parts: number[][] = [];
  for (let at = 0; at < values.length; at += size) parts.push(values.slice(at, at + size));
  return parts;
}

function padGroup(
  examples: readonly LabelledIds[],
  group: readonly number[],
  { padId, multipleOf = 1, maxLength = Infinity }: LengthBatchesOptions,
): LengthBatch {
  const longest = Math.max(...group.map((i) => examples[i].ids.length));
  const length = Math.max(longest, Math.min(maxLength, Math.ceil(longest / multipleOf) * multipleOf));
  const tokens = new Int32Array(group.length * length).fill(padId);
  const mask = new Uint32Array(group.length * length);
  for (const [row, i] of group.entries()) {
    const { ids } = examples[i];
    tokens.set(ids, row * length);
    mask.fill(1, row * length, row * length + ids.length);
  }
  const labels = Float32Array.from(group, (i) => examples[i].label);
  return { tokens, mask, labels, indices: Int32Array.from(group), size: group.length, length };
}
