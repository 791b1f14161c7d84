/**
 * One batch of images at a time from a store, at any place of a run: what an `ImageBatches` does in each of its workers, and on
 * its own thread when it has none. It keeps the decoded chunks of one shuffling window.
 */

import { openImageStore } from "./image_store.ts";
import type { ImageSplit } from "./image_split.ts";
import {
  applyTransform,
  type ImageTransform,
  type ImageTransformOptions,
  makeTransform,
  placeImage,
} from "./image_transform.ts";
import type { StoreToRead } from "./read_ahead.ts";
import { RowOrder, windowChunks } from "./shuffle.ts";
import type { StoreOptions } from "./store.ts";

/** Images with labels, ready for a model. */
export interface ImageBatch {
  /** [size, channels, height, width]: f32 and normalised, or u8 as stored. */
  readonly pixels: Float32Array<ArrayBuffer> | Uint8Array<ArrayBuffer>;
  /** i32 [size]. */
  readonly labels: Int32Array<ArrayBuffer>;
  /** [size]: which image of the split each one is. */
  readonly rows: Int32Array<ArrayBuffer>;
  /** Images: as asked for, or fewer at the end of an epoch. */
  readonly size: number;
  readonly channels: number;
  readonly height: number;
  readonly width: number;
  /** The batch's number, counted over all epochs. */
  readonly index: number;
  /** From 0. */
  readonly epoch: number;
}

/** Everything that a batch depends on, besides its index. All of it can be sent to a worker. */
export interface ImageBatchReaderOptions extends StoreToRead {
  readonly dtype: "f32" | "u8";
  readonly transform: ImageTransformOptions & { readonly random: boolean };
}

/** Batches of an epoch of so many images; the last may be short. */
export function numImageBatches(rows: number, batch: number): number {
  return Math.ceil(rows / batch);
}

/** Reads the batch of any number. */
export class ImageBatchReader {
  readonly #options: ImageBatchReaderOptions;
  readonly #split: ImageSplit;
  readonly #order: RowOrder;
  readonly #transform: ImageTransform;

  private constructor(options: ImageBatchReaderOptions, split: ImageSplit, transform: ImageTransform) {
    this.#options = options;
    this.#split = split;
    this.#order = new RowOrder(split, options.seed, options.shuffle);
    this.#transform = transform;
  }

  static async open(
    options: ImageBatchReaderOptions,
    sleep?: StoreOptions["sleep"],
  ): Promise<ImageBatchReader> {
    const { store: path, split: name, transform, tries, baseMs, capMs, noProgressMs, attemptMs } = options;
    const store = await openImageStore(path, { tries, baseMs, capMs, noProgressMs, attemptMs, sleep });
    const split = store.split(name);
    split.keepChunks(windowChunks(split) + 1);
    const { height, width, channels } = store.info;
    return new ImageBatchReader(options, split, makeTransform({ height, width, channels }, transform));
  }

  /** The batch of this number; an epoch's last may be short. */
  async read(index: number): Promise<ImageBatch> {
    const { batch, seed, dtype } = this.#options;
    const { from: { channels }, from, to: { height, width } } = this.#transform;
    const anEpoch = numImageBatches(this.#split.rows, batch);
    const epoch = Math.floor(index / anEpoch);
    const start = (index % anEpoch) * batch;
    const size = Math.min(batch, this.#split.rows - start);
    const first = epoch * this.#split.rows + start;
    const rows = Int32Array.from({ length: size }, (_, i) => this.#order.rowAt(first + i));
    const { pixels: stored, labels } = await this.#split.gatherRows(rows);
    const have = from.height * from.width * channels;
    const want = height * width * channels;
    const pixels = dtype === "u8" ? new Uint8Array(size * want) : new Float32Array(size * want);
    for (let i = 0; i < size; i++) {
      const image = stored.subarray(i * have, (i + 1) * have);
      const placement = placeImage(this.#transform, seed, epoch, rows[i]);
      applyTransform(this.#transform, placement, image, pixels.subarray(i * want, (i + 1) * want));
    }
    return { pixels, labels, rows, size, channels, height, width, index, epoch };
  }
}
