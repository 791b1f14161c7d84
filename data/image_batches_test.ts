/** Batches of images: the same whatever reads them, resumable anywhere, errors in their place. */

import assert from "node:assert/strict";
import { ImageBatches, type ImageBatchesOptions } from "./image_batches.ts";
import { type ImageBatch, numImageBatches } from "./image_batch_reader.ts";
import { openImageStore } from "./image_store.ts";
import { fixtureLabel, fixturePixels, withImageStore } from "./testing/image_fixture.ts";
import { damage } from "./testing/store_fixture.ts";

const AUGMENTED = { batch: 12, seed: 3, padding: 2, flip: true, crop: { height: 4, width: 4 } } as const;

async function take(store: string, count: number, options: ImageBatchesOptions): Promise<ImageBatch[]> {
  using batches = new ImageBatches(store, options);
  const taken: ImageBatch[] = [];
  for (let i = 0; i < count; i++) taken.push(await batches.next());
  return taken;
}

Deno.test("ImageBatches gives the same batches for any number of readers and any prefetch", async () => {
  await withImageStore({}, async (store) => {
    const expected = await take(store, 15, { ...AUGMENTED, readers: 0 });
    for (const [readers, prefetch] of [[1, 1], [2, 3]]) {
      assert.deepEqual(await take(store, 15, { ...AUGMENTED, readers, prefetch }), expected, `${readers} readers`);
    }
    assert.deepEqual(expected.map(({ size }) => size), [12, 12, 12, 12, 12, 12, 8, 12, 12, 12, 12, 12, 12, 8, 12]);
    assert.deepEqual(expected.map(({ epoch }) => epoch), [0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 2]);
    const { channels, height, width, pixels, index } = expected[14];
    assert.deepEqual([channels, height, width, pixels.length, index], [1, 4, 4, 12 * 16, 14]);
    const other = await take(store, 1, { ...AUGMENTED, seed: 4, readers: 0 });
    assert.notDeepEqual(other[0].rows, expected[0].rows);
  });
});

Deno.test("ImageBatches has every image once an epoch, with its label, in another order each time", async () => {
  await withImageStore({}, async (store) => {
    assert.equal(numImageBatches(80, 12), 7);
    const batches = await take(store, 14, { batch: 12, dtype: "u8", readers: 0 });
    const epochs = [batches.slice(0, 7), batches.slice(7)].map((epoch) => epoch.flatMap(({ rows }) => [...rows]));
    for (const rows of epochs) {
      assert.deepEqual(rows.toSorted((a, b) => a - b), Array.from({ length: 80 }, (_, i) => i));
    }
    assert.notDeepEqual(epochs[0], epochs[1]);
    for (const { pixels, labels, size } of batches) {
      for (let i = 0; i < size; i++) {
        const image = pixels[20 * i];
        assert.deepEqual([...pixels.subarray(20 * i, 20 * i + 20)], fixturePixels(image));
        assert.equal(labels[i], fixtureLabel(image));
      }
    }
  });
});

Deno.test("ImageBatches resumes from any batch with those that would have come", async () => {
  await withImageStore({}, async (store) => {
    const expected = await take(store, 20, { ...AUGMENTED, readers: 0 });
    for (const index of [1, 6, 7, 12]) {
      using batches = new ImageBatches(store, { ...AUGMENTED, readers: 0, start: { index } });
      for (let i = index; i < index + 8; i++) {
        assert.equal(batches.index, i);
        assert.deepEqual(await batches.next(), expected[i]);
      }
    }
  });
});

Deno.test("ImageBatches draws anew for an image in each epoch", async () => {
  await withImageStore({}, async (store) => {
    const batches = await take(store, 4, { batch: 80, padding: 2, readers: 0, dtype: "u8" });
    const views = batches.map(({ rows, pixels }) => {
      const at = rows.indexOf(17);
      return pixels.subarray(20 * at, 20 * at + 20).join();
    });
    assert.ok(new Set(views).size > 1);
  });
});

Deno.test("ImageBatches reads validation in stored order, uncropped, unless told otherwise", async () => {
  await withImageStore({}, async (store) => {
    const validation = (await openImageStore(store)).split("validation");
    const { pixels, labels } = await validation.gatherRows(Array.from({ length: 20 }, (_, i) => i));
    const options = { split: "validation", batch: 20, readers: 0, padding: 2, flip: true, dtype: "u8" } as const;
    const [plain] = await take(store, 1, options);
    assert.deepEqual([plain.pixels, plain.labels], [pixels, labels]);
    const [shuffled] = await take(store, 1, { ...options, shuffle: true });
    assert.notDeepEqual(shuffled.rows, plain.rows);
    const [normalised] = await take(store, 1, { split: "validation", batch: 20, readers: 0, mean: 0, std: 1 });
    assert.deepEqual([...normalised.pixels], [...pixels].map((value) => Math.fround(value / 255)));
  });
});

for (const readers of [0, 1]) {
  Deno.test(`next() throws at the damaged batch, and ever after, with ${readers} readers`, async () => {
    await withImageStore({}, async (store) => {
      await damage(`${store}/train/images/c/2/0/0/0`, (bytes) => void (bytes[5] ^= 1));
      using batches = new ImageBatches(store, { batch: 8, shuffle: false, readers });
      for (let i = 0; i < 6; i++) assert.equal((await batches.next()).index, i);
      for (let i = 0; i < 2; i++) {
        await assert.rejects(
          batches.next(),
          /^CorruptDataError: Cannot read chunk 6 of shard "train\/images\/c\/2\/0\/0\/0"/,
        );
      }
      assert.equal(batches.index, 6);
    });
  });

  Deno.test(`next() throws what does not fit the store with ${readers} readers`, async () => {
    using missing = new ImageBatches("/nonexistent/store", { batch: 1, readers });
    await assert.rejects(missing.next(), /^NotFound: .*no such folder/);
    await withImageStore({ holdOut: 0 }, async (store) => {
      using held = new ImageBatches(store, { batch: 1, readers, split: "validation" });
      await assert.rejects(held.next(), /^RangeError: Cannot read split "validation"/);
      using large = new ImageBatches(store, { batch: 1, readers, crop: 9 });
      await assert.rejects(large.next(), /^RangeError: Cannot transform images: a crop must fit/);
    });
  });
}

Deno.test("ImageBatches throws RangeError when an option is out of range", () => {
  for (
    const wrong of [{ batch: 0 }, { seed: -1 }, { start: { index: 0.5 } }, { readers: -1 }, { prefetch: 0 }]
  ) {
    assert.throws(() => new ImageBatches("store", { batch: 1, ...wrong }), RangeError, JSON.stringify(wrong));
  }
});

Deno.test("close() rejects a waiting next(), and what comes after", async () => {
  await withImageStore({}, async (store) => {
    using batches = new ImageBatches(store, { batch: 1 });
    const waiting = batches.next();
    batches.close();
    await assert.rejects(waiting, /they were closed$/);
    await assert.rejects(batches.next(), /they were closed$/);
  });
});
