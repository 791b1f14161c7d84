/**
 * One split's inner chunks, read through zarrita's sharding decoder and never trusted: zarrita fills in zeros for what is
 * missing, so every way of being missing throws here instead. Each chunk's checksum, decoded size and ids are checked;
 * the index's checksum too. What fails for a passing reason (network, checksum on the way) is read again.
 */

import * as zarr from "npm:zarrita@0.7.5";
import { ChecksumError, crc32c, registerCrc32c } from "./crc32c.ts";
import { CorruptDataError } from "./errors.ts";
import { type RetryOptions, withRetries } from "./retry.ts";
import { type ByteRange, type ByteSource, ReadFault } from "./source.ts";
import { chunkBytes, indexBytes, numChunks, shardKey, type SplitLayout, type SplitName } from "./zarr.ts";

/** Stored token ids. */
export type TokenArray = Uint16Array<ArrayBuffer> | Uint32Array<ArrayBuffer>;

/** What `ChunkReader` needs. */
export interface ChunkReaderOptions {
  readonly source: ByteSource;
  readonly split: SplitName;
  readonly layout: SplitLayout;
  readonly vocabSize: number;
  /** The array's `zarr.json`, already checked: zarrita reads these bytes, not the source's. */
  readonly metadata: Uint8Array;
  readonly retry: RetryOptions;
}

/** Follows one call through zarrita, which hands its options on to the store. */
interface Trace {
  hasRead: boolean;
  stored?: Uint8Array;
}

/** Reads whole inner chunks of one split. */
export class ChunkReader {
  readonly #options: ChunkReaderOptions;
  readonly #array: zarr.Array<"uint16" | "uint32", zarr.AsyncReadable>;

  private constructor(options: ChunkReaderOptions, array: zarr.Array<"uint16" | "uint32", zarr.AsyncReadable>) {
    this.#options = options;
    this.#array = array;
  }

  static async open(options: ChunkReaderOptions): Promise<ChunkReader> {
    registerCrc32c();
    const store = guardedStore(options);
    const array = await zarr.open.v3(zarr.root(store).resolve(options.split), { kind: "array" });
    return new ChunkReader(options, array as zarr.Array<"uint16" | "uint32", zarr.AsyncReadable>);
  }

