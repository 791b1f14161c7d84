/**
 * softmax(q k^T scale) v and its gradients, tile by tile: no [T, S] matrix reaches tensor memory. f32.
 *
 *     q, out [B, T, H, K];  k, v [B, S, G, K];  mask u32 [B, S] or 0
 *     lse [B, H, T]: the log of each query's sum of e^score
 *
 * Forward (Dao et al. 2022, online softmax): a task is one (batch, head). Keys and values are packed in blocks of up to
 * 1024 (as many as the scratch holds; once a task when S fits), queries taken in tiles of 64, keys in blocks of 128; a
 * causal tile's invisible blocks are skipped. Backward: a task is one (batch, group) and so owns its rows of dk and dv;
 * weights are computed again from lse: with D = sum(dout out), dS = p (dout v^T - D), dv = p^T dout, dk = dS^T q scale,
 * dq = dS k scale. A query that sees no key has lse = infinity, output 0 and gradients 0. Limits: K <= 512 (the wrapper
 * checks). Numerics: products in f32 in order of k; row sums f64 within a block of keys. The spec is the composed form
 * in core/ops/attention.ts.
 */
import { SCRATCH, SCRATCH_BYTES } from "./gemm";
import { accumulate, lanesBelow, loadPart, peakRow, storePart, total } from "./lanes";
import { expSmall, log } from "./math";
import { multiply, multiplyTransposed, packRows, packTransposed } from "./panels";

/** Queries of a tile. */
const TILE: i32 = 64;
/** Keys of a block of scores. */
const BLOCK: i32 = 128;
/** Most keys packed at once in the forward pass: 512 KiB of keys and values at K = 64, in the L2 cache. */
const MOST_KEYS: i32 = 1024;

@inline
function up(n: i32, multiple: i32): i32 {
  return (n + multiple - 1) / multiple * multiple;
}

/** Copies rows of `columns` elements, times `factor`, to a tight tile; rows up to a multiple of 4 are 0. */
function loadTile(x: usize, rows: i32, columns: i32, stride: usize, factor: f32, out: usize): void {
  const scale = f32x4.splat(factor);
  for (let row = 0; row < rows; row++, x += stride) {
    const to = out + (usize(row * columns) << 2);
    for (let i = 0; i < columns; i += 4) {
      const at = usize(i) << 2;
      storePart(to + at, f32x4.mul(loadPart(x + at, columns - i), scale), columns - i);
    }
  }
  memory.fill(out + (usize(rows * columns) << 2), 0, usize((up(rows, 4) - rows) * columns) << 2);
}

/** Scores of masked keys become -infinity. */
function applyMask(scores: usize, mask: usize, count: i32): void {
  const lowest = f32x4.splat(-Infinity), zero = i32x4.splat(0);
  for (let i = 0; i < count; i += 4, scores += 16, mask += 16) {
    const hidden = i32x4.eq(loadPart(mask, count - i), zero);
    storePart(scores, v128.bitselect(lowest, loadPart(scores, count - i), hidden), count - i);
  }
}

/** scores = e^(scores - shift) for i < count, 0 up to `width` (a multiple of 4); returns the sum. */
function expScores(scores: usize, shift: f32, count: i32, width: i32): f64 {
  const base = f32x4.splat(shift);
  let sum = f64x2.splat(0);
  let i = 0;
  for (; i <= count - 8; i += 8, scores += 32) {
    const a = expSmall(f32x4.sub(v128.load(scores), base)), b = expSmall(f32x4.sub(v128.load(scores, 16), base));
    v128.store(scores, a);
    v128.store(scores, b, 16);
    sum = accumulate(sum, f32x4.add(a, b));
  }
  for (; i < width; i += 4, scores += 16) {
    const a = v128.and(expSmall(f32x4.sub(v128.load(scores), base)), lanesBelow(count - i));
    v128.store(scores, a);
    sum = accumulate(sum, a);
  }
  return total(sum);
}

function scaleRow(x: usize, factor: f32, count: i32): void {
  const scale = f32x4.splat(factor);
  for (let i = 0; i < count; i += 4, x += 16) v128.store(x, f32x4.mul(v128.load(x), scale));
}

/** e^x of one number. */
@inline
function expScalar(x: f32): f32 {
  return f32x4.extract_lane(expSmall(f32x4.splat(x)), 0);
}

@inline
function logScalar(x: f32): f32 {
  return f32x4.extract_lane(log(f32x4.splat(x)), 0);
}

/** Keys of [s, s + keys) that a query with `seen` visible keys sees. */
@inline
function visible(seen: i32, s: i32, keys: i32): i32 {
  return max(0, min(keys, seen - s));
}

