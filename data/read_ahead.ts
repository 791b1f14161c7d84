/**
 * A stream of batches in order, read ahead by workers while the main thread computes or waits for a device: what `Batches`
 * and `ImageBatches` share. What is read depends on the index alone, not on the number of readers or how far they read ahead.
 * The first error stops it for good, at the batch where it belongs: no batch is ever skipped.
 */
import type { StoreOptions } from "./store.ts";
import { closedError, type ThreadReader } from "./thread_reader.ts";
import type { SplitName } from "./zarr.ts";

/** What every stream is given besides a store. */
export interface ReadAheadOptions extends Omit<StoreOptions, "cacheBytes"> {
  /** Default `train`. */
  readonly split?: SplitName;
  /** Rows or images of a batch. */
  readonly batch: number;
  /** Chooses the order; any whole number from 0 to 2^53 - 1. Default 0. */
  readonly seed?: number;
  /** Index of the first batch: `index` of a batch or of a stream from before. Default 0. */
  readonly start?: { readonly index: number };
  /** Default true for `train`, false for `validation`. */
  readonly shuffle?: boolean;
  /** Workers; 0 reads on this thread when `next` is called, as tests and short evaluations want it. Default 1. */
  readonly readers?: number;
  /** Batches that are read ahead, at least one for each worker. Default 2. */
  readonly prefetch?: number;
}

/** Everything of a store that a batch depends on, besides its index. All of it can be sent to a worker. */
export interface StoreToRead extends Omit<StoreOptions, "sleep" | "cacheBytes"> {
  readonly store: string;
  readonly split: SplitName;
  readonly batch: number;
  readonly seed: number;
  readonly shuffle: boolean;
}

/** The part of a stream's options that can be sent to a worker, with defaults. */
export function storeToRead(storePathOrUrl: string | URL, options: ReadAheadOptions): StoreToRead {
  const { split = "train", batch, seed = 0, shuffle = split === "train" } = options;
  const { tries, baseMs, capMs, noProgressMs, attemptMs } = options;
  const limits = Object.entries({ tries, baseMs, capMs, noProgressMs, attemptMs });
  // without the undefined ones, which would hide a default
  const given = Object.fromEntries(limits.filter(([, value]) => value !== undefined));
  return { store: String(storePathOrUrl), split, batch, seed, shuffle, ...given };
}

/** Reads the batch at any index. */
export interface ReadsBatches<Batch> {
  read(index: number): Promise<Batch>;
}

/** What a stream reads, and with what. */
export interface ReadAheadSource<Options, Batch> {
  /** What is read, in the plural, for messages. */
  readonly what: string;
  /** From a batch's index to the next one's. */
  readonly stride: number;
  /** A worker that reads. */
  readonly startReader: () => ThreadReader<Options, Batch>;
  /** What reads on this thread where there are no workers. */
  readonly openReader: () => Promise<ReadsBatches<Batch>>;
}

/** An endless stream of batches. Close it, or say `using`. */
export class ReadAhead<Options, Batch> implements Disposable {
  readonly #source: ReadAheadSource<Options, Batch>;
  readonly #prefetch: number;
  readonly #readers: ThreadReader<Options, Batch>[] = [];
  readonly #ahead: Promise<Batch>[] = [];
  #local: Promise<ReadsBatches<Batch>> | undefined;
  /** Index of the next batch to hand out. */
  #index: number;
  /** Index of the next batch to ask for. */
  #asked: number;
  #turn = 0;
  #failure: unknown;

  /** Starts reading at once. @throws {RangeError} when an option is out of range. */
  constructor(source: ReadAheadSource<Options, Batch>, options: ReadAheadOptions) {
    const { batch, seed = 0, start = { index: 0 }, readers = 1, prefetch = 2 } = options;
    requireWhole(source.what, { seed, "start.index": start.index, readers }, 0);
    requireWhole(source.what, { batch, prefetch }, 1);
    this.#source = source;
    this.#index = this.#asked = start.index;
    this.#prefetch = readers === 0 ? 0 : Math.max(prefetch, readers);
    for (let i = 0; i < readers; i++) this.#readers.push(source.startReader());
    this.#readAhead(this.#prefetch);
  }

  /** Index of the batch that `next` will give: what a checkpoint keeps as `start.index`. */
  get index(): number {
    return this.#index;
  }

  /** The next batch. @throws whatever its reader throws; `Error` once closed */
  async next(): Promise<Batch> {
    if (this.#failure) throw this.#failure;
    this.#readAhead(1);
    const next = this.#ahead.shift()!;
    this.#readAhead(this.#prefetch);
    try {
      const batch = await next;
      this.#index += this.#source.stride;
      return batch;
    } catch (error) {
      this.#failure ??= error;
      throw this.#failure;
    }
  }

  /** Ends the workers; a `next` that is waiting throws. */
  close(): void {
    this.#failure ??= closedError(this.#source.what);
    for (const reader of this.#readers.splice(0)) reader.close();
  }

  /** Closes: see `close`. */
  [Symbol.dispose](): void {
    this.close();
  }

  #readAhead(count: number): void {
    while (this.#ahead.length < count) {
      const batch = this.#request(this.#asked);
      batch.catch(() => {}); // thrown by the `next` that it belongs to
      this.#ahead.push(batch);
      this.#asked += this.#source.stride;
    }
  }

  async #request(index: number): Promise<Batch> {
    if (this.#readers.length > 0) return await this.#readers[this.#turn++ % this.#readers.length].read(index);
    this.#local ??= this.#source.openReader();
    return await (await this.#local).read(index);
  }
}

function requireWhole(what: string, values: Readonly<Record<string, number>>, least: number): void {
  for (const [name, value] of Object.entries(values)) {
    if (Number.isSafeInteger(value) && value >= least) continue;
    throw new RangeError(`Cannot read ${what}: ${name} must be a whole number from ${least}, got ${value}`);
  }
}
