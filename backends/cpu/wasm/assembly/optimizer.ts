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
  const clip = factor ? load<f32>(factor) : f32(1);
  for (let i = begin * CHUNK, stop = min(size, end * CHUNK); i < stop; i += 4) {
    const at = usize(i) << 2, left = stop - i;
    const g = f32x4.mul(loadPart(grad + at, left), f32x4.splat(clip));
    const m = f32x4.add(f32x4.mul(loadPart(mu + at, left), f32x4.splat(beta1)), f32x4.mul(g, f32x4.splat(rest1)));
    const squares = f32x4.mul(f32x4.mul(g, g), f32x4.splat(rest2));
    const v = f32x4.add(f32x4.mul(loadPart(nu + at, left), f32x4.splat(beta2)), squares);
    storePart(mu + at, m, left);
    storePart(nu + at, v, left);
    const root = f32x4.add(f32x4.sqrt(f32x4.mul(v, f32x4.splat(k2))), f32x4.splat(eps));
    const u = f32x4.div(f32x4.mul(m, f32x4.splat(k1)), root);
    if (out) storePart(out + at, u, left);
    if (!param) continue;
    let p = loadPart(param + at, left);
    if (decaysAfter) {
      p = f32x4.sub(p, f32x4.mul(u, f32x4.splat(learningRate)));
      p = f32x4.sub(p, f32x4.mul(p, f32x4.splat(shrink)));
    } else {
      const step = f32x4.add(u, f32x4.mul(p, f32x4.splat(weightDecay)));
      p = f32x4.sub(p, f32x4.mul(step, f32x4.splat(learningRate)));
    }
    storePart(param + at, p, left);
  }
}
