/** Stores on disk: what goes in comes out, through zarrita too, and what cannot be written is refused. */

import assert from "node:assert/strict";
import FileSystemStore from "npm:@zarrita/storage@0.2.0/fs";
import * as zarr from "npm:zarrita@0.7.5";
import { crc32c } from "./crc32c.ts";
import { openStore } from "./store.ts";
import {
  expectedRows,
  type FixtureOptions,
  fixtureToken,
  withFixture,
  withFolder,
  writeFixture,
} from "./testing/store_fixture.ts";
import { verifyStore } from "./verify.ts";

Deno.test("crc32c() gives the published check values", () => {
  assert.equal(crc32c(new TextEncoder().encode("123456789")), 0xe3069283);
  assert.equal(crc32c(new Uint8Array(32)), 0x8a9136aa);
  assert.equal(crc32c(new Uint8Array(32).fill(0xff)), 0x62a8ab43);
  assert.equal(crc32c(new Uint8Array(0)), 0);
});

for (
  const [condition, options] of [
    ["it is the usual one", {}],
    ["nothing is held out", { holdOut: 0 }],
    ["a chunk holds one row and a shard one chunk", { rowsPerChunk: 1, chunksPerShard: 1 }],
    ["a shard holds more than there is", { rowsPerChunk: 50, chunksPerShard: 99 }],
    ["the layout is chosen by the writer", { rowsPerChunk: undefined, chunksPerShard: undefined }],
    ["ids need 32 bits", { vocabSize: 70_000 }],
    ["the vocabulary has 65536 ids", { vocabSize: 65_536 }],
    ["there is one row", { tokens: 9, holdOut: 0 }],
    ["rows are long", { seq: 499 }],
  ] as [string, FixtureOptions][]
) {
  Deno.test(`openStore() gives back every row when ${condition}`, async () => {
    await withFixture(options, async (path) => {
      const { seq = 8, vocabSize = 257, tokens = 1000, holdOut = 0.2 } = options;
      const store = await openStore(path);
      const train = store.split("train");
      const total = Math.floor((tokens - 1) / seq);
      const held = holdOut === 0 ? 0 : Math.max(1, Math.round(total * holdOut));
      assert.equal(train.rows, total - held);
      assert.equal(store.info.dtype, vocabSize > 65_536 ? "uint32" : "uint16");
      assert.deepEqual([...await train.readRows(0, train.rows)], expectedRows(0, train.rows, seq, vocabSize));
      assert.deepEqual(store.splits, held > 0 ? ["train", "validation"] : ["train"]);
      if (held > 0) {
        const rows = await store.split("validation").readRows(0, held);
        assert.deepEqual([...rows], expectedRows(train.rows, held, seq, vocabSize));
      }
      assert.deepEqual((await verifyStore(path)).faults, []);
    });
  });
}

Deno.test("writeStore() writes shards that zarrita alone reads", async () => {
  await withFixture({}, async (path) => {
    const root = zarr.root(new FileSystemStore(path));
    const array = await zarr.open.v3(root.resolve("train"), { kind: "array" });
    assert.deepEqual(array.shape, [99, 9]);
    assert.deepEqual(array.chunks, [4, 9]);
    const { data } = await zarr.get(array, null);
    assert.deepEqual([...data as Uint16Array], expectedRows(0, 99, 8, 257));
    const group = await zarr.open.v3(root, { kind: "group" });
    assert.equal(group.attrs.format, "lowrank-tokens");
  });
});

Deno.test("readTokens() joins rows without their overlap", async () => {
  await withFixture({}, async (path) => {
    const split = (await openStore(path)).split("validation");
    const stream = Array.from({ length: split.rows * 8 + 1 }, (_, i) => fixtureToken(99 * 8 + i, 257));
    for (const count of [undefined, 0, 1, 8, 9, 10, 32, 33, 40, 10_000]) {
      assert.deepEqual([...await split.readTokens(count)], stream.slice(0, count ?? stream.length), `${count}`);
    }
  });
});

Deno.test("gatherRows() takes any rows in any order, however small the cache", async () => {
  await withFixture({}, async (path) => {
    for (const cacheBytes of [0, 200, 1 << 20]) {
      const split = (await openStore(path, { cacheBytes })).split("train");
      const rows = [98, 0, 3, 4, 50, 50, 97, 1];
      const expected = rows.flatMap((row) => expectedRows(row, 1, 8, 257));
      assert.deepEqual([...await split.gatherRows(rows)], expected);
      await assert.rejects(split.gatherRows([99]), /^RangeError: Cannot read row 99 of split "train": it has 99$/);
      await assert.rejects(split.gatherRows([-1]), RangeError);
      await assert.rejects(split.gatherRows([0.5]), RangeError);
    }
  });
});

Deno.test("openStore() throws when there is no store, and split() when there is no such split", async () => {
  await withFolder(async (folder) => {
    await assert.rejects(
      openStore(`${folder}/none`),
      /^NotFound: Cannot open the store ".*none": there is no such folder$/,
    );
    await assert.rejects(openStore(folder), /^NotFound: .* it has no zarr.json/);
    await writeFixture(`${folder}/store`, { holdOut: 0 });
    const store = await openStore(new URL(`file://${folder}/store`));
    assert.throws(() => store.split("validation"), /^RangeError: .*it has only train$/);
  });
});

Deno.test("writeStore() refuses what it cannot do, and leaves nothing behind", async () => {
  await withFolder(async (folder) => {
    const out = `${folder}/store`;
    for (
      const [options, error] of [
        [{ tokens: 8 }, /^RangeError: .*one sequence of seq 8 needs 9 tokens, got 8$/],
        [{ tokens: 0 }, /needs 9 tokens, got 0$/],
        [{ seq: 0 }, /^RangeError: .*seq must be a whole number from 1, got 0$/],
        [{ rowsPerChunk: 1.5 }, /rowsPerChunk must be a whole number/],
        [{ holdOut: 1 }, /holdOut must be from 0 to below 1, got 1$/],
        [{ holdOut: NaN }, /holdOut must be/],
        [{ signal: AbortSignal.abort(new Error("stopped")) }, /^Error: stopped$/],
      ] as [FixtureOptions, RegExp][]
    ) {
      await assert.rejects(writeFixture(out, options), error);
    }
    assert.deepEqual([...Deno.readDirSync(folder)], []);
    await writeFixture(out);
    await assert.rejects(writeFixture(out), /^AlreadyExists: .*store": it exists already/);
    assert.deepEqual([...Deno.readDirSync(folder)].map(({ name }) => name), ["store"]);
  });
});
