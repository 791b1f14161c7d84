/**
 * How far apart two models' answers lie: divergences of distributions that are given as logarithms, in doubles, and the
 * share of a shift that a model has captured. Pure functions; distributions are arrays of log-probabilities, in nats.
 *
 * Shift capture compares a candidate with whole fine-tuning: 1 - E KL(p* || p_c) / E KL(p* || p_0), with p* the wholly
 * fine-tuned model and p_0 the one before: 0 has learned nothing of the shift, 1 all of it, below 0 moved away from it.
 */

/** Nats in a bit. */
export const NATS_A_BIT = Math.LN2;

/** Log-probabilities of scores: x - log sum exp x, against the largest so that nothing overflows. */
export function logSoftmax(
  scores: ArrayLike<number>,
  out: Float64Array = new Float64Array(scores.length),
): Float64Array {
  let largest = -Infinity;
  for (let i = 0; i < scores.length; i++) if (scores[i] > largest) largest = scores[i];
  let sum = 0;
  for (let i = 0; i < scores.length; i++) sum += Math.exp(scores[i] - largest);
  const logSum = largest + Math.log(sum);
  for (let i = 0; i < scores.length; i++) out[i] = scores[i] - logSum;
  return out;
}

/**
 * KL(p || q) = sum p (log p - log q), never below 0. What p does not say counts nothing; where q leaves out what p says it is
 * infinite.
 *
 * @throws {RangeError} when the arrays differ in length.
 */
export function klDivergence(logP: ArrayLike<number>, logQ: ArrayLike<number>): number {
  checkLengths(logP, logQ);
  let sum = 0;
  for (let i = 0; i < logP.length; i++) {
    if (logP[i] === -Infinity) continue;
    const p = Math.exp(logP[i]);
    // a probability that underflows to 0 counts nothing, also against an infinite difference
    if (p > 0) sum += p * (logP[i] - logQ[i]);
  }
  return Math.max(0, sum);
}

/**
 * The Jensen-Shannon divergence: the mean of both distributions' divergences from their mean, 0 to log 2.
 *
 * @throws {RangeError} when the arrays differ in length.
 */
export function jsDivergence(logP: ArrayLike<number>, logQ: ArrayLike<number>): number {
  checkLengths(logP, logQ);
  let sum = 0;
  for (let i = 0; i < logP.length; i++) {
    const larger = Math.max(logP[i], logQ[i]);
    if (larger === -Infinity) continue;
    const logMean = larger + Math.log1p(Math.exp(Math.min(logP[i], logQ[i]) - larger)) - Math.LN2;
    const [p, q] = [Math.exp(logP[i]), Math.exp(logQ[i])];
    if (p > 0) sum += p * (logP[i] - logMean) / 2;
    if (q > 0) sum += q * (logQ[i] - logMean) / 2;
  }
  return Math.min(Math.LN2, Math.max(0, sum));
}

function checkLengths(logP: ArrayLike<number>, logQ: ArrayLike<number>): void {
  if (logP.length === logQ.length) return;
  throw new RangeError(
    `Cannot compare distributions: they must be over the same events: got ${logP.length} and ${logQ.length}`,
  );
}

/** The place of the largest score; of equal ones the first. */
export function topIndex(scores: ArrayLike<number>): number {
  let best = 0;
  for (let i = 1; i < scores.length; i++) if (scores[i] > scores[best]) best = i;
  return best;
}

/** The least divergence of a reference from its base that is a shift, in nats a place: f32 scores round by less than it. */
export const SMALLEST_SHIFT = 1e-9;

/**
 * Shift capture from sums of divergences over the same positions. Undefined where the reference has not moved by more than
 * rounding: no shift is there to be captured.
 *
 * @param toCandidate KL(p* || p_c)
 * @param toBase KL(p* || p_0)
 * @param places how many positions are summed; 1 for means
 */
export function shiftCapture(toCandidate: number, toBase: number, places = 1): number | undefined {
  return toBase > SMALLEST_SHIFT * places ? 1 - toCandidate / toBase : undefined;
}
