/** Small images as PNG files for reports: 8 bits, grey or colour, no filter, deflated. Reading is not offered. */

/** Pixels of an image, u8 [height, width, channels]. */
export interface Pixels {
  readonly pixels: Uint8Array;
  readonly height: number;
  readonly width: number;
  readonly channels: 1 | 3;
}

const SIGNATURE = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];
const COLOR_TYPES = { 1: 0, 3: 2 } as const;

/** A PNG file (W3C PNG, third edition). */
export async function encodePng({ pixels, height, width, channels }: Pixels): Promise<Uint8Array<ArrayBuffer>> {
  const line = width * channels;
  const lines = new Uint8Array(height * (1 + line)); // each begins with its filter: 0, none
  for (let y = 0; y < height; y++) lines.set(pixels.subarray(y * line, (y + 1) * line), y * (1 + line) + 1);
  const header = new Uint8Array(13);
  const view = new DataView(header.buffer);
  view.setUint32(0, width);
  view.setUint32(4, height);
  header.set([8, COLOR_TYPES[channels], 0, 0, 0], 8);
  const packed = new Response(new Blob([lines]).stream().pipeThrough(new CompressionStream("deflate")));
  const chunks = [chunk("IHDR", header), chunk("IDAT", await packed.bytes()), chunk("IEND", new Uint8Array(0))];
  return await new Response(new Blob([Uint8Array.from(SIGNATURE), ...chunks])).bytes();
}

/** A PNG file as an address that holds it. */
export async function pngAddress(image: Pixels): Promise<string> {
  return `data:image/png;base64,${(await encodePng(image)).toBase64()}`;
}

function chunk(type: string, data: Uint8Array): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(12 + data.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, data.length);
  for (let i = 0; i < 4; i++) bytes[4 + i] = type.charCodeAt(i);
  bytes.set(data, 8);
  view.setUint32(8 + data.length, crc32(bytes.subarray(4, 8 + data.length)));
  return bytes;
}

const TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? 0xedb88320 ^ (value >>> 1) : value >>> 1;
  return value;
});

function crc32(bytes: Uint8Array): number {
  let value = 0xffffffff;
  for (const byte of bytes) value = TABLE[(value ^ byte) & 0xff] ^ (value >>> 8);
  return (value ^ 0xffffffff) >>> 0;
}
