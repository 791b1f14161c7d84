/**
 * C = beta C + alpha op(A) op(B) in f32: packed, blocked, SIMD. op(X) is X or its transpose; rows are contiguous, the
 * row strides (lda, ldb, ldc) are in elements.
 *
 * Layout: A is packed into panels of 6 rows ([k][6]), B into panels of 8 columns ([k][8]), both zero-padded, K in blocks
 * of at most KC. The micro-kernel holds 6x8 sums in 12 of the 16 vector registers and reads one panel of each.
 * Tasks: a task of `gemmPackB` owns some panels of one K block of the packed B; a task of `gemmTiles` owns a tile of C and
 * packs its own rows of A; a task of `gemmBatch` owns one matrix; a task of `gemvRows` or `gemvColumns` some outputs.
 * Numerics: each element of C sums a K block in order in f32 (fused multiply-add where RELAXED), then adds the blocks in
 * order. Blocks start at multiples of KC, whatever the tile: bits depend on the shape alone.
 * The spec is `matmul` in backends/cpu/loops.
 */
import { madd } from "./math";

/** This thread's own scratch bytes: SCRATCH_BYTES of them, 64-byte aligned, contents undefined between tasks. */
@external("env", "scratch")
export declare const SCRATCH: usize;
export const SCRATCH_BYTES: usize = 1 << 20;

const MR: i32 = 6;
const NR: i32 = 8;
/** A panel of B (16 KiB) stays in the L1 cache while the panels of A (12 KiB each) pass. 128: 42, 256: 43.6, 512: 45 GFLOP/s. */
const KC: i32 = 512;
/** Rows of A packed at once: 8 panels, 96 KiB. */
const MC: i32 = 48;
/** Columns of B packed at once by `gemm`: 32 panels, 512 KiB. */
const NC: i32 = 256;

/** Bytes of scratch that `gemm` needs, whatever the sizes: one block of A, one of B, one edge tile. */
export function gemmScratchBytes(): usize {
  return usize((MC * KC + NC * KC + MR * NR) * 4);
}

/** Writes one row (8 elements) of a tile. */
@inline
function storeRow(c: usize, low: v128, high: v128, alpha: v128, accumulate: bool): void {
  let x = f32x4.mul(low, alpha);
  let y = f32x4.mul(high, alpha);
  if (accumulate) {
    x = f32x4.add(v128.load(c), x);
    y = f32x4.add(v128.load(c, 16), y);
  }
  v128.store(c, x);
  v128.store(c, y, 16);
}

