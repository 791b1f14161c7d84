/** Batches: one order whatever reads it, resumable anywhere, errors in their place, and no worker left behind. */

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import type { Batch } from "./batch_reader.ts";
import { Batches, type BatchesOptions } from "./batches.ts";
import { CorruptDataError } from "./errors.ts";
import { openStore } from "./store.ts";
import { damage, editJson, withFixture } from "./testing/store_fixture.ts";

/** Hash of the exact tokens, in order, of `count` batches. */
async function orderHash(store: string, count: number, options: BatchesOptions): Promise<string> {
  using batches = new Batches(store, options);
  const hash = createHash("sha256");
  for (let i = 0; i < count; i++) hash.update((await batches.next()).tokens);
  return hash.digest("hex");
}

Deno.test("Batches gives the same order for any number of readers and any prefetch", async () => {
  await withFixture({ tokens: 5000 }, async (store) => {
    const options = { batch: 7, seed: 3 };
    const expected = await orderHash(store, 160, { ...options, readers: 0 });
    for (const [readers, prefetch] of [[1, 1], [1, 4], [2, 2], [2, 3], [4, 1], [4, 4]]) {
      const got = await orderHash(store, 160, { ...options, readers, prefetch });
      assert.equal(got, expected, `${readers} readers, prefetch ${prefetch}`);
    }
    assert.notEqual(await orderHash(store, 160, { ...options, seed: 4, readers: 0 }), expected);
  });
});

Deno.test("Batches gives every row once an epoch, over the end of one, and any batch size the same rows", async () => {
  await withFixture({}, async (store) => {
    const train = (await openStore(store)).split("train");
    const all = await train.readRows(0, 99);
    const keyOf = (tokens: Uint32Array, row: number): string => tokens.subarray(row * 9, row * 9 + 9).join();
    const expected = Array.from({ length: 99 }, (_, row) => keyOf(all, row));
    assert.equal(new Set(expected).size, 99);
    const orders: string[][] = [];
    for (const batch of [10, 33, 198, 1]) {
      using batches = new Batches(store, { batch, seed: 1, readers: 0 });
      const rows: string[] = [];
      while (rows.length < 198) {
        const { tokens, index, seq, batch: size } = await batches.next();
        assert.deepEqual([index, seq, size, tokens.length], [rows.length, 8, batch, batch * 9]);
        for (let r = 0; r < batch; r++) rows.push(keyOf(tokens, r));
        assert.equal(batches.index, rows.length);
      }
      orders.push(rows.slice(0, 198));
    }
    for (const order of orders) assert.deepEqual(order, orders[0]);
    const [first, second] = [orders[0].slice(0, 99), orders[0].slice(99)];
    assert.deepEqual([...first].sort(), [...expected].sort());
    assert.deepEqual([...second].sort(), [...expected].sort());
    assert.notDeepEqual(first, second);
    assert.notDeepEqual(first, expected);
  });
});

Deno.test("Batches resumes from any index with the batches that would have come", async () => {
  await withFixture({}, async (store) => {
    const options = { batch: 4, seed: 9, readers: 0 };
    using whole = new Batches(store, options);
    const expected: Batch[] = [];
    for (let i = 0; i < 60; i++) expected.push(await whole.next());
    for (const start of [0, 1, 7, 24, 25, 26, 49]) {
      using batches = new Batches(store, { ...options, start: expected[start] });
      for (let i = start; i < start + 8; i++) assert.deepEqual(await batches.next(), expected[i]);
    }
    using odd = new Batches(store, { ...options, batch: 2, start: { index: 6 } });
    assert.deepEqual((await odd.next()).tokens, expected[1].tokens.slice(18));
  });
});

Deno.test("Batches reads validation in stored order unless told otherwise", async () => {
  await withFixture({}, async (store) => {
    const validation = (await openStore(store)).split("validation");
    using batches = new Batches(store, { split: "validation", batch: 25, readers: 0 });
    assert.deepEqual((await batches.next()).tokens, await validation.readRows(0, 25));
    using shuffled = new Batches(store, { split: "validation", batch: 25, readers: 0, shuffle: true });
    assert.notDeepEqual((await shuffled.next()).tokens, await validation.readRows(0, 25));
  });
});

for (const readers of [0, 1, 2]) {
  Deno.test(`next() throws CorruptDataError at the damaged batch, and ever after, with ${readers} readers`, async () => {
    await withFixture({}, async (store) => {
      await damage(`${store}/validation/c/1/0`, (bytes) => void (bytes[5] ^= 1));
      using batches = new Batches(store, { split: "validation", batch: 4, readers });
      for (let i = 0; i < 3; i++) assert.equal((await batches.next()).index, 4 * i);
      for (let i = 0; i < 2; i++) {
        await assert.rejects(batches.next(), (error) => {
          assert.ok(error instanceof CorruptDataError, String(error));
          assert.deepEqual([error.store, error.shard, error.chunk], [store, "validation/c/1/0", 3]);
          assert.match(
            error.message,
            /^Cannot read chunk 3 of shard "validation\/c\/1\/0" of store ".*checksum does not match/,
          );
          return true;
        });
      }
      assert.equal(batches.index, 12);
    });
  });

  Deno.test(`next() throws what openStore() throws with ${readers} readers`, async () => {
    using missing = new Batches("/nonexistent/store", { batch: 1, readers });
    await assert.rejects(
      missing.next(),
      (error) => error instanceof Deno.errors.NotFound && /no such folder/.test(error.message),
    );
    await withFixture({ holdOut: 0 }, async (store) => {
      using batches = new Batches(store, { batch: 1, readers, split: "validation" });
      await assert.rejects(batches.next(), /^RangeError: Cannot read split "validation"/);
    });
  });
}

Deno.test("Batches throws RangeError when an option is out of range", () => {
  for (
    const wrong of [{ batch: 0 }, { batch: 1.5 }, { seed: -1 }, { start: { index: NaN } }, { readers: -1 }, {
      prefetch: 0,
    }]
  ) {
    assert.throws(() => new Batches("store", { batch: 1, ...wrong }), RangeError, JSON.stringify(wrong));
  }
});

Deno.test("close() rejects a waiting next(), and what comes after", async () => {
  await withFixture({}, async (store) => {
    await using batches = new Batches(store, { batch: 1, readers: 2 });
    const waiting = batches.next();
    batches.close();
    await assert.rejects(waiting, /they were closed$/);
    await assert.rejects(batches.next(), /they were closed$/);
    batches.close();
  });
});

Deno.test("next() throws when a chunk's metadata changed to something else", async () => {
  await withFixture({}, async (store) => {
    await editJson(`${store}/train/zarr.json`, (json) => json.data_type = "int8");
    using batches = new Batches(store, { batch: 1 });
    await assert.rejects(batches.next(), /^CorruptDataError: .*data_type must be uint16/);
  });
});
