/**
 * C = beta C + alpha op(A) op(B) in f32: packed, blocked, SIMD. op(X) is X or its transpose; rows are contiguous.
 *
 * Layout: op(B) is packed into panels of 8 columns ([panel][k][8], zero-padded), K in blocks of at most KC. A is read
 * where it lies, row by row; a transposed A is first copied, 48 rows at a time. The micro-kernel holds 6x8 sums in 12
 * of the 15 vector registers that V8 gives out.
 * Tasks: one of `gemmPackB` owns some panels of one K block of the packed B; one of `gemmTiles` a tile of C; one of
 * `gemmBatch` a matrix of C. backends/cpu/matmul.ts counts them. Products with a vector are in gemv.ts.
 * Numerics: each element of C sums a K block in order in f32 (fused multiply-add where RELAXED), then adds the blocks
 * in order. Blocks start at multiples of KC, whatever the tile: bits depend on the shape alone.
 * The spec is `matmul` in backends/cpu/loops.
 *
 * Versions, f32 512^3 on one core of an AVX-512 machine (128-bit lanes), GFLOP/s of processor time: A and B packed into
 * panels, two steps of k a round: 43; A unpacked, four steps: 50; one step: 62. Unrolled, Binaryen joins the steps of
 * each sum into one expression, which puts all loads before it and spills them.
 */
import { madd } from "./math";

/** This thread's own scratch bytes: SCRATCH_BYTES of them, 64-byte aligned, contents undefined between tasks. */

@external("env", "scratch")
export declare const SCRATCH: usize;
export const SCRATCH_BYTES: usize = 1 << 20;

const MR: i32 = 6;
const NR: i32 = 8;
/** A panel of B (16 KiB) stays in the L1 cache while rows of A pass, six at a time (12 KiB). 256 is 2 % slower. */
const KC: i32 = 512;
/** Rows of A between two passes over B: 96 KiB of the L2 cache. */
const MC: i32 = 48;
/** Columns of B packed at once by `gemm`: 32 panels, 512 KiB. */
const NC: i32 = 256;
/** Distance of the rows of a transposed block of A: no multiple of 4 KiB, where they would share cache sets. */
const ROW_BYTES: usize = KC * 4 + 64;

/** Bytes of scratch that `gemm` needs, whatever the sizes: one block of A, one of B, one edge tile. */
export function gemmScratchBytes(): usize {
  return MC * ROW_BYTES + usize(NC * KC + MR * NR) * 4;
}

/** Writes one row (8 elements) of a tile. */

@inline
export function storeRow(c: usize, low: v128, high: v128, alpha: v128, accumulate: bool): void {
  let x = f32x4.mul(low, alpha);
  let y = f32x4.mul(high, alpha);
  if (accumulate) {
    x = f32x4.add(v128.load(c), x);
    y = f32x4.add(v128.load(c, 16), y);
  }
  v128.store(c, x);
  v128.store(c, y, 16);
}

/**
 * One 6x8 tile: c = (accumulate ? c : 0) + alpha a b, from rows of A and a packed panel of B; lda and ldc in bytes.
 * With fewer than six `rows` the last one is read again in place of the missing ones.
 */
