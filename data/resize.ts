/**
 * Images of one size from images of any: a bilinear filter whose support grows with the reduction, so that shrinking averages
 * instead of skipping (a plain bilinear of two taps does not match Pillow, torchvision or Hugging Face's processors).
 * Bit for bit what Pillow's `resize(..., BILINEAR)` gives: columns first, then rows, each pass rounded to 8 bits, weights
 * in fixed point with 22 fractional bits. Source: Pillow's manual, "Filters"; the convolution as in libImaging/Resample.c.
 */

import type { Image } from "./images.ts";

/** How an image of another shape becomes one of the store's. */
export type Fit =
  /** Stretched to the size, as Hugging Face's ViT processor does. */
  | "stretch"
  /** Scaled to cover the size, and cut at its centre. */
  | "crop"
  /** Scaled to fit into the size, centred on black. */
  | "pad";

/** The height and width of stored images, in pixels. */
export interface ImageSize {
  readonly height: number;
  readonly width: number;
}

const FRACTION_BITS = 22;

/**
 * An image made to have exactly a size; the very image when it has it.
 *
 * @throws {RangeError} when a side of the size is no whole number from 1.
 */
export function fitImage(image: Image, size: ImageSize, fit: Fit = "stretch"): Image {
  const { height, width } = size;
  if (fit === "stretch") return resizeImage(image, size);
  const ratios = [height / image.height, width / image.width];
  const scale = fit === "crop" ? Math.max(...ratios) : Math.min(...ratios);
  const side = (length: number, wanted: number): number => {
    const scaled = Math.max(1, Math.round(length * scale));
    return fit === "crop" ? Math.max(wanted, scaled) : Math.min(wanted, scaled);
  };
  const scaled = resizeImage(image, { height: side(image.height, height), width: side(image.width, width) });
  return placeCentred(scaled, size);
}

/**
 * An image resized to a size, both sides on their own.
 *
 * @throws {RangeError} when a side of the size is no whole number from 1.
 */
export function resizeImage(image: Image, { height, width }: ImageSize): Image {
  for (const side of [height, width]) {
    if (Number.isSafeInteger(side) && side >= 1) continue;
    throw new RangeError(`Cannot resize an image: its sides must be whole numbers from 1, got ${height} x ${width}`);
  }
  const { channels } = image;
  let { pixels } = image;
  if (width !== image.width) {
    const taps = makeTaps(image.width, width);
    const out = new Uint8Array(image.height * width * channels);
    // every row is a run of [width, channels]
    for (let row = 0; row < image.height; row++) {
      const from = pixels.subarray(row * image.width * channels, (row + 1) * image.width * channels);
      filter(from, out.subarray(row * width * channels, (row + 1) * width * channels), taps, channels);
    }
    pixels = out;
  }
  if (height !== image.height) {
    const out = new Uint8Array(height * width * channels);
    filter(pixels, out, makeTaps(image.height, height), width * channels);
    pixels = out;
  }
  return { pixels, height, width, channels };
}

/** For each place of the output: where its first input lies, and the weights from there on. */
interface Taps {
  readonly starts: Int32Array;
  readonly counts: Int32Array;
  /** [places, reach], in fixed point. */
  readonly weights: Int32Array;
  readonly reach: number;
}

/** A triangle around each output's centre; its half width is one input pixel, or one output pixel where that is wider. */
function makeTaps(from: number, to: number): Taps {
  const scale = from / to;
  const support = Math.max(1, scale);
  const reach = 2 * Math.ceil(support) + 1;
  const taps = {
    starts: new Int32Array(to),
    counts: new Int32Array(to),
    weights: new Int32Array(to * reach),
    reach,
  };
  for (let place = 0; place < to; place++) {
    const center = (place + 0.5) * scale;
    const start = Math.max(0, Math.trunc(center - support + 0.5));
    const count = Math.min(from, Math.trunc(center + support + 0.5)) - start;
    const triangle = Array.from(
      { length: count },
      (_, i) => Math.max(0, 1 - Math.abs((start + i - center + 0.5) * (1 / support))),
    );
    const sum = triangle.reduce((total, weight) => total + weight, 0);
    taps.starts[place] = start;
    taps.counts[place] = count;
    for (let i = 0; i < count; i++) {
      taps.weights[place * reach + i] = Math.trunc(0.5 + triangle[i] / sum * 2 ** FRACTION_BITS);
    }
  }
  return taps;
}

/** [n, lanes] to [places, lanes]: each output is a weighted sum of neighbouring inputs, lane by lane. */
function filter(from: Uint8Array, to: Uint8Array, { starts, counts, weights, reach }: Taps, lanes: number): void {
  const half = 1 << (FRACTION_BITS - 1);
  for (let place = 0; place < starts.length; place++) {
    const count = counts[place];
    for (let lane = 0; lane < lanes; lane++) {
      let sum = half;
      let at = starts[place] * lanes + lane;
      for (let i = 0; i < count; i++) {
        sum += from[at] * weights[place * reach + i];
        at += lanes;
      }
      to[place * lanes + lane] = Math.min(255, sum >> FRACTION_BITS); // the sum stays below 2^31: weights sum to 2^22
    }
  }
}

/** Cuts what is too large and surrounds what is too small, both at the centre; an odd pixel is left at the end. */
function placeCentred(image: Image, { height, width }: ImageSize): Image {
  if (image.height === height && image.width === width) return image;
  const { channels } = image;
  const pixels = new Uint8Array(height * width * channels);
  const offset = (have: number, want: number): number => Math.trunc((have - want) / 2);
  const [top, left] = [offset(image.height, height), offset(image.width, width)];
  const rows = Math.min(height, image.height);
  const run = Math.min(width, image.width) * channels;
  for (let row = 0; row < rows; row++) {
    const from = ((row + Math.max(0, top)) * image.width + Math.max(0, left)) * channels;
    const to = ((row + Math.max(0, -top)) * width + Math.max(0, -left)) * channels;
    pixels.set(image.pixels.subarray(from, from + run), to);
  }
  return { pixels, height, width, channels };
}
