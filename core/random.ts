/**
 * Random numbers as functions of a key: threefry-2x32 with 20 rounds (Salmon et al. 2011, "Parallel random numbers: as
 * easy as 1, 2, 3"). The same key gives the same bits on every backend, in any order, as often as asked.
 *
 * There is no generator with a state, and no hidden seed: keys are folded from (seed, step, layer, ...). Counters of
 * `randomBits` have a high word below 2^30, those of `foldIn` one above, so that no derived key is a word of a stream.
 */

/** A key: two u32 words. */
export type Key = readonly [number, number];

const NUMBER_DOMAIN = 0x40000000;
const STRING_DOMAIN = 0x80000000;
/** Words drawn at a time by `uniform` and `normal`: 16 KiB, which stays in the first-level cache. */
const BLOCK = 4096;

/** The key of a seed. @param seed an integer in [0, 2^53) @throws RangeError for anything else */
export function keyOf(seed: number): Key {
  checkInteger(seed, "keyOf");
  return [seed >>> 0, Math.floor(seed / 2 ** 32)];
}

/**
 * A key derived from `key` and each of `data` in turn, independent of the key itself and of every other datum's.
 *
 * @param data names, or integers in [0, 2^53)
 * @throws RangeError for a number that is no such integer
 * @example
 * ```ts
 * import { foldIn, keyOf } from "./random.ts";
 * const key = foldIn(keyOf(42), "dropout", 7);
 * ```
 */
export function foldIn(key: Key, ...data: (number | string)[]): Key {
  let folded = key;
  for (const datum of data) {
    if (typeof datum === "string") {
      folded = threefry2x32(folded, [hash(datum), STRING_DOMAIN + datum.length % NUMBER_DOMAIN]);
    } else {
      checkInteger(datum, "foldIn");
      folded = threefry2x32(folded, [datum >>> 0, NUMBER_DOMAIN + Math.floor(datum / 2 ** 32)]);
    }
  }
  return folded;
}

/** One block of the cipher: the two words of `counter` (low, high) under `key`. */
export function threefry2x32(key: Key, counter: Key): Key {
  const words = new Uint32Array(2);
  threefry(key[0], key[1], counter[0], counter[1], words, 0, 2);
  return [words[0], words[1]];
}

/** `count` uniform u32 words: word i is component i % 2 of block floor(i / 2). Written to `out` when it is given. */
export function randomBits(key: Key, count: number, out: Uint32Array = new Uint32Array(count)): Uint32Array {
  threefry(key[0], key[1], 0, 0, out, 0, count);
  return out;
}

/** `count` numbers, uniform in [0, 1): element i is word i of `randomBits`, its upper 24 bits. */
export function uniform(key: Key, count: number): Float32Array<ArrayBuffer> {
  const out = new Float32Array(count);
  const words = new Uint32Array(BLOCK);
  for (let begin = 0; begin < count; begin += BLOCK) {
    const size = Math.min(BLOCK, count - begin);
    drawBlock(key, begin, size, words);
    for (let i = 0; i < size; i++) out[begin + i] = (words[i] >>> 8) * 2 ** -24;
  }
  return out;
}

/**
 * `count` normal numbers. Elements 2 i and 2 i + 1 come from the words of the same indices by Box and Muller's method,
 * computed in f64 and rounded once. None lies further than 6.8 standard deviations from the mean.
 *
 * @param std standard deviation; 1 by default
 */
export function normal(key: Key, count: number, mean = 0, std = 1): Float32Array<ArrayBuffer> {
  const out = new Float32Array(count);
  const words = new Uint32Array(BLOCK);
  for (let begin = 0; begin < count; begin += BLOCK) {
    const size = Math.min(BLOCK, count - begin);
    drawBlock(key, begin, size + size % 2, words);
    boxMuller(words, out, begin, size, mean, std);
  }
  return out;
}

function boxMuller(
  words: Uint32Array,
  out: Float32Array,
  begin: number,
  size: number,
  mean: number,
  std: number,
): void {
  for (let i = 0; i < size; i += 2) {
    // Half a step away from 0, so that the logarithm is finite.
    const radius = std * Math.sqrt(-2 * Math.log((words[i] + 0.5) * 2 ** -32));
    const angle = 2 * Math.PI * 2 ** -32 * words[i + 1];
    out[begin + i] = mean + radius * Math.cos(angle);
    if (i + 1 < size) out[begin + i + 1] = mean + radius * Math.sin(angle);
  }
}

/** The words [begin, begin + size) of the key's stream; `begin` is even. */
function drawBlock(key: Key, begin: number, size: number, words: Uint32Array): void {
  const block = begin / 2;
  threefry(key[0], key[1], block >>> 0, Math.floor(block / 2 ** 32), words, 0, size);
}

/** Writes `count` words of the blocks that follow each other from the counter (lo, hi). */
function threefry(
  k0: number,
  k1: number,
  lo: number,
  hi: number,
  out: Uint32Array,
  start: number,
  count: number,
): void {
  const k2 = 0x1bd11bda ^ k0 ^ k1;
  const schedule = Int32Array.of(k0, k1, k2, k0, k1, k2, k0);
  const end = start + count;
  for (let i = start; i < end; i += 2) {
    let x0 = (lo + k0) | 0;
    let x1 = (hi + k1) | 0;
    for (let group = 0; group < 5; group++) {
      // The rotations alternate between two sets of four; after each set the key goes in again.
      const even = (group & 1) === 0;
      x0 = (x0 + x1) | 0;
      x1 = (even ? (x1 << 13) | (x1 >>> 19) : (x1 << 17) | (x1 >>> 15)) ^ x0;
      x0 = (x0 + x1) | 0;
      x1 = (even ? (x1 << 15) | (x1 >>> 17) : (x1 << 29) | (x1 >>> 3)) ^ x0;
      x0 = (x0 + x1) | 0;
      x1 = (even ? (x1 << 26) | (x1 >>> 6) : (x1 << 16) | (x1 >>> 16)) ^ x0;
      x0 = (x0 + x1) | 0;
      x1 = (even ? (x1 << 6) | (x1 >>> 26) : (x1 << 24) | (x1 >>> 8)) ^ x0;
      x0 = (x0 + schedule[group + 1]) | 0;
      x1 = (x1 + schedule[group + 2] + group + 1) | 0;
    }
    out[i] = x0;
    if (i + 1 < end) out[i + 1] = x1;
    lo = (lo + 1) >>> 0;
    if (lo === 0) hi++;
  }
}

/** FNV-1a over the UTF-16 code units, low byte first. */
function hash(text: string): number {
  let value = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) {
    const unit = text.charCodeAt(i);
    value = Math.imul(value ^ (unit & 0xff), 0x01000193);
    value = Math.imul(value ^ (unit >>> 8), 0x01000193);
  }
  return value >>> 0;
}

function checkInteger(value: number, op: string): void {
  if (!Number.isSafeInteger(value) || value < 0) {
    throw new RangeError(`Cannot make a key in ${op}(): the number must be an integer in [0, 2^53), got ${value}`);
  }
}
