/**
 * Sums, maxima and first places of maxima, over rows (the reduced axis is contiguous) and over columns (the kept axis
 * is).
 *
 * Numerics: a sum adds four neighbours in f32, as a tree, and the rest in f64; its order depends on the sizes alone.
 * Long reductions go through f64 (sums) or f32 (maxima) partial results in a workspace and a second export that joins
 * them. A maximum with a NaN is NaN. The spec is `reduce` in backends/cpu/loops.
 */
import { largest, loadPart, maxRow, sumRow, upper } from "./lanes";

/** Elements of one partial result over a row. */
const SPAN: i32 = 32768;

/** Rows of a task that reads about 8192 elements. */
@inline
function rowsPerTask(columns: i32): i32 {
  return max(1, 8192 / max(1, columns));
}

/** out[r] = sum or max of x[r, :]; row r starts at r stride. Tasks: groups of rows of about 8192 elements. */
export function reduceRows(
  begin: i32,
  end: i32,
  isMax: i32,
  x: usize,
  out: usize,
  rows: i32,
  columns: i32,
  stride: i32,
): void {
  const perTask = rowsPerTask(columns);
  for (let row = begin * perTask, stop = min(rows, end * perTask); row < stop; row++) {
    const at = x + (usize(row * stride) << 2);
    store<f32>(out + (usize(row) << 2), isMax ? maxRow(at, columns) : f32(sumRow(at, columns)));
  }
}

/** partial[r, s] (f64) = sum or max of the SPAN elements s of row r. Tasks: rows x spans, spans innermost. */
export function reduceSpans(
  begin: i32,
  end: i32,
  isMax: i32,
  x: usize,
  partial: usize,
  columns: i32,
  stride: i32,
): void {
  const spans = (columns + SPAN - 1) / SPAN;
  for (let task = begin; task < end; task++) {
    const column = task % spans * SPAN, count = min(SPAN, columns - column);
    const at = x + (usize(task / spans * stride + column) << 2);
    store<f64>(partial + (usize(task) << 3), isMax ? f64(maxRow(at, count)) : sumRow(at, count));
  }
}

/** out[r] = sum or max of partial[r, :] (f64), in order. Task: one row. */
export function joinSpans(begin: i32, end: i32, isMax: i32, partial: usize, out: usize, spans: i32): void {
  for (let row = begin; row < end; row++) {
    let at = partial + (usize(row * spans) << 3);
    let value = load<f64>(at);
    for (let i = 1; i < spans; i++) {
      at += 8;
      value = isMax ? max(value, load<f64>(at)) : value + load<f64>(at);
    }
    store<f32>(out + (usize(row) << 2), f32(value));
  }
}

/** Columns of one strip: a cache line, summed in 8 registers. */
const STRIP: i32 = 16;

/** Sums of up to 16 columns over `rows` rows, f64, to out[0 .. width). `stride` in bytes. */
@inline
function sumStrip(x: usize, rows: i32, stride: usize, width: i32, out: usize): void {
  let s0 = f64x2.splat(0), s1 = s0, s2 = s0, s3 = s0, s4 = s0, s5 = s0, s6 = s0, s7 = s0;
  let row = 0;
  if (width == STRIP) {
    for (; row <= rows - 4; row += 4, x += stride << 2) {
      const x1 = x + stride, x2 = x1 + stride, x3 = x2 + stride;
      const a = f32x4.add(f32x4.add(v128.load(x), v128.load(x1)), f32x4.add(v128.load(x2), v128.load(x3)));
      const b = f32x4.add(
        f32x4.add(v128.load(x, 16), v128.load(x1, 16)),
        f32x4.add(v128.load(x2, 16), v128.load(x3, 16)),
      );
      const c = f32x4.add(
        f32x4.add(v128.load(x, 32), v128.load(x1, 32)),
        f32x4.add(v128.load(x2, 32), v128.load(x3, 32)),
      );
      const d = f32x4.add(
        f32x4.add(v128.load(x, 48), v128.load(x1, 48)),
        f32x4.add(v128.load(x2, 48), v128.load(x3, 48)),
      );
      s0 = f64x2.add(s0, f64x2.promote_low_f32x4(a));
      s1 = f64x2.add(s1, f64x2.promote_low_f32x4(upper(a)));
      s2 = f64x2.add(s2, f64x2.promote_low_f32x4(b));
      s3 = f64x2.add(s3, f64x2.promote_low_f32x4(upper(b)));
      s4 = f64x2.add(s4, f64x2.promote_low_f32x4(c));
      s5 = f64x2.add(s5, f64x2.promote_low_f32x4(upper(c)));
      s6 = f64x2.add(s6, f64x2.promote_low_f32x4(d));
      s7 = f64x2.add(s7, f64x2.promote_low_f32x4(upper(d)));
    }
    v128.store(out, s0);
    v128.store(out, s1, 16);
    v128.store(out, s2, 32);
    v128.store(out, s3, 48);
    v128.store(out, s4, 64);
    v128.store(out, s5, 80);
    v128.store(out, s6, 96);
    v128.store(out, s7, 112);
  } else {
    memory.fill(out, 0, usize(width) << 3);
  }
  for (; row < rows; row++, x += stride) {
    for (let i = 0; i < width; i++) {
      const at = out + (usize(i) << 3);
      store<f64>(at, load<f64>(at) + f64(load<f32>(x + (usize(i) << 2))));
    }
  }
}

