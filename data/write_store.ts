/**
 * A stream of tokens to a store on disk, in constant memory. How long the stream is, and so where the held-out part
 * begins, is known only at its end: the tokens go to a spool file first, then from there into shards.
 * Row i of the stream holds tokens i*seq to i*seq + seq; the last rows are the validation split. Rows overlap by one
 * token, so every token but the first is predicted exactly once, over both splits. Tokens after the last whole row are left out.
 * Everything happens in a folder beside `out` that is renamed to it at the end: `out` either is whole or does not exist.
 */

import { inNewFolder } from "./new_folder.ts";
import { writeDurably, writeSplit } from "./shards.ts";
import { TokenSpool } from "./spool.ts";
import type { Tokenizer } from "./tokenizer.ts";
import { groupMetadata, itemSize, type SourceInfo, type SplitLayout, type SplitName, type StoreInfo } from "./zarr.ts";

/** The layout options that `writeStore` and `prepareStore` share. */
export interface StoreLayoutOptions {
  /** Predicted tokens of a row; a row holds one more. */
  readonly seq: number;
  /** The store's folder, which must not exist. */
  readonly out: string;
  /** The fraction of rows for the validation split, from the end of the stream; 0 for none. Default 0.05. */
  readonly holdOut?: number;
  /** Rows of an inner chunk, the unit of reading. Default: what 1 MiB holds, at most 128. */
  readonly rowsPerChunk?: number;
  /** Inner chunks of a shard, the unit of storage. Default: what 64 MiB holds, at most 4096. */
  readonly chunksPerShard?: number;
  /** Stops the work; what was written is removed. */
  readonly signal?: AbortSignal;
}

/** What `writeStore` is given. */
export interface WriteStoreOptions extends StoreLayoutOptions {
  /** Token ids in any portions. */
  readonly tokens: AsyncIterable<ArrayLike<number>>;
  /** Whose ids they are. */
  readonly tokenizer: Pick<Tokenizer, "name" | "hash" | "vocabSize" | "eosId">;
  /** The inputs to be remembered; asked for when the stream has ended. */
  readonly sources?: () => readonly SourceInfo[];
  /** Is told how many of the rows are written. */
  readonly onRows?: (done: number, total: number) => void;
}

const WRITER = "lowrank/data 1";

/**
 * Writes a store from a stream of token ids, with at most a few MiB of memory whatever the stream's length.
 *
 * @throws {Deno.errors.AlreadyExists} when `out` exists.
 * @throws {RangeError} when an option is out of range, an id is not in the vocabulary, or the stream is shorter than one row.
 */
export async function writeStore(options: WriteStoreOptions): Promise<StoreInfo> {
  checkLayoutOptions(options);
  return await inNewFolder(options.out, (folder) => writeInto(folder, options));
}

/** The checks that can be made before any work. */
export function checkLayoutOptions(
  { seq, out, holdOut = 0, rowsPerChunk = 1, chunksPerShard = 1 }: StoreLayoutOptions,
): void {
  const whole = { seq, rowsPerChunk, chunksPerShard };
  for (const [name, value] of Object.entries(whole)) {
    if (Number.isSafeInteger(value) && value >= 1) continue;
    throw new RangeError(`Cannot prepare a store: ${name} must be a whole number from 1, got ${value}`);
  }
  if (!(holdOut >= 0 && holdOut < 1)) {
    throw new RangeError(`Cannot prepare a store: holdOut must be from 0 to below 1, got ${holdOut}`);
  }
  if (out === "") throw new RangeError("Cannot prepare a store: out must name a folder");
}

async function writeInto(folder: string, options: WriteStoreOptions): Promise<StoreInfo> {
  const { tokens, tokenizer, seq, holdOut = 0.05, sources, onRows, signal } = options;
  const dtype = tokenizer.vocabSize <= 65_536 ? "uint16" : "uint32";
  const spoolPath = `${folder}/spool`;
  const splits: Partial<Record<SplitName, { rows: number }>> = {};
  let length: number;
  {
    using spool = await TokenSpool.create(spoolPath, dtype, tokenizer.vocabSize);
    for await (const ids of tokens) {
      signal?.throwIfAborted();
      await spool.append(ids);
    }
    await spool.flush();
    length = spool.length;
    const total = Math.floor((length - 1) / seq);
    if (total < 1) {
      throw new RangeError(`Cannot prepare a store: one sequence of seq ${seq} needs ${seq + 1} tokens, got ${length}`);
    }
    const held = holdOut === 0 || total === 1 ? 0 : Math.min(total - 1, Math.max(1, Math.round(total * holdOut)));
    splits.train = { rows: total - held };
    if (held > 0) splits.validation = { rows: held };
    let done = 0;
    let firstRow = 0;
    for (const split of Object.keys(splits) as SplitName[]) {
      const layout = chooseLayout(splits[split]!.rows, dtype, options);
      const report = (rows: number): void => onRows?.(done += rows, total);
      await writeSplit({ folder, split, layout, spool, firstRow, signal, onRows: report });
      firstRow += layout.rows;
    }
  }
  await Deno.remove(spoolPath);
  const { name, hash, vocabSize, eosId } = tokenizer;
  const info: StoreInfo = {
    format: "lowrank-tokens",
    formatVersion: 1,
    writer: WRITER,
    tokenizer: { name, hash, vocabSize, eosId },
    dtype,
    seq,
    tokens: length,
    holdOut,
    splits,
    sources: sources?.() ?? [],
  };
  await writeDurably(`${folder}/zarr.json`, groupMetadata(info));
  return info;
}

/** No chunk is larger than the split, so that a small one is not padded to many times its size. */
function chooseLayout(rows: number, dtype: "uint16" | "uint32", options: WriteStoreOptions): SplitLayout {
  const { seq } = options;
  const rowBytes = (seq + 1) * itemSize(dtype);
  const clamp = (value: number, high: number): number => Math.max(1, Math.min(high, Math.floor(value)));
  const rowsPerChunk = Math.min(rows, options.rowsPerChunk ?? clamp(2 ** 20 / rowBytes, 128));
  const wanted = options.chunksPerShard ?? clamp(2 ** 26 / (rowsPerChunk * rowBytes), 4096);
  return {
    rows,
    seq,
    dtype,
    rowsPerChunk,
    compressed: true,
    chunksPerShard: Math.min(wanted, Math.ceil(rows / rowsPerChunk)),
  };
}
