/** From folders and IDX files to stores: which images are taken, in which order, and what is refused, leaving nothing. */

import assert from "node:assert/strict";
import { chooseImages } from "./image_choice.ts";
import { openFolderSource } from "./image_folder.ts";
import { openImageStore } from "./image_store.ts";
import { verifyImageStore } from "./image_verify.ts";
import { decodeImage } from "./images.ts";
import { prepareImages, type PrepareImagesOptions } from "./prepare_images.ts";
import { fitImage } from "./resize.ts";
import {
  fixtureLabel,
  idxBytes,
  readTestImage,
  withImageStore,
  writeIdxFixture,
  writeImageFolder,
} from "./testing/image_fixture.ts";
import { withFolder } from "./testing/store_fixture.ts";

/** Numbers of the fixture's images, and labels, of a split. */
async function contents(path: string, name: "train" | "validation"): Promise<{ images: number[]; labels: number[] }> {
  const split = (await openImageStore(path)).split(name);
  const { pixels, labels } = await split.gatherRows(Array.from({ length: split.rows }, (_, i) => i));
  const bytes = pixels.length / split.rows;
  return { images: Array.from({ length: split.rows }, (_, i) => pixels[bytes * i]), labels: [...labels] };
}

Deno.test("prepareImages() holds out part of each class, in an order that the seed decides", async () => {
  const orders: number[][] = [];
  for (const seed of [0, 0, 1]) {
    await withImageStore({ seed, count: 120 }, async (path) => {
      const { info } = await openImageStore(path);
      assert.deepEqual(info.classes, ["0", "1", "2"]);
      // 60, 40 and 20 images of the classes
      assert.deepEqual(info.splits, {
        train: { rows: 96, perClass: [48, 32, 16] },
        validation: { rows: 24, perClass: [12, 8, 4] },
      });
      assert.deepEqual([info.seed, info.skipped, info.sources], [seed, 0, ["images.idx", "labels.idx"]]);
      const [train, validation] = [await contents(path, "train"), await contents(path, "validation")];
      for (const { images, labels } of [train, validation]) assert.deepEqual(images.map(fixtureLabel), labels);
      assert.equal(new Set([...train.images, ...validation.images]).size, 120);
      orders.push(train.images);
    });
  }
  assert.deepEqual(orders[0], orders[1]);
  assert.notDeepEqual(orders[0], orders[2]);
  const sorted = orders[0].toSorted((a, b) => a - b);
  assert.notDeepEqual(orders[0], sorted);
});

Deno.test("prepareImages() takes the classes asked for, labelled in their order, and so many of each", async () => {
  await withImageStore({ classes: ["2", "0"], perClass: 7, holdOut: "rest", validationPerClass: 5 }, async (path) => {
    const { info } = await openImageStore(path);
    assert.deepEqual(info.classes, ["2", "0"]);
    assert.deepEqual(info.splits, {
      train: { rows: 14, perClass: [7, 7] },
      validation: { rows: 10, perClass: [5, 5] },
    });
    const [train, validation] = [await contents(path, "train"), await contents(path, "validation")];
    for (const { images, labels } of [train, validation]) {
      assert.deepEqual(images.map((i) => fixtureLabel(i) === 2 ? 0 : 1), labels);
    }
    assert.equal(new Set([...train.images, ...validation.images]).size, 24);
  });
  await withImageStore({ perClass: 10, holdOut: 0.5 }, async (path) => {
    // class 2 has 17 images: 10 to train on leave 7, fewer than half
    const { splits } = (await openImageStore(path)).info;
    assert.deepEqual([splits.train?.perClass, splits.validation?.perClass], [[10, 10, 10], [25, 17, 7]]);
  });
  await withImageStore({ perClass: 16, holdOut: "rest" }, async (path) => {
    const { splits } = (await openImageStore(path)).info;
    assert.deepEqual([splits.train?.perClass, splits.validation?.perClass], [[16, 16, 16], [34, 17, 1]]);
  });
});

