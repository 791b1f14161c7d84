/**
 * Elementary functions of four f32 lanes, from + * / and bit operations, so that they have the same bits everywhere but
 * for `madd`. Each says its largest error, measured against f64 (math is held to it by ../../wasm_kernels_test.ts).
 *
 * Coefficients of exp, log and tanh: Cephes (Moshier, netlib.org/cephes/single); of erf and erfcx: least maximum error,
 * fitted in f64 by Lawson's method. They lie in a table and are loaded where they are used: V8 makes a vector constant
 * with three instructions, every time round a loop (exp: 0.90 ns an element so, 0.43 with loads).
 */

/** a * b + c, rounded once where the build has relaxed SIMD (and the processor FMA), twice elsewhere. */
@inline
export function madd(a: v128, b: v128, c: v128): v128 {
  if (RELAXED) return f32x4.relaxed_madd(a, b, c);
  return f32x4.add(f32x4.mul(a, b), c);
}

/** The scalar of a table in all lanes. */
@inline
function splat(table: usize, index: i32): v128 {
  return v128.load_splat<f32>(table + (index << 2));
}

/** The sign bits of x. */
@inline
function signOf(x: v128): v128 {
  return v128.and(x, i32x4.splat(i32.MIN_VALUE));
}

/**
 * 0, 1: bounds of exp. 2, 3: of expSmall. 4: 1.5 * 2^23. 5: 1 / ln 2. 6, 7: -ln 2 in two parts. 8-13: series. 14: 1.
 */
const EXP: usize = memory.data<f32>([
  -104.0,
  89.0,
  -86.6,
  88.0,
  12582912.0,
  1.44269504088896341,
  -0.693359375,
  2.12194440e-4,
  1.9875691500e-4,
  1.3981999507e-3,
  8.3334519073e-3,
  4.1665795894e-2,
  1.6666665459e-1,
  5.0000001201e-1,
  1.0,
]);

/** x + 1.5 * 2^23 of x / ln 2: its low bits are the nearest integer n. */
@inline
function expScale(x: v128): v128 {
  return madd(x, splat(EXP, 5), splat(EXP, 4));
}

/** e^(x - n ln 2), within [0.7, 1.42]. */
@inline
function expSeries(x: v128, scaled: v128): v128 {
  const n = f32x4.sub(scaled, splat(EXP, 4));
  const r = madd(n, splat(EXP, 7), madd(n, splat(EXP, 6), x));
  let p = madd(r, splat(EXP, 8), splat(EXP, 9));
  p = madd(p, r, splat(EXP, 10));
  p = madd(p, r, splat(EXP, 11));
  p = madd(p, r, splat(EXP, 12));
  p = madd(p, r, splat(EXP, 13));
  return madd(p, f32x4.mul(r, r), f32x4.add(r, splat(EXP, 14)));
}

/** e^x for all x: denormals, 0, infinity. Relative error 1.2e-7 (above the denormals). */
@inline
export function exp(x: v128): v128 {
  const bounded = f32x4.pmin(f32x4.pmax(x, splat(EXP, 0)), splat(EXP, 1));
  const scaled = expScale(bounded);
  const n = i32x4.sub(scaled, splat(EXP, 4));
  // In two factors: 2^n itself is no f32 at the ends of the range.
  const half = i32x4.shr_s(n, 1);
  const one = splat(EXP, 14);
  const first = i32x4.add(i32x4.shl(half, 23), one);
  const second = i32x4.add(i32x4.shl(i32x4.sub(n, half), 23), one);
  return f32x4.mul(f32x4.mul(expSeries(bounded, scaled), first), second);
}

/** e^x for x <= 88, with 0 in place of results below e^-86.6 (2.5e-38). Relative error 1.2e-7. */
@inline
export function expSmall(x: v128): v128 {
  const low = splat(EXP, 2);
  const bounded = f32x4.pmax(x, low);
  const scaled = expScale(bounded);
  const power = i32x4.add(expSeries(bounded, scaled), i32x4.shl(scaled, 23));
  return v128.andnot(power, f32x4.lt(x, low));
}

/** 0: smallest normal. 1: 2^23. 2: sqrt(1/2). 3: 1. 4, 5: ln 2 in two parts. 6: -1/2. 7-15: series. 16: infinity. */
const LOG: usize = memory.data<f32>([
  1.17549435e-38,
  8388608.0,
  0.707106781186547524,
  1.0,
  0.693359375,
  -2.12194440e-4,
  -0.5,
  7.0376836292e-2,
  -1.1514610310e-1,
  1.1676998740e-1,
  -1.2420140846e-1,
  1.4249322787e-1,
  -1.6668057665e-1,
  2.0000714765e-1,
  -2.4999993993e-1,
  3.3333331174e-1,
  Infinity,
]);

