/**
 * One split of a store as rows of ids. A few decoded chunks stay in memory (least recently used go first); asking for the
 * same chunk twice at once reads it once.
 */

import { type ChunkReader, numShards, type TokenArray } from "./chunks.ts";
import { chunkBytes, numChunks, shardKey, type SplitLayout, type SplitName } from "./zarr.ts";

/** Chunks that are fetched at the same time. */
const PARALLEL_READS = 4;

/** The rows of one split, made by `openStore`: `[rows, seq + 1]`, where a row's last token is the next row's first. */
export class TokenSplit {
  /** `train` or `validation`. */
  readonly name: SplitName;
  /** Rows, that is sequences. */
  readonly rows: number;
  /** Predicted tokens of a row; a row holds one more. */
  readonly seq: number;
  /** Rows of an inner chunk. */
  readonly rowsPerChunk: number;
  /** Inner chunks. */
  readonly chunks: number;
  /** Shard files. */
  readonly shards: number;
  /** Bytes of a decoded chunk. */
  readonly chunkBytes: number;
  /** Key and bytes of each shard's file, where the store lists them. */
  readonly shardSizes: ReadonlyMap<string, number>;
  readonly #chunksPerShard: number;
  readonly #reader: ChunkReader;
  #capacity: number;
  readonly #cache = new Map<number, Promise<TokenArray>>();

  /** @internal */
  constructor(name: SplitName, layout: SplitLayout, reader: ChunkReader, cacheBytes = 32 * 1024 * 1024) {
    this.name = name;
    this.rows = layout.rows;
    this.seq = layout.seq;
    this.rowsPerChunk = layout.rowsPerChunk;
    this.chunks = numChunks(layout);
    this.shards = numShards(layout);
    this.chunkBytes = chunkBytes(layout);
    this.shardSizes = new Map(layout.shardBytes?.map((bytes, shard) => [shardKey(name, shard), bytes]));
    this.#chunksPerShard = layout.chunksPerShard;
    this.#reader = reader;
    this.#capacity = Math.max(1, Math.floor(cacheBytes / this.chunkBytes));
  }

  /**
   * The ids of one inner chunk, `[rows of it, seq + 1]`; the last chunk may have fewer rows. Do not change the array: it is shared.
   *
   * @throws {RangeError} when there is no such chunk.
   * @throws {CorruptDataError} when it cannot be had as it was written.
   */
  async readChunk(chunk: number): Promise<TokenArray> {
    this.#check(chunk, "chunk", this.chunks);
    const ids = await this.#load(chunk);
    return ids.subarray(0, Math.min(this.rowsPerChunk, this.rows - chunk * this.rowsPerChunk) * (this.seq + 1));
  }

  /** The key of the shard that holds a chunk, such as `train/c/3/0`. */
  shardOf(chunk: number): string {
    return shardKey(this.name, Math.floor(chunk / this.#chunksPerShard));
  }

  /** From now on keeps up to this many decoded chunks, whatever `cacheBytes` said. */
  keepChunks(count: number): void {
    this.#capacity = Math.max(1, count);
  }

  /** Rows `start` to `start + count`, `[count, seq + 1]`. */
  readRows(start: number, count: number): Promise<Uint32Array<ArrayBuffer>> {
    return this.gatherRows(Array.from({ length: count }, (_, i) => start + i));
  }

  /**
   * Any rows in any order, `[rows.length, seq + 1]`; each chunk is read once, a few at a time.
   *
   * @throws {RangeError} when a row is outside the split.
   * @throws {CorruptDataError} when a chunk cannot be had as it was written.
   */
  async gatherRows(rows: ArrayLike<number>): Promise<Uint32Array<ArrayBuffer>> {
    const width = this.seq + 1;
    const places = new Map<number, number[]>();
    for (let i = 0; i < rows.length; i++) {
      this.#check(rows[i], "row", this.rows);
      const chunk = Math.floor(rows[i] / this.rowsPerChunk);
      const slots = places.get(chunk);
      if (slots) slots.push(i);
      else places.set(chunk, [i]);
    }
    const out = new Uint32Array(rows.length * width);
    const queue = [...places];
    const work = async (): Promise<void> => {
      for (let next = queue.pop(); next; next = queue.pop()) {
        const [chunk, slots] = next;
        const ids = await this.#load(chunk);
        for (const slot of slots) {
          const at = (rows[slot] - chunk * this.rowsPerChunk) * width;
          out.set(ids.subarray(at, at + width), slot * width);
        }
      }
    };
    await Promise.all(Array.from({ length: Math.min(PARALLEL_READS, queue.length) }, work));
    return out;
  }

  /** The first `count` tokens of the split as one stream, without the overlap of rows; all of them by default. */
  async readTokens(count: number = this.rows * this.seq + 1): Promise<Uint32Array<ArrayBuffer>> {
    const out = new Uint32Array(Math.min(count, this.rows * this.seq + 1));
    for (let row = 0; row * this.seq < out.length; row += this.rowsPerChunk) {
      const rows = Math.min(this.rowsPerChunk, this.rows - row, Math.ceil(out.length / this.seq) - row);
      if (rows < 1) break;
      const ids = await this.readRows(row, rows);
      for (let r = 0; r < rows; r++) {
        const at = (row + r) * this.seq;
        const from = r * (this.seq + 1);
        out.set(ids.subarray(from, from + Math.min(this.seq + 1, out.length - at)), at);
      }
    }
    return out;
  }

  #check(value: number, what: string, limit: number): void {
    if (Number.isSafeInteger(value) && value >= 0 && value < limit) return;
    throw new RangeError(`Cannot read ${what} ${value} of split "${this.name}": it has ${limit}`);
  }

  #load(chunk: number): Promise<TokenArray> {
    const cached = this.#cache.get(chunk);
    const ids = cached ?? this.#reader.read(chunk);
    this.#cache.delete(chunk); // and set again: a Map keeps the order of insertion, so the first key is the oldest
    this.#cache.set(chunk, ids);
    if (cached) return cached;
    ids.catch(() => this.#cache.get(chunk) === ids && this.#cache.delete(chunk));
    while (this.#cache.size > this.#capacity) this.#cache.delete(this.#cache.keys().next().value!);
    return ids;
  }
}
