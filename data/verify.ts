/**
 * Every chunk of every split of a store, read and checked, and one law that no checksum covers: a row begins with the token
 * that ended the row before, so chunks that were swapped, or taken from another store, are found as well.
 */

import { CorruptDataError } from "./errors.ts";
import { openStore, type StoreOptions, type TokenStore } from "./store.ts";
import type { TokenSplit } from "./token_split.ts";
import type { StoreInfo } from "./zarr.ts";

/** How far a verification is. */
export interface VerifyProgress {
  /** Chunks read so far. */
  readonly chunks: number;
  /** Chunks of all splits. */
  readonly totalChunks: number;
  /** Faults found so far. */
  readonly faults: number;
}

/** How a store is verified. */
export interface VerifyOptions extends StoreOptions {
  /** Is called after each chunk. */
  readonly onProgress?: (progress: VerifyProgress) => void;
  /** Stops after this many faults. Default 100. */
  readonly maxFaults?: number;
}

/** What was found. */
export interface VerifyReport {
  /** What the store says about itself. */
  readonly info: StoreInfo;
  /** Chunks that were read, the bad ones included. */
  readonly chunks: number;
  /** Shard files of all splits. */
  readonly shards: number;
  /** Rows of all splits. */
  readonly rows: number;
  /** Empty when the store is sound. */
  readonly faults: readonly CorruptDataError[];
}

/**
 * Reads a whole store, and lists what is wrong with it, each fault with its shard and chunk.
 *
 * @throws {Deno.errors.NotFound} when there is no store.
 * @throws {CorruptDataError} when its metadata is unsound, so that there is nothing to read by.
 */
export async function verifyStore(pathOrUrl: string | URL, options: VerifyOptions = {}): Promise<VerifyReport> {
  const { onProgress, maxFaults = 100 } = options;
  const store = await openStore(pathOrUrl, { ...options, cacheBytes: 0 });
  const splits = store.splits.map((name) => store.split(name));
  const totalChunks = splits.reduce((sum, split) => sum + split.chunks, 0);
  const faults: CorruptDataError[] = [];
  let chunks = 0;
  for (const split of splits) {
    let last: number | undefined;
    for (let chunk = 0; chunk < split.chunks && faults.length < maxFaults; chunk++) {
      try {
        last = await verifyChunk(store, split, chunk, last);
      } catch (error) {
        if (!(error instanceof CorruptDataError)) throw error;
        faults.push(error);
        last = undefined;
      }
      chunks++;
      onProgress?.({ chunks, totalChunks, faults: faults.length });
    }
  }
  const sum = (pick: (split: TokenSplit) => number): number => splits.reduce((total, split) => total + pick(split), 0);
  return { info: store.info, chunks, shards: sum((split) => split.shards), rows: sum((split) => split.rows), faults };
}

/** The chunk's last token; `before` is the last of the chunk before, where that is known. */
async function verifyChunk(store: TokenStore, split: TokenSplit, chunk: number, before?: number): Promise<number> {
  const ids = await split.readChunk(chunk);
  const width = split.seq + 1;
  for (let at = 0; at < ids.length; at += width) {
    const expected = at === 0 ? before : ids[at - 1];
    if (expected === undefined || ids[at] === expected) continue;
    const shard = split.shardOf(chunk);
    const reason = `row ${chunk * split.rowsPerChunk + at / width} begins with token ${
      ids[at]
    }, but the row before ends with ${expected}`;
    throw new CorruptDataError({ store: store.name, shard, chunk, reason });
  }
  return ids[ids.length - 1];
}
