/**
 * Batches of images in the order of training, read, cropped, flipped and normalised by workers while the main thread computes
 * or waits for a device. What a batch holds depends on the store, the split, the options and its number alone: not on
 * the number of readers, or how far they read ahead. The state to resume from is that number, `index`.
 * An epoch has every image once, and its last batch may be short. The first error stops it for good, at the batch where it
 * belongs: no batch is ever skipped.
 */

import { type ImageBatch, ImageBatchReader, type ImageBatchReaderOptions } from "./image_batch_reader.ts";
import type { ImageTransformOptions } from "./image_transform.ts";
import type { StoreOptions } from "./store.ts";
import { closedError, ThreadReader } from "./thread_reader.ts";
import type { SplitName } from "./zarr.ts";

/** For messages. */
const WHAT = "images";

/** What `ImageBatches` is given besides a store. */
export interface ImageBatchesOptions extends Omit<StoreOptions, "cacheBytes">, ImageTransformOptions {
  /** Default `train`. */
  readonly split?: SplitName;
  /** Images of a batch. */
  readonly batch: number;
  /** Chooses the order and what is drawn for each image; any whole number from 0 to 2^53 - 1. Default 0. */
  readonly seed?: number;
  /** The number of the first batch: a batch's `index` or `ImageBatches.index` from before. Default 0. */
  readonly start?: { readonly index: number };
  /** Default true for `train`, false for `validation`. */
  readonly shuffle?: boolean;
  /** `f32` is normalised; `u8` leaves that to `normalizePixels`. Default `f32`. */
  readonly dtype?: "f32" | "u8";
  /** Workers; 0 reads on this thread when `next` is called, as tests and short evaluations want it. Default 1. */
  readonly readers?: number;
  /** Batches that are read ahead, at least one for each worker. Default 2. */
  readonly prefetch?: number;
}

function startReader(options: ImageBatchReaderOptions): ThreadReader<ImageBatchReaderOptions, ImageBatch> {
  const worker = new Worker(new URL("./image_batch_worker.ts", import.meta.url), { type: "module" });
  return new ThreadReader(worker, options, WHAT);
}

/** An endless stream of batches; epochs follow each other. Close it, or say `using`. */
export class ImageBatches implements Disposable {
  readonly #options: ImageBatchReaderOptions;
  readonly #sleep: StoreOptions["sleep"];
  readonly #prefetch: number;
  readonly #readers: ThreadReader<ImageBatchReaderOptions, ImageBatch>[] = [];
  readonly #ahead: Promise<ImageBatch>[] = [];
  #local: Promise<ImageBatchReader> | undefined;
  /** Number of the next batch to hand out. */
  #index: number;
  /** Number of the next batch to ask for. */
  #asked: number;
  #failure: unknown;

  /**
   * Starts reading at once; what is wrong with the store, or does not fit it, is thrown by `next`.
   *
   * @throws {RangeError} when an option is out of range.
   */
  constructor(storePathOrUrl: string | URL, options: ImageBatchesOptions) {
    const { split = "train", batch, seed = 0, start = { index: 0 }, readers = 1, prefetch = 2 } = options;
    const { shuffle = split === "train", dtype = "f32", random = split === "train" } = options;
    requireWhole("batch", batch, 1);
    requireWhole("seed", seed, 0);
    requireWhole("start.index", start.index, 0);
    requireWhole("readers", readers, 0);
    requireWhole("prefetch", prefetch, 1);
    const { crop, padding, flip, mean, std, tries, baseMs, capMs, noProgressMs, attemptMs } = options;
    this.#options = {
      ...{ store: String(storePathOrUrl), split, batch, seed, shuffle, dtype },
      ...{ tries, baseMs, capMs, noProgressMs, attemptMs },
      transform: { crop, padding, flip, mean, std, random },
    };
    this.#sleep = options.sleep;
    this.#index = this.#asked = start.index;
    this.#prefetch = readers === 0 ? 0 : Math.max(prefetch, readers);
    for (let i = 0; i < readers; i++) this.#readers.push(startReader(this.#options));
    this.#readAhead(this.#prefetch);
  }

  /** The number of the batch that `next` will give: what a checkpoint keeps as `start.index`. */
  get index(): number {
    return this.#index;
  }

  /**
   * The next batch.
   *
   * @throws {CorruptDataError} when a chunk cannot be had as it was written; `RangeError` when an option does not fit the store;
   * whatever `openImageStore` throws; `Error` once closed.
   */
  async next(): Promise<ImageBatch> {
    if (this.#failure) throw this.#failure;
    this.#readAhead(1);
    const next = this.#ahead.shift()!;
    this.#readAhead(this.#prefetch);
    try {
      const batch = await next;
      this.#index = batch.index + 1;
      return batch;
    } catch (error) {
      this.#failure ??= error;
      throw this.#failure;
    }
  }

  /** Ends the workers; a `next` that is waiting throws. */
  close(): void {
    this.#failure ??= closedError(WHAT);
    for (const reader of this.#readers.splice(0)) reader.close();
  }

  /** Closes: see `close`. */
  [Symbol.dispose](): void {
    this.close();
  }

  #readAhead(count: number): void {
    while (this.#ahead.length < count) {
      const batch = this.#request(this.#asked++);
      batch.catch(() => {}); // thrown by the `next` that it belongs to
      this.#ahead.push(batch);
    }
  }

  async #request(index: number): Promise<ImageBatch> {
    if (this.#readers.length > 0) return await this.#readers[index % this.#readers.length].read(index);
    this.#local ??= ImageBatchReader.open(this.#options, this.#sleep);
    return await (await this.#local).read(index);
  }
}

function requireWhole(name: string, value: number, least: number): void {
  if (Number.isSafeInteger(value) && value >= least) return;
  throw new RangeError(`Cannot read images: ${name} must be a whole number from ${least}, got ${value}`);
}
