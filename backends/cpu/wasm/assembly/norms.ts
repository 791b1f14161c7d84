/**
 * rmsNorm and layerNorm over rows, with their gradients. f32; rows contiguous, D long.
 *
 *     rmsNorm: y = x r w, r = 1 / sqrt(mean(x^2) + eps)
 *         dx = r (w dy - x r^2 mean(w dy x)), dw = sum over rows of dy x r
 *     layerNorm: y = z w + b, z = (x - mean(x)) r, r = 1 / sqrt(variance(x) + eps)
 *         dx = r (w dy - mean(w dy) - z mean(w dy z)), dw = sum dy z, db = sum dy
 *
 * Tasks: ROWS rows each. Means are f64 over f32 sums of four. A task of the gradients adds its rows' share of dw (and
 * db) in f64 into its own row of a workspace, four rows at a time, the four summed in f32; `joinBlocks` (reduce.ts)
 * adds the tasks' shares in order. Specs: rmsNorm and layerNorm in core/ops/norm.ts.
 */
import { accumulate, lanesBelow, loadPart, storePart, sumRow, total, upper } from "./lanes";

/** Rows of a task; the wrappers count blocks by it too. */
const ROWS: i32 = 32;

/** sum((x - center)^2) */
@inline
function squares(x: usize, center: v128, count: i32): f64 {
  let sum = f64x2.splat(0);
  let i = 0;
  for (; i <= count - 16; i += 16, x += 64) {
    const a = f32x4.sub(v128.load(x), center), b = f32x4.sub(v128.load(x, 16), center);
    const c = f32x4.sub(v128.load(x, 32), center), d = f32x4.sub(v128.load(x, 48), center);
    const ab = f32x4.add(f32x4.mul(a, a), f32x4.mul(b, b)), cd = f32x4.add(f32x4.mul(c, c), f32x4.mul(d, d));
    sum = accumulate(sum, f32x4.add(ab, cd));
  }
  for (; i < count; i += 4, x += 16) {
    const a = v128.and(f32x4.sub(loadPart(x, count - i), center), lanesBelow(count - i));
    sum = accumulate(sum, f32x4.mul(a, a));
  }
  return total(sum);
}

/** out = x r w; rstd[r] = r. Tasks: ROWS rows. */
export function rmsNorm(
  begin: i32,
  end: i32,
  x: usize,
  weight: usize,
  out: usize,
  rstd: usize,
  rows: i32,
  columns: i32,
  eps: f64,
): void {
  for (let row = begin * ROWS, stop = min(rows, end * ROWS); row < stop; row++) {
    const at = usize(row * columns) << 2;
    const r = f32(1 / Math.sqrt(squares(x + at, f32x4.splat(0), columns) / f64(columns) + eps));
    store<f32>(rstd + (usize(row) << 2), r);
    const scale = f32x4.splat(r);
    for (let i = 0; i < columns; i += 4) {
      const to = usize(i) << 2, left = columns - i;
      storePart(
        out + at + to,
        f32x4.mul(f32x4.mul(loadPart(x + at + to, left), scale), loadPart(weight + to, left)),
        left,
      );
    }
  }
}

/** out = z w + b; means[r] and rstd[r]. Tasks: ROWS rows. */
export function layerNorm(
  begin: i32,
  end: i32,
  x: usize,
  weight: usize,
  bias: usize,
  out: usize,
  means: usize,
  rstd: usize,
  rows: i32,
  columns: i32,
  eps: f64,
): void {
  for (let row = begin * ROWS, stop = min(rows, end * ROWS); row < stop; row++) {
    const at = usize(row * columns) << 2;
    const mean = f32(sumRow(x + at, columns) / f64(columns));
    const center = f32x4.splat(mean);
    const r = f32(1 / Math.sqrt(squares(x + at, center, columns) / f64(columns) + eps));
    store<f32>(means + (usize(row) << 2), mean);
    store<f32>(rstd + (usize(row) << 2), r);
    const scale = f32x4.splat(r);
    for (let i = 0; i < columns; i += 4) {
      const to = usize(i) << 2, left = columns - i;
      const z = f32x4.mul(f32x4.sub(loadPart(x + at + to, left), center), scale);
      storePart(out + at + to, f32x4.add(f32x4.mul(z, loadPart(weight + to, left)), loadPart(bias + to, left)), left);
    }
  }
}

