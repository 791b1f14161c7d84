/**
 * threefry-2x32 with 20 rounds (Salmon et al. 2011), eight blocks at a time (two chains of four, so that one hides the
 * other's latency): word i of the stream is component i % 2 of the block with counter (floor(i / 2), 0). The spec is
 * `randomBits` in core/random.ts.
 */
import { storePart } from "./lanes";

const CHUNK: i32 = 8192;

@inline
function rotate(x: v128, bits: i32): v128 {
  return v128.or(i32x4.shl(x, bits), i32x4.shr_u(x, 32 - bits));
}

/** out[i] = word i under the key (k0, k1). Tasks: chunks of `size` words. */
export function randomBits(begin: i32, end: i32, k0: i32, k1: i32, out: usize, size: i32): void {
  const k2 = 0x1bd11bda ^ k0 ^ k1;
  for (let i = begin * CHUNK, stop = min(size, end * CHUNK); i < stop; i += 16) {
    let key0 = i32x4.splat((i >>> 1) + k0), key1 = i32x4.splat(k1);
    let x = i32x4.add(key0, i32x4(0, 1, 2, 3)), y = key1;
    let z = i32x4.add(key0, i32x4(4, 5, 6, 7)), w = key1;
    x = i32x4.add(x, y), z = i32x4.add(z, w), y = v128.xor(rotate(y, 13), x), w = v128.xor(rotate(w, 13), z);
    x = i32x4.add(x, y), z = i32x4.add(z, w), y = v128.xor(rotate(y, 15), x), w = v128.xor(rotate(w, 15), z);
    x = i32x4.add(x, y), z = i32x4.add(z, w), y = v128.xor(rotate(y, 26), x), w = v128.xor(rotate(w, 26), z);
    x = i32x4.add(x, y), z = i32x4.add(z, w), y = v128.xor(rotate(y, 6), x), w = v128.xor(rotate(w, 6), z);
    key0 = i32x4.splat(k1), key1 = i32x4.splat(k2 + 1);
    x = i32x4.add(x, key0), y = i32x4.add(y, key1), z = i32x4.add(z, key0), w = i32x4.add(w, key1);
    x = i32x4.add(x, y), z = i32x4.add(z, w), y = v128.xor(rotate(y, 17), x), w = v128.xor(rotate(w, 17), z);
    x = i32x4.add(x, y), z = i32x4.add(z, w), y = v128.xor(rotate(y, 29), x), w = v128.xor(rotate(w, 29), z);
    x = i32x4.add(x, y), z = i32x4.add(z, w), y = v128.xor(rotate(y, 16), x), w = v128.xor(rotate(w, 16), z);
    x = i32x4.add(x, y), z = i32x4.add(z, w), y = v128.xor(rotate(y, 24), x), w = v128.xor(rotate(w, 24), z);
    key0 = i32x4.splat(k2), key1 = i32x4.splat(k0 + 2);
    x = i32x4.add(x, key0), y = i32x4.add(y, key1), z = i32x4.add(z, key0), w = i32x4.add(w, key1);
    x = i32x4.add(x, y), z = i32x4.add(z, w), y = v128.xor(rotate(y, 13), x), w = v128.xor(rotate(w, 13), z);
    x = i32x4.add(x, y), z = i32x4.add(z, w), y = v128.xor(rotate(y, 15), x), w = v128.xor(rotate(w, 15), z);
    x = i32x4.add(x, y), z = i32x4.add(z, w), y = v128.xor(rotate(y, 26), x), w = v128.xor(rotate(w, 26), z);
    x = i32x4.add(x, y), z = i32x4.add(z, w), y = v128.xor(rotate(y, 6), x), w = v128.xor(rotate(w, 6), z);
    key0 = i32x4.splat(k0), key1 = i32x4.splat(k1 + 3);
    x = i32x4.add(x, key0), y = i32x4.add(y, key1), z = i32x4.add(z, key0), w = i32x4.add(w, key1);
    x = i32x4.add(x, y), z = i32x4.add(z, w), y = v128.xor(rotate(y, 17), x), w = v128.xor(rotate(w, 17), z);
    x = i32x4.add(x, y), z = i32x4.add(z, w), y = v128.xor(rotate(y, 29), x), w = v128.xor(rotate(w, 29), z);
    x = i32x4.add(x, y), z = i32x4.add(z, w), y = v128.xor(rotate(y, 16), x), w = v128.xor(rotate(w, 16), z);
    x = i32x4.add(x, y), z = i32x4.add(z, w), y = v128.xor(rotate(y, 24), x), w = v128.xor(rotate(w, 24), z);
    key0 = i32x4.splat(k1), key1 = i32x4.splat(k2 + 4);
    x = i32x4.add(x, key0), y = i32x4.add(y, key1), z = i32x4.add(z, key0), w = i32x4.add(w, key1);
    x = i32x4.add(x, y), z = i32x4.add(z, w), y = v128.xor(rotate(y, 13), x), w = v128.xor(rotate(w, 13), z);
    x = i32x4.add(x, y), z = i32x4.add(z, w), y = v128.xor(rotate(y, 15), x), w = v128.xor(rotate(w, 15), z);
    x = i32x4.add(x, y), z = i32x4.add(z, w), y = v128.xor(rotate(y, 26), x), w = v128.xor(rotate(w, 26), z);
    x = i32x4.add(x, y), z = i32x4.add(z, w), y = v128.xor(rotate(y, 6), x), w = v128.xor(rotate(w, 6), z);
    key0 = i32x4.splat(k2), key1 = i32x4.splat(k0 + 5);
    x = i32x4.add(x, key0), y = i32x4.add(y, key1), z = i32x4.add(z, key0), w = i32x4.add(w, key1);
    const at = out + (usize(i) << 2), left = stop - i;
    storePart(at, i32x4.shuffle(x, y, 0, 4, 1, 5), left);
    if (left > 4) storePart(at + 16, i32x4.shuffle(x, y, 2, 6, 3, 7), left - 4);
    if (left > 8) storePart(at + 32, i32x4.shuffle(z, w, 0, 4, 1, 5), left - 8);
    if (left > 12) storePart(at + 48, i32x4.shuffle(z, w, 2, 6, 3, 7), left - 12);
  }
}
