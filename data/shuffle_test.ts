/** The order of rows: a permutation, spread over the whole split, local to its windows, and fixed for ever. */

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { foldKey, type OrderLayout, Permutation, RowOrder, windowChunks } from "./shuffle.ts";

const layoutOf = (rows: number, rowsPerChunk: number, chunkBytes: number): OrderLayout => ({
  rows,
  rowsPerChunk,
  chunks: Math.ceil(rows / rowsPerChunk),
  chunkBytes,
});

const epochOf = (layout: OrderLayout, seed: number, epoch: number): number[] => {
  const order = new RowOrder(layout, seed, true);
  return Array.from({ length: layout.rows }, (_, i) => order.rowAt(epoch * layout.rows + i));
};

const isPermutation = (values: readonly number[]): boolean => {
  const seen = new Set(values);
  return seen.size === values.length &&
    values.every((value) => Number.isInteger(value) && value >= 0 && value < values.length);
};

Deno.test("Permutation is a bijection that indexOf() inverts, at every small size and awkward large ones", () => {
  for (const size of [...Array(70).keys()].map((n) => n + 1).concat([255, 256, 257, 1023, 1025, 4096, 5000])) {
    const permutation = new Permutation(size, foldKey(7, size));
    const values = Array.from({ length: size }, (_, i) => permutation.at(i));
    assert.ok(isPermutation(values), `size ${size}`);
    assert.ok(values.every((value, i) => permutation.indexOf(value) === i), `inverse at size ${size}`);
  }
});

Deno.test("Permutation stays in range and inverts when there are 2^40 values and more", () => {
  for (const size of [2 ** 32 + 1, 2 ** 40 + 12345, 2 ** 52]) {
    const permutation = new Permutation(size, 99);
    for (let i = 0; i < 1000; i++) {
      const value = Math.floor(size / 1000) * i;
      const place = permutation.at(value);
      assert.ok(Number.isSafeInteger(place) && place >= 0 && place < size);
      assert.equal(permutation.indexOf(place), value);
    }
  }
});

Deno.test("Permutation puts every value everywhere equally often over many keys", () => {
  for (const size of [2, 3, 5, 10]) {
    const counts = new Float64Array(size * size);
    const keys = 4000;
    for (let key = 0; key < keys; key++) {
      const permutation = new Permutation(size, foldKey(key));
      for (let i = 0; i < size; i++) counts[i * size + permutation.at(i)]++;
    }
    const expected = keys / size;
    const chi = counts.reduce((sum, count) => sum + (count - expected) ** 2 / expected, 0);
    const freedom = (size - 1) ** 2; // the sums of rows and columns are given
    assert.ok(
      chi < freedom + 5 * Math.sqrt(2 * freedom),
      `size ${size}: chi-square ${chi} with ${freedom} degrees of freedom`,
    );
  }
});

// rows, rows a chunk, bytes a chunk: 2^21 makes windows of 4 chunks, 2^25 of one.
const LAYOUTS = [[1, 1, 1], [7, 3, 1], [100, 8, 2 ** 21], [97, 8, 2 ** 21], [65, 8, 2 ** 25], [33, 32, 2 ** 25], [
  4096,
  128,
  2 ** 21,
]];

Deno.test.each(LAYOUTS)(
  "RowOrder visits every row once an epoch, each in another order (%i rows, %i a chunk)",
  (rows, rowsPerChunk, bytes) => {
    const layout = layoutOf(rows, rowsPerChunk, bytes);
    const orders = [[1, 0], [1, 1], [2, 0]].map(([seed, epoch]) => epochOf(layout, seed, epoch));
    for (const order of orders) assert.ok(isPermutation(order));
    if (rows >= 33) assert.equal(new Set(orders.map(String)).size, 3);
  },
);

Deno.test("RowOrder gives one answer whatever was asked before", () => {
  const layout = layoutOf(97, 8, 2 ** 21);
  const inOrder = [...epochOf(layout, 5, 0), ...epochOf(layout, 5, 1)];
  const shared = new RowOrder(layout, 5, true);
  const asked = new Permutation(inOrder.length, 3);
  for (let i = 0; i < inOrder.length; i++) {
    const index = asked.at(i);
    assert.equal(shared.rowAt(index), inOrder[index]);
    assert.equal(new RowOrder(layout, 5, true).rowAt(index), inOrder[index]);
  }
});

Deno.test("RowOrder looks shuffled over the whole split, and reads few chunks at a time", () => {
  const layout = layoutOf(20_000, 16, 2 ** 19); // 1250 chunks in windows of 16
  assert.equal(windowChunks(layout), 16);
  const order = epochOf(layout, 11, 0);
  // Spearman's rank correlation of position and row; its standard error is 1/sqrt(20000) = 0.007, larger by the windows' chunks.
  const mean = (order.length - 1) / 2;
  const covariance = order.reduce((sum, row, i) => sum + (row - mean) * (i - mean), 0);
  const variance = order.reduce((sum, row) => sum + (row - mean) ** 2, 0);
  assert.ok(Math.abs(covariance / variance) < 0.1, `correlation ${covariance / variance}`);
  for (let tenth = 0; tenth < 10; tenth++) {
    const part = order.slice(tenth * 2000, (tenth + 1) * 2000);
    const low = part.filter((row) => row < 10_000).length;
    assert.ok(Math.abs(low - 1000) < 300, `${low} of 2000 rows from the first half`);
  }
  const neighbours = order.filter((row, i) => i > 0 && Math.floor(row / 16) === Math.floor(order[i - 1] / 16)).length;
  assert.ok(neighbours < 20_000 / 8, `${neighbours} neighbours from one chunk`);
  for (let start = 0; start < order.length; start += 256) {
    assert.ok(new Set(order.slice(start, start + 256).map((row) => Math.floor(row / 16))).size <= 32);
  }
});

Deno.test("RowOrder keeps rows as stored when shuffle is false", () => {
  const order = new RowOrder(layoutOf(10, 3, 1), 1, false);
  assert.deepEqual([0, 9, 10, 25].map((index) => order.rowAt(index)), [0, 9, 0, 5]);
});

Deno.test("RowOrder is what it was when the first version was released", () => {
  const hash = createHash("sha256");
  for (const epoch of [0, 1]) hash.update(epochOf(layoutOf(1000, 8, 2 ** 19), 42, epoch).join());
  assert.equal(hash.digest("hex").slice(0, 16), "ec8539b9b6a0ed6f");
});