/** Task: one (batch, head). */
export function attention(
  begin: i32,
  end: i32,
  q: usize,
  k: usize,
  v: usize,
  mask: usize,
  out: usize,
  lse: usize,
  T: i32,
  S: i32,
  H: i32,
  G: i32,
  K: i32,
  causal: i32,
  scale: f32,
): void {
  const width = up(K, 8);
  const queries = SCRATCH, scores = queries + (usize(TILE * K) << 2), sums = scores + (TILE * BLOCK << 2);
  const best = sums + (usize(TILE * width) << 2), weight = best + (TILE << 2), packed = weight + (TILE << 2);
  const room = i32(SCRATCH + SCRATCH_BYTES - packed) / ((K + width) << 2) / BLOCK * BLOCK;
  const capacity = min(MOST_KEYS, room), values = packed + (usize(capacity * K) << 2);
  const rowQ = usize(H * K) << 2, rowK = usize(G * K) << 2;
  for (let task = begin; task < end; task++) {
    const batch = task / H, head = task % H, group = head * G / H;
    const keys = k + (usize((batch * S * G + group) * K) << 2), vals = v + (usize((batch * S * G + group) * K) << 2);
    let held = -1;
    for (let t = 0; t < T; t += TILE) {
      const rows = min(TILE, T - t), rows4 = up(rows, 4);
      const first = usize(((batch * T + t) * H + head) * K) << 2;
      loadTile(q + first, rows, K, rowQ, scale, queries);
      memory.fill(sums, 0, usize(rows4 * width) << 2);
      for (let r = 0; r < rows; r++) {
        store<f32>(best + (usize(r) << 2), -Infinity);
        store<f32>(weight + (usize(r) << 2), 0);
      }
      const stop = causal ? min(S, t + rows + S - T) : S;
      for (let s = 0; s < stop; s += BLOCK) {
        const block = s / capacity, start = block * capacity;
        if (block != held) {
          const count = min(capacity, S - start);
          packTransposed(keys + usize(start) * rowK, count, K, rowK, packed);
          for (let i = 0; i < count; i += BLOCK) {
            packRows(
              vals + usize(start + i) * rowK,
              min(BLOCK, count - i),
              K,
              rowK,
              1,
              values + (usize(i * width) << 2),
            );
          }
          held = block;
        }
        const count = min(BLOCK, stop - s), wide = up(count, 8);
        multiply(
          rows4,
          count,
          K,
          queries,
          usize(K) << 2,
          packed + (usize((s - start) * K) << 2),
          K,
          scores,
          BLOCK << 2,
          false,
        );
        for (let r = 0; r < rows; r++) {
          const row = scores + usize(r * BLOCK << 2), seen = visible(causal ? t + r + S - T + 1 : S, s, count);
          if (mask) applyMask(row, mask + (usize(batch * S + s) << 2), seen);
          const place = usize(r) << 2, before = load<f32>(best + place), now = max(before, peakRow(row, seen));
          const shift: f32 = now == -Infinity ? 0 : now;
          const sum = expScores(row, shift, seen, wide);
          const fade = expScalar(before - shift);
          if (s > 0 && fade != 1) scaleRow(sums + (usize(r * width) << 2), fade, width);
          store<f32>(best + place, now);
          store<f32>(weight + place, f32(f64(load<f32>(weight + place)) * f64(fade) + sum));
        }
        const depth = min(BLOCK, S - s);
        multiply(
          rows4,
          K,
          count,
          scores,
          BLOCK << 2,
          values + (usize((s - start) * width) << 2),
          depth,
          sums,
          usize(width) << 2,
          true,
        );
      }
      for (let r = 0; r < rows; r++) {
        const place = usize(r) << 2, sum = load<f32>(weight + place), none = sum == 0;
        const value: f32 = none ? Infinity : load<f32>(best + place) + logScalar(sum);
        store<f32>(lse + (usize((batch * H + head) * T + t + r) << 2), value);
        const factor = f32x4.splat(none ? 0 : 1 / sum), to = out + first + usize(r) * rowQ;
        const from = sums + (usize(r * width) << 2);
        for (let i = 0; i < K; i += 4) {
          const at = usize(i) << 2;
          storePart(to + at, f32x4.mul(v128.load(from + at), factor), K - i);
        }
      }
    }
  }
}

/** sum(a[i] b[i]) */
function dot(a: usize, b: usize, count: i32): f32 {
  let sum = f64x2.splat(0);
  for (let i = 0; i < count; i += 4, a += 16, b += 16) {
    sum = accumulate(sum, f32x4.mul(loadPart(a, count - i), loadPart(b, count - i)));
  }
  return f32(total(sum));
}

/** slopes = weights * (slopes - shift) */
function slopeRow(weights: usize, slopes: usize, shift: f32, count: i32): void {
  const base = f32x4.splat(shift);
  for (let i = 0; i < count; i += 4, weights += 16, slopes += 16) {
    v128.store(slopes, f32x4.mul(v128.load(weights), f32x4.sub(v128.load(slopes), base)));
  }
}

