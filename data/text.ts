/**
 * Text files as a stream of documents: `.txt` (the file is one document, in pieces), `.jsonl` (one object a line, its
 * field `text` is a document), and either with `.gz` after it (several gzip members are one file).
 * Memory stays constant: 64 KiB are read at a time, gzip gives at most 16 KiB at once however much it holds, and a
 * line is refused beyond 64 MiB. A byte order mark at the start of a file is left out; blank lines of JSONL are too.
 * Offsets in messages count decompressed bytes.
 */

import { Readable } from "node:stream";
import { createGunzip } from "node:zlib";
import { decodeStrictly, unfinishedTail } from "./utf8.ts";

/** A stretch of one document. */
export interface TextPiece {
  /** The text; empty only where an empty document ends. */
  readonly text: string;
  /** Whether the document ends here. */
  readonly endOfDocument: boolean;
}

/** What a reader is told besides its files. */
export interface ReadDocumentsOptions {
  /** Is given each file's stored bytes as they are read, for progress and fingerprints. */
  readonly onBytes?: (file: string, bytes: Uint8Array) => void;
}

const MAX_LINE_BYTES = 64 * 1024 * 1024;
const KINDS = ".txt, .jsonl, .txt.gz or .jsonl.gz";

/**
 * Reads documents from one or several files, in the order given.
 *
 * @throws {TypeError} when a file's name ends in none of the known ways.
 * @throws {Deno.errors.NotFound} when a file does not exist.
 * @throws {SyntaxError} when a file is empty or not UTF-8, when gzip data is damaged, when a line is not a JSON object
 * with a string `text`; with the file and the line or byte.
 */
export async function* readDocuments(
  inputs: string | readonly string[],
  options: ReadDocumentsOptions = {},
): AsyncGenerator<TextPiece> {
  const files = typeof inputs === "string" ? [inputs] : inputs;
  if (files.length === 0) throw new RangeError("Cannot read documents: expected at least one input file, got none");
  for (const file of files) fileKind(file);
  for (const file of files) {
    const bytes = fileBytes(file, options.onBytes);
    yield* fileKind(file) === "jsonl" ? jsonLines(file, bytes) : plainText(file, bytes);
  }
}

function fileKind(file: string): "txt" | "jsonl" {
  const name = file.toLowerCase().replace(/\.gz$/, "");
  if (name.endsWith(".jsonl")) return "jsonl";
  if (name.endsWith(".txt")) return "txt";
  throw new TypeError(`Cannot read "${file}": its name must end in ${KINDS}`);
}

async function* fileBytes(file: string, onBytes?: ReadDocumentsOptions["onBytes"]): AsyncGenerator<Uint8Array> {
  let handle: Deno.FsFile;
  try {
    handle = await Deno.open(file, { read: true });
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) {
      throw new Deno.errors.NotFound(`Cannot read "${file}": there is no such file`);
    }
    throw error;
  }
  using _closing = handle;
  const { isFile, size } = await handle.stat();
  if (!isFile) throw new TypeError(`Cannot read "${file}": expected a file, got a folder or a device`);
  if (size === 0) throw new SyntaxError(`Cannot read "${file}": the file is empty`);
  const stored = storedBytes(file, handle, onBytes);
  if (!file.toLowerCase().endsWith(".gz")) {
    yield* stored;
    return;
  }
  const gunzip = createGunzip();
  const source = Readable.from(stored, { objectMode: false, highWaterMark: 4096 });
  source.on("error", (error: Error) => gunzip.destroy(error));
  source.pipe(gunzip);
  try {
    for await (const chunk of gunzip) yield chunk as Uint8Array;
  } catch (error) {
    if (
      error instanceof Error && "code" in error && /^Z_|^ERR_/.test(String(error.code)) ||
      /end of file/.test(String(error))
    ) {
      throw new SyntaxError(`Cannot read "${file}": its gzip data is damaged or cut off (${(error as Error).message})`);
    }
    throw error;
  } finally {
    source.destroy();
    gunzip.destroy();
  }
}

async function* storedBytes(
  file: string,
  handle: Deno.FsFile,
  onBytes?: ReadDocumentsOptions["onBytes"],
): AsyncGenerator<Uint8Array> {
  for (;;) {
    const buffer = new Uint8Array(64 * 1024);
    const count = await handle.read(buffer);
    if (count === null) return;
    const bytes = buffer.subarray(0, count);
    onBytes?.(file, bytes);
    yield bytes;
  }
}

async function* plainText(file: string, chunks: AsyncIterable<Uint8Array>): AsyncGenerator<TextPiece> {
  let carry: Uint8Array = new Uint8Array(0);
  let offset = 0;
  for await (const chunk of chunks) {
    const bytes = join(carry, chunk);
    const whole = bytes.subarray(0, bytes.length - unfinishedTail(bytes));
    const text = decodeStrictly(whole, file, offset);
    const piece = offset === 0 ? text.replace(/^\ufeff/, "") : text;
    if (piece !== "") yield { text: piece, endOfDocument: false };
    carry = bytes.slice(whole.length);
    offset += whole.length;
  }
  yield { text: decodeStrictly(carry, file, offset), endOfDocument: true };
}

async function* jsonLines(file: string, chunks: AsyncIterable<Uint8Array>): AsyncGenerator<TextPiece> {
  let line = 0;
  let offset = 0;
  let documents = 0;
  for await (const bytes of splitLines(file, chunks)) {
    line++;
    const text = readLine(file, line, decodeStrictly(bytes, file, offset));
    offset += bytes.length + 1;
    if (text === undefined) continue;
    documents++;
    yield { text, endOfDocument: true };
  }
  if (documents === 0) throw new SyntaxError(`Cannot read "${file}": the file holds no documents`);
}

/** The document of one line, or undefined for a blank line. */
function readLine(file: string, line: number, source: string): string | undefined {
  const json = line === 1 ? source.replace(/^\ufeff/, "") : source;
  if (json.trim() === "") return undefined;
  let value: unknown;
  try {
    value = JSON.parse(json);
  } catch (error) {
    throw new SyntaxError(`Cannot read "${file}": line ${line} is not JSON (${(error as Error).message})`);
  }
  const text = typeof value === "object" && value !== null ? (value as { text?: unknown }).text : undefined;
  if (typeof text === "string") return text;
  throw new SyntaxError(`Cannot read "${file}": line ${line} must be an object with a string field "text"`);
}

/** Lines without their newline; parts of a long line are kept apart until it ends, so that joining stays linear. */
async function* splitLines(file: string, chunks: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  let parts: Uint8Array[] = [];
  let held = 0;
  for await (const chunk of chunks) {
    let start = 0;
    for (let end = chunk.indexOf(10); end >= 0; end = chunk.indexOf(10, start)) {
      yield joinAll([...parts, chunk.subarray(start, end)]);
      parts = [];
      held = 0;
      start = end + 1;
    }
    parts.push(chunk.slice(start));
    held += chunk.length - start;
    if (held > MAX_LINE_BYTES) {
      throw new SyntaxError(`Cannot read "${file}": a line is longer than ${MAX_LINE_BYTES} bytes`);
    }
  }
  if (held > 0) yield joinAll(parts);
}

function join(a: Uint8Array, b: Uint8Array): Uint8Array {
  return a.length === 0 ? b : joinAll([a, b]);
}

function joinAll(parts: readonly Uint8Array[]): Uint8Array {
  if (parts.length === 1) return parts[0];
  const out = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}
