/**
 * Writes safetensors files, tensor by tensor: the whole model is never in memory.
 *
 * The same entries give the same bytes, in any order: as in Hugging Face's crate, tensors lie by dtype (highest alignment
 * first), then by name, and the header is padded with spaces to 8 bytes. Unlike the crate, metadata keys are sorted too.
 * Nothing is written that `openSafetensors` would refuse.
 */
import {
  byteLength,
  formatTensor,
  MAX_HEADER_BYTES,
  MAX_METADATA_BYTES,
  MAX_RANK,
  MAX_TENSORS,
  nameProblem,
  SAFETENSORS_DTYPES,
  type SafetensorsDType,
  utf8Bytes,
} from "./safetensors_header.ts";
import { quote } from "./safetensors_json.ts";

/** A file open for writing, whoever holds it. */
export interface ByteSink {
  /** Appends all of `bytes`, which may be reused once the promise is fulfilled. */
  write(bytes: Uint8Array): Promise<void>;
}

/**
 * A tensor to write. `bytes` is called once, when its turn comes, for tensors of a few megabytes together: a device answers
 * all reads of one moment in one wait. Little-endian, row-major.
 */
export interface TensorEntry {
  readonly name: string;
  readonly dtype: SafetensorsDType;
  readonly shape: readonly number[];
  readonly bytes: () => Uint8Array | Promise<Uint8Array>;
}

/**
 * Writes a safetensors file and returns its length in bytes. The sink stays the caller's to close.
 *
 * @param metadata free-form text; Hugging Face's loaders want `{ format: "pt" }`
 * @throws RangeError for a name, shape or metadata that a reader would refuse, two tensors of one name, or bytes that do
 * not fill the shape
 * @throws TypeError for a dtype that the format does not have
 */
export async function writeSafetensors(
  sink: ByteSink,
  entries: Iterable<TensorEntry>,
  metadata: Readonly<Record<string, string>> = {},
): Promise<number> {
  const tensors = [...entries].sort((a, b) =>
    SAFETENSORS_DTYPES.indexOf(b.dtype) - SAFETENSORS_DTYPES.indexOf(a.dtype) || compareText(a.name, b.name)
  );
  const header = encodeHeader(tensors, metadata);
  await sink.write(header);
  let written = header.length;
  for (const group of together(tensors)) {
    const data = await Promise.all(group.map(({ bytes }) => bytes()));
    for (const [i, { name, dtype, shape }] of group.entries()) {
      const expected = byteLength(dtype, shape)!;
      if (data[i].length !== expected) {
        const got = `takes ${expected} bytes: got ${data[i].length}`;
        throw new RangeError(`Cannot write tensor ${quote(name)}: ${formatTensor(dtype, shape)} ${got}`);
      }
      if (expected > 0) await sink.write(data[i]);
      written += expected;
    }
  }
  return written;
}

/** Bytes of tensors that are asked for together; a larger one comes alone. */
const TOGETHER_BYTES = 2 ** 24;

/** Neighbours of at most `TOGETHER_BYTES`. */
function together(tensors: readonly TensorEntry[]): TensorEntry[][] {
  const groups: TensorEntry[][] = [];
  let size = Infinity;
  for (const tensor of tensors) {
    const bytes = byteLength(tensor.dtype, tensor.shape)!;
    size += bytes;
    if (size > TOGETHER_BYTES) {
      groups.push([]);
      size = bytes;
    }
    groups[groups.length - 1].push(tensor);
  }
  return groups;
}

/**
 * Bytes of an entry's data, once its name, dtype and shape are found to be writable.
 *
 * @throws RangeError or TypeError as `writeSafetensors`
 */
export function checkEntry({ name, dtype, shape }: TensorEntry): number {
  const fail = (rule: string, got: string) => `Cannot write tensor ${quote(name)}: ${rule}: got ${got}`;
  const problem = nameProblem(name);
  if (problem) throw new RangeError(fail(problem, quote(name)));
  if (!SAFETENSORS_DTYPES.includes(dtype)) {
    throw new TypeError(fail(`the dtype must be one of ${SAFETENSORS_DTYPES.join(", ")}`, quote(String(dtype))));
  }
  const bytes = byteLength(dtype, shape);
  if (
    bytes === undefined || shape.length > MAX_RANK || !shape.every((size) => Number.isSafeInteger(size) && size >= 0)
  ) {
    throw new RangeError(fail(`the shape must be at most ${MAX_RANK} whole numbers`, formatTensor(dtype, shape)));
  }
  return bytes;
}

/** Order by code point, as Rust sorts strings; `<` would sort by UTF-16 unit. */
export function compareText(a: string, b: string): number {
  const length = Math.min(a.length, b.length);
  for (let i = 0; i < length; i++) {
    if (a.charCodeAt(i) !== b.charCodeAt(i)) return a.codePointAt(i)! - b.codePointAt(i)!;
  }
  return a.length - b.length;
}

/** The length prefix and the padded header of tensors in file order. */
function encodeHeader(tensors: readonly TensorEntry[], metadata: Readonly<Record<string, string>>): Uint8Array {
  const fail = (rule: string, got: string) => new RangeError(`Cannot write safetensors: ${rule}: got ${got}`);
  if (tensors.length > MAX_TENSORS) throw fail(`a file holds at most ${MAX_TENSORS} tensors`, String(tensors.length));
  const members: string[] = [];
  const pairs = Object.entries(metadata).sort(([a], [b]) => compareText(a, b));
  if (pairs.length > 0) {
    const bytes = pairs.reduce((sum, [key, value]) => sum + utf8Bytes(key) + utf8Bytes(value), 0);
    if (bytes > MAX_METADATA_BYTES) throw fail(`metadata is at most ${MAX_METADATA_BYTES} bytes`, String(bytes));
    for (const text of pairs.flat()) {
      if (!text.isWellFormed()) throw fail("metadata is valid Unicode", quote(text));
    }
    members.push(
      `"__metadata__":{${pairs.map((pair) => pair.map((text) => JSON.stringify(text)).join(":")).join(",")}}`,
    );
  }
  const names = new Set<string>();
  let begin = 0;
  for (const entry of tensors) {
    const { name, dtype, shape } = entry;
    const end = begin + checkEntry(entry);
    if (names.has(name)) throw fail("a file holds a name once", `${quote(name)} twice`);
    names.add(name);
    members.push(
      `${JSON.stringify(name)}:{"dtype":"${dtype}","shape":[${shape.join(",")}],"data_offsets":[${begin},${end}]}`,
    );
    begin = end;
  }
  if (!Number.isSafeInteger(begin)) throw fail("a file is smaller than 2^53 bytes", String(begin));
  const text = new TextEncoder().encode(`{${members.join(",")}}`);
  const length = Math.ceil(text.length / 8) * 8;
  if (length > MAX_HEADER_BYTES) throw fail(`the header is at most ${MAX_HEADER_BYTES} bytes`, String(length));
  const header = new Uint8Array(8 + length).fill(0x20);
  new DataView(header.buffer).setBigUint64(0, BigInt(length), true);
  header.set(text, 8);
  return header;
}
