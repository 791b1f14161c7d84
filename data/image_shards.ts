/**
 * One array of an image store, written row by row while their number is not known yet: rows fill a chunk, chunks a shard's
 * file, and the `zarr.json` that counts them comes last. One chunk is in memory, however long the array.
 * A shard is its inner chunks one after the other, then an index of (offset, length) pairs, then the index's CRC-32C; each
 * chunk is zstd, then its CRC-32C. Source: zarr-specs v3.1, `sharding_indexed` v1.0.
 */

import { createHash, type Hash } from "node:crypto";
import { constants, zstdCompressSync } from "node:zlib";
import { appendCrc32c } from "./crc32c.ts";
import { writeAll, writeDurably } from "./shards.ts";
import {
  arrayChunkBytes,
  type ArrayLayout,
  arrayShardKey,
  imageArrayMetadata,
  rowBytes,
  ZSTD_LEVEL,
} from "./image_zarr.ts";

const ABSENT = 2n ** 64n - 1n;

/** What an array's writer is told. */
export interface ArrayWriterOptions extends Pick<ArrayLayout, "key" | "rowShape" | "rowsPerChunk" | "chunksPerShard"> {
  /** The store's folder, which exists. */
  readonly folder: string;
}

/** Writes one array. Nothing counts before `finish`; dispose it in any case. */
export class ArrayWriter implements Disposable {
  readonly #options: ArrayWriterOptions;
  readonly #chunk: Uint8Array<ArrayBuffer>;
  readonly #hash: Hash = createHash("sha256");
  readonly #shardBytes: number[] = [];
  readonly #index: BigUint64Array<ArrayBuffer>;
  #rows = 0;
  /** Bytes in the chunk so far. */
  #held = 0;
  #file: Deno.FsFile | undefined;
  /** Chunks and bytes in the open shard. */
  #chunks = 0;
  #offset = 0;

  constructor(options: ArrayWriterOptions) {
    this.#options = options;
    this.#chunk = new Uint8Array(arrayChunkBytes(options));
    this.#index = new BigUint64Array(2 * options.chunksPerShard).fill(ABSENT);
  }

  /** Rows so far. */
  get rows(): number {
    return this.#rows;
  }

  /** Adds one row; its bytes are copied. */
  async append(row: Uint8Array): Promise<void> {
    if (row.length !== rowBytes(this.#options)) {
      throw new RangeError(
        `Cannot write a row of ${this.#options.key}: it has ${rowBytes(this.#options)} bytes, got ${row.length}`,
      );
    }
    this.#chunk.set(row, this.#held);
    this.#hash.update(row);
    this.#held += row.length;
    this.#rows++;
    if (this.#held === this.#chunk.length) await this.#writeChunk();
  }

  /** Writes what is left, and the metadata. Every file is on disk when it returns. */
  async finish(): Promise<ArrayLayout> {
    if (this.#held > 0) {
      this.#chunk.fill(0, this.#held);
      await this.#writeChunk();
    }
    if (this.#file) await this.#closeShard();
    const { key, rowShape, rowsPerChunk, chunksPerShard, folder } = this.#options;
    const layout = {
      ...{ key, rows: this.#rows, rowShape, rowsPerChunk, chunksPerShard },
      ...{ shardBytes: this.#shardBytes, sha256: this.#hash.digest("hex") },
    };
    await writeDurably(`${folder}/${key}/zarr.json`, imageArrayMetadata(layout));
    return layout;
  }

  async #writeChunk(): Promise<void> {
    this.#file ??= await this.#openShard();
    const compressed = zstdCompressSync(this.#chunk, {
      params: { [constants.ZSTD_c_compressionLevel]: ZSTD_LEVEL },
      chunkSize: Math.max(64, this.#chunk.length),
    });
    const encoded = appendCrc32c(compressed);
    await writeAll(this.#file, encoded);
    this.#index.set([BigInt(this.#offset), BigInt(encoded.length)], 2 * this.#chunks);
    this.#offset += encoded.length;
    this.#held = 0;
    if (++this.#chunks === this.#options.chunksPerShard) await this.#closeShard();
  }

  async #openShard(): Promise<Deno.FsFile> {
    const path = `${this.#options.folder}/${arrayShardKey(this.#options, this.#shardBytes.length)}`;
    await Deno.mkdir(path.slice(0, path.lastIndexOf("/")), { recursive: true });
    return await Deno.open(path, { write: true, createNew: true });
  }

  async #closeShard(): Promise<void> {
    const index = appendCrc32c(new Uint8Array(this.#index.buffer));
    await writeAll(this.#file!, index);
    await this.#file!.sync();
    this.#file!.close();
    this.#file = undefined;
    this.#shardBytes.push(this.#offset + index.length);
    this.#index.fill(ABSENT);
    this.#chunks = this.#offset = 0;
  }

  [Symbol.dispose](): void {
    this.#file?.close();
    this.#file = undefined;
  }
}