/** ln x: -infinity at 0, NaN below. Relative error 1e-7. */
@inline
export function log(x: v128): v128 {
  const one = splat(LOG, 3);
  const denormal = f32x4.lt(x, splat(LOG, 0));
  const normal = v128.bitselect(f32x4.mul(x, splat(LOG, 1)), x, denormal);
  // Mantissa into [sqrt(1/2), sqrt(2)): shifted so that the exponent's field steps at sqrt(1/2).
  const shifted = i32x4.sub(normal, splat(LOG, 2));
  const exponent = i32x4.shr_s(shifted, 23);
  const mantissa = i32x4.sub(normal, i32x4.shl(exponent, 23));
  const whole = i32x4.sub(exponent, v128.and(denormal, i32x4.splat(23)));
  const e = f32x4.convert_i32x4_s(whole);
  const r = f32x4.sub(mantissa, one);
  let p = madd(r, splat(LOG, 7), splat(LOG, 8));
  p = madd(p, r, splat(LOG, 9));
  p = madd(p, r, splat(LOG, 10));
  p = madd(p, r, splat(LOG, 11));
  p = madd(p, r, splat(LOG, 12));
  p = madd(p, r, splat(LOG, 13));
  p = madd(p, r, splat(LOG, 14));
  p = madd(p, r, splat(LOG, 15));
  const square = f32x4.mul(r, r);
  const tail = madd(e, splat(LOG, 5), f32x4.mul(f32x4.mul(p, r), square));
  const value = madd(e, splat(LOG, 4), f32x4.add(madd(square, splat(LOG, 6), tail), r));
  const infinity = splat(LOG, 16);
  const zero = f32x4.splat(0);
  let out = v128.bitselect(x, value, f32x4.eq(x, infinity));
  out = v128.bitselect(f32x4.neg(infinity), out, f32x4.eq(x, zero));
  // All bits set are a NaN; the sum keeps x's own.
  return v128.or(out, v128.or(f32x4.lt(x, zero), f32x4.ne(x, x)));
}

/** 1 / (1 + e^-x). Relative error 3e-7; 0 below -86.6. */
@inline
export function sigmoid(x: v128): v128 {
  const one = splat(EXP, 14);
  const power = expSmall(v128.or(x, i32x4.splat(i32.MIN_VALUE)));
  const numerator = v128.bitselect(power, one, i32x4.shr_s(x, 31));
  return f32x4.div(numerator, f32x4.add(one, power));
}

/** 0: where the series ends. 1-5: the series. 6: 20, beyond which e^2x no longer matters. */
const TANH: usize = memory.data<f32>([
  0.625,
  -5.70498872745e-3,
  2.06390887954e-2,
  -5.37397155531e-2,
  1.33314422036e-1,
  -3.33332819422e-1,
  20.0,
]);

/** The hyperbolic tangent: a series below 5/8, 1 - 2 / (e^2x + 1) above. Relative error 2e-7. */
@inline
export function tanh(x: v128): v128 {
  const size = f32x4.abs(x);
  const square = f32x4.mul(x, x);
  let p = madd(square, splat(TANH, 1), splat(TANH, 2));
  p = madd(p, square, splat(TANH, 3));
  p = madd(p, square, splat(TANH, 4));
  p = madd(p, square, splat(TANH, 5));
  const near = madd(f32x4.mul(p, square), x, x);
  const one = splat(EXP, 14);
  const power = expSmall(f32x4.pmin(f32x4.add(size, size), splat(TANH, 6)));
  const far = f32x4.sub(one, f32x4.div(f32x4.add(one, one), f32x4.add(power, one)));
  return v128.bitselect(near, v128.or(far, signOf(x)), f32x4.lt(size, splat(TANH, 0)));
}

/**
 * 0: 0.3275911 (Abramowitz & Stegun 7.1.26). 1-9: erfcx as a polynomial in t, highest power first. 10: 3/4. 11-15: erf.
 */
const ERF: usize = memory.data<f32>([
  0.3275911,
  -0.14649926126003265,
  0.5217092037200928,
  -0.45548075437545776,
  0.507753312587738,
  -0.010919704101979733,
  0.22093254327774048,
  0.1769590824842453,
  0.18557636439800262,
  -3.0806430004304275e-5,
  0.75,
  0.004158771131187677,
  -0.026360193267464638,
  0.11273733526468277,
  -0.3761192858219147,
  1.1283791065216064,
]);

/** e^(x^2) erfc(x) for 0 <= x <= 14, in t = 1 / (1 + 0.3275911 x). Relative error 2e-7. */
@inline
export function erfcx(x: v128): v128 {
  const one = splat(EXP, 14);
  const t = f32x4.div(one, madd(x, splat(ERF, 0), one));
  let p = madd(t, splat(ERF, 1), splat(ERF, 2));
  p = madd(p, t, splat(ERF, 3));
  p = madd(p, t, splat(ERF, 4));
  p = madd(p, t, splat(ERF, 5));
  p = madd(p, t, splat(ERF, 6));
  p = madd(p, t, splat(ERF, 7));
  p = madd(p, t, splat(ERF, 8));
  return madd(p, t, splat(ERF, 9));
}

/** The error function: a series below 3/4, 1 - erfc above. Relative error 3e-7. */
@inline
export function erf(x: v128): v128 {
  const size = f32x4.abs(x);
  const square = f32x4.mul(x, x);
  let p = madd(square, splat(ERF, 11), splat(ERF, 12));
  p = madd(p, square, splat(ERF, 13));
  p = madd(p, square, splat(ERF, 14));
  p = madd(p, square, splat(ERF, 15));
  const near = f32x4.mul(p, x);
  const far = f32x4.sub(splat(EXP, 14), f32x4.mul(erfcx(size), expSmall(f32x4.neg(square))));
  return v128.bitselect(near, v128.or(far, signOf(x)), f32x4.lt(size, splat(ERF, 10)));
}

/** -1, 0 or 1; zeros keep their sign. */
@inline
export function sign(x: v128): v128 {
  const unit = v128.or(signOf(x), f32x4.splat(1));
  const kept = v128.or(f32x4.eq(x, f32x4.splat(0)), f32x4.ne(x, x));
  return v128.bitselect(x, unit, kept);
}
