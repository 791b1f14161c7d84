/**
 * Text files to a token store: `readDocuments`, a tokenizer, `eosId` between documents (none before the first or after the
 * last), `writeStore`. A document of several pieces is encoded as it streams where the tokenizer knows exact cuts
 * (`splitPoint`); where it does not, the document is held whole, up to 64 Mi characters.
 */

import { createHash, type Hash } from "node:crypto";
import { readDocuments } from "./text.ts";
import type { Tokenizer } from "./tokenizer.ts";
import { checkLayoutOptions, type StoreLayoutOptions, writeStore } from "./write_store.ts";
import type { SourceInfo, StoreInfo } from "./zarr.ts";

/** How far a preparation is. */
export interface PrepareProgress {
  /** `tokenize` counts bytes of the input files, `write` counts rows of the store. */
  readonly phase: "tokenize" | "write";
  /** Bytes or rows so far. */
  readonly done: number;
  /** Bytes or rows in all. */
  readonly total: number;
  /** Tokens so far. */
  readonly tokens: number;
}

/** What `prepareStore` is given. */
export interface PrepareOptions extends StoreLayoutOptions {
  /** `.txt`, `.jsonl`, and either with `.gz`; read in this order. */
  readonly inputs: string | readonly string[];
  /** Turns text into ids; its name and hash go into the store. */
  readonly tokenizer: Tokenizer;
  /** Is called after each piece of text and each chunk of rows. */
  readonly onProgress?: (progress: PrepareProgress) => void;
}

/** Characters that are encoded at once: enough to amortise a call, few enough to stay in cache. */
const PIECE_CHARACTERS = 64 * 1024;
const MAX_WHOLE_CHARACTERS = 64 * 1024 * 1024;

/**
 * Tokenizes text files into a new store, in constant memory.
 *
 * @example
 * ```ts
 * import { prepareStore, byteTokenizer, Batches } from "./mod.ts";
 *
 * const folder = await Deno.makeTempDir();
 * await Deno.writeTextFile(`${folder}/a.txt`, "to be or not to be\n".repeat(100));
 * await prepareStore({ inputs: `${folder}/a.txt`, tokenizer: byteTokenizer(), seq: 16, out: `${folder}/store` });
 *
 * using batches = new Batches(`${folder}/store`, { batch: 4, seed: 1 });
 * const { tokens, index } = await batches.next(); // Uint32Array [4, 17], and 0
 * ```
 *
 * @throws {Deno.errors.AlreadyExists} when `out` exists.
 * @throws {RangeError} when the corpus is shorter than one sequence, or an option is out of range.
 * @throws {SyntaxError} {Deno.errors.NotFound} {TypeError} when an input cannot be read; see `readDocuments`.
 */
export async function prepareStore(options: PrepareOptions): Promise<StoreInfo> {
  const { tokenizer, onProgress } = options;
  checkLayoutOptions(options);
  const inputs = typeof options.inputs === "string" ? [options.inputs] : options.inputs;
  if (new Set(inputs).size < inputs.length) {
    throw new RangeError("Cannot prepare a store: an input file is named twice");
  }
  const prints = new Fingerprints(inputs);
  let tokens = 0;
  let total = 0;
  if (onProgress) { for (const input of inputs) total += await fileSize(input); }
  const counted = async function* (): AsyncGenerator<Uint32Array> {
    for await (const ids of tokenStream(inputs, tokenizer, (file, bytes) => prints.add(file, bytes))) {
      tokens += ids.length;
      yield ids;
      onProgress?.({ phase: "tokenize", done: prints.bytes, total, tokens });
    }
  };
  return await writeStore({
    ...options,
    tokens: counted(),
    sources: () => prints.sources(),
    onRows: (done, rows) => onProgress?.({ phase: "write", done, total: rows, tokens }),
  });
}

/** A missing file counts as nothing here; reading it names it. */
async function fileSize(path: string): Promise<number> {
  try {
    return (await Deno.stat(path)).size;
  } catch {
    return 0;
  }
}

async function* tokenStream(
  inputs: readonly string[],
  tokenizer: Tokenizer,
  onBytes: (file: string, bytes: Uint8Array) => void,
): AsyncGenerator<Uint32Array> {
  let isFirst = true;
  let isEmpty = true;
  let held = "";
  let tryAt = PIECE_CHARACTERS; // doubles where no cut is found, so that looking for one stays linear
  const encode = function* (text: string): Generator<Uint32Array> {
    if (text === "") return;
    if (isEmpty && !isFirst) yield Uint32Array.of(tokenizer.eosId);
    isFirst = isEmpty = false;
    yield tokenizer.encode(text);
  };
  for await (const { text, endOfDocument } of readDocuments(inputs, { onBytes })) {
    held += text;
    if (endOfDocument) {
      yield* encode(held);
      held = "";
      isEmpty = true;
      tryAt = PIECE_CHARACTERS;
    } else if (held.length >= tryAt) {
      const cut = tokenizer.splitPoint?.(held) ?? 0;
      yield* encode(held.slice(0, cut));
      held = held.slice(cut);
      tryAt = Math.max(PIECE_CHARACTERS, 2 * held.length);
      if (held.length > MAX_WHOLE_CHARACTERS) refuseWhole(tokenizer);
    }
  }
}

function refuseWhole(tokenizer: Tokenizer): never {
  throw new RangeError(
    `Cannot encode a document of more than ${MAX_WHOLE_CHARACTERS} characters with tokenizer "${tokenizer.name}": ` +
      `it must be encoded whole; split the text into the lines of a .jsonl file`,
  );
}

/** SHA-256 and length of each input, gathered while it is read. */
export class Fingerprints {
  readonly #hashes: Map<string, { hash: Hash; bytes: number }>;
  /** Bytes over all files. */
  bytes = 0;

  constructor(files: readonly string[]) {
    this.#hashes = new Map(files.map((file) => [file, { hash: createHash("sha256"), bytes: 0 }]));
  }

  add(file: string, bytes: Uint8Array): void {
    const entry = this.#hashes.get(file)!;
    entry.hash.update(bytes);
    entry.bytes += bytes.length;
    this.bytes += bytes.length;
  }

  sources(): SourceInfo[] {
    return [...this.#hashes].map(([file, { hash, bytes }]) => ({
      name: file.split(/[/\\]/).at(-1)!,
      bytes,
      sha256: hash.copy().digest("hex"),
    }));
  }
}
