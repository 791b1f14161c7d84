/**
 * softmax over rows, and the cross-entropy of logits, with their gradients. f32; rows are contiguous.
 *
 *     softmax: y = e^(x - m) / sum e^(x - m), m = max x            dx = y (dy - sum(y dy))
 *     crossEntropy: mean over kept rows of log sum e^(x - m) - (x_t - m)    dx = (softmax(x) - onehot(t)) dy / count
 *
 * Tasks: groups of rows of about 8192 elements, at least one row. Sums: four neighbours in f32, then f64, in order.
 * Weights below e^-86.6 are 0. A row without a finite largest value becomes NaN, as in the composed forms in core/ops.
 */
import { accumulate, lanesBelow, loadPart, peakRow, storePart, total } from "./lanes";
import { expSmall, log } from "./math";

@inline
function rowsPerTask(columns: i32): i32 {
  return max(1, 8192 / max(1, columns));
}

/** out[i] = e^(x[i] - shift), or nothing written when `out` is 0; returns the sum. */
@inline
function expRow(x: usize, shift: v128, out: usize, count: i32, writes: bool): f64 {
  let sum = f64x2.splat(0);
  let i = 0;
  for (; i <= count - 16; i += 16, x += 64) {
    const a = expSmall(f32x4.sub(v128.load(x), shift)), b = expSmall(f32x4.sub(v128.load(x, 16), shift));
    const c = expSmall(f32x4.sub(v128.load(x, 32), shift)), d = expSmall(f32x4.sub(v128.load(x, 48), shift));
    if (writes) {
      v128.store(out, a);
      v128.store(out, b, 16);
      v128.store(out, c, 32);
      v128.store(out, d, 48);
      out += 64;
    }
    sum = accumulate(sum, f32x4.add(f32x4.add(a, b), f32x4.add(c, d)));
  }
  for (; i < count; i += 4, x += 16) {
    const left = count - i;
    const power = v128.and(expSmall(f32x4.sub(loadPart(x, left), shift)), lanesBelow(left));
    if (writes) {
      storePart(out, power, left);
      out += 16;
    }
    sum = accumulate(sum, power);
  }
  return total(sum);
}

@inline
function scaleRow(x: usize, factor: v128, count: i32): void {
  let i = 0;
  for (; i <= count - 8; i += 8, x += 32) {
    v128.store(x, f32x4.mul(v128.load(x), factor));
    v128.store(x, f32x4.mul(v128.load(x, 16), factor), 16);
  }
  for (; i < count; i += 4, x += 16) storePart(x, f32x4.mul(loadPart(x, count - i), factor), count - i);
}

/** out = softmax(x) over rows. */
export function softmax(begin: i32, end: i32, x: usize, out: usize, rows: i32, columns: i32): void {
  const perTask = rowsPerTask(columns);
  for (let row = begin * perTask, stop = min(rows, end * perTask); row < stop; row++) {
    const at = usize(row * columns) << 2;
    const sum = expRow(x + at, f32x4.splat(peakRow(x + at, columns)), out + at, columns, true);
    scaleRow(out + at, f32x4.splat(f32(1 / sum)), columns);
  }
}

/** sum(a[i] b[i]); each product and the sum of four are f32. */
@inline
function dotRow(a: usize, b: usize, count: i32): f64 {
  let sum = f64x2.splat(0);
  let i = 0;
  for (; i <= count - 16; i += 16, a += 64, b += 64) {
    const p = f32x4.mul(v128.load(a), v128.load(b)), q = f32x4.mul(v128.load(a, 16), v128.load(b, 16));
    const r = f32x4.mul(v128.load(a, 32), v128.load(b, 32)), s = f32x4.mul(v128.load(a, 48), v128.load(b, 48));
    sum = accumulate(sum, f32x4.add(f32x4.add(p, q), f32x4.add(r, s)));
  }
  for (; i < count; i += 4, a += 16, b += 16) {
    sum = accumulate(sum, f32x4.mul(loadPart(a, count - i), loadPart(b, count - i)));
  }
  return total(sum);
}

/** out = y (gradient - sum(y gradient)) over rows. */
export function softmaxGradient(
  begin: i32,
  end: i32,
  y: usize,
  gradient: usize,
  out: usize,
  rows: i32,
  columns: i32,
): void {
  const perTask = rowsPerTask(columns);
  for (let row = begin * perTask, stop = min(rows, end * perTask); row < stop; row++) {
    const at = usize(row * columns) << 2;
    const dot = f32x4.splat(f32(dotRow(y + at, gradient + at, columns)));
    for (let i = 0; i < columns; i += 4) {
      const to = at + (usize(i) << 2), left = columns - i;
      storePart(out + to, f32x4.mul(loadPart(y + to, left), f32x4.sub(loadPart(gradient + to, left), dot)), left);
    }
  }
}

