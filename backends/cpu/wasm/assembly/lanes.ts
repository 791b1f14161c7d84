/**
 * What kernels share below their formulas: vectors that are not full, sums in f64, and passes over a row. A vector at
 * the end of a row is loaded and stored by lane and computed as any other, so that bits do not depend on where a range
 * ends.
 */

/** The first `count` (1 to 4) lanes from memory, 0 in the others. */
@inline
export function loadPart(address: usize, count: i32): v128 {
  if (count >= 4) return v128.load(address);
  let lanes = v128.load_zero<u32>(address);
  if (count > 1) lanes = v128.load_lane<u32>(address + 4, lanes, 1);
  if (count > 2) lanes = v128.load_lane<u32>(address + 8, lanes, 2);
  return lanes;
}

/** Writes the first `count` (1 to 4) lanes. */
@inline
export function storePart(address: usize, lanes: v128, count: i32): void {
  if (count >= 4) {
    v128.store(address, lanes);
    return;
  }
  v128.store_lane<u32>(address, lanes, 0);
  if (count > 1) v128.store_lane<u32>(address + 4, lanes, 1);
  if (count > 2) v128.store_lane<u32>(address + 8, lanes, 2);
}

/** -1 (all bits) in the first `count` lanes, 0 in the others. */
@inline
export function lanesBelow(count: i32): v128 {
  return i32x4.gt_s(i32x4.splat(count), i32x4(0, 1, 2, 3));
}

/** Lanes 2 and 3, moved to 0 and 1. */
@inline
export function upper(x: v128): v128 {
  return v128.shuffle<u32>(x, x, 2, 3, 2, 3);
}

/** sum += the four lanes, in f64: lanes 0 and 2 go to its first lane, 1 and 3 to its second. */
@inline
export function accumulate(sum: v128, lanes: v128): v128 {
  return f64x2.add(sum, f64x2.add(f64x2.promote_low_f32x4(lanes), f64x2.promote_low_f32x4(upper(lanes))));
}

/** The sum of both f64 lanes. */
@inline
export function total(sum: v128): f64 {
  return f64x2.extract_lane(sum, 0) + f64x2.extract_lane(sum, 1);
}

/** The largest lane; NaN when there is one. */
@inline
export function largest(x: v128): f32 {
  const pairs = f32x4.max(x, v128.shuffle<u32>(x, x, 2, 3, 0, 1));
  return f32x4.extract_lane(f32x4.max(pairs, v128.shuffle<u32>(pairs, pairs, 1, 0, 3, 2)), 0);
}

/** The sum of `count` elements. */
export function sumRow(x: usize, count: i32): f64 {
  let sum = f64x2.splat(0), other = f64x2.splat(0);
  let i = 0;
  for (; i <= count - 32; i += 32, x += 128) {
    const a = f32x4.add(v128.load(x), v128.load(x, 16)), b = f32x4.add(v128.load(x, 32), v128.load(x, 48));
    const c = f32x4.add(v128.load(x, 64), v128.load(x, 80)), d = f32x4.add(v128.load(x, 96), v128.load(x, 112));
    sum = accumulate(sum, f32x4.add(a, b));
    other = accumulate(other, f32x4.add(c, d));
  }
  for (; i < count; i += 4, x += 16) sum = accumulate(sum, loadPart(x, count - i));
  return total(f64x2.add(sum, other));
}

/** The largest of `count` elements; NaN when there is one, -infinity when there is none. */
export function maxRow(x: usize, count: i32): f32 {
  const lowest = f32x4.splat(-Infinity);
  let a = lowest, b = lowest, c = lowest, d = lowest;
  let i = 0;
  for (; i <= count - 16; i += 16, x += 64) {
    a = f32x4.max(a, v128.load(x));
    b = f32x4.max(b, v128.load(x, 16));
    c = f32x4.max(c, v128.load(x, 32));
    d = f32x4.max(d, v128.load(x, 48));
  }
  for (; i < count; i += 4, x += 16) {
    a = f32x4.max(a, v128.bitselect(loadPart(x, count - i), lowest, lanesBelow(count - i)));
  }
  return largest(f32x4.max(f32x4.max(a, b), f32x4.max(c, d)));
}

/**
 * The largest of `count` elements that are not NaN; -infinity when there is none. Three times as fast as `maxRow`, and
 * all that a softmax needs: a NaN reaches its sum.
 */
export function peakRow(x: usize, count: i32): f32 {
  const lowest = f32x4.splat(-Infinity);
  let a = lowest, b = lowest, c = lowest, d = lowest;
  let i = 0;
  for (; i <= count - 16; i += 16, x += 64) {
    a = f32x4.pmax(a, v128.load(x));
    b = f32x4.pmax(b, v128.load(x, 16));
    c = f32x4.pmax(c, v128.load(x, 32));
    d = f32x4.pmax(d, v128.load(x, 48));
  }
  for (; i < count; i += 4, x += 16) {
    a = f32x4.pmax(a, v128.bitselect(loadPart(x, count - i), lowest, lanesBelow(count - i)));
  }
  return largest(f32x4.pmax(f32x4.pmax(a, b), f32x4.pmax(c, d)));
}

/** Copies `count` elements of 4 bytes. */
export function copyWords(x: usize, out: usize, count: i32): void {
  if (count > 256) {
    memory.copy(out, x, usize(count) << 2);
    return;
  }
  for (let i = 0; i < count; i += 4, x += 16, out += 16) storePart(out, loadPart(x, count - i), count - i);
}
