/**
 * How a model treats groups, over plain arrays: rates of each group, the gaps between groups, calibration, behaviour that
 * fine-tuning kept, and bootstrap intervals. Pure functions that know no model and no file; groups are numbers from 0.
 *
 * A gap is the largest of the groups' rates less the smallest. A rate over fewer than 30 items takes part in no gap, since
 * its own noise would be most of it; where fewer than two rates are left there is no gap but the words "n < 30".
 *
 * A gap is never negative, and noise alone makes one: percentiles of its bootstrap values never reach 0 and lie too high. Its
 * interval is therefore that of every difference between two groups at once: the gap, give or take what the largest error of
 * a difference stays below in 95 % of the draws, from 0 up. Coverage of true gaps, of 0 too, is simulated in the tests.
 * Sources: Hardt et al. 2016 (equal opportunity, equalised odds); Guo et al. 2017 (calibration error); Efron & Tibshirani
 * 1993, chapter 13 (percentile intervals); Tukey 1953 (differences at once), with bootstrap errors for the studentized range.
 */
import { foldKey } from "./shuffle.ts";

/** Fewest items behind a rate that takes part in a gap. */
export const SMALLEST_GROUP = 30;

/** What stands where a gap would be, when too few items are behind it. */
export const TOO_FEW = "n < 30";

/** A difference or an extreme over groups, or the words that say why there is none. */
export type Gap = number | typeof TOO_FEW;

/** A share with what it is a share of: 0 / 0 is undefined. */
export interface Rate {
  readonly hits: number;
  readonly of: number;
}

/** `hits / of`; undefined for a share of nothing. */
export function shareOf({ hits, of }: Rate): number | undefined {
  return of === 0 ? undefined : hits / of;
}

/** Counts of one group for one class against all others. */
export interface Confusion {
  readonly truePositive: number;
  readonly falsePositive: number;
  readonly trueNegative: number;
  readonly falseNegative: number;
}

/** Items as parallel arrays: what was said, what is right, and whose item it is. */
export interface JudgedItems {
  readonly predictions: ArrayLike<number>;
  readonly labels: ArrayLike<number>;
  /** Numbers from 0 below `numGroups`. */
  readonly groups: ArrayLike<number>;
}

/**
 * The confusion of each group, by its number.
 *
 * @param picked which items count, repeats included; all without it
 * @throws {RangeError} when the arrays differ in length.
 */
export function groupConfusions(
  { predictions, labels, groups }: JudgedItems,
  numGroups: number,
  positive = 1,
  picked?: ArrayLike<number>,
): Confusion[] {
  checkLengths({ predictions, labels, groups });
  const counts = Array.from({ length: numGroups }, () => [0, 0, 0, 0]);
  const size = picked?.length ?? labels.length;
  for (let k = 0; k < size; k++) {
    const i = picked ? picked[k] : k;
    counts[groups[i]][(labels[i] === positive ? 2 : 0) + (predictions[i] === positive ? 1 : 0)]++;
  }
  return counts.map(([trueNegative, falsePositive, falseNegative, truePositive]) => ({
    truePositive,
    falsePositive,
    trueNegative,
    falseNegative,
  }));
}

function checkLengths({ predictions, labels, groups }: JudgedItems): void {
  if (predictions.length === labels.length && labels.length === groups.length) return;
  throw new RangeError(
    "Cannot compare groups: there must be one label and one group to a prediction: got " +
      `${predictions.length} predictions, ${labels.length} labels, ${groups.length} groups`,
  );
}

/** The share that is said to be positive, right or not. */
export function positiveRate({ truePositive, falsePositive, trueNegative, falseNegative }: Confusion): Rate {
  const hits = truePositive + falsePositive;
  return { hits, of: hits + trueNegative + falseNegative };
}

/** The share of the positives that is found. */
export function truePositiveRate({ truePositive, falseNegative }: Confusion): Rate {
  return { hits: truePositive, of: truePositive + falseNegative };
}

/** The share of the negatives that is taken for positive. */
export function falsePositiveRate({ falsePositive, trueNegative }: Confusion): Rate {
  return { hits: falsePositive, of: falsePositive + trueNegative };
}