/** shifts[r] = the largest of row r; logSums[r] = log of the sum of e^(x - shift). */
export function crossEntropyRows(
  begin: i32,
  end: i32,
  x: usize,
  shifts: usize,
  logSums: usize,
  rows: i32,
  columns: i32,
): void {
  const perTask = rowsPerTask(columns);
  for (let row = begin * perTask, stop = min(rows, end * perTask); row < stop; row++) {
    const at = x + (usize(row * columns) << 2), to = usize(row) << 2;
    const shift = peakRow(at, columns);
    const sum = expRow(at, f32x4.splat(shift), 0, columns, false);
    store<f32>(shifts + to, shift);
    store<f32>(logSums + to, f32x4.extract_lane(log(f32x4.splat(f32(sum))), 0));
  }
}

/**
 * out = the mean loss over rows whose target is not `ignoreIndex` (0 without any), count = their number, at least 1.
 * One task. A target outside [0, columns) makes the loss NaN, and nothing is read there.
 */
export function crossEntropyMean(
  begin: i32,
  end: i32,
  x: usize,
  targets: usize,
  shifts: usize,
  logSums: usize,
  out: usize,
  count: usize,
  rows: i32,
  columns: i32,
  ignoreIndex: i32,
): void {
  if (begin == end) return;
  let sum: f64 = 0;
  let kept = 0;
  for (let row = 0; row < rows; row++) {
    const target = load<i32>(targets + (usize(row) << 2));
    if (target == ignoreIndex) continue;
    kept++;
    if (u32(target) >= u32(columns)) {
      sum = NaN;
      continue;
    }
    const shift = load<f32>(shifts + (usize(row) << 2)), logSum = load<f32>(logSums + (usize(row) << 2));
    sum += f64(logSum) - (f64(load<f32>(x + (usize(row * columns + target) << 2))) - f64(shift));
  }
  store<f32>(count, f32(max(kept, 1)));
  store<f32>(out, f32(sum / f64(max(kept, 1))));
}

/** out = (softmax(x) - onehot(target)) * gradient / count in one pass; rows of `ignoreIndex` are 0. */
export function crossEntropyGradient(
  begin: i32,
  end: i32,
  x: usize,
  targets: usize,
  shifts: usize,
  logSums: usize,
  count: usize,
  gradient: usize,
  out: usize,
  rows: i32,
  columns: i32,
  ignoreIndex: i32,
): void {
  const perTask = rowsPerTask(columns);
  const weight = load<f32>(gradient) / load<f32>(count), scale = f32x4.splat(weight);
  for (let row = begin * perTask, stop = min(rows, end * perTask); row < stop; row++) {
    const at = usize(row * columns) << 2;
    const target = load<i32>(targets + (usize(row) << 2));
    if (target == ignoreIndex) {
      memory.fill(out + at, 0, usize(columns) << 2);
      continue;
    }
    const shift = v128.load_splat<f32>(shifts + (usize(row) << 2)),
      logSum = v128.load_splat<f32>(logSums + (usize(row) << 2));
    probabilityRow(x + at, out + at, shift, logSum, scale, columns);
    if (u32(target) < u32(columns)) {
      const place = out + at + (usize(target) << 2);
      store<f32>(place, load<f32>(place) - weight);
    }
  }
}

/** out = e^(x - shift - logSum) * scale */
@inline
function probabilityRow(x: usize, out: usize, shift: v128, logSum: v128, scale: v128, count: i32): void {
  let i = 0;
  for (; i <= count - 8; i += 8, x += 32, out += 32) {
    const a = expSmall(f32x4.sub(f32x4.sub(v128.load(x), shift), logSum));
    const b = expSmall(f32x4.sub(f32x4.sub(v128.load(x, 16), shift), logSum));
    v128.store(out, f32x4.mul(a, scale));
    v128.store(out, f32x4.mul(b, scale), 16);
  }
  for (; i < count; i += 4, x += 16, out += 16) {
    const a = expSmall(f32x4.sub(f32x4.sub(loadPart(x, count - i), shift), logSum));
    storePart(out, f32x4.mul(a, scale), count - i);
  }
}
