/**
 * A token stream of unknown length, kept in a temporary file: written once from front to back, then read at any place.
 * It needs the disk space of the raw tokens for as long as a store is being prepared, and 1 MiB of memory.
 */

import { writeAll } from "./shards.ts";
import { itemSize } from "./zarr.ts";

const BUFFER_TOKENS = 512 * 1024;

/** Tokens on disk, as raw little-endian `uint16` or `uint32`. */
export class TokenSpool implements Disposable {
  readonly #file: Deno.FsFile;
  readonly #dtype: "uint16" | "uint32";
  readonly #vocabSize: number;
  readonly #buffer: Uint16Array<ArrayBuffer> | Uint32Array<ArrayBuffer>;
  #held = 0;
  #length = 0;

  private constructor(file: Deno.FsFile, dtype: "uint16" | "uint32", vocabSize: number) {
    this.#file = file;
    this.#dtype = dtype;
    this.#vocabSize = vocabSize;
    this.#buffer = dtype === "uint16" ? new Uint16Array(BUFFER_TOKENS) : new Uint32Array(BUFFER_TOKENS);
  }

  /** Makes the file, which must not exist. */
  static async create(path: string, dtype: "uint16" | "uint32", vocabSize: number): Promise<TokenSpool> {
    return new TokenSpool(await Deno.open(path, { read: true, write: true, createNew: true }), dtype, vocabSize);
  }

  /** Tokens appended so far. */
  get length(): number {
    return this.#length;
  }

  /**
   * Adds tokens at the end.
   *
   * @throws {RangeError} when an id is not below the vocabulary's size.
   */
  async append(ids: ArrayLike<number>): Promise<void> {
    for (let i = 0; i < ids.length; i++) {
      const id = ids[i];
      if (!(id < this.#vocabSize)) {
        const place = `token ${this.#length + i}`;
        throw new RangeError(
          `Cannot store ${place}: its id must be below the vocabulary's ${this.#vocabSize}, got ${id}`,
        );
      }
      this.#buffer[this.#held++] = id;
      if (this.#held === BUFFER_TOKENS) await this.flush();
    }
    this.#length += ids.length;
  }

  /** Writes what is held in memory; needed before `read`. */
  async flush(): Promise<void> {
    const bytes = new Uint8Array(this.#buffer.buffer, 0, this.#held * itemSize(this.#dtype));
    await writeAll(this.#file, bytes);
    this.#held = 0;
  }

  /** `count` tokens from token `start` on. */
  async read(start: number, count: number): Promise<Uint16Array<ArrayBuffer> | Uint32Array<ArrayBuffer>> {
    const size = itemSize(this.#dtype);
    const bytes = new Uint8Array(count * size);
    await this.#file.seek(start * size, Deno.SeekMode.Start);
    for (let at = 0; at < bytes.length;) {
      const got = await this.#file.read(bytes.subarray(at));
      if (got === null) throw new RangeError(`Cannot read ${count} tokens at ${start} of a spool of ${this.#length}`);
      at += got;
    }
    return this.#dtype === "uint16" ? new Uint16Array(bytes.buffer) : new Uint32Array(bytes.buffer);
  }

  [Symbol.dispose](): void {
    this.#file.close();
  }
}
