/**
 * threefry-2x32 with 20 rounds (Salmon et al. 2011), four blocks at a time: word i of the stream is component i % 2 of the
 * block with counter (floor(i / 2), 0). The spec is `randomBits` in core/random.ts.
 */
import { storePart } from "./math";

const CHUNK: i32 = 8192;

@inline
function rotate(x: v128, bits: i32): v128 {
  return v128.or(i32x4.shl(x, bits), i32x4.shr_u(x, 32 - bits));
}

/** out[i] = word i under the key (k0, k1). Tasks: chunks of `size` words. */
export function randomBits(begin: i32, end: i32, k0: i32, k1: i32, out: usize, size: i32): void {
  const k2 = 0x1bd11bda ^ k0 ^ k1;
  for (let i = begin * CHUNK, stop = min(size, end * CHUNK); i < stop; i += 8) {
    let x = i32x4.add(i32x4.splat((i >>> 1) + k0), i32x4(0, 1, 2, 3));
    let y = i32x4.splat(k1);
    x = i32x4.add(x, y), y = v128.xor(rotate(y, 13), x);
    x = i32x4.add(x, y), y = v128.xor(rotate(y, 15), x);
    x = i32x4.add(x, y), y = v128.xor(rotate(y, 26), x);
    x = i32x4.add(x, y), y = v128.xor(rotate(y, 6), x);
    x = i32x4.add(x, i32x4.splat(k1)), y = i32x4.add(y, i32x4.splat(k2 + 1));
    x = i32x4.add(x, y), y = v128.xor(rotate(y, 17), x);
    x = i32x4.add(x, y), y = v128.xor(rotate(y, 29), x);
    x = i32x4.add(x, y), y = v128.xor(rotate(y, 16), x);
    x = i32x4.add(x, y), y = v128.xor(rotate(y, 24), x);
    x = i32x4.add(x, i32x4.splat(k2)), y = i32x4.add(y, i32x4.splat(k0 + 2));
    x = i32x4.add(x, y), y = v128.xor(rotate(y, 13), x);
    x = i32x4.add(x, y), y = v128.xor(rotate(y, 15), x);
    x = i32x4.add(x, y), y = v128.xor(rotate(y, 26), x);
    x = i32x4.add(x, y), y = v128.xor(rotate(y, 6), x);
    x = i32x4.add(x, i32x4.splat(k0)), y = i32x4.add(y, i32x4.splat(k1 + 3));
    x = i32x4.add(x, y), y = v128.xor(rotate(y, 17), x);
    x = i32x4.add(x, y), y = v128.xor(rotate(y, 29), x);
    x = i32x4.add(x, y), y = v128.xor(rotate(y, 16), x);
    x = i32x4.add(x, y), y = v128.xor(rotate(y, 24), x);
    x = i32x4.add(x, i32x4.splat(k1)), y = i32x4.add(y, i32x4.splat(k2 + 4));
    x = i32x4.add(x, y), y = v128.xor(rotate(y, 13), x);
    x = i32x4.add(x, y), y = v128.xor(rotate(y, 15), x);
    x = i32x4.add(x, y), y = v128.xor(rotate(y, 26), x);
    x = i32x4.add(x, y), y = v128.xor(rotate(y, 6), x);
    x = i32x4.add(x, i32x4.splat(k2)), y = i32x4.add(y, i32x4.splat(k0 + 5));
    const at = out + (usize(i) << 2);
    storePart(at, i32x4.shuffle(x, y, 0, 4, 1, 5), stop - i);
    if (stop - i > 4) storePart(at + 16, i32x4.shuffle(x, y, 2, 6, 3, 7), stop - i - 4);
  }
}