/** x += y (or x = y), `rows` rows of `columns` elements; strides in bytes. */
function writeRows(x: usize, strideX: usize, y: usize, strideY: usize, rows: i32, columns: i32, adds: bool): void {
  for (let row = 0; row < rows; row++, x += strideX, y += strideY) {
    for (let i = 0; i < columns; i += 4) {
      const at = usize(i) << 2, left = columns - i;
      const value = loadPart(y + at, left);
      storePart(x + at, adds ? f32x4.add(loadPart(x + at, left), value) : value, left);
    }
  }
}

/** dq, dk, dv; 0 where not wanted. Task: one (batch, group). */
export function attentionGradient(
  begin: i32,
  end: i32,
  q: usize,
  k: usize,
  v: usize,
  mask: usize,
  out: usize,
  lse: usize,
  gradient: usize,
  dq: usize,
  dk: usize,
  dv: usize,
  T: i32,
  S: i32,
  H: i32,
  G: i32,
  K: i32,
  causal: i32,
  scale: f32,
): void {
  // Smaller blocks for wider heads: all of what follows fits into the scratch up to K = 512.
  const block = K <= 128 ? 128 : K <= 256 ? 64 : 32;
  const width = up(K, 8), pitch = usize(block) << 2, wide = usize(width) << 2;
  const tileBytes = usize(TILE * width) << 2, blockBytes = usize(block * width) << 2;
  const keysT = SCRATCH, valuesT = keysT + blockBytes, keys = valuesT + blockBytes;
  const keySums = keys + blockBytes, valueSums = keySums + blockBytes;
  const queries = valueSums + blockBytes, queryPanels = queries + tileBytes;
  const slopes = queryPanels + tileBytes, slopePanels = slopes + tileBytes, querySums = slopePanels + tileBytes;
  const weights = querySums + tileBytes, scoreSlopes = weights + usize(TILE) * pitch;
  const rowQ = usize(H * K) << 2, rowK = usize(G * K) << 2, perGroup = H / G;
  for (let task = begin; task < end; task++) {
    const batch = task / G, group = task % G;
    for (let head = group * perGroup; dq && head < (group + 1) * perGroup; head++) {
      let at = dq + (usize((batch * T * H + head) * K) << 2);
      for (let t = 0; t < T; t++, at += rowQ) memory.fill(at, 0, usize(K) << 2);
    }
    for (let s = 0; s < S; s += block) {
      const count = min(block, S - s), from = usize(((batch * S + s) * G + group) * K) << 2;
      packTransposed(k + from, count, K, rowK, keysT);
      packTransposed(v + from, count, K, rowK, valuesT);
      packRows(k + from, count, K, rowK, scale, keys);
      memory.fill(keySums, 0, 2 * blockBytes);
      for (let head = group * perGroup; head < (group + 1) * perGroup; head++) {
        for (let t = 0; t < T; t += TILE) {
          const rows = min(TILE, T - t), rows4 = up(rows, 4);
          const seen = causal ? visible(t + rows + S - T, s, count) : count, seen8 = up(seen, 8);
          if (seen == 0) continue;
          const first = usize(((batch * T + t) * H + head) * K) << 2, tight = usize(K) << 2;
          loadTile(q + first, rows, K, rowQ, scale, queries);
          loadTile(gradient + first, rows, K, rowQ, 1, slopes);
          multiply(rows4, seen, K, queries, tight, keysT, K, weights, pitch, false);
          multiply(rows4, seen, K, slopes, tight, valuesT, K, scoreSlopes, pitch, false);
          for (let r = 0; r < rows; r++) {
            const row = weights + usize(r) * pitch, own = visible(causal ? t + r + S - T + 1 : S, s, seen);
            if (mask) applyMask(row, mask + (usize(batch * S + s) << 2), own);
            expScores(row, load<f32>(lse + (usize((batch * H + head) * T + t + r) << 2)), own, seen8);
            const shift = dot(slopes + usize(r) * tight, out + first + usize(r) * rowQ, K);
            slopeRow(row, scoreSlopes + usize(r) * pitch, shift, seen8);
          }
          if (dv) {
            packRows(slopes, rows, K, tight, 1, slopePanels);
            multiplyTransposed(up(seen, 4), K, rows, weights, pitch, slopePanels, rows, valueSums, wide, true);
          }
          if (dk) {
            packRows(queries, rows, K, tight, 1, queryPanels);
            multiplyTransposed(up(seen, 4), K, rows, scoreSlopes, pitch, queryPanels, rows, keySums, wide, true);
          }
          if (dq) {
            multiply(rows4, K, seen, scoreSlopes, pitch, keys, count, querySums, wide, false);
            writeRows(dq + first, rowQ, querySums, wide, rows, K, true);
          }
        }
      }
      if (dk) writeRows(dk + from, rowK, keySums, wide, count, K, false);
      if (dv) writeRows(dv + from, rowK, valueSums, wide, count, K, false);
    }
  }
}
