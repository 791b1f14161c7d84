/**
 * Tables of block-wise 8-bit storage, filled when an instance starts, with the same bytes by every thread: the 256
 * values of each map (core/codebook.ts), and a way to the code of a share s without a search.
 *
 * The code of s is the number of limits below s, and a limit is the mid-point of two values rounded down to f32. Taken
 * as integers, the bits of s, those of its magnitude inverted where s < 0, ascend with s. A bucket is such an integer
 * without its last SHIFT bits: so narrow that at most one limit lies in it. Its entry holds the code of its least share
 * and, below bit SHIFT, a number with which the last bits of a share above the limit carry:
 *
 *     code = (entry[bucket] + last bits) >> SHIFT
 *
 * Bits count from those of 2^-23, for which smaller magnitudes pass: no limit lies there, and none above 1.
 */

const DECADES: i32 = 7;
/** Bits of 2^-23 and of 1. */
export const LEAST: i32 = 104 << 23;
const MOST: i32 = 127 << 23;
/** Last bits that a bucket does not tell apart: gaps in the upper map of nonnegative values are half as wide. */
export const SHIFT_SIGNED: i32 = 17;
export const SHIFT_NONNEGATIVE: i32 = 16;
/** Buckets of one sign. */
export const BUCKETS_SIGNED: i32 = (23 << (23 - SHIFT_SIGNED)) + 1;
const BUCKETS_NONNEGATIVE: i32 = (23 << (23 - SHIFT_NONNEGATIVE)) + 1;

/** f32 [256] each. Above the binary's constants, which would hold as many zeros otherwise. */
export const VALUES_SIGNED: usize = 32768;
export const VALUES_NONNEGATIVE: usize = VALUES_SIGNED + 1024;
/** u32 [2 BUCKETS_SIGNED], negative shares first, and [BUCKETS_NONNEGATIVE]. */
export const ENTRIES_SIGNED: usize = VALUES_NONNEGATIVE + 1024;
export const ENTRIES_NONNEGATIVE: usize = ENTRIES_SIGNED + (usize(BUCKETS_SIGNED) << 3);

/** Where the constants end; none where those of the binary reach into the tables. */
export function constantsEnd(): usize {
  return __heap_base > VALUES_SIGNED ? usize.MAX_VALUE : ENTRIES_NONNEGATIVE + (usize(BUCKETS_NONNEGATIVE) << 2);
}

/** 10^(decade - 6) */
const SCALES: usize = memory.data<f64>([1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0]);

function fillValues(): void {
  store<f32>(VALUES_SIGNED + (127 << 2), 0);
  store<f32>(VALUES_SIGNED + (255 << 2), 1);
  store<f32>(VALUES_NONNEGATIVE, 0);
  store<f32>(VALUES_NONNEGATIVE + (255 << 2), 1);
  for (let decade = 0; decade < DECADES; decade++) {
    const scale = load<f64>(SCALES + (usize(decade) << 3));
    for (let cell = 0, cells = 1 << decade; cell < cells; cell++) {
      const value = f32(scale * (0.1 + 0.9 * (f64(cell) + 0.5) / f64(cells)));
      store<f32>(VALUES_SIGNED + (usize(127 + cells + cell) << 2), value);
      store<f32>(VALUES_SIGNED + (usize(127 - cells - cell) << 2), -value);
    }
    for (let cell = 0, cells = 2 << decade; cell < cells; cell++) {
      const value = f32(scale * (0.1 + 0.9 * (f64(cell) + 0.5) / f64(cells)));
      store<f32>(VALUES_NONNEGATIVE + (usize(cells - 1 + cell) << 2), value);
    }
  }
}

/** The limit between `code` and the next one. */
export function limitAbove(values: usize, code: i32): f32 {
  const at = values + (usize(code) << 2);
  const middle = (f64(load<f32>(at)) + f64(load<f32>(at, 4))) / 2;
  const rounded = f32(middle);
  if (f64(rounded) <= middle) return rounded;
  const bits = reinterpret<i32>(rounded);
  return reinterpret<f32>(bits < 0 ? bits + 1 : bits - 1);
}

/** Entries of shares from 0 up, whose code is `code`. */
function fillEntries(entries: usize, values: usize, code: i32, shift: i32): void {
  for (let first = LEAST, width = 1 << shift; first <= MOST; first += width, entries += 4) {
    const last = first + width - 1;
    const limit = code < 255 ? reinterpret<i32>(limitAbove(values, code)) : i32.MAX_VALUE;
    const inside = limit < last;
    store<u32>(entries, (code << shift) + (inside ? last - limit : 0));
    if (inside) code++;
  }
}

/** Entries of signed shares from 0 down, each before the last one. */
function fillNegativeEntries(entries: usize): void {
  let code = 127;
  for (let first = LEAST, width = 1 << SHIFT_SIGNED; first <= MOST; first += width, entries -= 4) {
    const limit = code > 0 ? reinterpret<i32>(limitAbove(VALUES_SIGNED, code - 1)) & i32.MAX_VALUE : i32.MAX_VALUE;
    const inside = limit < first + width;
    // a share is above the limit when its magnitude is smaller
    store<u32>(entries, inside ? (code - 1 << SHIFT_SIGNED) + limit - first : code << SHIFT_SIGNED);
    if (inside) code--;
  }
}

fillValues();
fillNegativeEntries(ENTRIES_SIGNED + (usize(BUCKETS_SIGNED - 1) << 2));
fillEntries(ENTRIES_SIGNED + (usize(BUCKETS_SIGNED) << 2), VALUES_SIGNED, 127, SHIFT_SIGNED);
fillEntries(ENTRIES_NONNEGATIVE, VALUES_NONNEGATIVE, 0, SHIFT_NONNEGATIVE);