/** One 6x8 tile: c = (accumulate ? c : 0) + alpha a b, from a packed panel of A and one of B. `ldc` in bytes. */
function microKernel(kc: i32, a: usize, b: usize, c: usize, ldc: usize, alpha: f32, accumulate: bool): void {
  let c00 = f32x4.splat(0), c01 = f32x4.splat(0);
  let c10 = f32x4.splat(0), c11 = f32x4.splat(0);
  let c20 = f32x4.splat(0), c21 = f32x4.splat(0);
  let c30 = f32x4.splat(0), c31 = f32x4.splat(0);
  let c40 = f32x4.splat(0), c41 = f32x4.splat(0);
  let c50 = f32x4.splat(0), c51 = f32x4.splat(0);
  let x: v128, b0: v128, b1: v128;
  for (let end = b + (usize(kc >> 1) << 6); b < end; b += 64, a += 48) {
    b0 = v128.load(b), b1 = v128.load(b, 16);
    x = v128.load32_splat(a), c00 = madd(x, b0, c00), c01 = madd(x, b1, c01);
    x = v128.load32_splat(a, 4), c10 = madd(x, b0, c10), c11 = madd(x, b1, c11);
    x = v128.load32_splat(a, 8), c20 = madd(x, b0, c20), c21 = madd(x, b1, c21);
    x = v128.load32_splat(a, 12), c30 = madd(x, b0, c30), c31 = madd(x, b1, c31);
    x = v128.load32_splat(a, 16), c40 = madd(x, b0, c40), c41 = madd(x, b1, c41);
    x = v128.load32_splat(a, 20), c50 = madd(x, b0, c50), c51 = madd(x, b1, c51);
    b0 = v128.load(b, 32), b1 = v128.load(b, 48);
    x = v128.load32_splat(a, 24), c00 = madd(x, b0, c00), c01 = madd(x, b1, c01);
    x = v128.load32_splat(a, 28), c10 = madd(x, b0, c10), c11 = madd(x, b1, c11);
    x = v128.load32_splat(a, 32), c20 = madd(x, b0, c20), c21 = madd(x, b1, c21);
    x = v128.load32_splat(a, 36), c30 = madd(x, b0, c30), c31 = madd(x, b1, c31);
    x = v128.load32_splat(a, 40), c40 = madd(x, b0, c40), c41 = madd(x, b1, c41);
    x = v128.load32_splat(a, 44), c50 = madd(x, b0, c50), c51 = madd(x, b1, c51);
  }
  if (kc & 1) {
    b0 = v128.load(b), b1 = v128.load(b, 16);
    x = v128.load32_splat(a), c00 = madd(x, b0, c00), c01 = madd(x, b1, c01);
    x = v128.load32_splat(a, 4), c10 = madd(x, b0, c10), c11 = madd(x, b1, c11);
    x = v128.load32_splat(a, 8), c20 = madd(x, b0, c20), c21 = madd(x, b1, c21);
    x = v128.load32_splat(a, 12), c30 = madd(x, b0, c30), c31 = madd(x, b1, c31);
    x = v128.load32_splat(a, 16), c40 = madd(x, b0, c40), c41 = madd(x, b1, c41);
    x = v128.load32_splat(a, 20), c50 = madd(x, b0, c50), c51 = madd(x, b1, c51);
  }
  const scale = f32x4.splat(alpha);
  storeRow(c, c00, c01, scale, accumulate);
  storeRow(c += ldc, c10, c11, scale, accumulate);
  storeRow(c += ldc, c20, c21, scale, accumulate);
  storeRow(c += ldc, c30, c31, scale, accumulate);
  storeRow(c += ldc, c40, c41, scale, accumulate);
  storeRow(c += ldc, c50, c51, scale, accumulate);
}

/** Packed A times packed B into an m x n part of C. `edge` holds a tile that hangs over the border. */
function multiplyPacked(
  m: i32,
  n: i32,
  kc: i32,
  alpha: f32,
  a: usize,
  b: usize,
  c: usize,
  ldc: usize,
  accumulate: bool,
  edge: usize,
): void {
  const panelA = usize(kc * MR) << 2, panelB = usize(kc * NR) << 2;
  for (let j = 0; j < n; j += NR, b += panelB) {
    const columns = min(NR, n - j);
    let panel = a;
    for (let i = 0; i < m; i += MR, panel += panelA) {
      const tile = c + usize(i) * ldc + (usize(j) << 2);
      const rows = min(MR, m - i);
      if (rows == MR && columns == NR) {
        microKernel(kc, panel, b, tile, ldc, alpha, accumulate);
      } else {
        microKernel(kc, panel, b, edge, NR * 4, alpha, false);
        copyTile(rows, columns, edge, tile, ldc, accumulate);
      }
    }
  }
}

/** The part of an edge tile that lies inside C. */
function copyTile(rows: i32, columns: i32, edge: usize, c: usize, ldc: usize, accumulate: bool): void {
  for (let i = 0; i < rows; i++, edge += NR * 4, c += ldc) {
    for (let j = 0; j < columns; j++) {
      const offset = usize(j) << 2;
      let value = load<f32>(edge + offset);
      if (accumulate) value += load<f32>(c + offset);
      store<f32>(c + offset, value);
    }
  }
}

/** Panels of 6 rows of op(A): `a` points to its first element. Rows past `m` are zeros. */
function packA(transposed: bool, m: i32, kc: i32, a: usize, lda: usize, out: usize): void {
  const panelBytes = usize(kc * MR) << 2;
  for (let i = 0; i < m; i += MR, out += panelBytes) {
    const rows = min(MR, m - i);
    const from = a + (transposed ? usize(i) << 2 : usize(i) * lda);
    if (rows < MR) packEdge(transposed, rows, kc, from, lda, MR, out);
    else if (transposed) packRows6(kc, from, lda, out);
    else packColumns6(kc, from, lda, out);
  }
}

