/**
 * Where a store's bytes come from: a folder or a web server. A source gives exactly the bytes that were asked for or throws
 * a `ReadFault`; never fewer, never zeros. It knows files and ranges, not chunks: `store.ts` adds shard and chunk.
 */

/** Part of a file. */
export type ByteRange = { readonly offset: number; readonly length: number } | { readonly suffixLength: number };

/** Files by key: `zarr.json`, `train/zarr.json`, `train/c/0/0`; of images `train/labels/c/0`, `train/images/c/0/0/0/0`. */
export interface ByteSource {
  /** The folder or URL for messages, without a query string. */
  readonly name: string;
  /** A whole small file, or undefined where there is none. */
  readFile(key: string, maxBytes: number): Promise<Uint8Array | undefined>;
  /** Part of a file; `size` is what the file must measure, where that is known. */
  readRange(key: string, range: ByteRange, size?: number): Promise<Uint8Array>;
}

/** Why a read failed, and whether trying again may help. */
export class ReadFault extends Error {
  override readonly name = "ReadFault";
  /** Whether the same request may succeed later. */
  readonly retryable: boolean;
  /** How long the server asked to wait. */
  readonly retryAfterMs: number;

  constructor(reason: string, { retryable = false, retryAfterMs = 0, cause }: {
    retryable?: boolean;
    retryAfterMs?: number;
    cause?: unknown;
  } = {}) {
    super(reason, { cause });
    this.retryable = retryable;
    this.retryAfterMs = retryAfterMs;
  }
}

/** Keys that a store can have; anything else never becomes a path or a URL. */
const KEY = new RegExp(
  [
    "((train|validation)/((images|labels)/)?)?zarr\\.json",
    "(train|validation)/(c/N/0|images/c/N/0/0/0|labels/c/N)",
  ].map((pattern) => `^${pattern}$`).join("|").replaceAll("N", "(0|[1-9][0-9]{0,9})"),
);

/** The key itself, if it is one. */
export function checkKey(key: string): string {
  if (KEY.test(key)) return key;
  throw new ReadFault(`"${key.slice(0, 80)}" is not a key that a store can have`);
}

/**
 * The first and last byte of a range of a file of `size` bytes.
 *
 * @throws {ReadFault} when the range leaves the file.
 */
export function resolveRange(range: ByteRange, size: number): { offset: number; length: number } {
  const length = "length" in range ? range.length : range.suffixLength;
  const offset = "length" in range ? range.offset : size - length;
  if (offset >= 0 && length >= 0 && offset + length <= size) return { offset, length };
  throw new ReadFault(
    `bytes ${offset} to ${offset + length} lie outside the file's ${size}; it is cut off, or its index is wrong`,
  );
}
