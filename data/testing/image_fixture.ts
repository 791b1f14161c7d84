/** Images for tests, and what Pillow makes of them. Only tests import this. */

import { prepareImages, type PrepareImagesOptions } from "../prepare_images.ts";
import { withFolder } from "./store_fixture.ts";

const FOLDER = new URL("../testdata/images/", import.meta.url);

/** What Pillow says, pixels as bytes. */
export interface ImageGolden {
  readonly images: Record<string, { height: number; width: number; rgb: Uint8Array; grey: Uint8Array }>;
  readonly resizes: readonly { from: number[]; to: number[]; pixels: Uint8Array }[];
}

/** Reads the goldens. */
export async function readGolden(): Promise<ImageGolden> {
  const text = await Deno.readTextFile(new URL("golden.json", FOLDER));
  return JSON.parse(
    text,
    (key, value) => /^(rgb|grey|pixels)$/.test(key) ? Uint8Array.from(atob(value), (c) => c.charCodeAt(0)) : value,
  );
}

/** One of the images, as a file's bytes. */
export async function readTestImage(name: string): Promise<Uint8Array<ArrayBuffer>> {
  return await Deno.readFile(new URL(name, FOLDER));
}

/** An IDX file's bytes: unsigned bytes of a shape. */
export function idxBytes(shape: readonly number[], values: ArrayLike<number>, type = 8): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(4 + 4 * shape.length + values.length);
  const view = new DataView(bytes.buffer);
  bytes.set([0, 0, type, shape.length]);
  shape.forEach((side, i) => view.setUint32(4 + 4 * i, side));
  bytes.set(Uint8Array.from(values), 4 + 4 * shape.length);
  return bytes;
}

/** Pixels of the fixture's image `i`, 5 x 4: no two images of the first 250 are alike. */
export function fixturePixels(i: number): number[] {
  return Array.from({ length: 20 }, (_, place) => (i + 13 * place) % 251);
}

/** Label of the fixture's image `i`: classes of different sizes, 0 the largest. */
export function fixtureLabel(i: number): number {
  return [0, 1, 0, 2, 0, 1][i % 6];
}

/** Writes `images.idx` and `labels.idx` with `count` images of three classes. */
export async function writeIdxFixture(folder: string, count: number): Promise<{ images: string; labels: string }> {
  const all = Array.from({ length: count }, (_, i) => i);
  const [images, labels] = [`${folder}/images.idx`, `${folder}/labels.idx`];
  await Deno.writeFile(images, idxBytes([count, 5, 4], all.flatMap(fixturePixels)));
  await Deno.writeFile(labels, idxBytes([count], all.map(fixtureLabel)));
  return { images, labels };
}

/** Runs a test with a store of the fixture's images: 100 of them, 8 to a chunk, 3 chunks to a shard, 0.2 held out. */
export async function withImageStore(
  options: Partial<PrepareImagesOptions> & { readonly count?: number },
  body: (store: string, folder: string) => Promise<void>,
): Promise<void> {
  await withFolder(async (folder) => {
    const { count = 100, ...rest } = options;
    const inputs = await writeIdxFixture(folder, count);
    const out = `${folder}/store`;
    await prepareImages({ inputs, out, holdOut: 0.2, rowsPerChunk: 8, chunksPerShard: 3, ...rest });
    await body(out, folder);
  });
}

/** Writes class folders with copies of the test images: "cat" and "dog", one of them nested. */
export async function writeImageFolder(root: string): Promise<void> {
  const files = {
    "cat/1.png": "rgb.png",
    "cat/2.JPG": "colour.jpg",
    "cat/more/3.webp": "lossy.webp",
    "dog/1.png": "grey16.png",
    "dog/2.png": "palette_alpha.png",
    "dog/3.jpeg": "grey.jpg",
  };
  for (const [path, name] of Object.entries(files)) {
    await Deno.mkdir(`${root}/${path}`.replace(/\/[^/]+$/, ""), { recursive: true });
    await Deno.writeFile(`${root}/${path}`, await readTestImage(name));
  }
  await Deno.writeTextFile(`${root}/cat/list.txt`, "not an image");
  await Deno.writeTextFile(`${root}/dog/.hidden.png`, "not an image");
}
