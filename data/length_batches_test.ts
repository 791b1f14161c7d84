/** Batches by length: every example once, little padding, one order for one seed and epoch. */

import assert from "node:assert/strict";
import { type LabelledIds, type LengthBatch, lengthBatches, numLengthBatches } from "./length_batches.ts";
import { foldKey } from "./shuffle.ts";

/** Lengths like those of sentences: most short, some long. */
const LENGTHS = Array.from({ length: 1003 }, (_, i) => 3 + Math.floor(60 * ((foldKey(i) % 1000) / 1000) ** 3));
const EXAMPLES: LabelledIds[] = LENGTHS.map((length, i) => ({ ids: new Int32Array(length).fill(i + 5), label: i % 3 }));
const PAD = 1;

const epochOf = (options: Partial<Parameters<typeof lengthBatches>[1]> = {}): LengthBatch[] => [
  ...lengthBatches(EXAMPLES, { batch: 16, padId: PAD, seed: 7, ...options }),
];
const orderOf = (batches: LengthBatch[]): number[] => batches.flatMap(({ indices }) => [...indices]);

Deno.test("lengthBatches() gives every example once an epoch, the last short batch included", () => {
  for (const batch of [1, 16, 1003, 4096]) {
    for (const seed of [undefined, 7]) {
      const batches = epochOf({ batch, seed });
      assert.deepEqual(orderOf(batches).sort((a, b) => a - b), LENGTHS.map((_, i) => i));
      assert.equal(batches.length, numLengthBatches(1003, batch));
      assert.equal(batches.at(-1)!.size, 1003 % batch === 0 ? Math.min(batch, 1003) : 1003 % batch);
      assert.ok(batches.slice(0, -1).every(({ size }) => size === batch));
    }
  }
});

Deno.test("lengthBatches() pads after each sequence to the longest of the batch", () => {
  for (const { tokens, mask, labels, indices, size, length } of epochOf()) {
    assert.equal(length, Math.max(...Array.from(indices, (i) => LENGTHS[i])));
    assert.equal(tokens.length, size * length);
    for (const [row, i] of indices.entries()) {
      const ids = Array.from({ length }, (_, t) => t < LENGTHS[i] ? i + 5 : PAD);
      assert.deepEqual([...tokens.subarray(row * length, (row + 1) * length)], ids);
      assert.deepEqual([...mask.subarray(row * length, (row + 1) * length)], ids.map((id) => id === PAD ? 0 : 1));
      assert.equal(labels[row], i % 3);
    }
  }
});

Deno.test("lengthBatches() is one order for a seed and epoch, and another for others", () => {
  const order = orderOf(epochOf({ epoch: 2 }));
  assert.deepEqual(orderOf(epochOf({ epoch: 2 })), order);
  for (const other of [epochOf({ epoch: 3 }), epochOf({ epoch: 2, seed: 8 })]) {
    const same = orderOf(other).filter((index, place) => index === order[place]).length;
    assert.ok(same < 20, `${same} of 1003 stand where they stood`);
  }
});

Deno.test("lengthBatches() puts other examples together in another epoch", () => {
  const groups = (epoch: number) => epochOf({ epoch }).map(({ indices }) => [...indices].sort((a, b) => a - b).join());
  const first = new Set(groups(0));
  assert.deepEqual(groups(1).filter((group) => first.has(group)), []);
});

Deno.test("lengthBatches() goes on where a resumed epoch stopped", () => {
  assert.deepEqual(epochOf({ epoch: 1, start: 40 }), epochOf({ epoch: 1 }).slice(40));
  assert.deepEqual(epochOf({ start: 63 }), []);
});

Deno.test("lengthBatches() pads far less than batches at random, and does not go by length over an epoch", () => {
  const padding = (batches: LengthBatch[]): number => {
    const cells = batches.reduce((sum, { tokens }) => sum + tokens.length, 0);
    return 1 - LENGTHS.reduce((sum, length) => sum + length) / cells;
  };
  const atRandom = Array.from(
    { length: 62 },
    (_, i) => [...lengthBatches(EXAMPLES.slice(i * 16, i * 16 + 16), { batch: 16, padId: PAD })],
  )
    .flat();
  const cells = atRandom.reduce((sum, { tokens }) => sum + tokens.length, 0);
  const wasted = 1 - LENGTHS.slice(0, 992).reduce((sum, length) => sum + length) / cells;
  assert.ok(padding(epochOf()) < 0.1, `${padding(epochOf())}`);
  assert.ok(wasted > 0.5, `${wasted}`);
  const lengths = epochOf().slice(0, -1).map(({ length }) => length);
  const rises = lengths.filter((length, i) => i > 0 && length > lengths[i - 1]).length;
  assert.ok(rises > 15 && rises < 46, `${rises} of 61`);
});

Deno.test("lengthBatches() without a seed goes by length", () => {
  const lengths = epochOf({ seed: undefined }).flatMap(({ indices }) => Array.from(indices, (i) => LENGTHS[i]));
  assert.deepEqual(lengths, LENGTHS.toSorted((a, b) => a - b));
});

Deno.test("lengthBatches() rounds lengths up, but not beyond the positions", () => {
  const lengths = epochOf({ multipleOf: 16, maxLength: 60 }).map(({ length }) => length);
  for (const length of lengths) assert.ok(length % 16 === 0 || length >= 60, `${length}`);
  assert.ok(lengths.includes(16) && lengths.every((length) => length <= Math.max(...LENGTHS)));
});

Deno.test("lengthBatches() throws when there is nothing to batch or the size is none", () => {
  assert.throws(
    () => lengthBatches([], { batch: 4, padId: 1 }).next(),
    /^RangeError: .*at least one example, got none/,
  );
  for (const batch of [0, 1.5, NaN]) {
    assert.throws(() => lengthBatches(EXAMPLES, { batch, padId: 1 }).next(), /size must be a whole number from 1: got/);
  }
});
