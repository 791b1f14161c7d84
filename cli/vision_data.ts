/**
 * From `--data` to batches of labelled images: an image store, its training split in the order of every epoch, varied as
 * the options say, and its validation split as it is. Stores are made by `prepare --images`; nothing is decoded here.
 */
import {
  ImageBatches,
  type ImageBatchesOptions,
  type ImageStore,
  type ImageStoreInfo,
  numImageBatches,
  openImageStore,
} from "../data/mod.ts";
import type { ImageBatch } from "../data/mod.ts";
import { isHttpUrl, storeKind } from "../data/mod.ts";
import { exists, type FileFolder } from "./files.ts";
import { parseJson } from "./checkpoint.ts";
import type { SubjectRows } from "./finetune_subject.ts";
import type { ImageOptions } from "./vision_options.ts";

/** A batch of images. */
export interface ImageRows extends SubjectRows {
  /** f32 [batch, channels, height, width], normalised */
  readonly pixels: Float32Array<ArrayBuffer>;
  /** [batch] */
  readonly labels: Int32Array<ArrayBuffer>;
  /** [batch]: which image of the split each one is. */
  readonly rows: Int32Array<ArrayBuffer>;
  readonly shape: readonly [batch: number, channels: number, height: number, width: number];
}

/** What is taken from each channel's values from 0 to 1, and what they are divided by. */
export interface Normalization {
  readonly mean: number | readonly number[];
  readonly std: number | readonly number[];
}

/** How images become batches. */
export interface ImageBatching extends ImageOptions, Normalization {
  readonly batch: number;
  readonly seed: number;
  /** Tokens that a model makes of an image. */
  readonly tokens: number;
}

/** A store, and where it was opened: of a URL with its query string, which the store's name has not. */
export interface OpenedImages {
  readonly path: string;
  readonly store: ImageStore;
}

/** Bytes of a split that are read on this thread: a worker would take longer to start. */
const SMALL_SPLIT = 2 ** 22;

/** What normalises images in Hugging Face's folders. */
export const PREPROCESSOR_FILE = "preprocessor_config.json";

/**
 * The store of a run.
 *
 * @throws RangeError for no path or several, or what is no image store
 */
export async function openImages(paths: readonly string[], verb: string): Promise<OpenedImages> {
  if (paths.length !== 1) {
    const got = paths.length === 0 ? "none" : String(paths.length);
    throw new RangeError(`Cannot ${verb} images: give one store of images, --data STORE: got ${got}`);
  }
  const [path] = paths;
  if (!isHttpUrl(path) && !await exists(path)) {
    throw new RangeError(`Cannot ${verb} the images of ${path}: there is no such folder`);
  }
  if (await storeKind(path) === "tokens") {
    throw new RangeError(`Cannot ${verb} the images of ${path}: it is a store of tokens`);
  }
  if (isHttpUrl(path) || await exists(`${path}/zarr.json`)) return { path, store: await openImageStore(path) };
  throw new RangeError(
    `Cannot ${verb} the images of ${path}: it is no store of images; ` +
      `deno task prepare --images ${path} --out images.zarr makes one of folders of classes, or of IDX files`,
  );
}

/** A split that is there. @throws RangeError where it is not */
export function requireSplit(store: ImageStore, name: "train" | "validation") {
  if (store.splits.includes(name)) return store.split(name);
  const hint = name === "validation" ? "; prepare holds images out with --hold-out, or takes --validation-images" : "";
  throw new RangeError(`Cannot evaluate on the images of ${store.name}: it has no ${name} split${hint}`);
}

/** Bytes of a split's pixels. */
function pixelBytes({ info }: ImageStore, split: "train" | "validation"): number {
  return (info.splits[split]?.rows ?? 0) * info.height * info.width * info.channels;
}

function optionsOf(
  store: ImageStore,
  split: "train" | "validation",
  { batch, crop, mean, std }: Pick<ImageBatching, "batch" | "crop" | "mean" | "std">,
): ImageBatchesOptions {
  const readers = pixelBytes(store, split) <= SMALL_SPLIT ? 0 : 1;
  return { split, batch, crop, mean, std, readers, prefetch: 4 };
}

function rowsOf(
  { pixels, labels, rows, size, channels, height, width }: ImageBatch,
  tokens: number,
): ImageRows {
  const shape = [size, channels, height, width] as const;
  return { pixels: pixels as Float32Array<ArrayBuffer>, labels, rows, shape, batch: size, seq: tokens, index: 0 };
}

/**
 * Batches to train on from any place on. Where one epoch follows the other, the same reader goes on. Dispose it: it may
 * have a thread.
 */
export class TrainingImages implements Disposable {
  #stream: ImageBatches | undefined;

  constructor(readonly images: OpenedImages, readonly batching: ImageBatching) {}

  /** Batches of an epoch. */
  get batchesAnEpoch(): number {
    return numImageBatches(this.images.store.split("train").rows, this.batching.batch);
  }

