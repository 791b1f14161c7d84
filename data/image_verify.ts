/**
 * Every chunk of every array of an image store, read and checked, and what no checksum of a chunk covers: that images and
 * labels, in their order, are those that were written (SHA-256), and that each class has the images that the store counts.
 */

import { createHash } from "node:crypto";
import { CorruptDataError } from "./errors.ts";
import type { ImageSplit } from "./image_split.ts";
import { type ImageStore, openImageStore } from "./image_store.ts";
import type { ImageStoreInfo } from "./image_zarr.ts";
import type { VerifyOptions } from "./verify.ts";

/** What was found. */
export interface ImageVerifyReport {
  /** What the store says about itself. */
  readonly info: ImageStoreInfo;
  /** Chunks of images that were read, the bad ones included. */
  readonly chunks: number;
  /** Shard files of all arrays. */
  readonly shards: number;
  /** Images of all splits. */
  readonly rows: number;
  /** Empty when the store is sound. */
  readonly faults: readonly CorruptDataError[];
}

/**
 * Reads a whole image store, and lists what is wrong with it, each fault with its shard and chunk.
 *
 * @throws {Deno.errors.NotFound} when there is no store.
 * @throws {CorruptDataError} when its metadata is unsound, so that there is nothing to read by.
 */
export async function verifyImageStore(
  pathOrUrl: string | URL,
  options: VerifyOptions = {},
): Promise<ImageVerifyReport> {
  const { onProgress, maxFaults = 100 } = options;
  const store = await openImageStore(pathOrUrl, { ...options, cacheBytes: 0 });
  const splits = store.splits.map((name) => store.split(name));
  const sum = (pick: (split: ImageSplit) => number): number => splits.reduce((total, split) => total + pick(split), 0);
  const totalChunks = sum((split) => split.chunks);
  const faults: CorruptDataError[] = [];
  const collect = async <T>(read: () => Promise<T>): Promise<T | undefined> => {
    try {
      return await read();
    } catch (error) {
      if (!(error instanceof CorruptDataError)) throw error;
      faults.push(error);
    }
  };
  let chunks = 0;
  for (const split of splits) {
    await collect(() => verifyLabels(store, split));
    const hash = createHash("sha256");
    const before = faults.length;
    for (let chunk = 0; chunk < split.chunks && faults.length < maxFaults; chunk++) {
      const images = await collect(() => split.readChunk(chunk));
      if (images) hash.update(images);
      chunks++;
      onProgress?.({ chunks, totalChunks, faults: faults.length });
    }
    if (faults.length > before || faults.length >= maxFaults || hash.digest("hex") === split.sha256.images) continue;
    faults.push(misplaced(store, split, "images"));
  }
  return { info: store.info, chunks, shards: sum((split) => split.shards), rows: sum((split) => split.rows), faults };
}

async function verifyLabels(store: ImageStore, split: ImageSplit): Promise<void> {
  const labels = await split.readLabels();
  const bytes = new DataView(new ArrayBuffer(4 * labels.length));
  labels.forEach((label, i) => bytes.setInt32(4 * i, label, true));
  const sha256 = createHash("sha256").update(new Uint8Array(bytes.buffer)).digest("hex");
  if (sha256 !== split.sha256.labels) throw misplaced(store, split, "labels");
  const found = new Array(store.info.classes.length).fill(0);
  for (const label of labels) found[label]++;
  const { perClass } = store.info.splits[split.name]!;
  const wrong = found.findIndex((count, label) => count !== perClass[label]);
  if (wrong < 0) return;
  const reason = `class "${store.info.classes[wrong]}" of ${split.name} must have ${perClass[wrong]} images, ` +
    `got ${found[wrong]} labels`;
  throw new CorruptDataError({ store: store.name, reason });
}

function misplaced(store: ImageStore, split: ImageSplit, array: string): CorruptDataError {
  const reason =
    `the ${array} of ${split.name} are not those that were written: each chunk is sound, but SHA-256 differs`;
  return new CorruptDataError({ store: store.name, reason });
}
