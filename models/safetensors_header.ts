/**
 * The header of a safetensors file: its element types, its limits, and the rules that a header must keep.
 *
 * Stricter than the reference (Hugging Face's Rust crate), because files come from strangers: a header of at most 8 MiB
 * (the crate: 100 MB), 65,536 tensors and 8 axes; no repeated key, unknown field, number but plain digits, control
 * character in a name, name over 512 bytes, or name that JavaScript gives a meaning to; metadata of strings alone, at
 * most 1 MiB. The crate's 4-, 6- and 8-bit floats and complex numbers are refused as unknown. Names are never paths.
 */
import { JsonReader, quote } from "./safetensors_json.ts";

/** Bytes of one element, in the crate's order of alignment, lowest first: files hold the highest first. */
const BYTES = {
  BOOL: 1,
  U8: 1,
  I8: 1,
  I16: 2,
  U16: 2,
  F16: 2,
  BF16: 2,
  I32: 4,
  U32: 4,
  F32: 4,
  F64: 8,
  I64: 8,
  U64: 8,
} as const;

/** Element types of safetensors files, under the format's names. */
export type SafetensorsDType = keyof typeof BYTES;

/** Every element type, in the crate's order: lowest alignment first. */
export const SAFETENSORS_DTYPES: readonly SafetensorsDType[] = Object.keys(BYTES) as SafetensorsDType[];

/** Where a tensor lies in its file. */
export interface TensorInfo {
  readonly name: string;
  readonly dtype: SafetensorsDType;
  readonly shape: readonly number[];
  /** First byte, counted from the end of the header (the file's `data_offsets`). */
  readonly begin: number;
  /** Past the last byte. */
  readonly end: number;
}

/** What a header says: the tensors in the order of their bytes, and the free-form metadata. */
export interface SafetensorsHeader {
  readonly tensors: ReadonlyMap<string, TensorInfo>;
  readonly metadata: ReadonlyMap<string, string>;
}

/** The largest header that is read unless the caller allows more, and the largest that is written. */
export const MAX_HEADER_BYTES: number = 8 * 2 ** 20;
/** The most tensors of a file, or of a sharded checkpoint. */
export const MAX_TENSORS = 65_536;
/** The most axes of a tensor. */
export const MAX_RANK = 8;
/** The most metadata of a file, keys and values in UTF-8. */
export const MAX_METADATA_BYTES: number = 2 ** 20;
const MAX_NAME_BYTES = 512;
const RESERVED = ["__metadata__", "__proto__", "constructor", "prototype"];

/** Bytes of a tensor, or undefined where its shape overflows 2^53 - 1 on the way. */
export function byteLength(dtype: SafetensorsDType, shape: readonly number[]): number | undefined {
  let size = 1;
  for (const length of shape) {
    size *= length; // the product of two safe integers, rounded, is safe only if it is exact
    if (!Number.isSafeInteger(size)) return undefined;
  }
  const bytes = size * BYTES[dtype];
  return Number.isSafeInteger(bytes) ? bytes : undefined;
}

/** The rule that a tensor name breaks, or undefined. */
export function nameProblem(name: string): string | undefined {
  if (RESERVED.includes(name)) return `a tensor must not be named ${RESERVED.join(", ")}`;
  if (/\p{Cc}/u.test(name)) return "a tensor name must hold no control characters";
  if (!name.isWellFormed()) return "a tensor name must be valid Unicode";
  if (utf8Bytes(name) > MAX_NAME_BYTES) return `a tensor name must be at most ${MAX_NAME_BYTES} bytes`;
  return undefined;
}

/** Bytes of text in UTF-8. */
export function utf8Bytes(text: string): number {
  let bytes = text.length; // one a code unit; two more for 0x800 and up, except that a pair of surrogates takes 4
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    if (code >= 0x800) bytes += code >= 0xd800 && code < 0xe000 ? 1 : 2;
    else if (code >= 0x80) bytes++;
  }
  return bytes;
}

/** A dtype and shape for messages: `f32[172, 64]`. */
export function formatTensor(dtype: SafetensorsDType, shape: readonly number[]): string {
  return `${dtype.toLowerCase()}[${shape.join(", ")}]`;
}

/**
 * Reads the header `text` of `file`, whose tensors fill `dataBytes` bytes after it.
 *
 * @throws SyntaxError naming the file, the key and the rule that is broken
 */
