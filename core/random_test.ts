/** Random numbers: known answers, independence of derived keys, and moments. */
import assert from "node:assert/strict";
import { foldIn, type Key, keyOf, normal, randomBits, threefry2x32, uniform } from "./random.ts";

Deno.test("threefry2x32() gives the known answers of Random123", () => {
  const answers: [Key, Key, Key][] = [
    [[0, 0], [0, 0], [0x6b200159, 0x99ba4efe]],
    [[0xffffffff, 0xffffffff], [0xffffffff, 0xffffffff], [0x1cb996fc, 0xbb002be7]],
    [[0x13198a2e, 0x03707344], [0x243f6a88, 0x85a308d3], [0xc4923a9c, 0x483df7a0]],
  ];
  for (const [key, counter, words] of answers) assert.deepEqual(threefry2x32(key, counter), words);
});

Deno.test("randomBits() gives the words of Random123 when the counter is 0", () => {
  assert.deepEqual([...randomBits([0, 0], 2)], [0x6b200159, 0x99ba4efe]);
});

Deno.test("randomBits() gives equal words when they are drawn as part of more", () => {
  const key: Key = [0x13198a2e, 0x03707344];
  const all = randomBits(key, 10_001);
  for (const count of [0, 1, 2, 31, 33]) assert.deepEqual(randomBits(key, count), all.slice(0, count));
});

Deno.test("randomBits() writes to the given array alone when it is longer", () => {
  const out = new Uint32Array(5).fill(7);
  randomBits([1, 2], 3, out);
  assert.deepEqual(out.slice(0, 3), randomBits([1, 2], 3));
  assert.deepEqual([...out.slice(3)], [7, 7]);
});

Deno.test("randomBits() sets each bit half of the time", () => {
  const words = randomBits(keyOf(3), 1 << 16);
  for (let bit = 0; bit < 32; bit++) {
    let ones = 0;
    for (const word of words) ones += (word >>> bit) & 1;
    assert.ok(Math.abs(ones / words.length - 0.5) < 0.01, `bit ${bit}: ${ones}`);
  }
});

Deno.test("keyOf() keeps both halves of the seed", () => {
  assert.deepEqual(keyOf(2 ** 32 + 5), [5, 1]);
  for (const seed of [-1, 0.5, NaN, 2 ** 53]) assert.throws(() => keyOf(seed), RangeError);
});

Deno.test("foldIn() gives another key for every datum and order", () => {
  const key = keyOf(0);
  const keys = [
    key,
    foldIn(key, 0),
    foldIn(key, 1),
    foldIn(key, 2 ** 32),
    foldIn(key, ""),
    foldIn(key, "a"),
    foldIn(key, "b"),
    foldIn(key, "a", "b"),
    foldIn(key, "b", "a"),
    foldIn(key, "ab"),
    foldIn(key, 1, 2),
    foldIn(key, 2, 1),
  ];
  assert.equal(new Set(keys.map(String)).size, keys.length);
  assert.deepEqual(foldIn(key, 1, "a"), foldIn(foldIn(key, 1), "a"));
  assert.throws(() => foldIn(key, -1), RangeError);
});

Deno.test("foldIn() gives no words of the key's own stream", () => {
  const words = randomBits(keyOf(9), 64);
  for (let i = 0; i < 32; i++) assert.notDeepEqual(foldIn(keyOf(9), i), [words[2 * i], words[2 * i + 1]]);
});

Deno.test("uniform() has the moments of the uniform distribution and never gives 1", () => {
  const values = uniform(keyOf(1), 200_001);
  const { mean, variance } = moments(values);
  assert.ok(values.every((value) => value >= 0 && value < 1));
  assert.ok(Math.abs(mean - 0.5) < 0.003, `mean ${mean}`);
  assert.ok(Math.abs(variance - 1 / 12) < 0.001, `variance ${variance}`);
});

Deno.test("normal() has the moments of the normal distribution", () => {
  const { mean, variance, skew, kurtosis } = moments(normal(keyOf(2), 400_001, 3, 2));
  assert.ok(Math.abs(mean - 3) < 0.015, `mean ${mean}`);
  assert.ok(Math.abs(variance - 4) < 0.05, `variance ${variance}`);
  assert.ok(Math.abs(skew) < 0.02, `skew ${skew}`);
  assert.ok(Math.abs(kurtosis - 3) < 0.05, `kurtosis ${kurtosis}`);
});

Deno.test("normal() gives a prefix of the longer draw when the count is odd", () => {
  const all = normal(keyOf(5), 10_000);
  for (const count of [0, 1, 33, 4097]) assert.deepEqual(normal(keyOf(5), count), all.slice(0, count));
});

function moments(values: Float32Array): { mean: number; variance: number; skew: number; kurtosis: number } {
  const average = (power: number, center: number) => {
    let total = 0;
    for (const value of values) total += (value - center) ** power;
    return total / values.length;
  };
  const mean = average(1, 0);
  const variance = average(2, mean);
  return { mean, variance, skew: average(3, mean) / variance ** 1.5, kurtosis: average(4, mean) / variance ** 2 };
}
