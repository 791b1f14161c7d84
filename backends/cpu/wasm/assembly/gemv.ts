/**
 * A matrix times vectors in f32, where packing would cost more than it brings: y = M x and y = x M, M by rows.
 *
 * Tasks: some outputs of one vector; counted by backends/cpu/matmul.ts. The vectors of a batch are innermost, so that
 * those that share M find it in the cache. Strides between matrices and vectors count elements.
 * Numerics: see each kernel; a fused multiply-add where RELAXED. Bits depend on the shape alone.
 */
import { storeRow } from "./gemm";
import { madd } from "./math";

/** The K block of gemvColumns. */
const KC: i32 = 512;

/**
 * y = M x for a batch, M stored [rows][k]: dot products, four rows at a time. Task: `perTask` rows of one matrix;
 * tasks = ceil(rows / perTask) x count, the batch innermost. Sums run in eight lanes a row, then over the lanes.
 */
export function gemvRows(
  begin: i32,
  end: i32,
  rows: i32,
  k: i32,
  matrix: usize,
  ld: i32,
  strideM: i32,
  x: usize,
  strideX: i32,
  y: usize,
  strideY: i32,
  count: i32,
  perTask: i32,
): void {
  const step = usize(ld) << 2;
  for (let task = begin; task < end; task++) {
    const batch = task % count, first = task / count * perTask, last = min(rows, first + perTask);
    const vector = x + (usize(batch * strideX) << 2);
    let row = matrix + (usize(batch * strideM) << 2) + usize(first) * step;
    let out = y + (usize(batch * strideY + first) << 2);
    let i = first;
    for (; i + 4 <= last; i += 4, row += step << 2, out += 16) dot4(k, row, step, vector, out);
    for (; i < last; i++, row += step, out += 4) store<f32>(out, dot(k, row, vector));
  }
}

function dot4(k: i32, m0: usize, step: usize, x: usize, out: usize): void {
  const m1 = m0 + step, m2 = m1 + step, m3 = m2 + step;
  let s00 = f32x4.splat(0), s01 = f32x4.splat(0), s10 = f32x4.splat(0), s11 = f32x4.splat(0);
  let s20 = f32x4.splat(0), s21 = f32x4.splat(0), s30 = f32x4.splat(0), s31 = f32x4.splat(0);
  let at: usize = 0;
  for (const end = usize(k & ~7) << 2; at < end; at += 32) {
    const low = v128.load(x + at), high = v128.load(x + at, 16);
    s00 = madd(v128.load(m0 + at), low, s00), s01 = madd(v128.load(m0 + at, 16), high, s01);
    s10 = madd(v128.load(m1 + at), low, s10), s11 = madd(v128.load(m1 + at, 16), high, s11);
    s20 = madd(v128.load(m2 + at), low, s20), s21 = madd(v128.load(m2 + at, 16), high, s21);
    s30 = madd(v128.load(m3 + at), low, s30), s31 = madd(v128.load(m3 + at, 16), high, s31);
  }
  store<f32>(out, sumLanes(f32x4.add(s00, s01)) + dotTail(at, k, m0, x));
  store<f32>(out, sumLanes(f32x4.add(s10, s11)) + dotTail(at, k, m1, x), 4);
  store<f32>(out, sumLanes(f32x4.add(s20, s21)) + dotTail(at, k, m2, x), 8);
  store<f32>(out, sumLanes(f32x4.add(s30, s31)) + dotTail(at, k, m3, x), 12);
}

/** The same sum as a row of dot4. */
function dot(k: i32, m: usize, x: usize): f32 {
  let s0 = f32x4.splat(0), s1 = f32x4.splat(0);
  let at: usize = 0;
  for (const end = usize(k & ~7) << 2; at < end; at += 32) {
    s0 = madd(v128.load(m + at), v128.load(x + at), s0);
    s1 = madd(v128.load(m + at, 16), v128.load(x + at, 16), s1);
  }
  return sumLanes(f32x4.add(s0, s1)) + dotTail(at, k, m, x);
}

@inline
function sumLanes(x: v128): f32 {
  return f32x4.extract_lane(x, 0) + f32x4.extract_lane(x, 1) + (f32x4.extract_lane(x, 2) + f32x4.extract_lane(x, 3));
}

function dotTail(at: usize, k: i32, m: usize, x: usize): f32 {
  let sum: f32 = 0;
  for (const end = usize(k) << 2; at < end; at += 4) sum += load<f32>(m + at) * load<f32>(x + at);
  return sum;
}

/**
 * y = x M for a batch, M stored [k][columns]: rows of M scaled and summed. Task: `perTask` columns (a multiple of 32)
 * of one matrix; tasks = ceil(columns / perTask) x count, the batch innermost. K blocks of KC are summed in order, then
 * added in order.
 */
export function gemvColumns(
  begin: i32,
  end: i32,
  columns: i32,
  k: i32,
  matrix: usize,
  ld: i32,
  strideM: i32,
  x: usize,
  strideX: i32,
  y: usize,
  strideY: i32,
  count: i32,
  perTask: i32,
): void {
  const step = usize(ld) << 2;
  for (let task = begin; task < end; task++) {
    const batch = task % count, first = task / count * perTask, last = min(columns, first + perTask);
    const vector = x + (usize(batch * strideX) << 2);
    const base = matrix + (usize(batch * strideM) << 2), out = y + (usize(batch * strideY) << 2);
    for (let p = 0; p < k; p += KC) {
      const kc = min(KC, k - p), block = base + usize(p) * step, scales = vector + (usize(p) << 2);
      let j = first;
      for (; j + 32 <= last; j += 32) axpy32(kc, block + (usize(j) << 2), step, scales, out + (usize(j) << 2), p > 0);
      for (; j < last; j++) axpy1(kc, block + (usize(j) << 2), step, scales, out + (usize(j) << 2), p > 0);
    }
  }
}

function axpy32(kc: i32, m: usize, step: usize, x: usize, out: usize, accumulate: bool): void {
  let s0 = f32x4.splat(0), s1 = f32x4.splat(0), s2 = f32x4.splat(0), s3 = f32x4.splat(0);
  let s4 = f32x4.splat(0), s5 = f32x4.splat(0), s6 = f32x4.splat(0), s7 = f32x4.splat(0);
  for (const end = x + (usize(kc) << 2); x < end; x += 4, m += step) {
    const scale = v128.load32_splat(x);
    s0 = madd(scale, v128.load(m), s0), s1 = madd(scale, v128.load(m, 16), s1);
    s2 = madd(scale, v128.load(m, 32), s2), s3 = madd(scale, v128.load(m, 48), s3);
    s4 = madd(scale, v128.load(m, 64), s4), s5 = madd(scale, v128.load(m, 80), s5);
    s6 = madd(scale, v128.load(m, 96), s6), s7 = madd(scale, v128.load(m, 112), s7);
  }
  const one = f32x4.splat(1);
  storeRow(out, s0, s1, one, accumulate);
  storeRow(out + 32, s2, s3, one, accumulate);
  storeRow(out + 64, s4, s5, one, accumulate);
  storeRow(out + 96, s6, s7, one, accumulate);
}

function axpy1(kc: i32, m: usize, step: usize, x: usize, out: usize, accumulate: bool): void {
  let sum: f32 = 0;
  for (const end = x + (usize(kc) << 2); x < end; x += 4, m += step) sum += load<f32>(x) * load<f32>(m);
  store<f32>(out, accumulate ? load<f32>(out) + sum : sum);
}
