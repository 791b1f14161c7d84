/**
 * Shard files, written: zarrita reads `sharding_indexed` but cannot write it. A shard is its inner chunks one after the
 * other, then an index of (offset, length) pairs, then the index's CRC-32C. Chunks beyond the array's last row are absent,
 * which the index says with 2^64 - 1 twice. One chunk is in memory at a time, however large the shard.
 * Source: zarr-specs v3.1, `sharding_indexed` v1.0.
 */

import * as zarr from "npm:zarrita@0.7.5";
import { appendCrc32c } from "./crc32c.ts";
import type { TokenSpool } from "./spool.ts";
import { arrayMetadata, numChunks, shardKey, type SplitLayout, type SplitName } from "./zarr.ts";

const ABSENT = 2n ** 64n - 1n;
/** GPT-2's tokens of Shakespeare shrink to 0.64 of their size at level 1, 0.59 at 3, 0.56 at 9, which is five times slower. */
const LEVEL = 3;

/** What `writeSplit` needs. */
export interface WriteSplitOptions {
  /** The store's folder, which exists. */
  readonly folder: string;
  readonly split: SplitName;
  readonly layout: SplitLayout;
  readonly spool: TokenSpool;
  /** The row of the token stream at which this split begins. */
  readonly firstRow: number;
  /** Is told how many rows were written since it was last called. */
  readonly onRows?: (rows: number) => void;
  readonly signal?: AbortSignal;
}

interface Compressor {
  encode(bytes: Uint8Array): Promise<Uint8Array>;
}

/** Writes one split: its shards, then the `zarr.json` that lists their sizes. Every file is on disk when it returns. */
export async function writeSplit(options: WriteSplitOptions): Promise<void> {
  const { folder, split, layout } = options;
  const zstd = await (await zarr.registry.get("zstd")!)();
  // deno-lint-ignore no-explicit-any -- zarrita types a codec's configuration by its own metadata, which zstd ignores.
  const compressor = zstd.fromConfig({ level: LEVEL }, undefined as any) as unknown as Compressor;
  const shardBytes: number[] = [];
  const shards = Math.ceil(numChunks(layout) / layout.chunksPerShard);
  for (let shard = 0; shard < shards; shard++) {
    const path = `${folder}/${shardKey(split, shard)}`;
    await Deno.mkdir(path.slice(0, path.lastIndexOf("/")), { recursive: true });
    shardBytes.push(await writeShard(path, shard, compressor, options));
  }
  await writeDurably(`${folder}/${split}/zarr.json`, arrayMetadata({ ...layout, shardBytes }, LEVEL));
}

async function writeShard(
  path: string,
  shard: number,
  compressor: Compressor,
  options: WriteSplitOptions,
): Promise<number> {
  const { layout, onRows, signal } = options;
  const first = shard * layout.chunksPerShard;
  const count = Math.min(layout.chunksPerShard, numChunks(layout) - first);
  const index = new BigUint64Array(2 * layout.chunksPerShard).fill(ABSENT);
  let offset = 0;
  using file = await Deno.open(path, { write: true, createNew: true });
  for (let i = 0; i < count; i++) {
    signal?.throwIfAborted();
    const { bytes, rows } = await readChunk(first + i, options);
    const encoded = appendCrc32c(await compressor.encode(bytes));
    await writeAll(file, encoded);
    index.set([BigInt(offset), BigInt(encoded.length)], 2 * i);
    offset += encoded.length;
    onRows?.(rows);
  }
  const encodedIndex = appendCrc32c(new Uint8Array(index.buffer));
  await writeAll(file, encodedIndex);
  await file.sync();
  return offset + encodedIndex.length;
}

/** One inner chunk from the stream: row i of the split holds tokens i*seq to i*seq + seq, so that neighbours share one. */
async function readChunk(
  chunk: number,
  { layout, spool, firstRow }: WriteSplitOptions,
): Promise<{ bytes: Uint8Array<ArrayBuffer>; rows: number }> {
  const { seq, rowsPerChunk } = layout;
  const rows = Math.min(rowsPerChunk, layout.rows - chunk * rowsPerChunk);
  const stream = await spool.read((firstRow + chunk * rowsPerChunk) * seq, rows * seq + 1);
  const Ids = layout.dtype === "uint16" ? Uint16Array : Uint32Array;
  const out = new Ids(rowsPerChunk * (seq + 1));
  for (let r = 0; r < rows; r++) out.set(stream.subarray(r * seq, (r + 1) * seq + 1), r * (seq + 1));
  return { bytes: new Uint8Array(out.buffer), rows };
}

/** Writes a file that does not exist yet, and waits until it is on disk. */
export async function writeDurably(path: string, text: string): Promise<void> {
  using file = await Deno.open(path, { write: true, createNew: true });
  await writeAll(file, new TextEncoder().encode(text));
  await file.sync();
}

/** Writes all of the bytes: one `write` may take only some. */
export async function writeAll(file: Deno.FsFile, bytes: Uint8Array): Promise<void> {
  for (let at = 0; at < bytes.length;) at += await file.write(bytes.subarray(at));
}
