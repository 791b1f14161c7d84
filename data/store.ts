/**
 * A token store, opened: its metadata read and checked, its splits ready to be read (`token_split.ts`).
 */

import { fileURLToPath } from "node:url";
import { ChunkReader } from "./chunks.ts";
import { CorruptDataError } from "./errors.ts";
import { HttpFiles, type HttpOptions } from "./http_files.ts";
import { LocalFiles } from "./local_files.ts";
import { checkedMetadata, readMetadata } from "./read_metadata.ts";
import type { RetryOptions } from "./retry.ts";
import type { ByteSource } from "./source.ts";
import { TokenSplit } from "./token_split.ts";
import type { SplitName, StoreInfo } from "./zarr.ts";
import { checkArray, checkGroup } from "./zarr_check.ts";

/** How a store is read. Retries and time limits matter for URLs only: a folder is tried once. */
export interface StoreOptions extends RetryOptions, HttpOptions {
  /** Bytes of decoded chunks to keep, per split; at least one chunk is kept. Default 32 MiB. */
  readonly cacheBytes?: number;
}

/**
 * Opens a store in a folder or at an `http(s):` URL, and checks its metadata; chunks are checked as they are read.
 *
 * @throws {Deno.errors.NotFound} when there is no store.
 * @throws {CorruptDataError} when its metadata is damaged, of another kind, or beyond the limits.
 */
export async function openStore(pathOrUrl: string | URL, options: StoreOptions = {}): Promise<TokenStore> {
  const source = openSource(pathOrUrl, options);
  const retry = source instanceof LocalFiles ? { tries: 1 } : options;
  const group = await readMetadata(source, "zarr.json", retry);
  if (!group) {
    throw new Deno.errors.NotFound(`Cannot open the store "${source.name}": it has no zarr.json; is it a token store?`);
  }
  const info = checkedMetadata(source, () => checkGroup(new TextDecoder().decode(group)));
  const splits = new Map<SplitName, TokenSplit>();
  for (const split of Object.keys(info.splits) as SplitName[]) {
    const metadata = await readMetadata(source, `${split}/zarr.json`, retry);
    if (!metadata) throw new CorruptDataError({ store: source.name, reason: `${split}/zarr.json does not exist` });
    const layout = checkedMetadata(source, () => checkArray(new TextDecoder().decode(metadata), split, info));
    const { vocabSize } = info.tokenizer;
    const reader = await ChunkReader.open({ source, split, layout, vocabSize, metadata, retry });
    splits.set(split, new TokenSplit(split, layout, reader, options.cacheBytes));
  }
  return new TokenStore(source.name, info, splits);
}

/** Whether a text names a web address rather than a folder. */
export function isHttpUrl(pathOrUrl: string | URL): boolean {
  return /^https?:\/\//i.test(String(pathOrUrl));
}

function openSource(pathOrUrl: string | URL, options: StoreOptions): ByteSource {
  if (isHttpUrl(pathOrUrl)) return new HttpFiles(new URL(pathOrUrl), options);
  const text = String(pathOrUrl);
  return new LocalFiles(text.startsWith("file://") ? fileURLToPath(text) : text);
}

/** An opened store, made by `openStore`. It holds no open file, so it needs no closing. */
export class TokenStore {
  /** The folder or URL, without its query string. */
  readonly name: string;
  /** What the store says about itself. */
  readonly info: StoreInfo;
  readonly #splits: ReadonlyMap<SplitName, TokenSplit>;

  /** @internal */
  constructor(name: string, info: StoreInfo, splits: ReadonlyMap<SplitName, TokenSplit>) {
    this.name = name;
    this.info = info;
    this.#splits = splits;
  }

  /** The splits that the store has. */
  get splits(): SplitName[] {
    return [...this.#splits.keys()];
  }

  /**
   * One split.
   *
   * @throws {RangeError} when the store has no such split.
   */
  split(name: SplitName): TokenSplit {
    const split = this.#splits.get(name);
    if (split) return split;
    throw new RangeError(`Cannot read split "${name}" of store "${this.name}": it has only ${this.splits.join(", ")}`);
  }
}
