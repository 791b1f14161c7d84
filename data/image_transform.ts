/**
 * From stored images to what a model reads: padded, cropped and flipped at random or cut at the centre, normalised, and turned
 * from [height, width, channels] to [channels, height, width]. What is drawn for an image is a pure function of (seed, epoch,
 * its number in the split): not of the batch it comes in, or of the thread.
 * Normalised is (value / 255 - mean) / std, computed in f64 and rounded once, as Hugging Face's image processors define it;
 * padding is black before that, as in torchvision's `RandomCrop(size, padding)`.
 */

import { foldKey } from "./shuffle.ts";
import type { ImageSize } from "./resize.ts";

/** How images become a model's input. */
export interface ImageTransformOptions {
  /** Height and width to cut out, or both in one number. Default: the stored size. */
  readonly crop?: number | ImageSize;
  /** Black pixels around an image before it is cropped. Default 0. */
  readonly padding?: number;
  /** Mirrors every second image, left to right, when `random`. Default false: a mirrored digit is none. */
  readonly flip?: boolean;
  /** Draws where to crop and whether to flip; otherwise images are cut at their centre. Default true for `train`. */
  readonly random?: boolean;
  /** Of each channel, or one for all, of values from 0 to 1. Default 0.5, as ViT's processor has it. */
  readonly mean?: number | readonly number[];
  /** As `mean`. Default 0.5. */
  readonly std?: number | readonly number[];
}

/** ImageNet's means and deviations of red, green and blue, for models that were trained with them. */
export const IMAGENET_NORMALIZATION = { mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] } as const;

/** Options checked against the images, ready to be applied. All of it can be sent to a worker. */
export interface ImageTransform {
  /** Of the stored images. */
  readonly from: ImageSize & { readonly channels: number };
  /** Of what a model reads. */
  readonly to: ImageSize;
  readonly padding: number;
  readonly flip: boolean;
  readonly random: boolean;
  /** f32 [channels, 256]: what each value becomes. */
  readonly tables: Float32Array<ArrayBuffer>;
}

/**
 * Checks options against stored images.
 *
 * @throws {RangeError} when a value is out of range, or a crop is larger than the padded image.
 */
export function makeTransform(
  from: ImageTransform["from"],
  options: ImageTransformOptions & { readonly random: boolean },
): ImageTransform {
  const { crop = from, padding = 0, flip = false, random } = options;
  const { height, width } = typeof crop === "number" ? { height: crop, width: crop } : crop;
  for (const [name, value, least] of [["padding", padding, 0], ["crop", height, 1], ["crop", width, 1]] as const) {
    if (Number.isSafeInteger(value) && value >= least) continue;
    throw new RangeError(`Cannot transform images: ${name} must be a whole number from ${least}, got ${value}`);
  }
  if (height > from.height + 2 * padding || width > from.width + 2 * padding) {
    throw new RangeError(
      `Cannot transform images: a crop must fit into the image and its padding of ${padding}, ` +
        `got ${height} x ${width} of ${from.height} x ${from.width}`,
    );
  }
  const tables = normalizationTables(from.channels, options);
  return { from, to: { height, width }, padding, flip, random, tables };
}

/** f32 [channels, 256]: (value / 255 - mean) / std. */
function normalizationTables(
  channels: number,
  { mean = 0.5, std = 0.5 }: Pick<ImageTransformOptions, "mean" | "std">,
): Float32Array<ArrayBuffer> {
  const means = perChannel("mean", mean, channels);
  const deviations = perChannel("std", std, channels);
  const wrong = deviations.find((value) => value <= 0);
  if (wrong !== undefined) throw new RangeError(`Cannot normalise images: std must be above 0, got ${wrong}`);
  const tables = new Float32Array(channels * 256);
  for (let c = 0; c < channels; c++) {
    for (let value = 0; value < 256; value++) tables[c * 256 + value] = (value / 255 - means[c]) / deviations[c];
  }
  return tables;
}

