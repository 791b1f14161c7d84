/**
 * What an image file says of itself in its first bytes, read before a decoder allocates anything: format, size, and what
 * the decoder does not take; and the checksums of a PNG, which the decoder does not compare. It reads no pixel.
 * Sources: PNG (Third Edition) 5.3 and 11.2.1; JPEG, ITU T.81 B.2; WebP, RFC 9649 section 2.
 */

import { crc32 } from "node:zlib";

/** The formats that can be decoded. */
export type ImageFormat = "png" | "jpeg" | "webp";

/** The start of a file. */
export interface ImageHeader {
  readonly format: ImageFormat;
  /** Pixels, before any rotation. */
  readonly width: number;
  readonly height: number;
}

/** Pillow's limit: more is more likely a bomb than a picture. RGBA of it takes 341 MiB. */
const MAX_PIXELS = 89_478_485;

/**
 * Reads a header.
 *
 * @throws {SyntaxError} when the bytes are none of the formats, are cut off, or tell of something that cannot be decoded: CMYK or
 * 12-bit JPEG, animated WebP, more than 89 million pixels.
 */
export function readImageHeader(file: string, bytes: Uint8Array): ImageHeader {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const format = formatOf(bytes);
  if (format === undefined) {
    throw broken(file, bytes.length === 0 ? "the file is empty" : "it is neither PNG, JPEG nor WebP");
  }
  let size: { width: number; height: number };
  try {
    size = format === "png" ? pngSize(file, view) : format === "jpeg" ? jpegSize(file, view) : webpSize(file, view);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error; // a DataView was read past its end
    throw broken(file, `its ${format} header is cut off`);
  }
  const { width, height } = size;
  if (width < 1 || height < 1) throw broken(file, `its header says ${width} x ${height} pixels`);
  if (width * height > MAX_PIXELS) {
    throw broken(file, `it may have at most ${MAX_PIXELS} pixels, got ${width} x ${height}`);
  }
  return { format, width, height };
}

/** The error of an image that cannot be read. */
export function broken(file: string, reason: string): SyntaxError {
  return new SyntaxError(`Cannot read image "${file}": ${reason}`);
}

function formatOf(bytes: Uint8Array): ImageFormat | undefined {
  const starts = (at: number, ...magic: number[]): boolean => magic.every((byte, i) => bytes[at + i] === byte);
  if (starts(0, 0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a)) return "png";
  if (starts(0, 0xff, 0xd8, 0xff)) return "jpeg";
  if (starts(0, 0x52, 0x49, 0x46, 0x46) && starts(8, 0x57, 0x45, 0x42, 0x50)) return "webp";
}

/**
 * Compares the checksum of every chunk of a PNG up to its last.
 *
 * @throws {SyntaxError} when one differs, or the file ends before its last chunk.
 */
export function checkPngChunks(file: string, bytes: Uint8Array): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  for (let at = 8; at + 12 <= bytes.length;) {
    const end = at + 8 + view.getUint32(at);
    if (end + 4 > bytes.length) break;
    const name = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
    if (crc32(bytes.subarray(at + 4, end)) !== view.getUint32(end)) {
      throw broken(file, `it is not sound PNG (the checksum of its chunk ${JSON.stringify(name)} does not match)`);
    }
    if (name === "IEND") return;
    at = end + 4;
  }
  throw broken(file, "it is not sound PNG (the data is cut off)");
}

function pngSize(file: string, view: DataView): { width: number; height: number } {
  if (view.getUint32(12) !== 0x49484452) throw broken(file, "its first chunk is not IHDR");
  return { width: view.getUint32(16), height: view.getUint32(20) };
}

/** Looks for the frame header (SOF). */
function jpegSize(file: string, view: DataView): { width: number; height: number } {
  for (const { marker, at } of jpegSegments(view)) {
    const isFrame = marker >= 0xc0 && marker <= 0xcf && marker !== 0xc4 && marker !== 0xc8 && marker !== 0xcc;
    if (isFrame) return jpegFrame(file, view, at);
    if (marker === SCAN || marker === 0xd9) throw broken(file, "it has no JPEG frame header");
  }
  throw broken(file, "its jpeg header is cut off");
}

/** The marker before pixels. */
const SCAN = 0xda;

/** Segments of a JPEG. As in libjpeg, what lies between them and begins none is passed over. */
function* jpegSegments(
  view: DataView,
): Generator<{ readonly marker: number; readonly at: number; readonly end: number }> {
  for (let at = 2; at + 4 <= view.byteLength;) {
    const marker = view.getUint8(at + 1);
    if (view.getUint8(at) !== 0xff || marker === 0 || marker === 0xff) {
      at++;
      continue;
    }
    const end = at + 2 + view.getUint16(at + 2);
    yield { marker, at, end };
    at = end;
  }
}

/**
 * A JPEG without what lies between the segments before its first scan. A decoder would pass over it with a warning, and
 * keep all later ones to itself.
 */
export function trimJpeg(bytes: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer> {
  const parts = [bytes.subarray(0, 2)];
  for (const { marker, at, end } of jpegSegments(new DataView(bytes.buffer, bytes.byteOffset, bytes.length))) {
    parts.push(bytes.subarray(at, marker === SCAN ? bytes.length : end));
    if (marker === SCAN) break;
  }
  const length = parts.reduce((sum, part) => sum + part.length, 0);
  if (length === bytes.length) return bytes;
  const trimmed = new Uint8Array(length);
  let to = 0;
  for (const part of parts) {
    trimmed.set(part, to);
    to += part.length;
  }
  return trimmed;
}

function jpegFrame(file: string, view: DataView, at: number): { width: number; height: number } {
  const precision = view.getUint8(at + 4);
  if (precision !== 8) throw broken(file, `JPEG must have 8 bits a sample, got ${precision}`);
  const components = view.getUint8(at + 9);
  if (components !== 1 && components !== 3) {
    throw broken(file, `JPEG must be grey or colour, got ${components} components (CMYK?); convert it to RGB first`);
  }
  return { height: view.getUint16(at + 5), width: view.getUint16(at + 7) };
}

function webpSize(file: string, view: DataView): { width: number; height: number } {
  const uint24 = (at: number): number => view.getUint16(at, true) | (view.getUint8(at + 2) << 16);
  switch (view.getUint32(12)) {
    case 0x56503858: // "VP8X"
      if ((view.getUint8(20) & 2) !== 0) throw broken(file, "it is an animated WebP");
      return { width: uint24(24) + 1, height: uint24(27) + 1 };
    case 0x5650384c: { // "VP8L"
      const bits = view.getUint32(21, true);
      return { width: (bits & 0x3fff) + 1, height: ((bits >>> 14) & 0x3fff) + 1 };
    }
    case 0x56503820: // "VP8 "
      return { width: view.getUint16(26, true) & 0x3fff, height: view.getUint16(28, true) & 0x3fff };
  }
  throw broken(file, "its first WebP chunk is of no known kind");
}