  /**
   * The ids of one inner chunk, `[rowsPerChunk, seq + 1]`; past the array's last row they mean nothing.
   *
   * @throws {CorruptDataError} when the chunk cannot be had as it was written.
   */
  async read(chunk: number): Promise<TokenArray> {
    const { source, split, layout, retry } = this.#options;
    try {
      return await withRetries(() => this.#attempt(chunk), retry);
    } catch (cause) {
      if (!(cause instanceof ReadFault)) throw cause;
      const shard = shardKey(split, Math.floor(chunk / layout.chunksPerShard));
      throw new CorruptDataError({ store: source.name, shard, chunk, reason: cause.message }, { cause });
    }
  }

  async #attempt(chunk: number): Promise<TokenArray> {
    const { layout, vocabSize } = this.#options;
    const trace: Trace = { hasRead: false };
    let data: TokenArray;
    try {
      data = (await this.#array.getChunk([chunk, 0], trace as object)).data as TokenArray;
    } catch (error) {
      throw asFault(error);
    }
    // Freed now rather than at some later collection: V8 lets 64 MiB of such buffers pile up first.
    if (layout.compressed) (trace.stored?.buffer as ArrayBuffer | undefined)?.transfer(0);
    if (!trace.hasRead) throw new ReadFault("the shard's index says that it is missing");
    const expected = layout.rowsPerChunk * (layout.seq + 1);
    if (data.length !== expected) throw new ReadFault(`it must hold ${expected} tokens, got ${data.length}`);
    const largest = maximum(data);
    if (largest < vocabSize) return data;
    throw new ReadFault(`it holds token id ${largest}, but the vocabulary has ${vocabSize}`);
  }
}

function maximum(ids: TokenArray): number {
  let largest = 0;
  for (let i = 0; i < ids.length; i++) if (ids[i] > largest) largest = ids[i];
  return largest;
}

/** A checksum that fails may have been spoilt on the way; what zstd says after a good checksum was stored so. */
function asFault(error: unknown): unknown {
  for (let cause = error; cause instanceof Error; cause = cause.cause) {
    if (cause instanceof ReadFault) return cause;
    if (cause instanceof ChecksumError) return new ReadFault(cause.message, { retryable: true, cause });
  }
  if (!(error instanceof zarr.CodecPipelineError)) return error;
  const reason = error.cause instanceof Error ? error.cause.message : error.message;
  return new ReadFault(`it cannot be decoded (${reason})`, { cause: error });
}

/** What zarrita reads from: the checked metadata, and ranges that are complete or throw. */
function guardedStore(options: ChunkReaderOptions): zarr.AsyncReadable {
  const { source, split, layout, metadata } = options;
  const limit = chunkBytes(layout) + (chunkBytes(layout) >> 8) + 1024; // zstd's own bound on what does not compress
  return {
    get: (key) => Promise.resolve(key === `/${split}/zarr.json` ? metadata : undefined),
    async getRange(path, range: ByteRange, trace?: object) {
      const key = path.slice(1);
      const size = layout.shardBytes?.[Number(key.split("/")[2])];
      if ("suffixLength" in range) return await source.readRange(key, range, size);
      (trace as Trace).hasRead = true;
      if (!(range.length <= limit)) {
        throw new ReadFault(`its ${range.length} stored bytes are more than the ${limit} it can need`);
      }
      if (size !== undefined && range.offset + range.length > size - indexBytes(layout)) {
        throw new ReadFault("the shard's index points outside the shard");
      }
      const bytes = (trace as Trace).stored = await source.readRange(key, range, size);
      checkDecodedSize(bytes, layout);
      return bytes;
    },
  };
}

/** zstd allocates what its header promises: the promise must be exactly one chunk. Source: RFC 8878, section 3.1.1.1. */
function checkDecodedSize(bytes: Uint8Array, layout: SplitLayout): void {
  const promised = layout.compressed
    ? zstdContentSize(bytes.subarray(0, Math.max(0, bytes.length - 4)))
    : bytes.length - 4;
  if (promised === chunkBytes(layout)) return;
  if (!hasGoodChecksum(bytes)) return; // the codec reports that, and it may be read again
  throw new ReadFault(`it must decode to ${chunkBytes(layout)} bytes, got ${promised < 0 ? "no size" : promised}`);
}

function hasGoodChecksum(bytes: Uint8Array): boolean {
  if (bytes.length < 4) return false;
  const stored = new DataView(bytes.buffer, bytes.byteOffset + bytes.length - 4).getUint32(0, true);
  return crc32c(bytes.subarray(0, bytes.length - 4)) === stored;
}

/** The decoded size in a frame's header, or -1 where there is none. */
function zstdContentSize(frame: Uint8Array): number {
  if (frame.length < 18) return frame.length < 6 ? -1 : zstdContentSize(padded(frame));
  const view = new DataView(frame.buffer, frame.byteOffset, frame.length);
  if (view.getUint32(0, true) !== 0xfd2fb528) return -1;
  const descriptor = frame[4];
  const isSingleSegment = (descriptor & 0x20) !== 0;
  const at = 5 + (isSingleSegment ? 0 : 1) + [0, 1, 2, 4][descriptor & 3];
  switch (descriptor >> 6) {
    case 0:
      return isSingleSegment ? frame[at] : -1;
    case 1:
      return view.getUint16(at, true) + 256;
    case 2:
      return view.getUint32(at, true);
    default:
      return Number(view.getBigUint64(at, true));
  }
}

function padded(frame: Uint8Array): Uint8Array {
  const out = new Uint8Array(18);
  out.set(frame);
  return out;
}

/** Shards of a split. */
export function numShards(layout: SplitLayout): number {
  return Math.ceil(numChunks(layout) / layout.chunksPerShard);
}
