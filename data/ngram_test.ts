/** n-gram baselines against the definition, written the slow way, and against what is known of simple sources. */

import assert from "node:assert/strict";
import { ngramBaselines } from "./ngram.ts";

/** Mean nats of the recursion in ngram.ts's head, with maps of strings. */
function slowBaseline(train: Uint16Array, heldOut: Uint16Array, vocabSize: number, order: number): number {
  const followers = new Map<string, Map<number, number>>();
  for (let length = 0; length < order; length++) {
    for (let i = length; i < train.length; i++) {
      const context = train.subarray(i - length, i).join();
      const key = `${length}:${context}`;
      if (!followers.has(key)) followers.set(key, new Map());
      const counts = followers.get(key)!;
      counts.set(train[i], (counts.get(train[i]) ?? 0) + 1);
    }
  }
  const probability = (context: Uint16Array, token: number): number => {
    const lower = context.length === 0 ? 1 / vocabSize : probability(context.subarray(1), token);
    const counts = followers.get(`${context.length}:${context.join()}`);
    if (!counts) return lower;
    const total = [...counts.values()].reduce((a, b) => a + b);
    return ((counts.get(token) ?? 0) + counts.size * lower) / (total + counts.size);
  };
  let sum = 0;
  for (let i = 0; i < heldOut.length; i++) {
    sum -= Math.log(probability(heldOut.subarray(Math.max(0, i - order + 1), i), heldOut[i]));
  }
  return sum / heldOut.length;
}

function randomTokens(length: number, vocabSize: number, seed: number): Uint16Array {
  let state = seed;
  return Uint16Array.from({ length }, () => ((state = (state * 48271) % 2147483647) >> 8) % vocabSize);
}

Deno.test("ngramBaselines() equals the definition", () => {
  for (const [length, vocabSize] of [[1, 3], [40, 2], [500, 5], [3000, 40]]) {
    const train = randomTokens(length, vocabSize, 7);
    const heldOut = randomTokens(200, vocabSize, 8);
    for (const { order, nats } of ngramBaselines(train, heldOut, vocabSize + 2, [1, 2, 3, 5])) {
      const expected = slowBaseline(train, heldOut, vocabSize + 2, order);
      assert.ok(Math.abs(nats - expected) < 1e-12, `order ${order} of ${length}: ${nats}, expected ${expected}`);
    }
  }
});

Deno.test("ngramBaselines() nears the source's entropy when text is random, and nought when it repeats", () => {
  const random = ngramBaselines(randomTokens(200_000, 16, 1), randomTokens(20_000, 16, 2), 16, [1, 3]);
  assert.ok(Math.abs(random[0].nats - Math.log(16)) < 0.01, `${random[0].nats}`);
  const cycle = Uint32Array.from({ length: 10_000 }, (_, i) => i % 50);
  const [first, third] = ngramBaselines(cycle, cycle.subarray(0, 1000), 60_000, [1, 3]);
  assert.ok(Math.abs(first.nats - Math.log(50)) < 0.05, `${first.nats}`);
  assert.ok(third.nats < 0.1, `${third.nats}`);
});

Deno.test("ngramBaselines() takes a megabyte at orders 1, 3 and 5 in under five seconds", () => {
  const text = randomTokens(1_000_000, 100, 3);
  const started = performance.now();
  assert.equal(ngramBaselines(text, text.subarray(0, 50_000), 257, [1, 3, 5]).length, 3);
  assert.ok(performance.now() - started < 5000, `${performance.now() - started} ms`);
});

Deno.test("ngramBaselines() throws RangeError when an argument is out of range", () => {
  const ok = Uint16Array.of(1, 2);
  assert.throws(() => ngramBaselines(ok, ok, 3, [0]), /^RangeError: .*from 1 to 16, got 0$/);
  assert.throws(() => ngramBaselines(ok, ok, 3, [17]), RangeError);
  assert.throws(() => ngramBaselines(ok, ok, 2, [1]), /^RangeError: .*train must hold ids below 2, got id 2$/);
  assert.throws(() => ngramBaselines(ok, new Uint16Array(0), 3, [1]), /heldOut must hold .*got none$/);
  assert.deepEqual(ngramBaselines(ok, ok, 3, []), []);
});
