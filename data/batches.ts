/**
 * Batches of token rows in the order of training, read ahead by workers while the main thread computes or waits for a device.
 * The order depends on the store, the split, `seed`, `shuffle` and the index alone (see `shuffle.ts`): not on `batch`,
 * the number of readers, or how far they read ahead. The state to resume from is one number, `index`: that of a batch's
 * first row.
 */

import { type Batch, BatchReader } from "./batch_reader.ts";
import { ReadAhead, type ReadAheadOptions, type StoreToRead, storeToRead } from "./read_ahead.ts";
import { ThreadReader } from "./thread_reader.ts";

/** For messages. */
const WHAT = "batches";

/** What `Batches` is given besides a store. `start.index` is the global index of the first row. */
export type BatchesOptions = ReadAheadOptions;

/** An endless stream of batches; epochs follow each other, and a batch may run over the end of one. Close it, or say `using`. */
export class Batches extends ReadAhead<StoreToRead, Batch> implements AsyncDisposable {
  /**
   * Starts reading at once; what is wrong with the store is thrown by `next`: `CorruptDataError` when a chunk cannot be
   * had as it was written, and whatever `openStore` throws.
   *
   * @throws {RangeError} when an option is out of range.
   */
  constructor(storePathOrUrl: string | URL, options: BatchesOptions) {
    const toRead = storeToRead(storePathOrUrl, options);
    super({
      what: WHAT,
      stride: options.batch,
      startReader: () => {
        const worker = new Worker(new URL("./batch_worker.ts", import.meta.url), { type: "module" });
        return new ThreadReader(worker, toRead, WHAT);
      },
      openReader: () => BatchReader.open(toRead, options.sleep),
    }, options);
  }

  /** Closes: see `close`. */
  [Symbol.asyncDispose](): Promise<void> {
    this.close();
    return Promise.resolve();
  }
}
