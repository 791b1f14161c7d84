/**
 * Safetensors files: read over any source of bytes, written to any sink.
 *
 * It does no I/O: whoever opens the file implements `ByteSource` or `ByteSink`. Reading checks the whole header before a
 * tensor's memory is allocated, and takes one tensor at a time. It is no unpickler and never will be.
 * Format: https://github.com/huggingface/safetensors#format. What is refused beyond the reference: `safetensors_header.ts`.
 */
import { MAX_HEADER_BYTES, parseHeader, type SafetensorsHeader } from "./safetensors_header.ts";
import { decodeUtf8, quote, unreadable } from "./safetensors_json.ts";

export { formatTensor, type SafetensorsDType, type SafetensorsHeader, type TensorInfo } from "./safetensors_header.ts";
export { type FloatDType, fromFloat32, toFloat32 } from "./safetensors_convert.ts";
export { type ByteSink, type TensorEntry, writeSafetensors } from "./safetensors_write.ts";

/** A file open for reading, whoever holds it. */
export interface ByteSource {
  /** The file's name, for messages. */
  readonly name: string;
  /** The file's length in bytes. */
  readonly size: number;
  /** `length` bytes from `offset`; an implementer throws when the file is shorter. */
  read(offset: number, length: number): Promise<Uint8Array>;
}

/** An open safetensors file: what its header says, and a tensor's bytes on demand. */
export interface SafetensorsFile extends SafetensorsHeader {
  /** The source's name. */
  readonly name: string;
  /**
   * A tensor's bytes: little-endian, row-major.
   *
   * @throws RangeError when the file has no such tensor
   */
  bytes(name: string): Promise<Uint8Array>;
}

/**
 * Reads and checks the header of a safetensors file. The source stays the caller's, to close after the last `bytes`.
 *
 * @param options `maxHeaderBytes`: the longest header to read, 8 MiB by default: parsing more costs seconds
 * @throws SyntaxError when the file breaks a rule of the format or of `safetensors_header.ts`
 *
 * @example
 * ```ts
 * import assert from "node:assert/strict";
 * const header = `{"x":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}`;
 * const file = new Uint8Array([header.length, 0, 0, 0, 0, 0, 0, 0, ...new TextEncoder().encode(header), 7, 9]);
 * const source: ByteSource = {
 *   name: "x.safetensors",
 *   size: file.length,
 *   read: (offset, length) => Promise.resolve(file.slice(offset, offset + length)),
 * };
 * const { tensors, bytes } = await openSafetensors(source);
 * assert.deepEqual(tensors.get("x")!.shape, [2]);
 * assert.deepEqual(await bytes("x"), new Uint8Array([7, 9]));
 * ```
 */
export async function openSafetensors(
  source: ByteSource,
  { maxHeaderBytes = MAX_HEADER_BYTES }: { readonly maxHeaderBytes?: number } = {},
): Promise<SafetensorsFile> {
  const { name: file, size } = source;
  if (!Number.isSafeInteger(size) || size < 8) {
    throw unreadable(file, "a safetensors file must have at least 8 bytes", String(size));
  }
  const prefix = await readExactly(source, 0, 8);
  const headerBytes = new DataView(prefix.buffer, prefix.byteOffset, 8).getBigUint64(0, true);
  const most = Math.min(maxHeaderBytes, size - 8);
  if (headerBytes < 1n || headerBytes > BigInt(most)) {
    const limit = most < maxHeaderBytes ? "the file's length" : "the largest that is read";
    throw unreadable(file, `the header must have 1 to ${most} bytes (${limit})`, String(headerBytes));
  }
  const dataStart = 8 + Number(headerBytes);
  const header = parseHeader(decodeUtf8(await readExactly(source, 8, dataStart - 8), file), file, size - dataStart);

  async function bytes(name: string): Promise<Uint8Array> {
    const info = header.tensors.get(name);
    if (!info) throw new RangeError(`Cannot read tensor ${quote(name)}: ${file} has no such tensor`);
    return await readExactly(source, dataStart + info.begin, info.end - info.begin);
  }
  return { name: file, ...header, bytes };
}

async function readExactly(source: ByteSource, offset: number, length: number): Promise<Uint8Array> {
  const bytes = await source.read(offset, length);
  if (bytes.length !== length) {
    throw unreadable(source.name, `expected ${length} bytes at byte ${offset}`, `${bytes.length} bytes`);
  }
  return bytes;
}