/** A stored [k][m]: copies 6 neighbours for each k. */
function packRows6(kc: i32, a: usize, lda: usize, out: usize): void {
  for (let k = 0; k < kc; k++, a += lda, out += 24) {
    v128.store(out, v128.load(a));
    store<u64>(out, load<u64>(a, 16), 16);
  }
}

/** A stored [m][k]: transposes 6 rows, four k at a time. */
function packColumns6(kc: i32, a: usize, lda: usize, out: usize): void {
  const a1 = a + lda, a2 = a1 + lda, a3 = a2 + lda, a4 = a3 + lda, a5 = a4 + lda;
  let k: usize = 0;
  for (const end = usize(kc & ~3) << 2; k < end; k += 16, out += 96) {
    const r0 = v128.load(a + k), r1 = v128.load(a1 + k), r2 = v128.load(a2 + k), r3 = v128.load(a3 + k);
    const r4 = v128.load(a4 + k), r5 = v128.load(a5 + k);
    const low01 = i32x4.shuffle(r0, r1, 0, 4, 1, 5), high01 = i32x4.shuffle(r0, r1, 2, 6, 3, 7);
    const low23 = i32x4.shuffle(r2, r3, 0, 4, 1, 5), high23 = i32x4.shuffle(r2, r3, 2, 6, 3, 7);
    const low45 = i32x4.shuffle(r4, r5, 0, 4, 1, 5), high45 = i32x4.shuffle(r4, r5, 2, 6, 3, 7);
    v128.store(out, i64x2.shuffle(low01, low23, 0, 2));
    v128.store64_lane(out, low45, 0, 16);
    v128.store(out, i64x2.shuffle(low01, low23, 1, 3), 24);
    v128.store64_lane(out, low45, 1, 40);
    v128.store(out, i64x2.shuffle(high01, high23, 0, 2), 48);
    v128.store64_lane(out, high45, 0, 64);
    v128.store(out, i64x2.shuffle(high01, high23, 1, 3), 72);
    v128.store64_lane(out, high45, 1, 88);
  }
  for (const end = usize(kc) << 2; k < end; k += 4, out += 24) {
    store<f32>(out, load<f32>(a + k));
    store<f32>(out, load<f32>(a1 + k), 4);
    store<f32>(out, load<f32>(a2 + k), 8);
    store<f32>(out, load<f32>(a3 + k), 12);
    store<f32>(out, load<f32>(a4 + k), 16);
    store<f32>(out, load<f32>(a5 + k), 20);
  }
}

/** Panels of 8 columns of op(B): `b` points to its first element. Columns past `n` are zeros. */
function packB(transposed: bool, kc: i32, n: i32, b: usize, ldb: usize, out: usize): void {
  const panelBytes = usize(kc * NR) << 2;
  for (let j = 0; j < n; j += NR, out += panelBytes) {
    const columns = min(NR, n - j);
    const from = b + (transposed ? usize(j) * ldb : usize(j) << 2);
    if (columns < NR) packEdge(!transposed, columns, kc, from, ldb, NR, out);
    else if (transposed) packColumns8(kc, from, ldb, out);
    else packRows8(kc, from, ldb, out);
  }
}

/** B stored [k][n]: copies 8 neighbours for each k. */
function packRows8(kc: i32, b: usize, ldb: usize, out: usize): void {
  for (let k = 0; k < kc; k++, b += ldb, out += 32) {
    const low = v128.load(b), high = v128.load(b, 16);
    v128.store(out, low);
    v128.store(out, high, 16);
  }
}

/** B stored [n][k]: transposes 8 rows, four k at a time. */
function packColumns8(kc: i32, b: usize, ldb: usize, out: usize): void {
  packColumns4(kc, b, ldb, out);
  packColumns4(kc, b + (ldb << 2), ldb, out + 16);
}