/** Maxima of up to 16 columns, widened to f64. */
function maxStrip(x: usize, rows: i32, stride: usize, width: i32, out: usize): void {
  for (let i = 0; i < width; i += 4, x += 16, out += 32) {
    const count = width - i;
    let best = f32x4.splat(-Infinity);
    let at = x;
    for (let row = 0; row < rows; row++, at += stride) best = f32x4.max(best, loadPart(at, count));
    storePart64(out, best, count);
  }
}

/** Writes the first `count` (1 to 4) lanes as f64. */
@inline
function storePart64(out: usize, lanes: v128, count: i32): void {
  store<f64>(out, f64(f32x4.extract_lane(lanes, 0)));
  if (count > 1) store<f64>(out, f64(f32x4.extract_lane(lanes, 1)), 8);
  if (count > 2) store<f64>(out, f64(f32x4.extract_lane(lanes, 2)), 16);
  if (count > 3) store<f64>(out, f64(f32x4.extract_lane(lanes, 3)), 24);
}

/**
 * partial[block, c] (f64) = sum or max of column c over `perBlock` rows of x; row r starts at r stride. Tasks: blocks
 * of rows x groups of 64 columns, groups innermost.
 */
export function reduceColumns(
  begin: i32,
  end: i32,
  isMax: i32,
  x: usize,
  partial: usize,
  rows: i32,
  columns: i32,
  stride: i32,
  perBlock: i32,
): void {
  const groups = (columns + 63) / 64;
  for (let task = begin; task < end; task++) {
    const block = task / groups, first = block * perBlock, count = min(perBlock, rows - first);
    const start = task % groups * 64, stop = min(columns, start + 64);
    for (let column = start; column < stop; column += STRIP) {
      const width = min(STRIP, stop - column);
      const from = x + (usize(first * stride + column) << 2), to = partial + (usize(block * columns + column) << 3);
      if (isMax) maxStrip(from, count, usize(stride) << 2, width, to);
      else sumStrip(from, count, usize(stride) << 2, width, to);
    }
  }
}

/** out[c] = sum or max over the blocks of partial[:, c] (f64), in order. Tasks: groups of 1024 columns. */
export function joinBlocks(
  begin: i32,
  end: i32,
  isMax: i32,
  partial: usize,
  out: usize,
  blocks: i32,
  columns: i32,
): void {
  for (let column = begin * 1024, stop = min(columns, end * 1024); column < stop; column++) {
    let at = partial + (usize(column) << 3);
    let value = load<f64>(at);
    for (let block = 1; block < blocks; block++) {
      at += usize(columns) << 3;
      value = isMax ? max(value, load<f64>(at)) : value + load<f64>(at);
    }
    store<f32>(out + (usize(column) << 2), f32(value));
  }
}

/** out[r] (u32) = the first place of the largest x[r, :]. NaN is never larger. Tasks: as those of reduceRows. */
export function argmaxRows(begin: i32, end: i32, x: usize, out: usize, rows: i32, columns: i32, stride: i32): void {
  const perTask = rowsPerTask(columns);
  for (let row = begin * perTask, stop = min(rows, end * perTask); row < stop; row++) {
    store<u32>(out + (usize(row) << 2), firstLargest(x + (usize(row * stride) << 2), columns));
  }
}

function firstLargest(x: usize, count: i32): i32 {
  const first = load<f32>(x);
  if (first != first) return 0;
  let best = f32x4.splat(first);
  // pmax(best, y) is y only where best < y, so never where y is NaN.
  let i = 0;
  for (; i <= count - 4; i += 4) best = f32x4.pmax(best, v128.load(x + (usize(i) << 2)));
  let value = largest(best);
  for (; i < count; i++) {
    const candidate = load<f32>(x + (usize(i) << 2));
    if (candidate > value) value = candidate;
  }
  const target = f32x4.splat(value);
  for (i = 0; i <= count - 4; i += 4) {
    const hits = i32x4.bitmask(f32x4.eq(v128.load(x + (usize(i) << 2)), target));
    if (hits) return i + ctz(hits);
  }
  for (; i < count; i++) if (load<f32>(x + (usize(i) << 2)) == value) return i;
  return 0;
}
