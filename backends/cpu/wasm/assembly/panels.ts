/**
 * Small products on one thread whose right factor was packed before: C = (C +) A B for the tiles of attention.
 *
 * B lies in panels of 8 columns, [panel][k][8], as in gemm.ts, zero-padded. A is read where it lies, by row or by
 * column: a tile is used once or twice, so that packing it would cost more than it saves. C has whole panels of columns
 * and rows in fours; the caller pads. The micro-kernel holds 6x8 sums (4x8 for the rest) in 12 vector registers; k runs
 * in order. 31-36 GFLOP/s a core for 64x128x64, packing excluded.
 */
import { loadPart } from "./lanes";
import { madd } from "./math";

const NR: i32 = 8;

/** Panels whose column j is row j of b, `depth` long: for A b^T. `stride` in bytes. */
export function packTransposed(b: usize, count: i32, depth: i32, stride: usize, out: usize): void {
  const panelBytes = usize(depth) << 5;
  for (let j = 0; j < count; j += NR, out += panelBytes) {
    for (let quad = 0; quad < NR; quad += 4) {
      packQuad(b + usize(j + quad) * stride, count - j - quad, depth, stride, out + (usize(quad) << 2));
    }
  }
}

/** Four columns of a panel. Those beyond `count` are 0. */
function packQuad(b: usize, count: i32, depth: i32, stride: usize, out: usize): void {
  const zero = f32x4.splat(0);
  for (let k = 0; k < depth; k += 4, b += 16, out += 128) {
    const left = depth - k;
    const r0 = count > 0 ? loadPart(b, left) : zero, r1 = count > 1 ? loadPart(b + stride, left) : zero;
    const r2 = count > 2 ? loadPart(b + 2 * stride, left) : zero,
      r3 = count > 3 ? loadPart(b + 3 * stride, left) : zero;
    const low01 = i32x4.shuffle(r0, r1, 0, 4, 1, 5), high01 = i32x4.shuffle(r0, r1, 2, 6, 3, 7);
    const low23 = i32x4.shuffle(r2, r3, 0, 4, 1, 5), high23 = i32x4.shuffle(r2, r3, 2, 6, 3, 7);
    v128.store(out, i64x2.shuffle(low01, low23, 0, 2));
    if (left > 1) v128.store(out, i64x2.shuffle(low01, low23, 1, 3), 32);
    if (left > 2) v128.store(out, i64x2.shuffle(high01, high23, 0, 2), 64);
    if (left > 3) v128.store(out, i64x2.shuffle(high01, high23, 1, 3), 96);
  }
}

/** Panels of `depth` rows of b, each `columns` long, times `factor`: for A b. `stride` in bytes. */
export function packRows(b: usize, depth: i32, columns: i32, stride: usize, factor: f32, out: usize): void {
  const scale = f32x4.splat(factor), zero = f32x4.splat(0);
  for (let j = 0; j < columns; j += NR) {
    const left = columns - j;
    let from = b + (usize(j) << 2);
    for (let k = 0; k < depth; k++, from += stride, out += 32) {
      v128.store(out, f32x4.mul(loadPart(from, left), scale));
      v128.store(out, left > 4 ? f32x4.mul(loadPart(from + 16, left - 4), scale) : zero, 16);
    }
  }
}

