/**
 * Attention and rotary positions. Layout is token-major, [B, T, H, K]: what a linear map gives, without a transpose.
 *
 *     B batch, T queries, S keys, H query heads, G key/value heads, K head size
 */
import { checkAlike, composed, fused, widened } from "../define.ts";
import { describe, sameShape } from "../shape.ts";
import { fromArray, type Tensor } from "../tensor.ts";
import type { Backend } from "../backend.ts";
import { type DType, isHalf } from "../dtype.ts";
import { iota } from "./create.ts";
import { add, less, mul, neg, where } from "./elementwise.ts";
import { concat, permute, reshape, slice } from "./layout.ts";
import { matmul } from "./matmul.ts";
import { softmax } from "./norm.ts";
import { dropout } from "./indexing.ts";
import type { Key } from "../random.ts";

/** How `attention` masks and scales. */
export interface AttentionOptions {
  /** Query t sees keys up to t + S - T. Default false. */
  readonly causal?: boolean;
  /** Multiplies the scores. Default 1 / sqrt(K). */
  readonly scale?: number;
  /** u32 [B, S]: keys with 0 are left out. */
  readonly mask?: Tensor;
  /** Drops attention weights; composed only. */
  readonly dropout?: { readonly rate: number; readonly key: Key };
}

/** Scores that a masked key gets: finite, so that a row without any key stays free of NaN. */
const MASKED = -1e30;

/**
 * softmax(q k^T scale) v with grouped heads: query head h reads key/value head floor(h G / H). A query that sees no key
 * gives 0. Vaswani et al. 2017; grouped heads: Ainslie et al. 2023.
 *
 * @param q [B, T, H, K]
 * @param k [B, S, G, K]
 * @param v [B, S, G, K]
 * @returns [B, T, H, K]
 */
export function attention(q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions = {}): Tensor {
  checkAlike("attention", q, k, v);
  const [B, T, H, K] = q.shape;
  const [, S, G] = k.shape;
  if (q.shape.length !== 4 || !sameShape(k.shape, [B, S, G, K]) || !sameShape(v.shape, k.shape) || H % G !== 0) {
    throw new TypeError(`Cannot attend in attention(): got q ${describe(q)}, k ${describe(k)}, v ${describe(v)}`);
  }
  const { causal = false, scale = 1 / Math.sqrt(K), mask } = options;
  if (mask && (mask.dtype !== "u32" || !sameShape(mask.shape, [B, S]))) {
    throw new TypeError(`Cannot attend in attention(): the mask must be u32[${B}, ${S}], got ${describe(mask)}`);
  }
  const compose = (query: Tensor, key: Tensor, value: Tensor, keyMask?: Tensor): Tensor => {
    const heads = permute(reshape(query, [B, T, G, H / G, K]), [0, 2, 3, 1, 4]); // [B, G, H/G, T, K]
    const keys = reshape(permute(key, [0, 2, 1, 3]), [B, G, 1, S, K]);
    const values = reshape(permute(value, [0, 2, 1, 3]), [B, G, 1, S, K]);
    const scores = mul(matmul(heads, keys, { transposeB: true }), scale); // [B, G, H/G, T, S]
    const seen = visible(query.backend, T, S, causal, keyMask);
    let weights = softmax(seen ? where(seen, scores, MASKED) : scores);
    if (seen) weights = where(seen, weights, 0);
    if (options.dropout) weights = dropout(weights, options.dropout.rate, options.dropout.key);
    return reshape(permute(matmul(weights, values), [0, 3, 1, 2, 4]), [B, T, H, K]);
  };
  const inputs = mask ? [q, k, v, mask] : [q, k, v];
  if (options.dropout?.rate) return composed("attention", () => widened(q.dtype, compose)(...inputs));
  return fused("attention", inputs, { causal, scale }, q, compose);
}

/** u32 mask of visible keys, broadcasting to [B, G, H/G, T, S]; undefined when every key is visible. */
function visible(backend: Backend, T: number, S: number, causal: boolean, mask?: Tensor): Tensor | undefined {
  const keys = mask && reshape(mask, [mask.shape[0], 1, 1, 1, S]);
  if (!causal) return keys;
  const ahead = less(iota(backend, S, "i32"), reshape(iota(backend, T, "i32", S - T + 1), [T, 1])); // s < t + S - T + 1
  return keys ? mul(ahead, keys) : ahead;
}

/**
 * Rotates pairs (i, i + K/2) of each head by position-dependent angles: the half-split layout of Hugging Face's LLaMA.
 * Su et al. 2021.
 *
 * @param x [B, T, H, K]
 * @param cos [T, K/2], of x's dtype; f32 for a 16-bit x, whose own would leave two digits of an angle
 * @param sin as cos
 */
export function rope(x: Tensor, cos: Tensor, sin: Tensor): Tensor {
  checkAlike("rope", cos, sin);
  if (!isHalf(x.dtype) || cos.backend !== x.backend) checkAlike("rope", x, cos);
  else if (cos.dtype !== "f32") {
    throw new TypeError(`Cannot rotate in rope(): tables for ${x.dtype} must be f32: got ${describe(cos)}`);
  }
  const [, T, , K] = x.shape;
  if (x.shape.length !== 4 || !sameShape(cos.shape, [T, K / 2]) || !sameShape(sin.shape, cos.shape)) {
    throw new TypeError(`Cannot rotate in rope(): got x ${describe(x)}, cos ${describe(cos)}, sin ${describe(sin)}`);
  }
  return fused("rope", [x, cos, sin], {}, x, (input, c, s) => {
    const [first, second] = [{ end: K / 2 }, { start: K / 2 }].map((half) => slice(input, [, , , half]));
    const [cosT, sinT] = [c, s].map((table) => reshape(table, [T, 1, K / 2]));
    return concat([
      add(mul(first, cosT), neg(mul(second, sinT))),
      add(mul(second, cosT), mul(first, sinT)),
    ], 3);
  });
}

/**
 * Tables of cos and sin for `rope`, computed on the host in f64 (a GPU's sin is undefined beyond pi).
 *
 * @param frequencies angle per position, [K/2]
 * @param start first position
 * @returns cos and sin, [count, K/2]
 */
export function ropeTables(
  backend: Backend,
  frequencies: readonly number[],
  start: number,
  count: number,
  dtype: DType = "f32",
): { cos: Tensor; sin: Tensor } {
  const half = frequencies.length;
  const make = (wave: (angle: number) => number) => {
    const host = dtype === "f64" ? new Float64Array(count * half) : new Float32Array(count * half);
    for (let t = 0; t < count; t++) {
      for (let i = 0; i < half; i++) host[t * half + i] = wave((start + t) * frequencies[i]);
    }
    return fromArray(backend, host, [count, half], dtype);
  };
  return { cos: make(Math.cos), sin: make(Math.sin) };
}