/** sum(weight gradient (x - center)) */
@inline
function projection(x: usize, weight: usize, gradient: usize, center: v128, count: i32): f64 {
  let sum = f64x2.splat(0);
  for (let at: usize = 0, i = 0; i < count; i += 8, at += 32) {
    let terms = projectionLanes(x + at, weight + at, gradient + at, center, count - i);
    if (i + 4 < count) {
      terms = f32x4.add(
        terms,
        projectionLanes(x + at + 16, weight + at + 16, gradient + at + 16, center, count - i - 4),
      );
    }
    sum = accumulate(sum, terms);
  }
  return total(sum);
}

@inline
function projectionLanes(x: usize, weight: usize, gradient: usize, center: v128, left: i32): v128 {
  const weighted = f32x4.mul(loadPart(weight, left), loadPart(gradient, left));
  return f32x4.mul(weighted, f32x4.sub(loadPart(x, left), center));
}

/** sum(weight gradient) */
@inline
function weightedSum(weight: usize, gradient: usize, count: i32): f64 {
  let sum = f64x2.splat(0);
  for (let at: usize = 0, i = 0; i < count; i += 4, at += 16) {
    sum = accumulate(sum, f32x4.mul(loadPart(weight + at, count - i), loadPart(gradient + at, count - i)));
  }
  return total(sum);
}

/** sums[0 .. left) (f64) += the lanes. */
@inline
function addShare(sums: usize, lanes: v128, left: i32): void {
  if (left >= 4) {
    v128.store(sums, f64x2.add(v128.load(sums), f64x2.promote_low_f32x4(lanes)));
    v128.store(sums, f64x2.add(v128.load(sums, 16), f64x2.promote_low_f32x4(upper(lanes))), 16);
    return;
  }
  store<f64>(sums, load<f64>(sums) + f64(f32x4.extract_lane(lanes, 0)));
  if (left > 1) store<f64>(sums, load<f64>(sums, 8) + f64(f32x4.extract_lane(lanes, 1)), 8);
  if (left > 2) store<f64>(sums, load<f64>(sums, 16) + f64(f32x4.extract_lane(lanes, 2)), 16);
}

/** gradient z of four elements. */
@inline
function share(x: usize, gradient: usize, center: f32, r: f32, left: i32): v128 {
  const z = f32x4.mul(f32x4.sub(loadPart(x, left), f32x4.splat(center)), f32x4.splat(r));
  return f32x4.mul(loadPart(gradient, left), z);
}

/** Adds the shares of rows [row, stop) to dw (and, when it is not 0, db): [columns] f64 each. `means` may be 0. */
function addShares(
  row: i32,
  stop: i32,
  x: usize,
  gradient: usize,
  means: usize,
  rstd: usize,
  dw: usize,
  db: usize,
  columns: i32,
): void {
  memory.fill(dw, 0, usize(columns) << 3);
  if (db) memory.fill(db, 0, usize(columns) << 3);
  const stride = usize(columns) << 2;
  for (; row <= stop - 4; row += 4) {
    const at = usize(row) << 2;
    const from = x + usize(row) * stride, slope = gradient + usize(row) * stride;
    const r0 = load<f32>(rstd + at), c0: f32 = means ? load<f32>(means + at) : 0;
    const r1 = load<f32>(rstd + at, 4), r2 = load<f32>(rstd + at, 8), r3 = load<f32>(rstd + at, 12);
    const c1: f32 = means ? load<f32>(means + at, 4) : 0, c2: f32 = means ? load<f32>(means + at, 8) : 0;
    const c3: f32 = means ? load<f32>(means + at, 12) : 0;
    for (let i = 0; i < columns; i += 4) {
      const a = usize(i) << 2, b = a + stride, c = b + stride, d = c + stride, left = columns - i;
      const ab = f32x4.add(share(from + a, slope + a, c0, r0, left), share(from + b, slope + b, c1, r1, left));
      const cd = f32x4.add(share(from + c, slope + c, c2, r2, left), share(from + d, slope + d, c3, r3, left));
      addShare(dw + (usize(i) << 3), f32x4.add(ab, cd), left);
      if (db) {
        const low = f32x4.add(loadPart(slope + a, left), loadPart(slope + b, left));
        const high = f32x4.add(loadPart(slope + c, left), loadPart(slope + d, left));
        addShare(db + (usize(i) << 3), f32x4.add(low, high), left);
      }
    }
  }
  for (; row < stop; row++) {
    const at = usize(row) << 2, c: f32 = means ? load<f32>(means + at) : 0;
    addSharesOfRow(x + usize(row) * stride, gradient + usize(row) * stride, c, load<f32>(rstd + at), dw, db, columns);
  }
}

