/**
 * Inner chunks of one array of an image store, read and never trusted: the shard's index and every chunk carry a CRC-32C, which
 * is compared; sizes are checked before anything is decoded. What is missing is an error, never zeros. It takes the shard's
 * parts itself, without zarrita: a chunk is one read and one `zstdDecompressSync`.
 * What fails for a passing reason (network, checksum on the way) is read again.
 */

import { zstdDecompressSync } from "node:zlib";
import { crc32c } from "./crc32c.ts";
import { CorruptDataError } from "./errors.ts";
import { arrayChunkBytes, type ArrayLayout, arrayShardKey, shardIndexBytes } from "./image_zarr.ts";
import { type RetryOptions, withRetries } from "./retry.ts";
import { type ByteSource, ReadFault } from "./source.ts";

/** Offset and length of each inner chunk, in pairs. */
type ShardIndex = BigUint64Array<ArrayBuffer>;

/** Reads whole inner chunks of one array. Indexes that were read stay: 16 bytes a chunk. */
export class ArrayChunks {
  readonly #source: ByteSource;
  readonly #layout: ArrayLayout;
  readonly #retry: RetryOptions;
  readonly #indexes = new Map<number, Promise<ShardIndex>>();

  constructor(source: ByteSource, layout: ArrayLayout, retry: RetryOptions) {
    this.#source = source;
    this.#layout = layout;
    this.#retry = retry;
  }

  /**
   * The bytes of one inner chunk, `rowsPerChunk` rows; past the array's last row they mean nothing.
   *
   * @throws {CorruptDataError} when the chunk cannot be had as it was written.
   */
  async read(chunk: number): Promise<Uint8Array<ArrayBuffer>> {
    const shard = Math.floor(chunk / this.#layout.chunksPerShard);
    const key = arrayShardKey(this.#layout, shard);
    const index = await this.#index(shard, key);
    return await this.#guarded(key, chunk, async () => {
      const entry = 2 * (chunk % this.#layout.chunksPerShard);
      const [offset, length] = [Number(index[entry]), Number(index[entry + 1])];
      return decode(await this.#readEntry(key, shard, offset, length), arrayChunkBytes(this.#layout));
    });
  }

  async #readEntry(key: string, shard: number, offset: number, length: number): Promise<Uint8Array> {
    const size = this.#layout.shardBytes[shard];
    const bytes = arrayChunkBytes(this.#layout);
    const limit = bytes + (bytes >> 8) + 1024; // zstd's own bound on what does not compress
    if (isAbsent(offset)) throw new ReadFault("the shard's index says that it is missing");
    if (!(length <= limit)) throw new ReadFault(`its ${length} stored bytes are more than the ${limit} it can need`);
    if (!(offset + length <= size - shardIndexBytes(this.#layout))) {
      throw new ReadFault("the shard's index points outside the shard");
    }
    return await this.#source.readRange(key, { offset, length }, size);
  }

  #index(shard: number, key: string): Promise<ShardIndex> {
    const known = this.#indexes.get(shard);
    if (known) return known;
    const suffixLength = shardIndexBytes(this.#layout);
    const index = this.#guarded(key, undefined, async () => {
      const bytes = await this.#source.readRange(key, { suffixLength }, this.#layout.shardBytes[shard]);
      return new BigUint64Array(withoutChecksum(bytes, "the index's").slice().buffer);
    });
    this.#indexes.set(shard, index);
    index.catch(() => this.#indexes.delete(shard));
    return index;
  }

  async #guarded<T>(shard: string, chunk: number | undefined, attempt: () => Promise<T>): Promise<T> {
    try {
      return await withRetries(attempt, this.#retry);
    } catch (cause) {
      if (!(cause instanceof ReadFault)) throw cause;
      throw new CorruptDataError({ store: this.#source.name, shard, chunk, reason: cause.message }, { cause });
    }
  }
}

/** 2^64 - 1, as a number: what the specification writes for a chunk that is not there. */
function isAbsent(offset: number): boolean {
  return offset === 2 ** 64;
}

function decode(stored: Uint8Array, size: number): Uint8Array<ArrayBuffer> {
  const frame = withoutChecksum(stored, "its");
  let bytes: Uint8Array;
  try {
    // in one piece: by default the output is put together of pieces of 16 KiB, six times slower
    bytes = zstdDecompressSync(frame, { maxOutputLength: size, chunkSize: Math.max(64, size) });
  } catch (cause) {
    throw new ReadFault(`it cannot be decoded (${(cause as Error).message})`, { cause });
  }
  if (bytes.length !== size) throw new ReadFault(`it must decode to ${size} bytes, got ${bytes.length}`);
  return new Uint8Array(bytes.buffer as ArrayBuffer, bytes.byteOffset, bytes.length);
}

/** The bytes before a checksum that matches; a checksum may have been spoilt on the way, so it is worth another try. */
function withoutChecksum(bytes: Uint8Array, whose: string): Uint8Array {
  if (bytes.length < 4) throw new ReadFault(`${whose} ${bytes.length} bytes are too few for a checksum`);
  const data = bytes.subarray(0, bytes.length - 4);
  const stored = new DataView(bytes.buffer, bytes.byteOffset + data.length, 4).getUint32(0, true);
  const found = crc32c(data);
  if (stored === found) return data;
  const hex = (value: number): string => value.toString(16).padStart(8, "0");
  throw new ReadFault(`${whose} checksum does not match: stored ${hex(stored)}, computed ${hex(found)}`, {
    retryable: true,
  });
}
