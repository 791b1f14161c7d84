/**
 * IDX files, the format of MNIST: arrays of unsigned bytes, plain or in gzip (told by the first bytes, whatever the name). A
 * file that is not in gzip is read in place; one that is goes to a temporary file first, so that its images can be read
 * in any order without holding them. The length must be exactly what the header says. It knows nothing of classes.
 * Source: LeCun, Cortes, Burges, "The MNIST database", section "File formats".
 */

import { writeAll } from "./shards.ts";

/** An opened IDX file: `shape[0]` items of `itemBytes` bytes. Dispose it. */
export interface IdxFile extends Disposable {
  /** Sizes: of images [n, height, width], of labels [n]. */
  readonly shape: readonly number[];
  /** Bytes of one item. */
  readonly itemBytes: number;
  /** `count` items from item `start` on. */
  read(start: number, count: number): Uint8Array<ArrayBuffer>;
}

/** What an IDX file is opened as. */
export interface OpenIdxOptions {
  /** Dimensions that it must have: 3 for images, 1 for labels. */
  readonly dimensions: 1 | 3;
  /** Where the bytes go when the file is in gzip; must not exist. Removing it is the caller's. */
  readonly spool: string;
}

const UNSIGNED_BYTE = 0x08;

/**
 * Opens a file and checks its header and length.
 *
 * @throws {SyntaxError} when it is not IDX of unsigned bytes with these dimensions, is empty, has another length than its header
 * says, or its gzip data is damaged.
 * @throws {Deno.errors.NotFound} when there is no such file.
 */
export async function openIdx(path: string, { dimensions, spool }: OpenIdxOptions): Promise<IdxFile> {
  let file = await open(path);
  try {
    const size = file.statSync().size;
    const headerBytes = 4 + 4 * dimensions;
    if (size === 0) throw unsound(path, "the file is empty");
    const start = readAt(file, 0, Math.min(headerBytes, size));
    const isGzip = start[0] === 0x1f && start[1] === 0x8b;
    if (isGzip) {
      const packed = file;
      file = await Deno.open(spool, { read: true, write: true, createNew: true });
      await unpack(path, packed, file, dimensions);
    }
    const found = isGzip ? file.statSync().size : size;
    const shape = readHeader(path, readAt(file, 0, Math.min(headerBytes, found)), dimensions);
    requireLength(path, shape, headerBytes, found);
    const itemBytes = shape.slice(1).reduce((product, side) => product * side, 1);
    const opened = file;
    return {
      shape,
      itemBytes,
      read: (first, count) => readAt(opened, headerBytes + first * itemBytes, count * itemBytes),
      [Symbol.dispose]: () => opened.close(),
    };
  } catch (error) {
    file.close();
    throw error;
  }
}

async function open(path: string): Promise<Deno.FsFile> {
  try {
    const file = await Deno.open(path, { read: true });
    if (file.statSync().isFile) return file;
    file.close();
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    throw new Deno.errors.NotFound(`Cannot read "${path}": there is no such file`);
  }
  throw new TypeError(`Cannot read "${path}": expected a file, got a folder or a device`);
}

function unsound(path: string, reason: string): SyntaxError {
  return new SyntaxError(`Cannot read IDX file "${path}": ${reason}`);
}

function readHeader(path: string, bytes: Uint8Array, dimensions: number): number[] {
  if (bytes.length < 4 || bytes[0] !== 0 || bytes[1] !== 0) {
    throw unsound(path, "it must begin with two zero bytes, a type and a number of dimensions");
  }
  if (bytes[2] !== UNSIGNED_BYTE) throw unsound(path, `it must hold unsigned bytes (type 8), got type ${bytes[2]}`);
  if (bytes[3] !== dimensions) {
    const kind = dimensions === 1 ? "labels have 1 dimension" : "images have 3 dimensions";
    throw unsound(path, `${kind}, got ${bytes[3]}`);
  }
  if (bytes.length < 4 + 4 * dimensions) throw unsound(path, "its header is cut off");
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const shape = Array.from({ length: dimensions }, (_, i) => view.getUint32(4 + 4 * i));
  if (shape.some((side) => side === 0)) {
    throw unsound(path, `its header says ${shape.join(" x ")}: there is nothing in it`);
  }
  return shape;
}

function requireLength(path: string, shape: readonly number[], headerBytes: number, found: number): void {
  const expected = headerBytes + shape.reduce((product, side) => product * side, 1);
  if (found === expected) return;
  throw unsound(path, `its header says ${shape.join(" x ")}, which takes ${expected} bytes, got ${found}`);
}

/** Unpacks gzip; stops as soon as there is more than the header says. */
async function unpack(path: string, packed: Deno.FsFile, out: Deno.FsFile, dimensions: number): Promise<void> {
  const headerBytes = 4 + 4 * dimensions;
  let header = new Uint8Array(0);
  let written = 0;
  packed.seekSync(0, Deno.SeekMode.Start);
  const stream = packed.readable.pipeThrough(new DecompressionStream("gzip"));
  try {
    for await (const bytes of stream) {
      await writeAll(out, bytes);
      written += bytes.length;
      if (header.length < headerBytes) header = Uint8Array.from([...header, ...bytes.subarray(0, headerBytes)]);
      if (header.length < headerBytes) continue;
      const shape = readHeader(path, header.subarray(0, headerBytes), dimensions);
      const expected = headerBytes + shape.reduce((product, side) => product * side, 1);
      if (written > expected) requireLength(path, shape, headerBytes, written);
    }
  } catch (error) {
    if (error instanceof SyntaxError || !(error instanceof TypeError)) throw error;
    throw unsound(path, `its gzip data is damaged or cut off (${error.message})`);
  }
}

function readAt(file: Deno.FsFile, offset: number, length: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(length);
  file.seekSync(offset, Deno.SeekMode.Start);
  for (let at = 0; at < length;) {
    const got = file.readSync(bytes.subarray(at));
    if (got === null) throw new RangeError(`Cannot read ${length} bytes at ${offset}: the file ended early`);
    at += got;
  }
  return bytes;
}
