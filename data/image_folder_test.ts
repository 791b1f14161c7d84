/** Folders of classes: how they are listed, and what is refused. */

import assert from "node:assert/strict";
import { openFolderSource } from "./image_folder.ts";
import type { ImageShape } from "./image_source.ts";
import { decodeImage } from "./images.ts";
import { fitImage } from "./resize.ts";
import { readTestImage, writeImageFolder } from "./testing/image_fixture.ts";
import { withFolder } from "./testing/store_fixture.ts";

const SHAPE: ImageShape = { size: { height: 8, width: 6 }, channels: 3, fit: "crop" };
/** The images of `writeImageFolder` in their order. */
const NAMES = ["rgb.png", "colour.jpg", "lossy.webp", "grey16.png", "palette_alpha.png", "grey.jpg"];

for (const workers of [0, 2]) {
  Deno.test(`openFolderSource() gives images by class with ${workers} workers`, async () => {
    await withFolder(async (root) => {
      await writeImageFolder(root);
      using source = await openFolderSource(`${root}/`, workers);
      assert.deepEqual([source.classes, [...source.labels]], [["cat", "dog"], [0, 0, 0, 1, 1, 1]]);
      const images = await Promise.all(NAMES.map((_, i) => source.read(i, SHAPE)));
      for (const [i, name] of NAMES.entries()) {
        const whole = await decodeImage(name, await readTestImage(name));
        assert.deepEqual(images[i], fitImage(whole, SHAPE.size, "crop"), name);
      }
    });
  });

  Deno.test(`read() throws SyntaxError with the path when an image is broken, with ${workers} workers`, async () => {
    await withFolder(async (root) => {
      await Deno.mkdir(`${root}/cat`);
      await Deno.writeTextFile(`${root}/cat/a.png`, "no image");
      await Deno.writeFile(`${root}/cat/b.gif`, Uint8Array.of(0x47, 0x49, 0x46));
      await Deno.writeFile(`${root}/cat/c.png`, await readTestImage("rgb.png"));
      await Deno.mkdir(`${root}/cat/d.png`);
      using source = await openFolderSource(root, workers);
      assert.equal(source.labels.length, 3);
      await assert.rejects(source.read(0, SHAPE), /^SyntaxError: Cannot read image ".*cat\/a\.png": it is neither PNG/);
      await assert.rejects(source.read(1, SHAPE), /^SyntaxError: .*b\.gif": it must be PNG, JPEG or WebP; convert it/);
      assert.equal((await source.read(2, SHAPE)).width, 6);
      await Deno.remove(`${root}/cat/a.png`);
      await assert.rejects(source.read(0, SHAPE), Deno.errors.NotFound);
    });
  });
}

Deno.test("openFolderSource() throws when the folder is not one of classes", async () => {
  await withFolder(async (root) => {
    await assert.rejects(openFolderSource(`${root}/none`), /^NotFound: .*none": there is no such folder$/);
    await assert.rejects(openFolderSource(root), /^RangeError: .*expected one sub-folder a class, got none$/);
    await writeImageFolder(root);
    await Deno.writeFile(`${root}/loose.jpg`, new Uint8Array(1));
    await assert.rejects(
      openFolderSource(root),
      /^RangeError: .*in the sub-folder of its class, got "loose.jpg" outside$/,
    );
    await assert.rejects(openFolderSource(`${root}/loose.jpg`), /^TypeError: .*expected a folder, got a file/);
  });
});

Deno.test("openFolderSource() follows links to class folders", async () => {
  await withFolder(async (root) => {
    await Deno.mkdir(`${root}/real`);
    await writeImageFolder(`${root}/real`);
    await Deno.mkdir(`${root}/set`);
    await Deno.symlink(`${root}/real/dog`, `${root}/set/a dog`);
    using source = await openFolderSource(`${root}/set`);
    assert.deepEqual([source.classes, source.labels.length], [["a dog"], 3]);
  });
});

Deno.test("openFolderSource() takes a link that leads nowhere for a broken image, or refuses it where it may be a class", async () => {
  await withFolder(async (root) => {
    await writeImageFolder(root);
    await Deno.symlink("missing.png", `${root}/cat/0.png`);
    await Deno.symlink("00.png", `${root}/cat/00.png`);
    using source = await openFolderSource(root, 0);
    assert.equal(source.labels.length, 8);
    for (const index of [0, 1]) {
      await assert.rejects(
        source.read(index, SHAPE),
        /^SyntaxError: Cannot read image ".*cat\/00?\.png": it is a link that leads nowhere$/,
      );
    }
    await Deno.symlink("missing", `${root}/bird`);
    await assert.rejects(openFolderSource(root), /^RangeError: .*": "bird" is a link that leads nowhere$/);
  });
});

Deno.test("openFolderSource() throws when a link leads back to a folder that it lies in", async () => {
  await withFolder(async (root) => {
    await writeImageFolder(root);
    await Deno.symlink("..", `${root}/cat/more/up`);
    await assert.rejects(
      openFolderSource(root),
      /^RangeError: Cannot read images from ".*\/cat\/more\/up": it is a link to a folder that it lies in$/,
    );
  });
});

Deno.test("read() throws once the decoders are closed", async () => {
  await withFolder(async (root) => {
    await writeImageFolder(root);
    const source = await openFolderSource(root, 1);
    const waiting = source.read(0, SHAPE);
    source[Symbol.dispose]();
    await assert.rejects(waiting, /the decoders were closed$/);
    await assert.rejects(source.read(1, SHAPE), /the decoders were closed$/);
  });
});