@inline
function packColumns4(kc: i32, b: usize, ldb: usize, out: usize): void {
  const b1 = b + ldb, b2 = b1 + ldb, b3 = b2 + ldb;
  let k: usize = 0;
  for (const end = usize(kc & ~3) << 2; k < end; k += 16, out += 128) {
    const r0 = v128.load(b + k), r1 = v128.load(b1 + k), r2 = v128.load(b2 + k), r3 = v128.load(b3 + k);
    const low01 = i32x4.shuffle(r0, r1, 0, 4, 1, 5), high01 = i32x4.shuffle(r0, r1, 2, 6, 3, 7);
    const low23 = i32x4.shuffle(r2, r3, 0, 4, 1, 5), high23 = i32x4.shuffle(r2, r3, 2, 6, 3, 7);
    v128.store(out, i64x2.shuffle(low01, low23, 0, 2));
    v128.store(out, i64x2.shuffle(low01, low23, 1, 3), 32);
    v128.store(out, i64x2.shuffle(high01, high23, 0, 2), 64);
    v128.store(out, i64x2.shuffle(high01, high23, 1, 3), 96);
  }
  for (const end = usize(kc) << 2; k < end; k += 4, out += 32) {
    store<f32>(out, load<f32>(b + k));
    store<f32>(out, load<f32>(b1 + k), 4);
    store<f32>(out, load<f32>(b2 + k), 8);
    store<f32>(out, load<f32>(b3 + k), 12);
  }
}

/** A panel that is not full: element (i, k) lies at i * 4 + k * ld when `along`, else at i * ld + k * 4. */
function packEdge(along: bool, count: i32, kc: i32, from: usize, ld: usize, width: i32, out: usize): void {
  const step: usize = along ? 4 : ld, stride: usize = along ? ld : 4;
  for (let k = 0; k < kc; k++, from += stride) {
    let source = from;
    for (let i = 0; i < count; i++, source += step, out += 4) store<f32>(out, load<f32>(source));
    for (let i = count; i < width; i++, out += 4) store<f32>(out, 0);
  }
}

/**
 * C = beta C + alpha op(A) op(B) on this thread, for use inside other kernels' tasks. `beta` is 0 (C is not read) or 1.
 * A is stored [m][k], or [k][m] when `transA`; B [k][n], or [n][k] when `transB`; lda, ldb, ldc count elements.
 * `scratch` (16-byte aligned, gemmScratchBytes() bytes) may be SCRATCH; A, B and C must not overlap it, nor C the others.
 */
export function gemm(
  transA: bool,
  transB: bool,
  m: i32,
  n: i32,
  k: i32,
  alpha: f32,
  a: usize,
  lda: i32,
  b: usize,
  ldb: i32,
  beta: i32,
  c: usize,
  ldc: i32,
  scratch: usize,
): void {
  const strideA = usize(lda) << 2, strideB = usize(ldb) << 2, strideC = usize(ldc) << 2;
  const packedB = scratch + MC * KC * 4, edge = packedB + NC * KC * 4;
  if (k == 0 && beta == 0) clear(m, n, c, strideC);
  for (let j = 0; j < n; j += NC) {
    const nc = min(NC, n - j);
    for (let p = 0; p < k; p += KC) {
      const kc = min(KC, k - p);
      packB(transB, kc, nc, at(b, transB, p, j, strideB), strideB, packedB);
      for (let i = 0; i < m; i += MC) {
        const mc = min(MC, m - i);
        packA(transA, mc, kc, at(a, transA, i, p, strideA), strideA, scratch);
        const tile = c + usize(i) * strideC + (usize(j) << 2);
        multiplyPacked(mc, nc, kc, alpha, scratch, packedB, tile, strideC, beta != 0 || p > 0, edge);
      }
    }
  }
}

/** Address of element (row, column) of op(X). `stride` in bytes. */
@inline
function at(base: usize, transposed: bool, row: i32, column: i32, stride: usize): usize {
  return transposed ? base + usize(column) * stride + (usize(row) << 2) : base + usize(row) * stride + (usize(column) << 2);
}

function clear(m: i32, n: i32, c: usize, ldc: usize): void {
  for (let i = 0; i < m; i++, c += ldc) memory.fill(c, 0, usize(n) << 2);
}

