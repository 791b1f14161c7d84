/**
 * The error function in f64, to about two units in the last place. JavaScript has none, and gradient checks of the exact
 * GELU need all its digits.
 *
 * Near 0, the Maclaurin series. Elsewhere, from erf(c) at the nearest quarter c, the Taylor series of its derivative
 * y = 2/sqrt(pi) e^(-x^2), whose coefficients follow from y' = -2 x y; |x - c| <= 1/8 makes it short.
 */

/** Terms after which neither series changes an f64: 0.5^2n / n! and (1/8)^n are below 1e-17 of the sum. */
const TERMS = 18;

/** erf(c) for c = 1/2, 3/4, ..., 23/4. */
const AT_QUARTERS = [
  0.5204998778130465,
  0.7111556336535151,
  0.8427007929497149,
  0.9229001282564583,
  0.9661051464753108,
  0.9866716712191824,
  0.9953222650189527,
  0.9985372834133188,
  0.999593047982555,
  0.9998993780778803,
  0.9999779095030014,
  0.9999956972205363,
  0.9999992569016276,
  0.9999998862727434,
  0.9999999845827421,
  0.9999999981494259,
  0.9999999998033839,
  0.9999999999815149,
  0.9999999999984626,
  0.9999999999998869,
  0.9999999999999927,
  0.9999999999999996,
];

const SLOPE = 2 / Math.sqrt(Math.PI);

/** Of z = x^2: erf(x) / x - 1 = (SLOPE - 1) + SLOPE (-z/3 + z^2/(2! 5) - z^3/(3! 7) ...). */
const NEAR_ZERO = Array.from({ length: TERMS }, (_, n) => {
  let factorial = 1; // (-1)^n n!
  for (let i = 1; i <= n; i++) factorial *= -i;
  return n === 0 ? SLOPE - 1 : SLOPE / (factorial * (2 * n + 1));
});

/** 2 / sqrt(pi) times the integral of exp(-t^2) from 0 to x. */
export function erf(x: number): number {
  const size = Math.abs(x);
  if (size < 0.5) return x + x * nearZero(x * x);
  if (size < 5.875) return Math.sign(x) * aroundQuarter(size);
  return x !== x ? NaN : Math.sign(x);
}

function nearZero(z: number): number {
  let sum = 0;
  for (let n = TERMS - 1; n >= 0; n--) sum = sum * z + NEAR_ZERO[n];
  return sum;
}

function aroundQuarter(x: number): number {
  const quarter = Math.round(4 * x);
  const c = quarter / 4;
  const h = x - c;
  let [before, coefficient, power, sum] = [0, 1, h, h];
  for (let n = 1; n < TERMS; n++) {
    [before, coefficient] = [coefficient, -2 * (c * coefficient + before) / n];
    power *= h;
    sum += coefficient * power / (n + 1);
  }
  return AT_QUARTERS[quarter - 2] + SLOPE * Math.exp(-c * c) * sum;
}