Deno.test("prepareImages() takes the validation split from other images", async () => {
  await withFolder(async (folder) => {
    await Deno.mkdir(`${folder}/a`);
    await Deno.mkdir(`${folder}/b`);
    const inputs = await writeIdxFixture(`${folder}/a`, 30);
    const validation = await writeIdxFixture(`${folder}/b`, 18);
    const options = { inputs, validation, out: `${folder}/store`, size: 10, channels: 3 } as const;
    const { splits, height, width, channels } = await prepareImages(options);
    assert.deepEqual([height, width, channels], [10, 10, 3]);
    assert.deepEqual([splits.train?.perClass, splits.validation?.perClass], [[15, 10, 5], [9, 6, 3]]);
    const limited = await prepareImages({ ...options, out: `${folder}/limited`, validationPerClass: 2 });
    assert.deepEqual(limited.splits.validation?.perClass, [2, 2, 2]);
    assert.deepEqual((await verifyImageStore(`${folder}/limited`)).faults, []);
  });
});

for (const workers of [0, 2]) {
  Deno.test(`prepareImages() decodes a folder of classes with ${workers} workers`, async () => {
    await withFolder(async (folder) => {
      await writeImageFolder(`${folder}/set`);
      const size = { height: 12, width: 10 };
      const progress: string[] = [];
      const info = await prepareImages({
        ...{ inputs: { images: `${folder}/set` }, out: `${folder}/store`, size, fit: "pad", holdOut: 0, workers },
        onProgress: ({ done, total }) => progress.push(`${done}/${total}`),
      });
      assert.deepEqual([info.classes, info.splits.train?.perClass], [["cat", "dog"], [3, 3]]);
      assert.deepEqual([info.channels, info.fit, info.sources], [3, "pad", ["set"]]);
      assert.deepEqual(progress, ["1/6", "2/6", "3/6", "4/6", "5/6", "6/6"]);
      const train = (await openImageStore(`${folder}/store`)).split("train");
      const { pixels } = await train.gatherRows([0, 1, 2, 3, 4, 5]);
      const found = new Set(Array.from({ length: 6 }, (_, i) => pixels.subarray(360 * i, 360 * i + 360).join()));
      for (const name of ["rgb.png", "colour.jpg", "lossy.webp", "grey16.png", "palette_alpha.png", "grey.jpg"]) {
        const image = fitImage(await decodeImage(name, await readTestImage(name)), size, "pad");
        assert.ok(found.has(image.pixels.join()), name);
      }
    });
  });

  Deno.test(`prepareImages() stops at a broken image, or skips and replaces it, with ${workers} workers`, async () => {
    await withFolder(async (folder) => {
      await writeImageFolder(`${folder}/set`);
      await Deno.writeTextFile(`${folder}/set/dog/0.png`, "no image");
      await Deno.writeFile(`${folder}/set/cat/9.tiff`, new Uint8Array(9));
      const options = { inputs: { images: `${folder}/set` }, size: 8, out: `${folder}/store`, workers };
      await assert.rejects(
        prepareImages(options),
        /^SyntaxError: Cannot read image ".*set\/(dog\/0.png": it is neither|cat\/9.tiff": it must be PNG)/,
      );
      assert.deepEqual([...Deno.readDirSync(folder)].map(({ name }) => name), ["set"]);
      // three of each class can be read, whatever the order
      const info = await prepareImages({ ...options, skipBroken: true, perClass: 3, holdOut: 0, seed: 5 });
      assert.deepEqual([info.splits.train?.perClass, info.skipped <= 2], [[3, 3], true]);
      await assert.rejects(
        prepareImages({ ...options, out: `${folder}/more`, skipBroken: true, perClass: 4 }),
        /^RangeError: .*class "(cat|dog)" must have 4 readable images to train on, got 3$/,
      );
      assert.equal((await verifyImageStore(`${folder}/store`)).rows, 6);
    });
  });
}

Deno.test("prepareImages() makes the same store for any number of workers, though an image of a full class is broken", async () => {
  await withFolder(async (folder) => {
    const png = await readTestImage("rgb.png");
    for (const name of ["cat", "dog"]) {
      await Deno.mkdir(`${folder}/set/${name}`, { recursive: true });
      for (let i = 0; i < 8; i++) await Deno.writeFile(`${folder}/set/${name}/${i}.png`, png);
    }
    const options = { inputs: { images: `${folder}/set` }, size: 4, perClass: 2, holdOut: 0 } as const;
    using source = await openFolderSource(options.inputs.images, 0);
    const cats = [...chooseImages(source, options).candidates()].filter(({ label }) => label === 0);
    await Deno.writeTextFile(`${options.inputs.images}/cat/${cats[2].index}.png`, "no image");
    for (const workers of [0, 2]) {
      const { skipped, splits } = await prepareImages({ ...options, out: `${folder}/${workers}`, workers });
      assert.deepEqual([skipped, splits.train?.perClass], [0, [2, 2]], `${workers} workers`);
    }
  });
});