function perChannel(name: string, given: number | readonly number[], channels: number): readonly number[] {
  const values = typeof given === "number" ? new Array<number>(channels).fill(given) : given;
  if (values.length === channels && values.every(Number.isFinite)) return values;
  throw new RangeError(
    `Cannot normalise images: ${name} must be one number or ${channels}, one a channel, got [${values.join(", ")}]`,
  );
}

/**
 * Normalises pixels that were read as bytes: u8 [n, channels, height, width] to f32 of the same shape.
 *
 * @throws {RangeError} when the options do not fit the channels.
 */
export function normalizePixels(
  pixels: Uint8Array,
  shape: { readonly channels: number; readonly height: number; readonly width: number },
  options: Pick<ImageTransformOptions, "mean" | "std"> = {},
): Float32Array<ArrayBuffer> {
  const tables = normalizationTables(shape.channels, options);
  const plane = shape.height * shape.width;
  const out = new Float32Array(pixels.length);
  for (let start = 0, c = 0; start < pixels.length; start += plane, c = (c + 1) % shape.channels) {
    for (let i = start; i < start + plane; i++) out[i] = tables[c * 256 + pixels[i]];
  }
  return out;
}

/** Where an image is cut, in pixels of the stored image (negative in the padding), and whether it is mirrored. */
export interface Placement {
  readonly top: number;
  readonly left: number;
  readonly flipped: boolean;
}

/** The placement of image `row` in an epoch. An odd pixel at the centre is left at the end. */
export function placeImage(transform: ImageTransform, seed: number, epoch: number, row: number): Placement {
  const { from, to, padding, flip, random } = transform;
  const down = from.height + 2 * padding - to.height;
  const across = from.width + 2 * padding - to.width;
  if (!random) return { top: (down >> 1) - padding, left: (across >> 1) - padding, flipped: false };
  const key = foldKey(seed, epoch, row, 7);
  const draw = (place: number, count: number): number => Math.floor(foldKey(key, place) / 2 ** 32 * count);
  return {
    top: draw(0, down + 1) - padding,
    left: draw(1, across + 1) - padding,
    flipped: flip && draw(2, 2) === 1,
  };
}

/** Writes u8 [height, width, channels] as [channels, height, width] into `out`: bytes as they are, or normalised. */
export function applyTransform(
  { from, to, tables }: ImageTransform,
  { top, left, flipped }: Placement,
  image: Uint8Array,
  out: Uint8Array | Float32Array,
): void {
  const { channels } = from;
  // columns of the output that lie in the image; the others are padding
  const first = Math.max(0, -left);
  const last = Math.min(to.width, from.width - left);
  const [start, end] = flipped ? [to.width - last, to.width - first] : [first, last];
  const step = flipped ? -channels : channels;
  for (let c = 0; c < channels; c++) {
    const table = tables.subarray(c * 256, (c + 1) * 256);
    for (let y = 0; y < to.height; y++) {
      const line = out.subarray((c * to.height + y) * to.width, (c * to.height + y + 1) * to.width);
      const row = y + top;
      const isInside = row >= 0 && row < from.height && start < end;
      if (!isInside || end - start < to.width) line.fill(line instanceof Uint8Array ? 0 : table[0]);
      if (!isInside) continue;
      const column = left + (flipped ? to.width - 1 - start : start);
      const run = { image, at: (row * from.width + column) * channels + c, step };
      if (line instanceof Uint8Array) copyRun(run, line.subarray(start, end));
      else normalizeRun(run, table, line.subarray(start, end));
    }
  }
}

/** Bytes of one channel along a row, from `at` on. */
interface Run {
  readonly image: Uint8Array;
  readonly at: number;
  readonly step: number;
}

function copyRun({ image, at, step }: Run, out: Uint8Array): void {
  for (let i = 0, from = at; i < out.length; i++, from += step) out[i] = image[from];
}

function normalizeRun({ image, at, step }: Run, table: Float32Array, out: Float32Array): void {
  for (let i = 0, from = at; i < out.length; i++, from += step) out[i] = table[image[from]];
}