/**
 * Packs op(B) [k][n] for gemmTiles. Task: `panelsPerTask` panels of one K block; tasks = blocks x groups, groups
 * innermost. Packed: K blocks outermost, then panels: [block][panel][kc][8].
 */
export function gemmPackB(
  begin: i32,
  end: i32,
  transB: i32,
  k: i32,
  n: i32,
  b: usize,
  ldb: i32,
  out: usize,
  panelsPerTask: i32,
): void {
  const stride = usize(ldb) << 2;
  const panels = (n + NR - 1) / NR, groups = (panels + panelsPerTask - 1) / panelsPerTask;
  for (let task = begin; task < end; task++) {
    const p = task / groups * KC, j = task % groups * panelsPerTask * NR;
    const kc = min(KC, k - p), columns = min(panelsPerTask * NR, n - j);
    packB(transB != 0, kc, columns, at(b, transB != 0, p, j, stride), stride, out + (usize(p * panels + j / NR * kc) << 5));
  }
}

/**
 * C [m][n] = beta C + op(A) B, with B from gemmPackB. Task: one tile; tasks = rowTiles x columnTiles, rows innermost.
 * Tiles are near equal: tile t of T covers the panels [t P / T, (t + 1) P / T).
 */
export function gemmTiles(
  begin: i32,
  end: i32,
  transA: i32,
  m: i32,
  n: i32,
  k: i32,
  a: usize,
  lda: i32,
  packedB: usize,
  beta: i32,
  c: usize,
  ldc: i32,
  rowTiles: i32,
  columnTiles: i32,
): void {
  const strideA = usize(lda) << 2, strideC = usize(ldc) << 2;
  const panelsA = (m + MR - 1) / MR, panelsB = (n + NR - 1) / NR;
  const edge = SCRATCH + MC * KC * 4;
  for (let task = begin; task < end; task++) {
    const row = task % rowTiles, column = task / rowTiles;
    const rowBegin = row * panelsA / rowTiles * MR, rowEnd = min(m, (row + 1) * panelsA / rowTiles * MR);
    const first = column * panelsB / columnTiles, last = (column + 1) * panelsB / columnTiles;
    const columns = min(n, last * NR) - first * NR;
    for (let p = 0; p < k; p += KC) {
      const kc = min(KC, k - p);
      const panels = packedB + (usize(p * panelsB + first * kc) << 5);
      for (let i = rowBegin; i < rowEnd; i += MC) {
        const mc = min(MC, rowEnd - i);
        packA(transA != 0, mc, kc, at(a, transA != 0, i, p, strideA), strideA, SCRATCH);
        const tile = c + usize(i) * strideC + (usize(first * NR) << 2);
        multiplyPacked(mc, columns, kc, 1, SCRATCH, panels, tile, strideC, beta != 0 || p > 0, edge);
      }
    }
  }
}

/** C = op(A) op(B) for a batch. Task: one matrix, packed and multiplied by one thread. Strides count elements. */
export function gemmBatch(
  begin: i32,
  end: i32,
  transA: i32,
  transB: i32,
  m: i32,
  n: i32,
  k: i32,
  a: usize,
  lda: i32,
  strideA: i32,
  b: usize,
  ldb: i32,
  strideB: i32,
  c: usize,
  ldc: i32,
  strideC: i32,
): void {
  for (let task = begin; task < end; task++) {
    const fromA = a + (usize(task * strideA) << 2), fromB = b + (usize(task * strideB) << 2);
    const toC = c + (usize(task * strideC) << 2);
    gemm(transA != 0, transB != 0, m, n, k, 1, fromA, lda, fromB, ldb, 0, toC, ldc, SCRATCH);
  }
}

/**
 * y = M x for a batch, M stored [rows][k]: dot products, four rows at a time. Task: `perTask` rows of one matrix; tasks =
 * ceil(rows / perTask) x count, the batch innermost: vectors that share M find its rows in the cache. Sums run in eight
 * lanes a row, then over the lanes.
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
 * y = x M for a batch, M stored [k][columns]: rows of M scaled and summed. Task: `perTask` columns (a multiple of 32) of
 * one matrix; tasks = ceil(columns / perTask) x count, the batch innermost. K blocks of KC are summed in order, then added
 * in order.
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
