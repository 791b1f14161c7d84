/** No damage to a store is read as tokens: each kind is refused, with its shard and chunk where it has one. */

import assert from "node:assert/strict";
import * as zarr from "npm:zarrita@0.7.5";
import { appendCrc32c } from "./crc32c.ts";
import { CorruptDataError } from "./errors.ts";
import { openStore } from "./store.ts";
import { damage, editJson, expectedRows, withFixture } from "./testing/store_fixture.ts";
import { verifyStore } from "./verify.ts";

/** Offset and length of an inner chunk of a shard of 3, from its index. */
function entry(bytes: Uint8Array, chunk: number): DataView {
  return new DataView(bytes.buffer, bytes.length - 4 - 16 * 3 + 16 * chunk, 16);
}

function resealIndex(bytes: Uint8Array): void {
  const index = bytes.subarray(bytes.length - 52, bytes.length - 4);
  bytes.set(appendCrc32c(index), bytes.length - 52);
}

function setEntry(bytes: Uint8Array, chunk: number, offset: bigint, length: bigint): void {
  entry(bytes, chunk).setBigUint64(0, offset, true);
  entry(bytes, chunk).setBigUint64(8, length, true);
  resealIndex(bytes);
}

/** Chunk 4 is the second of the second shard. */
const DAMAGE: [string, (bytes: Uint8Array) => Uint8Array | void, RegExp][] = [
  [
    "a byte of it is flipped",
    (bytes) => void (bytes[Number(entry(bytes, 1).getBigUint64(0, true)) + 20] ^= 1),
    /checksum does not match/,
  ],
  ["a bit of its checksum is flipped", (bytes) => {
    const end = Number(entry(bytes, 1).getBigUint64(0, true) + entry(bytes, 1).getBigUint64(8, true));
    bytes[end - 1] ^= 128;
  }, /checksum does not match/],
  ["the index is flipped", (bytes) => void (bytes[bytes.length - 30] ^= 1), /checksum does not match/],
  [
    "the index says that it is missing",
    (bytes) => setEntry(bytes, 1, 2n ** 64n - 1n, 2n ** 64n - 1n),
    /index says that it is missing/,
  ],
  [
    "the index points past the end",
    (bytes) => setEntry(bytes, 1, BigInt(bytes.length - 10), 60n),
    /index points outside the shard/,
  ],
  [
    "the index points far past the end",
    (bytes) => setEntry(bytes, 1, 2n ** 63n, 60n),
    /index points outside the shard/,
  ],
  ["the index claims a huge chunk", (bytes) => setEntry(bytes, 1, 0n, 2n ** 40n), /more than the \d+ it can need/],
  ["the index points at another place", (bytes) => setEntry(bytes, 1, 1n, 60n), /checksum does not match/],
  ["the index claims nothing", (bytes) => setEntry(bytes, 1, 0n, 0n), /too few for a checksum/],
  ["the shard is cut off", (bytes) => bytes.subarray(0, bytes.length - 1), /the file must have \d+ bytes, got \d+/],
  ["the shard is empty", () => new Uint8Array(0), /the file must have \d+ bytes, got 0/],
  ["the shard grew", (bytes) => Uint8Array.from([...bytes, 0]), /the file must have \d+ bytes/],
];