function addSharesOfRow(x: usize, gradient: usize, center: f32, r: f32, dw: usize, db: usize, columns: i32): void {
  for (let i = 0; i < columns; i += 4) {
    const at = usize(i) << 2, left = columns - i;
    addShare(dw + (usize(i) << 3), share(x + at, gradient + at, center, r, left), left);
    if (db) addShare(db + (usize(i) << 3), loadPart(gradient + at, left), left);
  }
}

/** dx (0: not wanted) and each task's share of dw (0: not wanted), f64 [tasks, columns]. Tasks: ROWS rows. */
export function rmsNormGradient(
  begin: i32,
  end: i32,
  x: usize,
  weight: usize,
  rstd: usize,
  gradient: usize,
  dx: usize,
  dw: usize,
  rows: i32,
  columns: i32,
): void {
  for (let task = begin; task < end; task++) {
    const first = task * ROWS, stop = min(rows, first + ROWS);
    if (dw) addShares(first, stop, x, gradient, 0, rstd, dw + (usize(task * columns) << 3), 0, columns);
    if (!dx) continue;
    for (let row = first; row < stop; row++) {
      const at = usize(row * columns) << 2;
      const r = load<f32>(rstd + (usize(row) << 2)), scale = f32x4.splat(r);
      const mean = projection(x + at, weight, gradient + at, f32x4.splat(0), columns) / f64(columns);
      const pull = f32x4.splat(f32(mean * f64(r) * f64(r)));
      for (let i = 0; i < columns; i += 4) {
        const to = usize(i) << 2, left = columns - i;
        const weighted = f32x4.mul(loadPart(weight + to, left), loadPart(gradient + at + to, left));
        const rest = f32x4.sub(weighted, f32x4.mul(loadPart(x + at + to, left), pull));
        storePart(dx + at + to, f32x4.mul(rest, scale), left);
      }
    }
  }
}

/**
 * dx (0: not wanted), and each task's share of dw and db (both 0: not wanted), f64 [tasks, columns]. Tasks: ROWS rows.
 */
export function layerNormGradient(
  begin: i32,
  end: i32,
  x: usize,
  weight: usize,
  means: usize,
  rstd: usize,
  gradient: usize,
  dx: usize,
  dw: usize,
  db: usize,
  rows: i32,
  columns: i32,
): void {
  for (let task = begin; task < end; task++) {
    const first = task * ROWS, stop = min(rows, first + ROWS), share = usize(task * columns) << 3;
    if (dw) addShares(first, stop, x, gradient, means, rstd, dw + share, db + share, columns);
    if (!dx) continue;
    for (let row = first; row < stop; row++) {
      const at = usize(row * columns) << 2;
      const r = load<f32>(rstd + (usize(row) << 2)), scale = f32x4.splat(r);
      const center = v128.load_splat<f32>(means + (usize(row) << 2));
      const shift = f32x4.splat(f32(weightedSum(weight, gradient + at, columns) / f64(columns)));
      const mean = projection(x + at, weight, gradient + at, center, columns) / f64(columns);
      const pull = f32x4.splat(f32(mean * f64(r) * f64(r)));
      for (let i = 0; i < columns; i += 4) {
        const to = usize(i) << 2, left = columns - i;
        const weighted = f32x4.mul(loadPart(weight + to, left), loadPart(gradient + at + to, left));
        const centered = f32x4.sub(loadPart(x + at + to, left), center);
        const rest = f32x4.sub(f32x4.sub(weighted, shift), f32x4.mul(centered, pull));
        storePart(dx + at + to, f32x4.mul(rest, scale), left);
      }
    }
  }
}