function microKernel(
  kc: i32,
  rows: i32,
  a: usize,
  lda: usize,
  b: usize,
  c: usize,
  ldc: usize,
  alpha: f32,
  accumulate: bool,
): void {
  let a0 = a, a1 = a0 + (rows > 1 ? lda : 0), a2 = a1 + (rows > 2 ? lda : 0);
  let a3 = a2 + (rows > 3 ? lda : 0), a4 = a3 + (rows > 4 ? lda : 0), a5 = a4 + (rows > 5 ? lda : 0);
  let c00 = f32x4.splat(0), c01 = f32x4.splat(0);
  let c10 = f32x4.splat(0), c11 = f32x4.splat(0);
  let c20 = f32x4.splat(0), c21 = f32x4.splat(0);
  let c30 = f32x4.splat(0), c31 = f32x4.splat(0);
  let c40 = f32x4.splat(0), c41 = f32x4.splat(0);
  let c50 = f32x4.splat(0), c51 = f32x4.splat(0);
  let x: v128, b0: v128, b1: v128;
  for (let end = b + (usize(kc) << 5); b < end; b += 32) {
    b0 = v128.load(b), b1 = v128.load(b, 16);
    x = v128.load32_splat(a0), c00 = madd(x, b0, c00), c01 = madd(x, b1, c01);
    x = v128.load32_splat(a1), c10 = madd(x, b0, c10), c11 = madd(x, b1, c11);
    x = v128.load32_splat(a2), c20 = madd(x, b0, c20), c21 = madd(x, b1, c21);
    x = v128.load32_splat(a3), c30 = madd(x, b0, c30), c31 = madd(x, b1, c31);
    x = v128.load32_splat(a4), c40 = madd(x, b0, c40), c41 = madd(x, b1, c41);
    x = v128.load32_splat(a5), c50 = madd(x, b0, c50), c51 = madd(x, b1, c51);
    a0 += 4, a1 += 4, a2 += 4, a3 += 4, a4 += 4, a5 += 4;
  }
  const scale = f32x4.splat(alpha);
  storeRow(c, c00, c01, scale, accumulate);
  storeRow(c += ldc, c10, c11, scale, accumulate);
  storeRow(c += ldc, c20, c21, scale, accumulate);
  storeRow(c += ldc, c30, c31, scale, accumulate);
  storeRow(c += ldc, c40, c41, scale, accumulate);
  storeRow(c += ldc, c50, c51, scale, accumulate);
}

