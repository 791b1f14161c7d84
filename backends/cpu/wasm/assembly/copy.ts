/**
 * Copies between strided views of 4-byte elements: row by row, or as blocks where one side's rows are the other's
 * columns. Bits are kept. The spec is `copyStrided` in backends/cpu/loops.
 */
import { copyWords } from "./lanes";

const CHUNK: i32 = 8192;

/**
 * Copies rows of `columns` elements between strided places. Row (i0, i1, i2) starts at i0 x0 + i1 x1 + i2 x2, likewise
 * in out; within a row the strides are xStep and outStep. Tasks: as those of `binary`.
 */
export function copyRows(
  begin: i32,
  end: i32,
  x: usize,
  out: usize,
  rows: i32,
  columns: i32,
  extent1: i32,
  extent2: i32,
  x0: i32,
  x1: i32,
  x2: i32,
  xStep: i32,
  out0: i32,
  out1: i32,
  out2: i32,
  outStep: i32,
): void {
  const perRow = (columns + CHUNK - 1) / CHUNK, perTask = max(1, CHUNK / columns);
  for (let task = begin; task < end; task++) {
    const column = task % perRow * CHUNK;
    const count = min(CHUNK, columns - column);
    const first = task / perRow * perTask;
    for (let row = first; row < min(rows, first + perTask); row++) {
      const i2 = row % extent2, outer = row / extent2, i1 = outer % extent1, i0 = outer / extent1;
      const from = x + (usize(i0 * x0 + i1 * x1 + i2 * x2 + column * xStep) << 2);
      const to = out + (usize(i0 * out0 + i1 * out1 + i2 * out2 + column * outStep) << 2);
      if (xStep == 1 && outStep == 1) copyWords(from, to, count);
      else copySteps(from, to, count, usize(xStep) << 2, usize(outStep) << 2);
    }
  }
}

function copySteps(x: usize, out: usize, count: i32, xStep: usize, outStep: usize): void {
  for (let i = 0; i < count; i++, x += xStep, out += outStep) store<u32>(out, load<u32>(x));
}

/** Rows and columns of a block of `copyTransposed`: 16 KiB read and written, whole cache lines of both. */
const BLOCK: i32 = 64;

/**
 * out[m, i, j] = x[m, j, i] for matrices of `rows` (i) x `columns` (j): in x, j steps by `xRow` and i by 1; in out, i
 * steps by `outRow` and j by 1. Matrix (m0, m1) starts at m0 x0 + m1 x1. Tasks: strips of BLOCK rows (i) of each
 * matrix.
 */
export function copyTransposed(
  begin: i32,
  end: i32,
  x: usize,
  out: usize,
  rows: i32,
  columns: i32,
  xRow: i32,
  outRow: i32,
  extent1: i32,
  x0: i32,
  x1: i32,
  out0: i32,
  out1: i32,
): void {
  const strips = (rows + BLOCK - 1) / BLOCK;
  for (let task = begin; task < end; task++) {
    const matrix = task / strips, m1 = matrix % extent1, m0 = matrix / extent1;
    const i = task % strips * BLOCK, height = min(BLOCK, rows - i);
    const from = x + (usize(m0 * x0 + m1 * x1 + i) << 2), to = out + (usize(m0 * out0 + m1 * out1 + i * outRow) << 2);
    for (let j = 0; j < columns; j += BLOCK) {
      const width = min(BLOCK, columns - j);
      transposeBlock(
        from + (usize(j * xRow) << 2),
        to + (usize(j) << 2),
        height,
        width,
        usize(xRow) << 2,
        usize(outRow) << 2,
      );
    }
  }
}

/** out[i, j] = x[j, i] for i < height, j < width; row strides in bytes. */
function transposeBlock(x: usize, out: usize, height: i32, width: i32, xRow: usize, outRow: usize): void {
  const evenHeight = height & ~3, evenWidth = width & ~3;
  for (let i = 0; i < evenHeight; i += 4) {
    let from = x + (usize(i) << 2), to = out + usize(i) * outRow;
    for (let j = 0; j < evenWidth; j += 4, from += xRow << 2, to += 16) {
      const a = v128.load(from), b = v128.load(from + xRow);
      const c = v128.load(from + 2 * xRow), d = v128.load(from + 3 * xRow);
      const ab = i32x4.shuffle(a, b, 0, 4, 1, 5), AB = i32x4.shuffle(a, b, 2, 6, 3, 7);
      const cd = i32x4.shuffle(c, d, 0, 4, 1, 5), CD = i32x4.shuffle(c, d, 2, 6, 3, 7);
      v128.store(to, i64x2.shuffle(ab, cd, 0, 2));
      v128.store(to + outRow, i64x2.shuffle(ab, cd, 1, 3));
      v128.store(to + 2 * outRow, i64x2.shuffle(AB, CD, 0, 2));
      v128.store(to + 3 * outRow, i64x2.shuffle(AB, CD, 1, 3));
    }
  }
  for (let i = 0; i < height; i++) {
    // Rows that the blocks of four left out are copied whole, the others from where the blocks end.
    for (let j = i < evenHeight ? evenWidth : 0; j < width; j++) {
      store<u32>(out + usize(i) * outRow + (usize(j) << 2), load<u32>(x + usize(j) * xRow + (usize(i) << 2)));
    }
  }
}
