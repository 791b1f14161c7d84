/**
 * A store of labelled images, opened: its metadata read and checked, its splits ready to be read (`image_split.ts`). Images
 * stay on disk, or on a web server, until they are asked for. `prepareImages` makes one.
 */

import { fileURLToPath } from "node:url";
import { CorruptDataError } from "./errors.ts";
import { HttpFiles } from "./http_files.ts";
import { ImageSplit } from "./image_split.ts";
import {
  type ArrayLayout,
  checkImageArray,
  checkImageGroup,
  type ImageArray,
  type ImageStoreInfo,
} from "./image_zarr.ts";
import { LocalFiles } from "./local_files.ts";
import { checkedMetadata, readMetadata } from "./read_metadata.ts";
import type { RetryOptions } from "./retry.ts";
import type { ByteSource } from "./source.ts";
import { isHttpUrl, type StoreOptions } from "./store.ts";
import type { SplitName } from "./zarr.ts";

/**
 * Opens an image store in a folder or at an `http(s):` URL, and checks its metadata; chunks are checked as they are read.
 *
 * @throws {Deno.errors.NotFound} when there is no store.
 * @throws {CorruptDataError} when its metadata is damaged, of another kind, or beyond the limits.
 */
export async function openImageStore(pathOrUrl: string | URL, options: StoreOptions = {}): Promise<ImageStore> {
  const files = openFiles(pathOrUrl, options);
  const { source, retry } = files;
  const group = await readText(files, "zarr.json");
  if (group === undefined) {
    throw new Deno.errors.NotFound(
      `Cannot open the store "${source.name}": it has no zarr.json; is it an image store?`,
    );
  }
  const info = checkedMetadata(source, () => checkImageGroup(group));
  const splits = new Map<SplitName, ImageSplit>();
  for (const name of Object.keys(info.splits) as SplitName[]) {
    const images = await openArray(files, info, name, "images");
    const labels = await openArray(files, info, name, "labels");
    const { cacheBytes } = options;
    splits.set(name, new ImageSplit({ name, source, images, labels, classes: info.classes.length, retry, cacheBytes }));
  }
  return new ImageStore(source.name, info, splits);
}

/** What kind of store lies in a folder or at a URL; undefined when it has no `zarr.json` or is of no known kind. */
export async function storeKind(
  pathOrUrl: string | URL,
  options: StoreOptions = {},
): Promise<"tokens" | "images" | undefined> {
  try {
    const text = await readText(openFiles(pathOrUrl, options), "zarr.json");
    const format = text === undefined ? undefined : JSON.parse(text)?.attributes?.format;
    return format === "lowrank-tokens" ? "tokens" : format === "lowrank-images" ? "images" : undefined;
  } catch (error) {
    const isOther = error instanceof SyntaxError || error instanceof Deno.errors.NotFound;
    if (isOther || error instanceof CorruptDataError) return undefined;
    throw error;
  }
}

interface Files {
  readonly source: ByteSource;
  readonly retry: RetryOptions;
}

function openFiles(pathOrUrl: string | URL, options: StoreOptions): Files {
  if (isHttpUrl(pathOrUrl)) return { source: new HttpFiles(new URL(pathOrUrl), options), retry: options };
  const text = String(pathOrUrl);
  // a folder is tried once: what is wrong there stays wrong
  return { source: new LocalFiles(text.startsWith("file://") ? fileURLToPath(text) : text), retry: { tries: 1 } };
}

async function openArray(files: Files, info: ImageStoreInfo, split: SplitName, name: ImageArray): Promise<ArrayLayout> {
  const key = `${split}/${name}` as const;
  const text = await readText(files, `${key}/zarr.json`);
  if (text === undefined) {
    throw new CorruptDataError({ store: files.source.name, reason: `${key}/zarr.json does not exist` });
  }
  const rowShape = name === "labels" ? [] : [info.height, info.width, info.channels];
  const { rows } = info.splits[split]!;
  return checkedMetadata(files.source, () => checkImageArray(text, { key, rows, rowShape }));
}

async function readText({ source, retry }: Files, key: string): Promise<string | undefined> {
  const bytes = await readMetadata(source, key, retry);
  return bytes && new TextDecoder().decode(bytes);
}

/** An opened store, made by `openImageStore`. It holds no open file, so it needs no closing. */
export class ImageStore {
  /** The folder or URL, without its query string. */
  readonly name: string;
  /** What the store says about itself: size, channels, classes. */
  readonly info: ImageStoreInfo;
  readonly #splits: ReadonlyMap<SplitName, ImageSplit>;

  /** @internal */
  constructor(name: string, info: ImageStoreInfo, splits: ReadonlyMap<SplitName, ImageSplit>) {
    this.name = name;
    this.info = info;
    this.#splits = splits;
  }

  /** The splits that the store has. */
  get splits(): SplitName[] {
    return [...this.#splits.keys()];
  }

  /** SHA-256 of every split's images and labels, joined: equal for equal contents, whatever made them. */
  get hash(): string {
    return [...this.#splits.values()].map(({ name, sha256 }) => `${name} ${sha256.images} ${sha256.labels}`).join("; ");
  }

  /**
   * One split.
   *
   * @throws {RangeError} when the store has no such split.
   */
  split(name: SplitName): ImageSplit {
    const split = this.#splits.get(name);
    if (split) return split;
    throw new RangeError(`Cannot read split "${name}" of store "${this.name}": it has only ${this.splits.join(", ")}`);
  }

  /**
   * Refuses a head that could not say every class, or that has more labels than there are classes.
   *
   * @throws {RangeError} when the numbers differ.
   */
  requireLabels(numLabels: number): void {
    const { classes } = this.info;
    if (classes.length === numLabels) return;
    const shown = classes.slice(0, 8).join(", ") + (classes.length > 8 ? ", ..." : "");
    throw new RangeError(
      `Cannot train a head of ${numLabels} labels on store "${this.name}": it has ${classes.length} classes (${shown})`,
    );
  }
}
