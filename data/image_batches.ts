/**
 * Batches of images in the order of training, read, cropped, flipped and normalised by workers while the main thread computes
 * or waits for a device. What a batch holds depends on the store, the split, the options and its number alone: not on
 * the number of readers, or how far they read ahead. The state to resume from is that number, `index`.
 * An epoch has every image once, and its last batch may be short.
 */

import { type ImageBatch, ImageBatchReader, type ImageBatchReaderOptions } from "./image_batch_reader.ts";
import type { ImageTransformOptions } from "./image_transform.ts";
import { ReadAhead, type ReadAheadOptions, storeToRead } from "./read_ahead.ts";
import { ThreadReader } from "./thread_reader.ts";

/** For messages. */
const WHAT = "images";

/** What `ImageBatches` is given besides a store. `start.index` is the number of the first batch. */
export interface ImageBatchesOptions extends ReadAheadOptions, ImageTransformOptions {
  /** `f32` is normalised; `u8` leaves that to `normalizePixels`. Default `f32`. */
  readonly dtype?: "f32" | "u8";
}

/** An endless stream of batches; epochs follow each other. Close it, or say `using`. */
export class ImageBatches extends ReadAhead<ImageBatchReaderOptions, ImageBatch> {
  /**
   * Starts reading at once; what is wrong with the store, or does not fit it, is thrown by `next`: `CorruptDataError`
   * when a chunk cannot be had as it was written, `RangeError` when an option does not fit, and whatever `openImageStore`
   * throws.
   *
   * @throws {RangeError} when an option is out of range.
   */
  constructor(storePathOrUrl: string | URL, options: ImageBatchesOptions) {
    const toRead = storeToRead(storePathOrUrl, options);
    const { dtype = "f32", crop, padding, flip, mean, std, random = toRead.split === "train" } = options;
    const all = { ...toRead, dtype, transform: { crop, padding, flip, mean, std, random } };
    super({
      what: WHAT,
      stride: 1,
      startReader: () => {
        const worker = new Worker(new URL("./image_batch_worker.ts", import.meta.url), { type: "module" });
        return new ThreadReader(worker, all, WHAT);
      },
      openReader: () => ImageBatchReader.open(all, options.sleep),
    }, options);
  }
}
