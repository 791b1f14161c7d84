/** Image stores on disk: what goes in comes out, through zarrita too, and what is damaged is found. */

import assert from "node:assert/strict";
import FileSystemStore from "npm:@zarrita/storage@0.2.0/fs";
import * as zarr from "npm:zarrita@0.7.5";
import { crc32c, registerCrc32c } from "./crc32c.ts";
import { CorruptDataError } from "./errors.ts";
import { openImageStore, storeKind } from "./image_store.ts";
import { verifyImageStore } from "./image_verify.ts";
import { fixtureLabel, fixturePixels, withImageStore } from "./testing/image_fixture.ts";
import { damage, editJson, withFixture, withFolder, withServer } from "./testing/store_fixture.ts";

/** Which of the fixture's images each row is, told by its first pixel. */
function numbersOf(pixels: Uint8Array): number[] {
  return Array.from({ length: pixels.length / 20 }, (_, i) => pixels[20 * i]);
}

Deno.test("openImageStore() gives back every image with its label, each once", async () => {
  await withImageStore({}, async (path) => {
    const store = await openImageStore(path);
    assert.deepEqual(store.splits, ["train", "validation"]);
    assert.deepEqual([store.info.height, store.info.width, store.info.channels], [5, 4, 1]);
    const seen: number[] = [];
    for (const name of store.splits) {
      const split = store.split(name);
      const { pixels, labels } = await split.gatherRows(Array.from({ length: split.rows }, (_, i) => i));
      for (const [row, i] of numbersOf(pixels).entries()) {
        assert.deepEqual([...pixels.subarray(20 * row, 20 * row + 20)], fixturePixels(i));
        assert.equal(labels[row], fixtureLabel(i));
        seen.push(i);
      }
      assert.deepEqual(await split.readLabels(), labels);
    }
    assert.deepEqual(seen.toSorted((a, b) => a - b), Array.from({ length: 100 }, (_, i) => i));
    assert.deepEqual((await verifyImageStore(path)).faults, []);
  });
});

Deno.test("gatherRows() takes any images in any order, however small the cache", async () => {
  await withImageStore({}, async (path) => {
    const all = await (await openImageStore(path)).split("train").gatherRows(Array.from({ length: 80 }, (_, i) => i));
    for (const cacheBytes of [0, 400, 1 << 20]) {
      const split = (await openImageStore(path, { cacheBytes })).split("train");
      const rows = [79, 0, 8, 7, 79, 40];
      const { pixels, labels } = await split.gatherRows(rows);
      assert.deepEqual([...pixels], rows.flatMap((row) => [...all.pixels.subarray(20 * row, 20 * row + 20)]));
      assert.deepEqual([...labels], rows.map((row) => all.labels[row]));
      for (const wrong of [80, -1, 0.5]) {
        await assert.rejects(
          split.gatherRows([wrong]),
          /^RangeError: Cannot read image .* of split "train": it has 80$/,
        );
      }
    }
  });
});

Deno.test("prepareImages() writes arrays that zarrita alone reads", async () => {
  await withImageStore({ channels: 3 }, async (path) => {
    registerCrc32c();
    const root = zarr.root(new FileSystemStore(path));
    const images = await zarr.open.v3(root.resolve("train/images"), { kind: "array" });
    assert.deepEqual([images.shape, images.chunks, images.dtype], [[80, 5, 4, 3], [8, 5, 4, 3], "uint8"]);
    const labels = await zarr.open.v3(root.resolve("train/labels"), { kind: "array" });
    assert.deepEqual([labels.shape, labels.dtype], [[80], "int32"]);
    const ours = await (await openImageStore(path)).split("train").gatherRows(Array.from({ length: 80 }, (_, i) => i));
    assert.deepEqual([...(await zarr.get(images, null)).data as Uint8Array], [...ours.pixels]);
    assert.deepEqual([...(await zarr.get(labels, null)).data as Int32Array], [...ours.labels]);
    assert.equal((await zarr.open.v3(root, { kind: "group" })).attrs.format, "lowrank-images");
    assert.ok(await zarr.open.v3(root.resolve("train"), { kind: "group" }));
  });
});

