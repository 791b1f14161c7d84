/**
 * One split of an image store: images by number, their labels. A few decoded chunks stay in memory (least recently used go
 * first); labels, four bytes an image, are read once and stay. Labels are checked against the classes.
 */

import { CorruptDataError } from "./errors.ts";
import { ArrayChunks } from "./image_chunks.ts";
import { arrayChunkBytes, type ArrayLayout, arrayShardKey, numArrayChunks, rowBytes } from "./image_zarr.ts";
import type { RetryOptions } from "./retry.ts";
import type { ByteSource } from "./source.ts";
import type { SplitName } from "./zarr.ts";

/** Images with their labels. */
export interface LabelledImages {
  /** u8 [n, height, width, channels]. */
  readonly pixels: Uint8Array<ArrayBuffer>;
  /** i32 [n]. */
  readonly labels: Int32Array<ArrayBuffer>;
}

/** What a split is made of. */
export interface ImageSplitParts {
  readonly name: SplitName;
  readonly source: ByteSource;
  readonly images: ArrayLayout;
  readonly labels: ArrayLayout;
  /** How many classes there are. */
  readonly classes: number;
  readonly retry: RetryOptions;
  readonly cacheBytes?: number;
}

/** Chunks that are fetched at the same time. */
const PARALLEL_READS = 4;

/** The images of one split, made by `openImageStore`. */
export class ImageSplit {
  /** `train` or `validation`. */
  readonly name: SplitName;
  /** Images. */
  readonly rows: number;
  /** Images of an inner chunk. */
  readonly rowsPerChunk: number;
  /** Inner chunks of images. */
  readonly chunks: number;
  /** Bytes of a decoded chunk of images. */
  readonly chunkBytes: number;
  /** SHA-256 of all images, and of all labels, as the store tells it. */
  readonly sha256: { readonly images: string; readonly labels: string };
  readonly #parts: ImageSplitParts;
  readonly #reader: ArrayChunks;
  readonly #rowBytes: number;
  readonly #cache = new Map<number, Promise<Uint8Array<ArrayBuffer>>>();
  #capacity: number;
  #labels: Promise<Int32Array<ArrayBuffer>> | undefined;

  /** @internal */
  constructor(parts: ImageSplitParts) {
    const { name, source, images, labels, retry, cacheBytes = 32 * 1024 * 1024 } = parts;
    this.name = name;
    this.rows = images.rows;
    this.rowsPerChunk = images.rowsPerChunk;
    this.chunks = numArrayChunks(images);
    this.chunkBytes = arrayChunkBytes(images);
    this.sha256 = { images: images.sha256, labels: labels.sha256 };
    this.#parts = parts;
    this.#reader = new ArrayChunks(source, images, retry);
    this.#rowBytes = rowBytes(images);
    this.#capacity = Math.max(1, Math.floor(cacheBytes / this.chunkBytes));
  }

  /** Shard files of both arrays. */
  get shards(): number {
    return this.#parts.images.shardBytes.length + this.#parts.labels.shardBytes.length;
  }

  /** From now on keeps up to this many decoded chunks, whatever `cacheBytes` said. */
  keepChunks(count: number): void {
    this.#capacity = Math.max(1, count);
  }

  /**
   * The images of one inner chunk, u8 [rows of it, height, width, channels]. Do not change the array: it is shared.
   *
   * @throws {RangeError} when there is no such chunk.
   * @throws {CorruptDataError} when it cannot be had as it was written.
   */
  async readChunk(chunk: number): Promise<Uint8Array<ArrayBuffer>> {
    this.#check(chunk, "chunk", this.chunks);
    const rows = Math.min(this.rowsPerChunk, this.rows - chunk * this.rowsPerChunk);
    return (await this.#load(chunk)).subarray(0, rows * this.#rowBytes);
  }

  /**
   * The label of every image, i32 [rows]. Do not change the array: it is shared.
   *
   * @throws {CorruptDataError} when they cannot be had as they were written, or one is no class's.
   */
  readLabels(): Promise<Int32Array<ArrayBuffer>> {
    if (!this.#labels) {
      this.#labels = this.#readLabels();
      this.#labels.catch(() => this.#labels = undefined);
    }
    return this.#labels;
  }

  /**
   * Any images in any order; each chunk is read once, a few at a time.
   *
   * @throws {RangeError} when a row is outside the split.
   * @throws {CorruptDataError} when something cannot be had as it was written.
   */
  async gatherRows(rows: ArrayLike<number>): Promise<LabelledImages> {
    const places = new Map<number, number[]>();
    for (let i = 0; i < rows.length; i++) {
      this.#check(rows[i], "image", this.rows);
      const chunk = Math.floor(rows[i] / this.rowsPerChunk);
      const slots = places.get(chunk);
      if (slots) slots.push(i);
      else places.set(chunk, [i]);
    }
    const all = await this.readLabels();
    const pixels = new Uint8Array(rows.length * this.#rowBytes);
    const queue = [...places];
    const work = async (): Promise<void> => {
      for (let next = queue.pop(); next; next = queue.pop()) {
        const [chunk, slots] = next;
        const bytes = await this.#load(chunk);
        for (const slot of slots) {
          const at = (rows[slot] - chunk * this.rowsPerChunk) * this.#rowBytes;
          pixels.set(bytes.subarray(at, at + this.#rowBytes), slot * this.#rowBytes);
        }
      }
    };
    await Promise.all(Array.from({ length: Math.min(PARALLEL_READS, queue.length) }, work));
    return { pixels, labels: Int32Array.from(rows, (row) => all[row]) };
  }

  async #readLabels(): Promise<Int32Array<ArrayBuffer>> {
    const { source, labels: layout, classes, retry } = this.#parts;
    const reader = new ArrayChunks(source, layout, retry);
    const labels = new Int32Array(layout.rows);
    for (let chunk = 0; chunk < numArrayChunks(layout); chunk++) {
      const start = chunk * layout.rowsPerChunk;
      const bytes = await reader.read(chunk);
      const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
      for (let i = start; i < Math.min(layout.rows, start + layout.rowsPerChunk); i++) {
        labels[i] = view.getInt32(4 * (i - start), true);
        if (labels[i] >= 0 && labels[i] < classes) continue;
        const shard = arrayShardKey(layout, Math.floor(chunk / layout.chunksPerShard));
        const reason = `image ${i} has label ${labels[i]}, but there are ${classes} classes`;
        throw new CorruptDataError({ store: source.name, shard, chunk, reason });
      }
    }
    return labels;
  }

  #check(value: number, what: string, limit: number): void {
    if (Number.isSafeInteger(value) && value >= 0 && value < limit) return;
    throw new RangeError(`Cannot read ${what} ${value} of split "${this.name}": it has ${limit}`);
  }

  #load(chunk: number): Promise<Uint8Array<ArrayBuffer>> {
    const cached = this.#cache.get(chunk);
    const bytes = cached ?? this.#reader.read(chunk);
    this.#cache.delete(chunk); // and set again: a Map keeps the order of insertion, so the first key is the oldest
    this.#cache.set(chunk, bytes);
    if (cached) return cached;
    bytes.catch(() => this.#cache.get(chunk) === bytes && this.#cache.delete(chunk));
    while (this.#cache.size > this.#capacity) this.#cache.delete(this.#cache.keys().next().value!);
    return bytes;
  }
}
