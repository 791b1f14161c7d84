/**
 * Batches of token rows in the order of training, read ahead by workers while the main thread computes or waits for a device.
 * The order depends on the store, the split, `seed`, `shuffle` and the index alone (see `shuffle.ts`): not on `batch`,
 * the number of readers, or how far they read ahead. The state to resume from is one number, `index`.
 * The first error stops it for good, at the batch where it belongs: no batch is ever skipped.
 */

import { type Batch, BatchReader, type BatchReaderOptions } from "./batch_reader.ts";
import type { StoreOptions } from "./store.ts";
import { closedError, ThreadReader } from "./thread_reader.ts";
import type { SplitName } from "./zarr.ts";

/** For messages. */
const WHAT = "batches";

/** What `Batches` is given besides a store. */
export interface BatchesOptions extends Omit<StoreOptions, "cacheBytes"> {
  /** Default `train`. */
  readonly split?: SplitName;
  /** Rows of a batch. */
  readonly batch: number;
  /** Chooses the order; any whole number from 0 to 2^53 - 1. Default 0. */
  readonly seed?: number;
  /** The global index of the first row: a batch's `index` or `Batches.index` from before. Default 0. */
  readonly start?: { readonly index: number };
  /** Default true for `train`, false for `validation`. */
  readonly shuffle?: boolean;
  /** Workers; 0 reads on this thread when `next` is called, as tests and short evaluations want it. Default 1. */
  readonly readers?: number;
  /** Batches that are read ahead, at least one for each worker. Default 2. */
  readonly prefetch?: number;
}

function startReader(options: BatchReaderOptions): ThreadReader<BatchReaderOptions, Batch> {
  const worker = new Worker(new URL("./batch_worker.ts", import.meta.url), { type: "module" });
  return new ThreadReader(worker, options, WHAT);
}

/** An endless stream of batches; epochs follow each other, and a batch may run over the end of one. Close it, or say `using`. */
export class Batches implements Disposable, AsyncDisposable {
  readonly #options: BatchReaderOptions;
  readonly #sleep: StoreOptions["sleep"];
  readonly #prefetch: number;
  readonly #readers: ThreadReader<BatchReaderOptions, Batch>[] = [];
  readonly #ahead: Promise<Batch>[] = [];
  #local: Promise<BatchReader> | undefined;
  /** Index of the next batch to hand out. */
  #index: number;
  /** Index of the next batch to ask for. */
  #asked: number;
  #turn = 0;
  #failure: unknown;

  /**
   * Starts reading at once; what is wrong with the store is thrown by `next`.
   *
   * @throws {RangeError} when an option is out of range.
   */
  constructor(storePathOrUrl: string | URL, options: BatchesOptions) {
    const { split = "train", batch, seed = 0, start = { index: 0 }, readers = 1, prefetch = 2, sleep, ...rest } =
      options;
    const { shuffle = split === "train", ...store } = rest;
    requireWhole("batch", batch, 1);
    requireWhole("seed", seed, 0);
    requireWhole("start.index", start.index, 0);
    requireWhole("readers", readers, 0);
    requireWhole("prefetch", prefetch, 1);
    const { tries, baseMs, capMs, noProgressMs, attemptMs } = store;
    const limits = { tries, baseMs, capMs, noProgressMs, attemptMs };
    this.#options = { store: String(storePathOrUrl), split, batch, seed, shuffle, ...defined(limits) };
    this.#sleep = sleep;
    this.#index = this.#asked = start.index;
    this.#prefetch = readers === 0 ? 0 : Math.max(prefetch, readers);
    for (let i = 0; i < readers; i++) this.#readers.push(startReader(this.#options));
    this.#readAhead(this.#prefetch);
  }

  /** The global index of the first row that `next` will give: what a checkpoint keeps as `start.index`. */
  get index(): number {
    return this.#index;
  }

  /**
   * The next batch.
   *
   * @throws {CorruptDataError} when a chunk cannot be had as it was written; whatever `openStore` throws; `Error` once closed.
   */
  async next(): Promise<Batch> {
    if (this.#failure) throw this.#failure;
    this.#readAhead(1);
    const next = this.#ahead.shift()!;
    this.#readAhead(this.#prefetch);
    try {
      const batch = await next;
      this.#index = batch.index + batch.batch;
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

  /** Closes: see `close`. */
  [Symbol.asyncDispose](): Promise<void> {
    this.close();
    return Promise.resolve();
  }

  #readAhead(count: number): void {
    while (this.#ahead.length < count) {
      const batch = this.#request(this.#asked);
      batch.catch(() => {}); // thrown by the `next` that it belongs to
      this.#ahead.push(batch);
      this.#asked += this.#options.batch;
    }
  }

  async #request(index: number): Promise<Batch> {
    if (this.#readers.length > 0) return await this.#readers[this.#turn++ % this.#readers.length].read(index);
    this.#local ??= BatchReader.open(this.#options, this.#sleep);
    return await (await this.#local).read(index);
  }
}

function requireWhole(name: string, value: number, least: number): void {
  if (Number.isSafeInteger(value) && value >= least) return;
  throw new RangeError(`Cannot read batches: ${name} must be a whole number from ${least}, got ${value}`);
}

/** Without the undefined ones, which would hide a default. */
function defined<T extends object>(fields: T): Partial<T> {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as Partial<T>;
}
