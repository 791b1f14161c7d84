/**
 * A folder with one sub-folder a class, the usual form of an image data set: names of classes sorted as strings are, images
 * below them at any depth. Only paths are held, never pixels. PNG, JPEG and WebP are decoded, in workers where there are
 * many; images of other kinds are as broken as a damaged file is; other files (lists, hidden files) are passed over.
 */

import { broken } from "./image_header.ts";
import { isDeadLink } from "./image_file.ts";
import { ImageDecoders } from "./image_decoders.ts";
import type { ImageSource } from "./image_source.ts";

/** Endings that are decoded. */
const DECODED = /\.(png|jpe?g|webp)$/i;
/** Endings of images that nothing here decodes: passing over them silently would lose part of a data set. */
const OTHER_IMAGES = /\.(gif|bmp|tiff?|avif|heic|heif|jxl|jp2|ppm|pgm|pnm|tga|ico|svg)$/i;

/**
 * Lists the images of a folder.
 *
 * @param workers threads that decode; 0 decodes on this one. Default: up to 4 where there are 200 images or more.
 * @throws {Deno.errors.NotFound} when there is no such folder.
 * @throws {RangeError} when it has no class sub-folders, or images beside them, or links that lead nowhere or in a circle.
 */
export async function openFolderSource(folder: string, workers?: number): Promise<ImageSource> {
  const root = folder.replace(/(?<=.)[/\\]+$/, "");
  const { folders: classes, files } = await list(root);
  const loose = files.find(isImage);
  if (classes.length === 0) {
    throw new RangeError(`Cannot read images from "${folder}": expected one sub-folder a class, got none`);
  }
  if (loose !== undefined) {
    throw new RangeError(
      `Cannot read images from "${folder}": every image must lie in the sub-folder of its class, got "${loose}" outside`,
    );
  }
  const paths: string[] = [];
  const labels: number[] = [];
  const above = [await Deno.realPath(root)];
  for (const [label, name] of classes.entries()) {
    for await (const path of walk(`${root}/${name}`, above)) {
      paths.push(path);
      labels.push(label);
    }
  }
  const usual = paths.length < 200 ? 0 : Math.min(4, navigator.hardwareConcurrency);
  const decoders = new ImageDecoders(workers ?? usual);
  return {
    name: folder,
    classes,
    labels: Int32Array.from(labels),
    parallel: Math.max(1, 3 * (workers ?? usual)),
    read: async (index, shape) => {
      const path = paths[index];
      if (!DECODED.test(path)) throw broken(path, "it must be PNG, JPEG or WebP; convert it first");
      return await decoders.read(path, shape);
    },
    [Symbol.dispose]: () => decoders[Symbol.dispose](),
  };
}

/** Paths of images below a folder, sorted within each folder. `above`: where the folders that it lies in really are. */
async function* walk(folder: string, above: readonly string[]): AsyncGenerator<string> {
  const real = await Deno.realPath(folder);
  if (above.includes(real)) {
    throw new RangeError(`Cannot read images from "${folder}": it is a link to a folder that it lies in`);
  }
  const { folders, files } = await list(folder);
  for (const name of files) if (isImage(name)) yield `${folder}/${name}`;
  for (const name of folders) yield* walk(`${folder}/${name}`, [...above, real]);
}

function isImage(name: string): boolean {
  return DECODED.test(name) || OTHER_IMAGES.test(name);
}

/** Names in a folder without hidden ones, links followed; sorted by code units, as other tools number classes. */
async function list(folder: string): Promise<{ folders: string[]; files: string[] }> {
  const folders: string[] = [];
  const files: string[] = [];
  for await (const entry of readFolder(folder)) {
    if (entry.name.startsWith(".")) continue;
    const isFolder = entry.isSymlink ? await leadsToFolder(folder, entry.name) : entry.isDirectory;
    (isFolder ? folders : files).push(entry.name);
  }
  return { folders: folders.sort(), files: files.sort() };
}

async function* readFolder(folder: string): AsyncGenerator<Deno.DirEntry> {
  try {
    yield* Deno.readDir(folder);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) {
      throw new Deno.errors.NotFound(`Cannot read images from "${folder}": there is no such folder`);
    }
    if (error instanceof Deno.errors.NotADirectory) {
      throw new TypeError(`Cannot read images from "${folder}": expected a folder, got a file; IDX images need labels`);
    }
    throw error;
  }
}

/** A link that leads nowhere is an image, and as broken as one, where it is named like one; else it may be a class. */
async function leadsToFolder(folder: string, name: string): Promise<boolean> {
  try {
    return (await Deno.stat(`${folder}/${name}`)).isDirectory;
  } catch (error) {
    if (!isDeadLink(error)) throw error;
    if (isImage(name)) return false;
    throw new RangeError(`Cannot read images from "${folder}": "${name}" is a link that leads nowhere`);
  }
}
