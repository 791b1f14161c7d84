/** One image file to pixels of a size: read, decoded, fitted. What each decoding thread does. */

import { broken } from "./image_header.ts";
import { decodeImage, type Image } from "./images.ts";
import type { ImageShape } from "./image_source.ts";
import { fitImage } from "./resize.ts";

/** More is no picture to train on, and would be held whole. */
const MAX_FILE_BYTES = 256 * 1024 * 1024;

/**
 * Reads an image file.
 *
 * @throws {SyntaxError} when it cannot be decoded.
 */
export async function readImageFile(path: string, { size, channels, fit }: ImageShape): Promise<Image> {
  const { size: bytes, isFile } = await statImage(path);
  if (!isFile) throw broken(path, "it is no plain file");
  if (bytes > MAX_FILE_BYTES) throw broken(path, `it may have at most ${MAX_FILE_BYTES} bytes, got ${bytes}`);
  return fitImage(await decodeImage(path, await Deno.readFile(path), channels), size, fit);
}

async function statImage(path: string): Promise<Deno.FileInfo> {
  try {
    return await Deno.stat(path);
  } catch (error) {
    if (!isDeadLink(error) || !(await Deno.lstat(path)).isSymlink) throw error;
    throw broken(path, "it is a link that leads nowhere");
  }
}

/** Whether this is what following a link comes to that leads to nothing, or in a circle. */
export function isDeadLink(error: unknown): boolean {
  return error instanceof Deno.errors.NotFound || error instanceof Deno.errors.FilesystemLoop;
}
