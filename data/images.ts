/**
 * PNG, JPEG and WebP files as rows of 8-bit pixels, through jSquash (`npm:@jsquash/png|jpeg|webp`: the Rust png crate, MozJPEG
 * and libwebp as WebAssembly of 0.5 MB in all, no native code, one family for the three formats), in the one file that imports it.
 * What every kind of image becomes follows Pillow's `convert("RGB")` and `convert("L")`: palettes are looked up, grey is
 * repeated, alpha is dropped (the colour under it stays, nothing is composited). Departures: of 16-bit samples the high byte
 * is taken, for grey too, which Pillow would clip to white; EXIF's orientation of a JPEG is applied, as
 * `ImageOps.exif_transpose` does; whatever makes the JPEG decoder warn is broken here, as a file that is cut off is there, save
 * for bytes too many before the first pixel or behind the last.
 */

import { broken, checkPngChunks, type ImageFormat, readImageHeader, trimJpeg } from "./image_header.ts";

/** Channels of stored images: grey, or red, green and blue. */
export type ImageChannels = 1 | 3;

/** A decoded image. */
export interface Image {
  /** u8 [height, width, channels], row-major. */
  readonly pixels: Uint8Array<ArrayBuffer>;
  readonly height: number;
  readonly width: number;
  readonly channels: ImageChannels;
}

/** RGBA, not premultiplied, as all three decoders give it. */
interface Rgba {
  readonly data: ArrayLike<number>;
  readonly width: number;
  readonly height: number;
}

type Decoder = (bytes: Uint8Array<ArrayBuffer>) => Promise<Rgba>;

const decoders = new Map<ImageFormat, Promise<Decoder>>();
/** One decoding at a time: what a decoder says is told of the image at hand. */
let turn: Promise<unknown> = Promise.resolve();

/**
 * Decodes an image, whatever its name says it is.
 *
 * @param file names it in messages.
 * @param channels 1 gives grey, Pillow's "L": (19595 R + 38470 G + 7471 B + 32768) / 65536.
 * @throws {SyntaxError} when it cannot be decoded whole.
 */
export async function decodeImage(
  file: string,
  bytes: Uint8Array<ArrayBuffer>,
  channels: ImageChannels = 3,
): Promise<Image> {
  const { format, width, height } = readImageHeader(file, bytes);
  if (format === "png") checkPngChunks(file, bytes);
  const decoder = decoders.get(format) ?? LOADERS[format]();
  decoders.set(format, decoder);
  const decode = await decoder;
  const decoded = turn.then(() => decode(bytes));
  turn = decoded.catch(() => {});
  let rgba: Rgba;
  try {
    rgba = await decoded;
  } catch (error) {
    throw broken(file, `it is not sound ${format.toUpperCase()} (${reasonOf(error)})`);
  }
  const isSize = rgba.width === width && rgba.height === height || rgba.width === height && rgba.height === width;
  if (!isSize || rgba.data.length !== 4 * width * height) {
    throw broken(file, `its header says ${width} x ${height} pixels, got ${rgba.width} x ${rgba.height}`);
  }
  return { pixels: dropAlpha(rgba, channels), height: rgba.height, width: rgba.width, channels };
}

/**
 * Stray bytes between the last pixel of a JPEG and its end. The decoder tells only its first warning; none can follow this
 * one, but one of stray bytes between scans might hide another.
 */
const BYTES_BEHIND = /^Corrupt JPEG data: \d+ extraneous bytes before marker 0xd9$/;

/** Each is loaded when the first image of its kind comes. */
const LOADERS: Readonly<Record<ImageFormat, () => Promise<Decoder>>> = {
  async png() {
    const { decode } = await import("npm:@jsquash/png@3.1.1/decode.js");
    return (bytes) => decode(exactBuffer(bytes));
  },
  async jpeg() {
    const { default: decode, init } = await import("npm:@jsquash/jpeg@1.6.0/decode.js");
    const said: string[] = [];
    await init({ print: () => {}, printErr: (text: string) => void said.push(text) });
    return async (bytes) => {
      said.length = 0;
      try {
        const image = await decode(exactBuffer(trimJpeg(bytes)), { preserveOrientation: true });
        if (said.length === 0 || BYTES_BEHIND.test(said[0])) return image;
      } catch (error) {
        if (said.length === 0) throw error;
      }
      throw new Error(said[0]);
    };
  },
  async webp() {
    const { default: decode, init } = await import("npm:@jsquash/webp@1.5.0/decode.js");
    await init({ print: () => {}, printErr: () => {} });
    return (bytes) => decode(exactBuffer(bytes));
  },
};

/** The decoders take whole buffers. */
function exactBuffer(bytes: Uint8Array<ArrayBuffer>): ArrayBuffer {
  return bytes.length === bytes.buffer.byteLength ? bytes.buffer : bytes.slice().buffer;
}

/** The PNG decoder throws only "unwrap_throw failed". */
function reasonOf(error: unknown): string {
  const message = error instanceof Error ? error.message : "";
  return message === "" || message.includes("unwrap_throw") ? "the data is damaged or cut off" : message;
}

function dropAlpha({ data, width, height }: Rgba, channels: ImageChannels): Uint8Array<ArrayBuffer> {
  const pixels = new Uint8Array(width * height * channels);
  if (channels === 3) {
    for (let from = 0, to = 0; to < pixels.length; from += 4, to += 3) {
      pixels[to] = data[from];
      pixels[to + 1] = data[from + 1];
      pixels[to + 2] = data[from + 2];
    }
    return pixels;
  }
  for (let from = 0, to = 0; to < pixels.length; from += 4, to++) {
    pixels[to] = (19_595 * data[from] + 38_470 * data[from + 1] + 7_471 * data[from + 2] + 0x8000) >>> 16;
  }
  return pixels;
}