Deno.test("prepareImages() refuses images to evaluate on of a class that none are trained on, unless classes are given", async () => {
  await withFolder(async (folder) => {
    for (const path of ["set/cat", "set/dog", "held/bird", "held/cat", "held/dog"]) {
      await Deno.mkdir(`${folder}/${path}`, { recursive: true });
      await Deno.writeFile(`${folder}/${path}/1.png`, await readTestImage("rgb.png"));
    }
    const [inputs, validation] = ["set", "held"].map((name) => ({ images: `${folder}/${name}` }));
    const options = { inputs, validation, out: `${folder}/store`, size: 4 };
    await assert.rejects(
      prepareImages(options),
      /^RangeError: .*images of ".*held" to evaluate on: class "bird" is not among those to train on$/,
    );
    const { classes, splits } = await prepareImages({ ...options, classes: ["dog", "cat"] });
    assert.deepEqual([classes, splits.validation?.perClass], [["dog", "cat"], [1, 1]]);
  });
});

Deno.test("prepareImages() refuses what it cannot do, and leaves nothing behind", async () => {
  await withFolder(async (folder) => {
    const inputs = await writeIdxFixture(folder, 30);
    await Deno.writeFile(`${folder}/gap.idx`, idxBytes([30], new Uint8Array(30).fill(2)));
    await Deno.mkdir(`${folder}/set/cat`, { recursive: true });
    await Deno.mkdir(`${folder}/set/dog`);
    await Deno.writeFile(`${folder}/set/cat/1.png`, await readTestImage("rgb.png"));
    const before = [...Deno.readDirSync(folder)].length;
    const out = `${folder}/store`;
    for (
      const [options, error] of [
        [{ classes: ["0", "7"] }, /^RangeError: .*there is no class "7", only 0, 1, 2$/],
        [{ classes: ["0", "0"] }, /classes must be named once each, got 0, 0$/],
        [{ classes: [] }, /classes must be named once each, got none$/],
        [{ perClass: 6 }, /^RangeError: .*6 images a class of ".*": class "2" has only 5$/],
        [{ perClass: 0 }, /perClass must be a whole number from 1, got 0$/],
        [{ holdOut: 1 }, /holdOut: it must be from 0 to below 1, got 1$/],
        [{ holdOut: "rest" }, /holdOut: "rest" needs perClass, got rest$/],
        [{ seed: -1 }, /seed must be a whole number from 0, got -1$/],
        [{ size: 0 }, /size must be a whole number from 1, got 0$/],
        [{ size: { height: 2, width: 1.5 } }, /width must be a whole number from 1, got 1.5$/],
        [{ workers: -1 }, /workers must be a whole number from 0, got -1$/],
        [{ rowsPerChunk: 0 }, /rowsPerChunk must be a whole number from 1, got 0$/],
        [{ out: "" }, /out must name a folder$/],
        [{ inputs: { images: inputs.images, labels: `${folder}/gap.idx` } }, /class "0" has no images$/],
        [{ inputs: { images: inputs.images } }, /^TypeError: .*expected a folder, got a file; IDX images need labels$/],
        [{ inputs: { images: `${folder}/set` }, size: 9 }, /class "dog" has no images$/],
        [{ inputs: { images: `${folder}/set` }, classes: ["cat"] }, /so size must be given$/],
        [{ validation: { images: `${folder}/set` } }, /there is no class "0", only cat, dog$/],
        [{ signal: AbortSignal.abort(new Error("stopped")) }, /^Error: stopped$/],
      ] as [Partial<PrepareImagesOptions>, RegExp][]
    ) {
      await assert.rejects(prepareImages({ inputs, out, ...options }), error);
    }
    assert.equal([...Deno.readDirSync(folder)].length, before);
    await prepareImages({ inputs, out });
    await assert.rejects(prepareImages({ inputs, out }), /^AlreadyExists: .*store": it exists already/);
    assert.equal([...Deno.readDirSync(folder)].length, before + 1);
  });
});
