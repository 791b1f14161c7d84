/** Tokens that every engine of the benches makes alike, `torch_train.py` included: a linear congruence, skewed to low ids. */

/** x -> (1664525 x + 1013904223) mod 2^32; u = x >> 16, t = (u u) >> 16, token 3 + ((t (vocab - 3)) >> 16). */
export function makeTokens(seed: number, count: number, vocab: number): Int32Array {
  const out = new Int32Array(count);
  for (let i = 0, x = seed >>> 0; i < count; i++) {
    x = (Math.imul(1664525, x) + 1013904223) >>> 0;
    const u = x >>> 16;
    const t = Math.floor(u * u / 65536);
    out[i] = 3 + Math.floor(t * (vocab - 3) / 65536);
  }
  return out;
}