export function parseHeader(text: string, file: string, dataBytes: number): SafetensorsHeader {
  const json = new JsonReader(text, file);
  if (!text.startsWith("{")) json.refuse("the header must begin with {", text ? quote(text.slice(0, 16)) : "nothing");
  const found: TensorInfo[] = [];
  const metadata = new Map<string, string>();
  json.object("the header", (key) => {
    if (key === "__metadata__") return readMetadata(json, metadata);
    if (found.length === MAX_TENSORS) json.refuse(`a file must hold at most ${MAX_TENSORS} tensors`, quote(key));
    const problem = nameProblem(key);
    if (problem) json.refuse(problem, quote(key));
    found.push(readTensor(json, key));
  });
  json.end(/ */y, "only spaces may follow the header's closing brace");
  found.sort((a, b) => a.begin - b.begin || a.end - b.end);
  checkLayout(json, found, dataBytes);
  return { tensors: new Map(found.map((info) => [info.name, info])), metadata };
}

function readMetadata(json: JsonReader, metadata: Map<string, string>): void {
  let bytes = 0;
  json.object("__metadata__", (key) => {
    const value = json.string(`__metadata__ ${quote(key)}`);
    bytes += utf8Bytes(key) + utf8Bytes(value);
    if (bytes > MAX_METADATA_BYTES) {
      json.refuse(`__metadata__ must be at most ${MAX_METADATA_BYTES} bytes`, `more at ${quote(key)}`);
    }
    metadata.set(key, value);
  });
}

function readTensor(json: JsonReader, name: string): TensorInfo {
  const what = `tensor ${quote(name)}`;
  let dtype: SafetensorsDType | undefined;
  let shape: number[] | undefined;
  let offsets: number[] | undefined;
  json.object(what, (key) => {
    if (key === "dtype") dtype = readDType(json, what);
    else if (key === "shape") shape = readIntegers(json, `shape of ${what}`, MAX_RANK);
    else if (key === "data_offsets") offsets = readIntegers(json, `data_offsets of ${what}`, 2);
    else json.refuse(`${what} must have only dtype, shape and data_offsets`, quote(key));
  });
  if (!dtype || !shape || !offsets) {
    const missing = [dtype ? "" : "dtype", shape ? "" : "shape", offsets ? "" : "data_offsets"].filter(Boolean);
    json.refuse(`${what} must have dtype, shape and data_offsets`, `no ${missing.join(", no ")}`);
  }
  if (offsets.length !== 2) json.refuse(`data_offsets of ${what} must be two numbers`, String(offsets.length));
  const [begin, end] = offsets;
  const bytes = byteLength(dtype, shape);
  if (bytes === undefined) {
    json.refuse(`${what} must be smaller than 2^53 bytes`, formatTensor(dtype, shape));
  }
  if (end - begin !== bytes) {
    const rule = `data_offsets of ${what} must span the ${bytes} bytes of ${formatTensor(dtype, shape)}`;
    json.refuse(rule, `[${begin}, ${end}]`);
  }
  return { name, dtype, shape, begin, end };
}

function readDType(json: JsonReader, what: string): SafetensorsDType {
  const dtype = json.string(`dtype of ${what}`);
  if (!Object.hasOwn(BYTES, dtype)) {
    json.refuse(`dtype of ${what} must be one of ${SAFETENSORS_DTYPES.join(", ")}`, quote(dtype));
  }
  return dtype as SafetensorsDType;
}

function readIntegers(json: JsonReader, what: string, most: number): number[] {
  const out: number[] = [];
  json.array(what, (index) => {
    if (index === most) json.refuse(`${what} must have at most ${most} numbers`, "more");
    out.push(json.integer(`${what}, entry ${index},`));
  });
  return out;
}

/** The tensors, in the order of their bytes, must fill the data exactly: no hole, no overlap, nothing behind. */
function checkLayout(json: JsonReader, tensors: readonly TensorInfo[], dataBytes: number): void {
  let next = 0;
  for (const { name, begin, end } of tensors) {
    if (begin !== next) {
      const fault = begin < next ? "an overlap" : "a hole";
      json.refuse(
        `tensor ${quote(name)} must begin at byte ${next}, where the one before it ends`,
        `${begin}: ${fault}`,
      );
    }
    next = end;
  }
  if (next !== dataBytes) {
    json.refuse(`the tensors must fill the file: ${next} bytes after the header`, `${dataBytes} bytes`);
  }
}
