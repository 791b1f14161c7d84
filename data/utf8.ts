/**
 * Strict UTF-8 that arrives in pieces, with the offset of the first wrong byte. `TextDecoder` alone says only that
 * something is wrong; the scan that finds where runs only then. Source: Unicode 16, table 3-7 (well-formed sequences).
 */

/** The offset of the first byte that begins no well-formed sequence, or -1. A sequence cut off by the end counts as wrong. */
export function findInvalidUtf8(bytes: Uint8Array): number {
  let i = 0;
  while (i < bytes.length) {
    const length = sequenceLength(bytes, i);
    if (length === 0) return i;
    i += length;
  }
  return -1;
}

function sequenceLength(bytes: Uint8Array, i: number): number {
  const first = bytes[i];
  if (first < 0x80) return 1;
  const length = first >= 0xc2 && first <= 0xdf
    ? 2
    : first >= 0xe0 && first <= 0xef
    ? 3
    : first >= 0xf0 && first <= 0xf4
    ? 4
    : 0;
  if (length === 0 || i + length > bytes.length) return 0;
  const low = first === 0xe0 ? 0xa0 : first === 0xf0 ? 0x90 : 0x80;
  const high = first === 0xed ? 0x9f : first === 0xf4 ? 0x8f : 0xbf;
  if (bytes[i + 1] < low || bytes[i + 1] > high) return 0;
  for (let k = 2; k < length; k++) if (bytes[i + k] < 0x80 || bytes[i + k] > 0xbf) return 0;
  return length;
}

/** How many bytes at the end begin a sequence that more bytes could finish: 0 to 3. */
export function unfinishedTail(bytes: Uint8Array): number {
  for (let back = 1; back <= Math.min(3, bytes.length); back++) {
    const byte = bytes[bytes.length - back];
    if ((byte & 0xc0) === 0x80) continue;
    const needed = byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : byte >= 0xc0 ? 2 : 1;
    return needed > back ? back : 0;
  }
  return 0;
}

/**
 * The text of whole sequences.
 *
 * @throws {SyntaxError} naming `file` and the byte offset, counted from `offset`, of the first wrong byte.
 */
export function decodeStrictly(bytes: Uint8Array, file: string, offset: number): string {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    const at = offset + Math.max(0, findInvalidUtf8(bytes));
    throw new SyntaxError(`Cannot read "${file}": it is not UTF-8 at byte ${at}; convert it to UTF-8 first`);
  }
}
