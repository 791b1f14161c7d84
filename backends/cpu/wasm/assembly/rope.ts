/**
 * Rotary positions, half-split, over x [B, T, H, K] with cos and sin [T, K/2], f32. With h = K/2:
 *
 *     out[i] = x[i] cos[i] - x[i + h] sin[i],  out[i + h] = x[i + h] cos[i] + x[i] sin[i]   for i < h
 *
 * The gradient is the rotation by the opposite angle: the same export with `turn` = -1. Tasks: groups of positions (b,
 * t) of about 8192 elements. The spec is the composed form in core/ops/attention.ts.
 */
import { loadPart, storePart } from "./lanes";

export function rope(
  begin: i32,
  end: i32,
  x: usize,
  cos: usize,
  sin: usize,
  out: usize,
  positions: i32,
  T: i32,
  H: i32,
  K: i32,
  turn: f32,
): void {
  const half = K / 2, shift = usize(half) << 2, perTask = max(1, 8192 / max(1, H * K)), sense = f32x4.splat(turn);
  for (let position = begin * perTask, stop = min(positions, end * perTask); position < stop; position++) {
    const table = usize(position % T * half) << 2;
    let at = usize(position * H * K) << 2;
    for (let head = 0; head < H; head++, at += shift << 1) {
      for (let i = 0; i < half; i += 4) {
        const first = at + (usize(i) << 2), second = first + shift, left = half - i;
        const c = loadPart(cos + table + (usize(i) << 2), left);
        const s = f32x4.mul(loadPart(sin + table + (usize(i) << 2), left), sense);
        const a = loadPart(x + first, left), b = loadPart(x + second, left);
        storePart(out + first, f32x4.sub(f32x4.mul(a, c), f32x4.mul(b, s)), left);
        storePart(out + second, f32x4.add(f32x4.mul(b, c), f32x4.mul(a, s)), left);
      }
    }
  }
}
