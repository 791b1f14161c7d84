/**
 * The five measures of GLUE, over plain arrays of predictions and labels, all between -1 and 1 (not percentages).
 * They are pure functions that know no task; which task reports which is in `glue_tasks.ts`.
 * Where a measure is undefined it is 0, as a model that says one thing has shown nothing: F1 without a true positive,
 * Matthews' correlation when one class is never said or never meant, a correlation with a constant.
 * Source: Wang et al. 2019 (GLUE), section 2; Matthews 1975; Spearman's with average ranks for ties.
 */

/** A measure by GLUE's name for it. */
export type MetricName = "accuracy" | "f1" | "matthews" | "pearson" | "spearman";

type Measure = (predictions: ArrayLike<number>, labels: ArrayLike<number>) => number;

/** Every measure by its name. */
export const METRICS: Readonly<Record<MetricName, Measure>> = {
  accuracy,
  f1,
  matthews: matthewsCorrelation,
  pearson,
  spearman,
};

function checkLengths(what: string, predictions: ArrayLike<number>, labels: ArrayLike<number>): void {
  if (predictions.length === labels.length && labels.length > 0) return;
  const rule = "there must be one label to a prediction, and at least one";
  throw new RangeError(
    `Cannot measure ${what}: ${rule}: got ${predictions.length} predictions, ${labels.length} labels`,
  );
}

/**
 * The share of predictions that equal their label.
 *
 * @throws {RangeError} when the arrays are empty or differ in length.
 */
export function accuracy(predictions: ArrayLike<number>, labels: ArrayLike<number>): number {
  checkLengths("accuracy", predictions, labels);
  let right = 0;
  for (let i = 0; i < labels.length; i++) right += predictions[i] === labels[i] ? 1 : 0;
  return right / labels.length;
}

interface Confusion {
  truePositive: number;
  falsePositive: number;
  falseNegative: number;
  trueNegative: number;
}

/** Counts for the two classes 0 and 1; any other number is an error, since a third class would be counted nowhere. */
function confusion(what: string, predictions: ArrayLike<number>, labels: ArrayLike<number>): Confusion {
  checkLengths(what, predictions, labels);
  const counts = [0, 0, 0, 0];
  for (let i = 0; i < labels.length; i++) {
    const cell = labels[i] * 2 + predictions[i];
    const isBinary = (labels[i] === 0 || labels[i] === 1) && (predictions[i] === 0 || predictions[i] === 1);
    if (!isBinary) {
      throw new RangeError(
        `Cannot measure ${what}: classes must be 0 or 1: got prediction ${predictions[i]} and label ${
          labels[i]
        } at ${i}`,
      );
    }
    counts[cell]++;
  }
  const [trueNegative, falsePositive, falseNegative, truePositive] = counts;
  return { truePositive, falsePositive, falseNegative, trueNegative };
}

/**
 * The harmonic mean of precision and recall of class 1; 0 without a true positive.
 *
 * @throws {RangeError} when the arrays are empty or differ in length, or a class is neither 0 nor 1.
 */
export function f1(predictions: ArrayLike<number>, labels: ArrayLike<number>): number {
  const { truePositive, falsePositive, falseNegative } = confusion("F1", predictions, labels);
  return truePositive === 0 ? 0 : 2 * truePositive / (2 * truePositive + falsePositive + falseNegative);
}

/**
 * Matthews' correlation of two classes; 0 where its denominator is, so for a model that says one class only.
 *
 * @throws {RangeError} when the arrays are empty or differ in length, or a class is neither 0 nor 1.
 */
export function matthewsCorrelation(predictions: ArrayLike<number>, labels: ArrayLike<number>): number {
  const counts = confusion("Matthews' correlation", predictions, labels);
  const { truePositive: tp, falsePositive: fp, falseNegative: fn, trueNegative: tn } = counts;
  const product = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn);
  return product === 0 ? 0 : (tp * tn - fp * fn) / Math.sqrt(product);
}

/**
 * Pearson's correlation; 0 when either side is constant, NaN when a value is.
 *
 * @throws {RangeError} when the arrays are empty or differ in length.
 */
export function pearson(predictions: ArrayLike<number>, labels: ArrayLike<number>): number {
  checkLengths("Pearson's correlation", predictions, labels);
  if (isConstant(predictions) || isConstant(labels)) return 0;
  const [meanX, meanY] = [mean(predictions), mean(labels)];
  let [xy, xx, yy] = [0, 0, 0];
  for (let i = 0; i < labels.length; i++) {
    const [dx, dy] = [predictions[i] - meanX, labels[i] - meanY];
    xy += dx * dy;
    xx += dx * dx;
    yy += dy * dy;
  }
  return xy / Math.sqrt(xx * yy);
}

/**
 * Pearson's correlation of the ranks, equal values sharing the average of theirs; 0 when either side is constant, NaN
 * when a value is.
 *
 * @throws {RangeError} when the arrays are empty or differ in length.
 */
export function spearman(predictions: ArrayLike<number>, labels: ArrayLike<number>): number {
  checkLengths("Spearman's correlation", predictions, labels);
  if (hasNaN(predictions) || hasNaN(labels)) return NaN;
  return pearson(averageRanks(predictions), averageRanks(labels));
}

/** Tested by value: the mean of equal numbers may differ from them in the last bit, which would pass for a spread. */
function isConstant(values: ArrayLike<number>): boolean {
  for (let i = 1; i < values.length; i++) if (values[i] !== values[0]) return false;
  return true;
}

/** Values that are no number have no rank. */
function hasNaN(values: ArrayLike<number>): boolean {
  for (let i = 0; i < values.length; i++) if (Number.isNaN(values[i])) return true;
  return false;
}

function mean(values: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += values[i];
  return sum / values.length;
}

/** Ranks from 1; those of equal values are replaced by their mean. */
function averageRanks(values: ArrayLike<number>): Float64Array {
  const order = Array.from({ length: values.length }, (_, i) => i).sort((a, b) => values[a] - values[b]);
  const ranks = new Float64Array(values.length);
  for (let start = 0; start < order.length;) {
    let end = start + 1;
    while (end < order.length && values[order[end]] === values[order[start]]) end++;
    for (let i = start; i < end; i++) ranks[order[i]] = (start + 1 + end) / 2;
    start = end;
  }
  return ranks;
}