Deno.test("openImageStore() reads from a web server, and storeKind() tells stores apart", async () => {
  await withImageStore({}, async (path, folder) => {
    const local = await (await openImageStore(path)).split("train").gatherRows([5, 60]);
    await withServer(folder, () => undefined, async (url) => {
      const store = await openImageStore(`${url}/store`);
      assert.deepEqual(await store.split("train").gatherRows([5, 60]), local);
      assert.equal(await storeKind(`${url}/store`), "images");
    });
    assert.equal(await storeKind(path), "images");
    assert.equal(await storeKind(folder), undefined);
    assert.equal(await storeKind(`${folder}/none`), undefined);
  });
  await withFixture({}, async (path) => assert.equal(await storeKind(path), "tokens"));
});

Deno.test("openImageStore() throws when there is no store, split() and requireLabels() when it does not fit", async () => {
  await withFolder(async (folder) => {
    await assert.rejects(openImageStore(`${folder}/none`), /^NotFound: .*there is no such folder$/);
    await assert.rejects(openImageStore(folder), /^NotFound: .*it has no zarr.json; is it an image store\?$/);
  });
  await withImageStore({ holdOut: 0 }, async (path) => {
    const store = await openImageStore(path);
    assert.throws(() => store.split("validation"), /^RangeError: .*it has only train$/);
    store.requireLabels(3);
    for (const labels of [2, 10]) {
      const message = new RegExp(`a head of ${labels} labels on store ".*": it has 3 classes \\(0, 1, 2\\)$`);
      assert.throws(() => store.requireLabels(labels), message);
    }
    const same = await openImageStore(path);
    assert.equal(store.hash, same.hash);
  });
});