  /** Those of an epoch from its batch `first` on, in order. */
  async *epoch(epoch: number, first: number): AsyncGenerator<ImageRows, void> {
    const { batchesAnEpoch, batching: { tokens } } = this;
    for (let place = first; place < batchesAnEpoch; place++) {
      yield rowsOf(await this.#at(epoch * batchesAnEpoch + place).next(), tokens);
    }
  }

  #at(index: number): ImageBatches {
    if (this.#stream?.index === index) return this.#stream;
    this.#stream?.close();
    const { seed, cropPadding: padding, flip } = this.batching;
    const { path, store } = this.images;
    const options = optionsOf(store, "train", this.batching);
    return this.#stream = new ImageBatches(path, { ...options, seed, padding, flip, start: { index } });
  }

  [Symbol.dispose](): void {
    this.#stream?.close();
    this.#stream = undefined;
  }
}

/** Every image of a split once, in order and as it is, cut at its centre. */
export async function* imagesInOrder(
  { path, store }: OpenedImages,
  split: "train" | "validation",
  batching: Pick<ImageBatching, "batch" | "crop" | "mean" | "std" | "tokens">,
): AsyncGenerator<ImageRows, void> {
  const options = optionsOf(store, split, batching);
  using batches = new ImageBatches(path, { ...options, shuffle: false, random: false });
  for (let left = numImageBatches(store.split(split).rows, batching.batch); left > 0; left--) {
    yield rowsOf(await batches.next(), batching.tokens);
  }
}

/** What a folder's `preprocessor_config.json` says of normalising, or 0.5 and 0.5, as ViT's processor has it. */
export async function readNormalization(folder: FileFolder): Promise<Normalization> {
  const { json, refuse } = await readPreprocessor(folder);
  if (json.do_rescale === false) throw refuse("do_rescale");
  const factor = json.rescale_factor ?? 1 / 255;
  if (typeof factor !== "number" || Math.abs(factor * 255 - 1) > 1e-3) throw refuse("rescale_factor");
  if (json.do_normalize === false) return { mean: 0, std: 1 };
  const values = (key: string) => {
    const value = json[key] ?? 0.5;
    const isNumbers = Array.isArray(value) && value.every((one) => typeof one === "number");
    if (typeof value !== "number" && !isNumbers) throw refuse(key);
    return value as number | readonly number[];
  };
  return { mean: values("image_mean"), std: values("image_std") };
}

/**
 * Side of the square that a folder's `preprocessor_config.json` cuts out at the centre of images of this size; undefined
 * where it cuts nothing, or only what it has resized before.
 */
export async function readCrop(
  folder: FileFolder,
  { height, width }: Pick<ImageStoreInfo, "height" | "width">,
): Promise<number | undefined> {
  const { json, refuse } = await readPreprocessor(folder);
  if (json.do_center_crop !== true) return undefined;
  const isResized = json.do_resize !== false && String(sidesOf(json.size)) !== String([height, width]);
  if (isResized) return undefined;
  const [cropHeight, cropWidth] = sidesOf(json.crop_size);
  if (cropHeight !== cropWidth || typeof cropHeight !== "number") throw refuse("crop_size");
  return cropHeight === height && cropWidth === width ? undefined : cropHeight;
}

/** Height and width, which older files give in one number. */
function sidesOf(size: unknown): readonly [height: unknown, width: unknown] {
  if (typeof size !== "object" || size === null) return [size, size];
  const { height, width } = size as Readonly<Record<string, unknown>>;
  return [height, width];
}

/** A folder's `preprocessor_config.json`, empty where there is none, and what refuses one of its values. */
async function readPreprocessor(folder: FileFolder): Promise<{
  readonly json: Readonly<Record<string, unknown>>;
  readonly refuse: (key: string) => SyntaxError;
}> {
  const what = `${folder.name}/${PREPROCESSOR_FILE}`;
  const json = await folder.has(PREPROCESSOR_FILE) ? parseJson(await folder.text(PREPROCESSOR_FILE), what) ?? {} : {};
  const refuse = (key: string) =>
    new SyntaxError(`Cannot use ${what}: ${key} = ${JSON.stringify(json[key])} is not implemented`);
  return { json, refuse };
}

/**
 * A `preprocessor_config.json` by which Hugging Face makes what the model was trained on. With a crop it is for
 * DeiTImageProcessor: ViTImageProcessor ignores `do_center_crop` in some versions.
 */
export function preprocessorFile(
  { mean, std }: Normalization,
  { height, width, channels, crop }: {
    readonly height: number;
    readonly width: number;
    readonly channels: number;
    readonly crop?: number;
  },
): Uint8Array<ArrayBuffer> {
  const isCut = crop !== undefined && (crop !== height || crop !== width);
  const each = (value: number | readonly number[]) => typeof value === "number" ? Array(channels).fill(value) : value;
  const json = {
    image_processor_type: isCut ? "DeiTImageProcessor" : "ViTImageProcessor",
    ...{ do_resize: true, size: { height, width }, resample: 2 }, // bilinear
    ...isCut ? { do_center_crop: true, crop_size: { height: crop, width: crop } } : {},
    ...{ do_rescale: true, rescale_factor: 1 / 255 },
    ...{ do_normalize: true, image_mean: each(mean), image_std: each(std) },
  };
  return new TextEncoder().encode(JSON.stringify(json, null, 2) + "\n");
}