for (const [condition, change, reason] of DAMAGE) {
  Deno.test(`readChunk() throws CorruptDataError when ${condition}`, async () => {
    await withFixture({}, async (path) => {
      await damage(`${path}/train/c/1/0`, change);
      const split = (await openStore(path)).split("train");
      await assert.rejects(split.readChunk(4), (error) => {
        assert.ok(error instanceof CorruptDataError, String(error));
        assert.match(error.reason, reason);
        assert.deepEqual([error.store, error.shard, error.chunk], [path, "train/c/1/0", 4]);
        assert.match(error.message, /^Cannot read chunk 4 of shard "train\/c\/1\/0" of store "/);
        return true;
      });
      assert.deepEqual([...await split.readRows(0, 4)], expectedRows(0, 4, 8, 257));
      const { faults, chunks } = await verifyStore(path);
      assert.equal(chunks, 25 + 7);
      assert.ok(faults.some((fault) => fault.shard === "train/c/1/0" && fault.chunk === 4), `${faults}`);
      assert.ok(faults.every((fault) => fault.shard === "train/c/1/0"), `${faults}`);
    });
  });
}

Deno.test("readChunk() throws when the shard's file is gone, a folder, or a link", async () => {
  await withFixture({}, async (path) => {
    const shard = `${path}/train/c/2/0`;
    const read = async (): Promise<unknown> => (await openStore(path)).split("train").readChunk(6);
    await Deno.rename(shard, `${path}/elsewhere`);
    await assert.rejects(read(), /chunk 6 of shard "train\/c\/2\/0" .* the file does not exist$/);
    await Deno.symlink(`${path}/elsewhere`, shard);
    await assert.rejects(read(), /^CorruptDataError: .* the file is a link/);
    await Deno.remove(shard);
    await Deno.mkdir(shard);
    await assert.rejects(read(), /^CorruptDataError: .* not a plain file/);
  });
});

Deno.test("readChunk() throws when the file is cut off and its size is not listed", async () => {
  await withFixture({}, async (path) => {
    await editJson(`${path}/train/zarr.json`, (json) => delete json.attributes.shard_bytes);
    await damage(`${path}/train/c/1/0`, (bytes) => bytes.subarray(0, 20));
    const split = (await openStore(path)).split("train");
    await assert.rejects(split.readChunk(4), /chunk 4 of shard "train\/c\/1\/0" .* outside the file's 20/);
    assert.deepEqual([...await split.readRows(0, 4)], expectedRows(0, 4, 8, 257));
  });
});

Deno.test("readChunk() throws when an id is not in the vocabulary", async () => {
  await withFixture({}, async (path) => {
    await editJson(`${path}/zarr.json`, (json) => {
      json.attributes.tokenizer.vocabSize = 200;
      json.attributes.tokenizer.eosId = 0;
    });
    const split = (await openStore(path)).split("train");
    await assert.rejects(
      split.readChunk(0),
      /^CorruptDataError: .*chunk 0 .* it holds token id \d+, but the vocabulary has 200$/,
    );
  });
});

Deno.test("readChunk() throws when a chunk with a good checksum decodes to another size", async () => {
  await withFixture({}, async (path) => {
    const zstd = await (await zarr.registry.get("zstd")!)();
    // deno-lint-ignore no-explicit-any -- see shards.ts
    const bomb = await (zstd.fromConfig({ level: 1 }, undefined as any) as any).encode(new Uint8Array(1 << 26));
    const raw = new TextEncoder().encode("this is no zstd frame");
    for (
      const [content, reason] of [[bomb, /must decode to 72 bytes, got 67108864$/], [raw, /got no size$/]] as const
    ) {
      await editJson(`${path}/train/zarr.json`, (json) => delete json.attributes.shard_bytes);
      const chunk = appendCrc32c(content);
      const index = new BigUint64Array(6);
      for (let i = 0; i < 3; i++) index.set([0n, BigInt(chunk.length)], 2 * i);
      await Deno.writeFile(
        `${path}/train/c/0/0`,
        Uint8Array.from([...chunk, ...appendCrc32c(new Uint8Array(index.buffer))]),
      );
      const split = (await openStore(path)).split("train");
      const expected = chunk.length > 72 + 1024 ? /stored bytes are more than/ : reason;
      await assert.rejects(split.readChunk(1), expected);
    }
  });
});

Deno.test("verifyStore() finds chunks that were swapped, and stops at maxFaults", async () => {
  await withFixture({}, async (path) => {
    await damage(`${path}/train/c/1/0`, (bytes) => {
      const [a, b] = [entry(bytes, 0), entry(bytes, 1)].map((
        view,
      ) => [view.getBigUint64(0, true), view.getBigUint64(8, true)]);
      setEntry(bytes, 0, b[0], b[1]);
      setEntry(bytes, 1, a[0], a[1]);
    });
    const { faults } = await verifyStore(path);
    assert.deepEqual(faults.map(({ shard, chunk }) => [shard, chunk]), [["train/c/1/0", 3], ["train/c/1/0", 5]]);
    assert.match(faults[0].reason, /^row 12 begins with token \d+, but the row before ends with \d+$/);
    assert.equal((await verifyStore(path, { maxFaults: 1 })).faults.length, 1);
  });
});

Deno.test("verifyStore() reports its progress", async () => {
  await withFixture({}, async (path) => {
    const seen: number[] = [];
    const report = await verifyStore(path, {
      onProgress: ({ chunks, totalChunks }) => seen.push(chunks / totalChunks),
    });
    assert.equal(seen.length, 32);
    assert.equal(seen.at(-1), 1);
    assert.deepEqual([report.rows, report.shards, report.chunks], [124, 9 + 3, 32]);
  });
});

// deno-lint-ignore no-explicit-any -- tests reach into metadata of any shape.
const METADATA: [string, string, (json: any) => void, RegExp][] = [
  ["the format is another", "zarr.json", (json) => json.attributes.format = "other", /attributes.format must be/],
  ["the group is an array", "zarr.json", (json) => json.node_type = "array", /node_type must be "group"/],
  ["it is Zarr v2", "zarr.json", (json) => json.zarr_format = 2, /zarr_format must be 3, got 2/],
  ["a field is unknown", "zarr.json", (json) => json.surprise = 1, /only fields .* got "surprise"/],
  [
    "a split is called otherwise",
    "zarr.json",
    (json) => json.attributes.splits["../x"] = { rows: 1 },
    /"train" or "validation", got "..\/x"/,
  ],
  [
    "eosId is too large",
    "zarr.json",
    (json) => json.attributes.tokenizer.eosId = 257,
    /eosId must be below vocabSize 257/,
  ],
  ["the shape is huge", "train/zarr.json", (json) => json.shape[0] = 2 ** 60, /whole number from 1/],
  ["the shape differs from the group's", "train/zarr.json", (json) => json.shape[0] = 98, /must have 99 rows/],
  ["the type differs", "train/zarr.json", (json) => json.data_type = "float64", /data_type must be uint16/],
  ["a chunk is huge", "train/zarr.json", (json) => {
    json.codecs[0].configuration.chunk_shape[0] = 2 ** 30;
    json.chunk_grid.configuration.chunk_shape[0] = 2 ** 30;
  }, /must decode to at most/],
  [
    "an index is huge",
    "train/zarr.json",
    (json) => json.chunk_grid.configuration.chunk_shape[0] = 2 ** 40,
    /index must be at most/,
  ],
  [
    "a shard is no multiple",
    "train/zarr.json",
    (json) => json.chunk_grid.configuration.chunk_shape[0] = 13,
    /multiple of its chunks' rows, got 4/,
  ],
  [
    "a codec is unknown",
    "train/zarr.json",
    (json) => json.codecs[0].configuration.codecs[1].name = "blosc",
    /inner codecs must be/,
  ],
  [
    "the checksum is left out",
    "train/zarr.json",
    (json) => json.codecs[0].configuration.codecs.pop(),
    /inner codecs must be/,
  ],
  [
    "the index has no checksum",
    "train/zarr.json",
    (json) => json.codecs[0].configuration.index_codecs.pop(),
    /index_codecs must be/,
  ],
  ["it is not sharded", "train/zarr.json", (json) => json.codecs = [{ name: "bytes" }], /sharding_indexed alone/],
  [
    "it is big-endian",
    "train/zarr.json",
    (json) => json.codecs[0].configuration.codecs[0].configuration.endian = "big",
    /little-endian/,
  ],
  [
    "a shard's size is missing",
    "train/zarr.json",
    (json) => json.attributes.shard_bytes.pop(),
    /shard_bytes must list 9 sizes/,
  ],
];
for (const [condition, file, change, reason] of METADATA) {
  Deno.test(`openStore() throws CorruptDataError when ${condition}`, async () => {
    await withFixture({}, async (path) => {
      await editJson(`${path}/${file}`, change);
      await assert.rejects(openStore(path), (error) => {
        assert.ok(error instanceof CorruptDataError, String(error));
        assert.match(error.reason, reason);
        return true;
      });
    });
  });
}

Deno.test("openStore() throws when metadata is no JSON, too large, a link, or absent", async () => {
  await withFixture({}, async (path) => {
    const file = `${path}/train/zarr.json`;
    await Deno.writeTextFile(file, "{");
    await assert.rejects(openStore(path), /^CorruptDataError: .*train\/zarr.json is not JSON/);
    await Deno.writeTextFile(file, " ".repeat(2 ** 20 + 1));
    await assert.rejects(openStore(path), /at most 1048576 bytes, got 1048577$/);
    await Deno.remove(file);
    await assert.rejects(openStore(path), /^CorruptDataError: .*train\/zarr.json does not exist$/);
    await Deno.symlink(`${path}/zarr.json`, file);
    await assert.rejects(openStore(path), /the file is a link/);
  });
});