const IMAGES = "train/images/c/0/0/0/0";
const entry = (bytes: Uint8Array, i: number) => new DataView(bytes.buffer, bytes.length - 4 - 16 * (3 - i), 16);
const DAMAGES: [string, string, (bytes: Uint8Array) => Uint8Array | void, string, RegExp][] = [
  ["a pixel's bit flipped", IMAGES, (bytes) => void (bytes[9] ^= 1), IMAGES, /^its checksum does not match: stored/],
  ["a label's bit flipped", "train/labels/c/0", (bytes) => void (bytes[9] ^= 1), "train/labels/c/0", /^its checksum/],
  ["the index is damaged", IMAGES, (bytes) => void (bytes[bytes.length - 9] ^= 1), IMAGES, /^the index's checksum/],
  ["a shard is cut off", IMAGES, (bytes) => bytes.subarray(1), IMAGES, /^the file must have \d+ bytes, got \d+$/],
];

for (const [condition, key, change, shard, reason] of DAMAGES) {
  Deno.test(`gatherRows() throws CorruptDataError, and verifyImageStore() lists it, when ${condition}`, async () => {
    await withImageStore({}, async (path) => {
      await damage(`${path}/${key}`, change);
      const check = (error: unknown): boolean => {
        assert.ok(error instanceof CorruptDataError, String(error));
        assert.deepEqual([error.store, error.shard], [path, shard]);
        assert.match(error.reason, reason);
        return true;
      };
      await assert.rejects((await openImageStore(path)).split("train").gatherRows([0]), check);
      const { faults } = await verifyImageStore(path);
      assert.ok(faults.length > 0 && check(faults[0]));
    });
  });
}

Deno.test("verifyImageStore() finds chunks that were swapped, and a shard that is missing", async () => {
  await withImageStore({}, async (path) => {
    await damage(`${path}/${IMAGES}`, (bytes) => {
      const [a, b] = [entry(bytes, 0), entry(bytes, 1)];
      for (const at of [0, 8]) {
        const kept = a.getBigUint64(at, true);
        a.setBigUint64(at, b.getBigUint64(at, true), true);
        b.setBigUint64(at, kept, true);
      }
      const crc = crc32c(bytes.subarray(bytes.length - 52, bytes.length - 4));
      new DataView(bytes.buffer).setUint32(bytes.length - 4, crc, true);
    });
    const { faults, rows, chunks } = await verifyImageStore(path);
    assert.deepEqual([faults.length, rows, chunks], [1, 100, 13]);
    assert.match(faults[0].message, /the images of train are not those that were written: each chunk is sound/);
    await Deno.remove(`${path}/${IMAGES}`);
    assert.equal((await verifyImageStore(path, { maxFaults: 2 })).faults.length, 2);
    assert.match((await verifyImageStore(path)).faults[0].message, /chunk 0|shard ".*": the file does not exist/);
  });
});

Deno.test("readLabels() throws CorruptDataError when a label is no class's", async () => {
  await withImageStore({}, async (path) => {
    await editJson(`${path}/zarr.json`, ({ attributes }) => {
      attributes.classes.pop();
      for (const split of Object.values(attributes.splits) as { perClass: number[] }[]) {
        split.perClass[1] += split.perClass.pop()!;
      }
    });
    const split = (await openImageStore(path)).split("train");
    await assert.rejects(split.readLabels(), /^CorruptDataError: .*image \d+ has label 2, but there are 2 classes$/);
  });
});

// deno-lint-ignore no-explicit-any -- tests reach into metadata of any shape.
const METADATA: [string, string, (json: any) => void, RegExp][] = [
  ["the format is another", "zarr.json", (json) => json.attributes.format = "x", /must be "lowrank-images", got "x"$/],
  ["a split is called otherwise", "zarr.json", (json) => json.attributes.splits.x = {}, /a split must be "train" or/],
  ["counts do not add up", "zarr.json", (json) => json.attributes.splits.train.perClass[0]++, /add up to 80, got 81$/],
  ["there are no classes", "zarr.json", (json) => json.attributes.classes = [], /classes must be a list of names/],
  ["the size is 0", "zarr.json", (json) => json.attributes.height = 0, /height must be a whole number from 1, got 0$/],
  ["the size differs", "zarr.json", (json) => json.attributes.height = 6, /train\/images\/zarr.json: shape must be/],
  ["rows differ", "train/labels/zarr.json", (json) => json.shape = [79], /shape must be \[80\], got \[79\]$/],
  ["the type differs", "train/images/zarr.json", (json) => json.data_type = "int8", /data_type must be "uint8"/],
  ["a codec is left out", "train/images/zarr.json", (json) => {
    json.codecs[0].configuration.codecs.pop();
  }, /codecs must be/],
  ["a chunk is huge", "train/images/zarr.json", (json) => {
    json.codecs[0].configuration.chunk_shape[0] = 2 ** 30;
    json.chunk_grid.configuration.chunk_shape[0] = 2 ** 30;
  }, /bytes of a chunk must be at most/],
  ["an index is huge", "train/images/zarr.json", (json) => {
    json.chunk_grid.configuration.chunk_shape[0] = 2 ** 40;
  }, /chunks of a shard must be at most/],
  ["a size is missing", "train/images/zarr.json", (json) => json.attributes.shard_bytes.pop(), /must list 4 sizes/],
  ["the digest is missing", "train/images/zarr.json", (json) => delete json.attributes.sha256, /64 hexadecimal digits/],
  ["a field is unknown", "train/images/zarr.json", (json) => json.surprise = 1, /surprise is not one/],
];

for (const [condition, file, change, reason] of METADATA) {
  Deno.test(`openImageStore() throws CorruptDataError when ${condition}`, async () => {
    await withImageStore({}, async (path) => {
      await editJson(`${path}/${file}`, change);
      await assert.rejects(openImageStore(path), (error) => {
        assert.ok(error instanceof CorruptDataError, String(error));
        assert.match(error.reason, reason);
        return true;
      });
    });
  });
}

Deno.test("openImageStore() throws CorruptDataError when metadata is no JSON, or absent", async () => {
  await withImageStore({}, async (path) => {
    await Deno.writeTextFile(`${path}/train/labels/zarr.json`, "{");
    await assert.rejects(openImageStore(path), /^CorruptDataError: .*train\/labels\/zarr.json is not JSON/);
    await Deno.remove(`${path}/train/labels/zarr.json`);
    await assert.rejects(openImageStore(path), /^CorruptDataError: .*train\/labels\/zarr.json does not exist$/);
  });
});