/** c[i, 0..8) = (accumulate ? c : 0) + sum of a[i, k] b[k, :] for `ROWS` (6 or 4) rows. All strides in bytes. */
@inline
function microKernel(
  ROWS: i32,
  BY_COLUMN: bool,
  a: usize,
  lda: usize,
  depth: i32,
  b: usize,
  c: usize,
  ldc: usize,
  accumulate: bool,
): void {
  const zero = f32x4.splat(0);
  let c00 = zero, c01 = zero, c10 = zero, c11 = zero, c20 = zero, c21 = zero;
  let c30 = zero, c31 = zero, c40 = zero, c41 = zero, c50 = zero, c51 = zero;
  let x: v128, b0: v128, b1: v128;
  if (BY_COLUMN) {
    for (const end = b + (usize(depth) << 5); b < end; b += 32, a += lda) {
      b0 = v128.load(b), b1 = v128.load(b, 16);
      x = v128.load32_splat(a), c00 = madd(x, b0, c00), c01 = madd(x, b1, c01);
      x = v128.load32_splat(a, 4), c10 = madd(x, b0, c10), c11 = madd(x, b1, c11);
      x = v128.load32_splat(a, 8), c20 = madd(x, b0, c20), c21 = madd(x, b1, c21);
      x = v128.load32_splat(a, 12), c30 = madd(x, b0, c30), c31 = madd(x, b1, c31);
      if (ROWS == 6) {
        x = v128.load32_splat(a, 16), c40 = madd(x, b0, c40), c41 = madd(x, b1, c41);
        x = v128.load32_splat(a, 20), c50 = madd(x, b0, c50), c51 = madd(x, b1, c51);
      }
    }
  } else {
    let a0 = a, a1 = a0 + lda, a2 = a1 + lda, a3 = a2 + lda, a4 = a3 + lda, a5 = a4 + lda;
    for (const end = b + (usize(depth & ~1) << 5); b < end; b += 64) {
      b0 = v128.load(b), b1 = v128.load(b, 16);
      x = v128.load32_splat(a0), c00 = madd(x, b0, c00), c01 = madd(x, b1, c01);
      x = v128.load32_splat(a1), c10 = madd(x, b0, c10), c11 = madd(x, b1, c11);
      x = v128.load32_splat(a2), c20 = madd(x, b0, c20), c21 = madd(x, b1, c21);
      x = v128.load32_splat(a3), c30 = madd(x, b0, c30), c31 = madd(x, b1, c31);
      if (ROWS == 6) {
        x = v128.load32_splat(a4), c40 = madd(x, b0, c40), c41 = madd(x, b1, c41);
        x = v128.load32_splat(a5), c50 = madd(x, b0, c50), c51 = madd(x, b1, c51);
      }
      b0 = v128.load(b, 32), b1 = v128.load(b, 48);
      x = v128.load32_splat(a0, 4), c00 = madd(x, b0, c00), c01 = madd(x, b1, c01);
      x = v128.load32_splat(a1, 4), c10 = madd(x, b0, c10), c11 = madd(x, b1, c11);
      x = v128.load32_splat(a2, 4), c20 = madd(x, b0, c20), c21 = madd(x, b1, c21);
      x = v128.load32_splat(a3, 4), c30 = madd(x, b0, c30), c31 = madd(x, b1, c31);
      if (ROWS == 6) {
        x = v128.load32_splat(a4, 4), c40 = madd(x, b0, c40), c41 = madd(x, b1, c41);
        x = v128.load32_splat(a5, 4), c50 = madd(x, b0, c50), c51 = madd(x, b1, c51);
        a4 += 8, a5 += 8;
      }
      a0 += 8, a1 += 8, a2 += 8, a3 += 8;
    }
    if (depth & 1) {
      b0 = v128.load(b), b1 = v128.load(b, 16);
      x = v128.load32_splat(a0), c00 = madd(x, b0, c00), c01 = madd(x, b1, c01);
      x = v128.load32_splat(a1), c10 = madd(x, b0, c10), c11 = madd(x, b1, c11);
      x = v128.load32_splat(a2), c20 = madd(x, b0, c20), c21 = madd(x, b1, c21);
      x = v128.load32_splat(a3), c30 = madd(x, b0, c30), c31 = madd(x, b1, c31);
      if (ROWS == 6) {
        x = v128.load32_splat(a4), c40 = madd(x, b0, c40), c41 = madd(x, b1, c41);
        x = v128.load32_splat(a5), c50 = madd(x, b0, c50), c51 = madd(x, b1, c51);
      }
    }
  }
  storeRow(c, c00, c01, accumulate);
  storeRow(c += ldc, c10, c11, accumulate);
  storeRow(c += ldc, c20, c21, accumulate);
  storeRow(c += ldc, c30, c31, accumulate);
  if (ROWS == 6) {
    storeRow(c += ldc, c40, c41, accumulate);
    storeRow(c += ldc, c50, c51, accumulate);
  }
}

@inline
function storeRow(c: usize, low: v128, high: v128, accumulate: bool): void {
  if (accumulate) {
    low = f32x4.add(v128.load(c), low);
    high = f32x4.add(v128.load(c, 16), high);
  }
  v128.store(c, low);
  v128.store(c, high, 16);
}

function rows6(a: usize, lda: usize, depth: i32, b: usize, c: usize, ldc: usize, accumulate: bool): void {
  microKernel(6, false, a, lda, depth, b, c, ldc, accumulate);
}

function rows4(a: usize, lda: usize, depth: i32, b: usize, c: usize, ldc: usize, accumulate: bool): void {
  microKernel(4, false, a, lda, depth, b, c, ldc, accumulate);
}

function columns6(a: usize, lda: usize, depth: i32, b: usize, c: usize, ldc: usize, accumulate: bool): void {
  microKernel(6, true, a, lda, depth, b, c, ldc, accumulate);
}

function columns4(a: usize, lda: usize, depth: i32, b: usize, c: usize, ldc: usize, accumulate: bool): void {
  microKernel(4, true, a, lda, depth, b, c, ldc, accumulate);
}

/** How many of m rows (a multiple of 4) go in sixes; the others go in fours. */
@inline
function inSixes(m: i32): i32 {
  const rest = m % 6;
  return rest == 0 ? m : rest == 4 ? m - 4 : m - 8;
}

/**
 * c [m, n] = (accumulate ? c : 0) + a [m, depth] b. m a multiple of 4; n is rounded up to whole panels, and `pitch` is
 * the depth that the panels were packed with. lda and ldc in bytes.
 */
export function multiply(
  m: i32,
  n: i32,
  depth: i32,
  a: usize,
  lda: usize,
  b: usize,
  pitch: i32,
  c: usize,
  ldc: usize,
  accumulate: bool,
): void {
  const sixes = inSixes(m);
  for (let j = 0; j < n; j += NR, b += usize(pitch) << 5, c += 32) {
    let i = 0;
    for (; i < sixes; i += 6) rows6(a + usize(i) * lda, lda, depth, b, c + usize(i) * ldc, ldc, accumulate);
    for (; i < m; i += 4) rows4(a + usize(i) * lda, lda, depth, b, c + usize(i) * ldc, ldc, accumulate);
  }
}

/** The same with a stored [depth, m]: c = (accumulate ? c : 0) + a^T b. */
export function multiplyTransposed(
  m: i32,
  n: i32,
  depth: i32,
  a: usize,
  lda: usize,
  b: usize,
  pitch: i32,
  c: usize,
  ldc: usize,
  accumulate: bool,
): void {
  const sixes = inSixes(m);
  for (let j = 0; j < n; j += NR, b += usize(pitch) << 5, c += 32) {
    let i = 0;
    for (; i < sixes; i += 6) columns6(a + (usize(i) << 2), lda, depth, b, c + usize(i) * ldc, ldc, accumulate);
    for (; i < m; i += 4) columns4(a + (usize(i) << 2), lda, depth, b, c + usize(i) * ldc, ldc, accumulate);
  }
}