/** A number of each group, and how many items are behind it. */
export interface GroupValue {
  /** Undefined where the group has none. */
  readonly value: number | undefined;
  readonly of: number;
}

/** Values of every group, by its number. */
export type GroupValues = readonly GroupValue[];

/** The largest value less the smallest, over groups with items enough; of several kinds of values the largest gap. */
export function gapOf(...kinds: readonly GroupValues[]): Gap {
  const spreads = kinds.map((values) => {
    const counted = countedGroups(values).map((group) => values[group].value!);
    return counted.length < 2 ? TOO_FEW : spreadOf(counted);
  });
  return spreads.some((spread) => spread === TOO_FEW) ? TOO_FEW : Math.max(...spreads as number[]);
}

/**
 * The largest error of a difference between two groups in a bootstrap draw: what its values are to those of all items. Groups
 * are those that count in the gap of all items, however many items the draw leaves behind their values.
 *
 * @returns undefined where a group of them has no value in the draw
 */
export function gapError(whole: readonly GroupValues[], draw: readonly GroupValues[]): number | undefined {
  const spreads = whole.map((values, kind) => {
    const errors = countedGroups(values).map((group) => (draw[kind][group].value ?? NaN) - values[group].value!);
    return spreadOf(errors);
  });
  const largest = Math.max(...spreads);
  return Number.isFinite(largest) ? largest : undefined;
}

/** The smallest value, over groups with items enough: the worst group's accuracy. */
export function worstOf(values: GroupValues, counted: readonly number[] = countedGroups(values)): Gap {
  return counted.length === 0 ? TOO_FEW : Math.min(...counted.map((group) => values[group].value ?? NaN));
}

/** Numbers of the groups with a value and items enough. */
export function countedGroups(values: GroupValues): number[] {
  return values.flatMap(({ value, of }, group) => value === undefined || of < SMALLEST_GROUP ? [] : [group]);
}

function spreadOf(values: readonly number[]): number {
  return Math.max(...values) - Math.min(...values);
}

/** The rates whose gap a measure of fairness is; of two, the larger gap. */
export const FAIRNESS = {
  /** Of calling groups positive. */
  demographicParity: [positiveRate],
  /** Of finding positives. Behind each rate are its group's positives. */
  equalOpportunity: [truePositiveRate],
  /** Of finding positives, and of taking negatives for them. */
  equalisedOdds: [truePositiveRate, falsePositiveRate],
} as const satisfies Record<string, readonly ((one: Confusion) => Rate)[]>;

/** A rate of each group. */
export function ratesOf(confusions: readonly Confusion[], rate: (one: Confusion) => Rate): GroupValue[] {
  return confusions.map(rate).map((one) => ({ value: shareOf(one), of: one.of }));
}

/**
 * Expected calibration error: how far confidence is from the share that is right, over bins of equal width, each counted by
 * its items. Undefined over nothing.
 *
 * @param confidences of what was said, 0 to 1
 */
export function calibrationError(
  confidences: ArrayLike<number>,
  isRight: ArrayLike<number | boolean>,
  bins = 10,
  picked?: ArrayLike<number>,
): number | undefined {
  const sums = new Float64Array(bins);
  const size = picked?.length ?? confidences.length;
  for (let k = 0; k < size; k++) {
    const i = picked ? picked[k] : k;
    const bin = Math.min(bins - 1, Math.floor(confidences[i] * bins));
    // the bin's items less their right ones, both as sums: |sum| / n is its gap counted by its items
    sums[bin] += confidences[i] - Number(isRight[i]);
  }
  return size === 0 ? undefined : sums.reduce((total, sum) => total + Math.abs(sum), 0) / size;
}

/** Which items a model answers badly: before, after whole fine-tuning, and after what is judged. */
export interface BadAnswers {
  readonly base: ArrayLike<number | boolean>;
  readonly reference: ArrayLike<number | boolean>;
  readonly candidate: ArrayLike<number | boolean>;
}

/** Behaviour that stayed, and behaviour that is new. */
export interface Behaviour {
  /** Of the items that the base answers badly and the reference well: those that the candidate still answers badly. */
  readonly retained: Rate;
  /** Of the items that base and reference answer well: those that the candidate answers badly. */
  readonly newHarms: Rate;
}

