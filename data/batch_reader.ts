/**
 * One batch at a time from a store, at any index: what a `Batches` does in each of its workers, and on its own thread
 * when it has none. It keeps the decoded chunks of one shuffling window.
 */

import type { StoreToRead } from "./read_ahead.ts";
import { RowOrder, windowChunks } from "./shuffle.ts";
import { openStore, type StoreOptions } from "./store.ts";
import type { TokenSplit } from "./token_split.ts";

/** Rows of token ids, ready for training. */
export interface Batch {
  /** `[batch, seq + 1]`, row-major: inputs are a row's first `seq` tokens, targets its last `seq`. */
  readonly tokens: Uint32Array<ArrayBuffer>;
  /** Rows. */
  readonly batch: number;
  /** Predicted tokens of a row. */
  readonly seq: number;
  /** Global index of the first row: rows seen before it, over all epochs. */
  readonly index: number;
}

/** Reads the batch at any global index. */
export class BatchReader {
  readonly #split: TokenSplit;
  readonly #order: RowOrder;
  readonly #batch: number;

  private constructor(split: TokenSplit, order: RowOrder, batch: number) {
    this.#split = split;
    this.#order = order;
    this.#batch = batch;
  }

  static async open(options: StoreToRead, sleep?: StoreOptions["sleep"]): Promise<BatchReader> {
    const { store, split: name, batch, seed, shuffle, ...rest } = options;
    const split = (await openStore(store, { ...rest, sleep })).split(name);
    split.keepChunks(windowChunks(split) + 1);
    return new BatchReader(split, new RowOrder(split, seed, shuffle), batch);
  }

  /** `batch` rows from `index` on; they may run over the end of an epoch. */
  async read(index: number): Promise<Batch> {
    const rows = Array.from({ length: this.#batch }, (_, i) => this.#order.rowAt(index + i));
    return { tokens: await this.#split.gatherRows(rows), batch: this.#batch, seq: this.#split.seq, index };
  }
}