/** Rows of A times packed B into an m x n part of C. `edge` holds a tile that hangs over the border. */
function multiplyRows(
  m: i32,
  n: i32,
  kc: i32,
  alpha: f32,
  a: usize,
  lda: usize,
  b: usize,
  c: usize,
  ldc: usize,
  accumulate: bool,
  edge: usize,
): void {
  const panelBytes = usize(kc * NR) << 2;
  for (let j = 0; j < n; j += NR, b += panelBytes) {
    const columns = min(NR, n - j);
    let tile = c + (usize(j) << 2), from = a;
    for (let i = 0; i < m; i += MR, tile += ldc * MR, from += lda * MR) {
      const rows = min(MR, m - i);
      if (rows == MR && columns == NR) {
        microKernel(kc, MR, from, lda, b, tile, ldc, alpha, accumulate);
      } else {
        microKernel(kc, rows, from, lda, b, edge, NR * 4, alpha, false);
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

/** A stored [k][m] as rows [m][k], ROW_BYTES apart. */
function transposeA(m: i32, kc: i32, a: usize, lda: usize, out: usize): void {
  let k = 0;
  for (; k + 4 <= kc; k += 4, a += lda << 2, out += 16) {
    const a1 = a + lda, a2 = a1 + lda, a3 = a2 + lda;
    let from: usize = 0, to = out;
    for (const end = usize(m & ~3) << 2; from < end; from += 16, to += ROW_BYTES * 4) {
      const r0 = v128.load(a + from), r1 = v128.load(a1 + from), r2 = v128.load(a2 + from), r3 = v128.load(a3 + from);
      const low01 = i32x4.shuffle(r0, r1, 0, 4, 1, 5), high01 = i32x4.shuffle(r0, r1, 2, 6, 3, 7);
      const low23 = i32x4.shuffle(r2, r3, 0, 4, 1, 5), high23 = i32x4.shuffle(r2, r3, 2, 6, 3, 7);
      v128.store(to, i64x2.shuffle(low01, low23, 0, 2));
      v128.store(to + ROW_BYTES, i64x2.shuffle(low01, low23, 1, 3));
      v128.store(to + ROW_BYTES * 2, i64x2.shuffle(high01, high23, 0, 2));
      v128.store(to + ROW_BYTES * 3, i64x2.shuffle(high01, high23, 1, 3));
    }
    for (const end = usize(m) << 2; from < end; from += 4, to += ROW_BYTES) {
      store<f32>(to, load<f32>(a + from));
      store<f32>(to, load<f32>(a1 + from), 4);
      store<f32>(to, load<f32>(a2 + from), 8);
      store<f32>(to, load<f32>(a3 + from), 12);
    }
  }
  for (; k < kc; k++, a += lda, out += 4) {
    let to = out;
    for (let from: usize = 0, end = usize(m) << 2; from < end; from += 4, to += ROW_BYTES) {
      store<f32>(to, load<f32>(a + from));
    }
  }
}

/** Panels of 8 columns of op(B): `b` points to its first element. Columns past `n` are zeros. */
function packB(transposed: bool, kc: i32, n: i32, b: usize, ldb: usize, out: usize): void {
  const panelBytes = usize(kc * NR) << 2;
  for (let j = 0; j < n; j += NR, out += panelBytes) {
    const columns = min(NR, n - j);
    const from = b + (transposed ? usize(j) * ldb : usize(j) << 2);
    if (columns < NR) packEdge(columns, kc, from, transposed ? ldb : 4, transposed ? 4 : ldb, out);
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

/** A panel that is not full: column i begins at i * step, its next element lies `stride` further. */
function packEdge(columns: i32, kc: i32, b: usize, step: usize, stride: usize, out: usize): void {
  for (let k = 0; k < kc; k++, b += stride) {
    let from = b;
    for (let i = 0; i < columns; i++, from += step, out += 4) store<f32>(out, load<f32>(from));
    for (let i = columns; i < NR; i++, out += 4) store<f32>(out, 0);
  }
}

/**
 * C = beta C + alpha op(A) op(B) on this thread, for use inside other kernels' tasks. `beta` is 0 (C is not read) or 1.
 * A is stored [m][k], or [k][m] when `transA`; B [k][n], or [n][k] when `transB`; lda, ldb, ldc count elements.
 * `scratch` (16-byte aligned, gemmScratchBytes() bytes) may be SCRATCH. A, B, C and it must not overlap but A and B.
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
  const packedB = scratch + MC * ROW_BYTES, edge = packedB + NC * KC * 4;
  if (k == 0 && beta == 0) clear(m, n, c, strideC);
  for (let j = 0; j < n; j += NC) {
    const nc = min(NC, n - j);
    for (let p = 0; p < k; p += KC) {
      const kc = min(KC, k - p);
      packB(transB, kc, nc, at(b, transB, p, j, strideB), strideB, packedB);
      for (let i = 0; i < m; i += MC) {
        const mc = min(MC, m - i);
        const part = at(a, transA, i, p, strideA), tile = c + usize(i) * strideC + (usize(j) << 2);
        if (transA) transposeA(mc, kc, part, strideA, scratch);
        const rows = transA ? scratch : part, rowBytes = transA ? ROW_BYTES : strideA;
        multiplyRows(mc, nc, kc, alpha, rows, rowBytes, packedB, tile, strideC, beta != 0 || p > 0, edge);
      }
    }
  }
}

/** Address of element (row, column) of op(X). `stride` in bytes. */

@inline
function at(base: usize, transposed: bool, row: i32, column: i32, stride: usize): usize {
  return transposed
    ? base + usize(column) * stride + (usize(row) << 2)
    : base + usize(row) * stride + (usize(column) << 2);
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
    packB(
      transB != 0,
      kc,
      columns,
      at(b, transB != 0, p, j, stride),
      stride,
      out + (usize(p * panels + j / NR * kc) << 5),
    );
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
  const edge = SCRATCH + MC * ROW_BYTES;
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
        const part = at(a, transA != 0, i, p, strideA), tile = c + usize(i) * strideC + (usize(first * NR) << 2);
        if (transA) transposeA(mc, kc, part, strideA, SCRATCH);
        const rows = transA ? SCRATCH : part, rowBytes = transA ? ROW_BYTES : strideA;
        multiplyRows(mc, columns, kc, 1, rows, rowBytes, panels, tile, strideC, beta != 0 || p > 0, edge);
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