/** Counts what fine-tuning left as it was, and what it broke. */
export function behaviourOf({ base, reference, candidate }: BadAnswers, picked?: ArrayLike<number>): Behaviour {
  const counts = { retained: 0, cured: 0, harmed: 0, well: 0 };
  const size = picked?.length ?? base.length;
  for (let k = 0; k < size; k++) {
    const i = picked ? picked[k] : k;
    if (reference[i]) continue;
    const isBad = Number(candidate[i]);
    if (base[i]) {
      counts.cured++;
      counts.retained += isBad;
    } else {
      counts.well++;
      counts.harmed += isBad;
    }
  }
  return {
    retained: { hits: counts.retained, of: counts.cured },
    newHarms: { hits: counts.harmed, of: counts.well },
  };
}

/** How often, and from which seed, items are drawn again. */
export interface ResampleOptions {
  /** Default 1,000. */
  readonly samples?: number;
  /** Default 0. */
  readonly seed?: number;
}

/**
 * Bootstrap samples: for each, as many items as there are, drawn with replacement within each group, so that every group
 * keeps its size. A function of the seed and of the items' places alone: other names of the groups give the same draws, and
 * models that are measured on the same draws are compared pairwise.
 */
export function* resamples(
  groups: ArrayLike<number>,
  { samples = 1000, seed = 0 }: ResampleOptions = {},
): Generator<Int32Array> {
  const members = new Map<number, number[]>();
  for (let i = 0; i < groups.length; i++) {
    if (!members.has(groups[i])) members.set(groups[i], []);
    members.get(groups[i])!.push(i);
  }
  const all = Int32Array.from([...members.values()].flat());
  // where each item's group begins among them, and how many it has
  const [first, size] = [new Int32Array(groups.length), new Int32Array(groups.length)];
  let start = 0;
  for (const own of members.values()) {
    for (const i of own) [first[i], size[i]] = [start, own.length];
    start += own.length;
  }
  for (let sample = 0; sample < samples; sample++) {
    yield drawWithin(all, first, size, foldKey(seed, sample));
  }
}

function drawWithin(all: Int32Array, first: Int32Array, size: Int32Array, key: number): Int32Array {
  const picked = new Int32Array(all.length);
  for (let i = 0; i < picked.length; i++) {
    picked[i] = all[first[i] + Math.floor(foldKey(key, i) / 2 ** 32 * size[i])];
  }
  return picked;
}

/** Between which two values most samples lie. */
export interface Interval {
  readonly low: number;
  readonly high: number;
}

/**
 * The percentile interval of a measure's values over bootstrap samples. Undefined where fewer than half of them are numbers:
 * the measure is seldom defined.
 */
export function percentileInterval(values: readonly (Gap | undefined)[], level = 0.95): Interval | undefined {
  const at = percentilesOf(values);
  return at && { low: at((1 - level) / 2), high: at((1 + level) / 2) };
}

/**
 * The interval of a gap from its errors (`gapError`) over bootstrap samples: 0 lies within where the groups may well be alike.
 * Undefined where fewer than half of the errors are numbers.
 *
 * @param most the largest gap there can be: 1 of rates
 */
export function gapInterval(
  gap: number,
  errors: readonly (number | undefined)[],
  { most = Infinity, level = 0.95 }: { readonly most?: number; readonly level?: number } = {},
): Interval | undefined {
  const error = percentilesOf(errors)?.(level);
  return error === undefined ? undefined : { low: Math.max(0, gap - error), high: Math.min(most, gap + error) };
}

/** The value below which a part of the numbers lies, between two of them by their distance; undefined where few are numbers. */
function percentilesOf(values: readonly (Gap | undefined)[]): ((part: number) => number) | undefined {
  const sorted = values.filter((value): value is number => typeof value === "number" && Number.isFinite(value))
    .sort((a, b) => a - b);
  if (sorted.length === 0 || sorted.length < values.length / 2) return undefined;
  return (part) => {
    const place = part * (sorted.length - 1);
    const [low, high] = [sorted[Math.floor(place)], sorted[Math.ceil(place)]];
    return low + (high - low) * (place - Math.floor(place));
  };
}
