/** One split of an image store while it is written: images, labels and counts, row by row. */

import { ArrayWriter } from "./image_shards.ts";
import { imageGroupMetadata, type ImageSplitInfo } from "./image_zarr.ts";
import type { Image } from "./images.ts";
import type { ImageShape } from "./image_source.ts";
import { writeDurably } from "./shards.ts";
import type { SplitName } from "./zarr.ts";

/** What a split's writer is told. */
export interface SplitWriterOptions {
  /** The store's folder, which exists. */
  readonly folder: string;
  readonly split: SplitName;
  readonly shape: ImageShape;
  /** How many classes there are. */
  readonly classes: number;
  /** As many rows as there can be at most: no chunk is larger, so that a small split is not padded to many times its size. */
  readonly mostRows: number;
  /** Images of an inner chunk, the unit of reading. Default: what 1 MiB holds, at most 1024. */
  readonly rowsPerChunk?: number;
  /** Inner chunks of a shard, the unit of storage. Default: what 64 MiB holds, at most 4096. */
  readonly chunksPerShard?: number;
}

/** Labels of an inner chunk: 256 KiB. */
const LABELS_PER_CHUNK = 65_536;

/** Writes one split. Dispose it in any case. */
export class ImageSplitWriter implements Disposable {
  readonly #options: SplitWriterOptions;
  readonly #images: ArrayWriter;
  readonly #labels: ArrayWriter;
  readonly #perClass: number[];

  constructor(options: SplitWriterOptions) {
    const { folder, split, shape: { size: { height, width }, channels }, classes, mostRows } = options;
    const clamp = (value: number, most: number): number => Math.max(1, Math.min(most, Math.floor(value)));
    const bytes = height * width * channels;
    const rowsPerChunk = Math.min(mostRows, options.rowsPerChunk ?? clamp(2 ** 20 / bytes, 1024));
    const chunksPerShard = options.chunksPerShard ?? clamp(2 ** 26 / (rowsPerChunk * bytes), 4096);
    const labelsPerChunk = Math.min(mostRows, LABELS_PER_CHUNK);
    this.#options = options;
    this.#images = new ArrayWriter({
      ...{ folder, key: `${split}/images`, rowShape: [height, width, channels], rowsPerChunk },
      chunksPerShard: Math.min(chunksPerShard, Math.ceil(mostRows / rowsPerChunk)),
    });
    this.#labels = new ArrayWriter({
      ...{ folder, key: `${split}/labels`, rowShape: [], rowsPerChunk: labelsPerChunk },
      chunksPerShard: Math.min(256, Math.ceil(mostRows / labelsPerChunk)),
    });
    this.#perClass = new Array(classes).fill(0);
  }

  /** Images of each class so far. */
  get perClass(): readonly number[] {
    return this.#perClass;
  }

  /** Adds an image. */
  async append({ pixels }: Image, label: number): Promise<void> {
    const bytes = new Uint8Array(4);
    new DataView(bytes.buffer).setInt32(0, label, true);
    await this.#images.append(pixels);
    await this.#labels.append(bytes);
    this.#perClass[label]++;
  }

  /** Writes what is left, and the metadata; undefined, and nothing, for a split without images. */
  async finish(): Promise<ImageSplitInfo | undefined> {
    const { rows } = this.#images;
    if (rows === 0) return undefined;
    await this.#images.finish();
    await this.#labels.finish();
    await writeDurably(`${this.#options.folder}/${this.#options.split}/zarr.json`, imageGroupMetadata());
    return { rows, perClass: this.#perClass };
  }

  [Symbol.dispose](): void {
    this.#images[Symbol.dispose]();
    this.#labels[Symbol.dispose]();
  }
}
