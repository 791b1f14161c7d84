/**
 * One step of Adam on one leaf, in one pass over memory: f32 gradient, moments, and parameter or update.
 *
 *     g = factor grad,  m = b1 m + (1 - b1) g,  v = b2 v + (1 - b2) g^2,  u = k1 m / (sqrt(k2 v) + eps)
 *     k1 = 1 / (1 - b1^t), k2 = 1 / (1 - b2^t)           (bias-corrected before eps: Kingma & Ba 2014, torch)
 *     k1 = sqrt(1 - b2^t) / (1 - b1^t), k2 = 1   (eps outside the correction: the released GaLore, from HF's AdamW)
 *
 * then p -= lr (u + wd p), or p -= lr u followed by p -= lr wd p (`decaysAfter`), or out = u. The wrapper computes k1
 * and k2 in f64. Tasks: chunks of CHUNK elements. No fused multiply-add: both builds have the same bits.
 */
import { loadPart, storePart } from "./lanes";

const CHUNK: i32 = 8192;

/** beta old + rest next */
@inline
export function average(old: v128, beta: v128, next: v128, rest: v128): v128 {
  return f32x4.add(f32x4.mul(old, beta), f32x4.mul(next, rest));
}

/** The update u of moments m and v. */
@inline
export function direction(m: v128, v: v128, k1: v128, k2: v128, eps: v128): v128 {
  const root = f32x4.add(f32x4.sqrt(f32x4.mul(v, k2)), eps);
  return f32x4.div(f32x4.mul(m, k1), root);
}

/** The parameter p after the update u. */
@inline
export function decayed(
  p: v128,
  u: v128,
  learningRate: v128,
  weightDecay: v128,
  shrink: v128,
  decaysAfter: i32,
): v128 {
  if (decaysAfter) {
    const moved = f32x4.sub(p, f32x4.mul(u, learningRate));
    return f32x4.sub(moved, f32x4.mul(moved, shrink));
  }
  const step = f32x4.add(u, f32x4.mul(p, weightDecay));
  return f32x4.sub(p, f32x4.mul(step, learningRate));
}

/** `factor`, `param` and `out` may be 0: not there. */
export function adam(
  begin: i32,
  end: i32,
  grad: usize,
  mu: usize,
  nu: usize,
  factor: usize,
  param: usize,
  out: usize,
  size: i32,
  beta1: f32,
  rest1: f32,
  beta2: f32,
  rest2: f32,
  k1: f32,
  k2: f32,
  eps: f32,
  learningRate: f32,
  weightDecay: f32,
  shrink: f32,
  decaysAfter: i32,
): void {
  const clip = f32x4.splat(factor ? load<f32>(factor) : f32(1));
  const b1 = f32x4.splat(beta1), r1 = f32x4.splat(rest1), b2 = f32x4.splat(beta2), r2 = f32x4.splat(rest2);
  const gain = f32x4.splat(k1), scale = f32x4.splat(k2), floor = f32x4.splat(eps);
  const rate = f32x4.splat(learningRate), decay = f32x4.splat(weightDecay), loss = f32x4.splat(shrink);
  for (let i = begin * CHUNK, stop = min(size, end * CHUNK); i < stop; i += 4) {
    const at = usize(i) << 2, left = stop - i;
    const g = f32x4.mul(loadPart(grad + at, left), clip);
    const m = average(loadPart(mu + at, left), b1, g, r1);
    const v = average(loadPart(nu + at, left), b2, f32x4.mul(g, g), r2);
    storePart(mu + at, m, left);
    storePart(nu + at, v, left);
    const u = direction(m, v, gain, scale, floor);
    if (out) storePart(out + at, u, left);
    if (!param) continue;
    const moved = decayed(loadPart(param + at, left), u, rate, decay, loss, decaysAfter);
    storePart(param + at, moved, left);
  }
}
