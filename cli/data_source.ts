/** From `--data` to a token store: text files are tokenised once and cached, stores are opened where they lie. */
import {
  byteTokenizer,
  cachedStore,
  isHttpUrl,
  loadTokenizer,
  maskedByteTokenizer,
  openStore,
  type PrepareProgress,
  type Tokenizer,
  type TokenStore,
} from "../data/mod.ts";

/** Where prepared stores are kept. */
export const STORE_CACHE = ".lowrank/stores";

/** Text that the `train` task writes before it starts: the TypeScript declarations that `deno types` prints. */
export const DEFAULT_TEXT = ".lowrank/deno-types.txt";

/** An opened store with the tokenizer that made it. */
export interface DataSource {
  /** Folder or URL. */
  readonly path: string;
  readonly store: TokenStore;
  readonly tokenizer: Tokenizer;
}

/** What is read, and how. */
export interface DataRequest {
  readonly data: readonly string[];
  /** `byte` or a folder; undefined: the model folder's, else byte. */
  readonly tokenizer?: string;
  readonly modelFolder?: string;
  /** Tokens of a row. */
  readonly seq: number;
  /** Tokens that a model adds to each row: `--seq` is that much more. Default 0. */
  readonly added?: number;
  readonly holdOut: number;
  readonly onProgress?: (progress: PrepareProgress) => void;
}

/**
 * Opens the data of a run, preparing it first if it is text.
 *
 * @throws RangeError when tokenizer and store disagree, or the store's sequences are shorter than `seq`
 */
export async function openData(request: DataRequest, tokenizer: Tokenizer): Promise<DataSource> {
  const { data, seq, holdOut, added } = request;
  if (data.length === 0) throw new RangeError("Cannot open data: give --data a file, a store or a URL");
  if (data.length === 1 && await isStore(data[0])) {
    const store = await openStore(data[0]);
    checkTokenizer(store, tokenizer);
    checkSequence(store, seq, added);
    return { path: data[0], store, tokenizer };
  }
  const path = await cachedStore({
    inputs: data,
    tokenizer,
    seq,
    holdOut,
    cacheDir: STORE_CACHE,
    onProgress: request.onProgress,
  });
  return { path, store: await openStore(path), tokenizer };
}

/** The tokenizer of a run: the one named, else the model folder's, else bytes, with a mask where a model needs one. */
export async function chooseTokenizer(
  { tokenizer, modelFolder, masked = false }: Pick<DataRequest, "tokenizer" | "modelFolder"> & { masked?: boolean },
): Promise<Tokenizer> {
  if (masked && tokenizer === "byte") return maskedByteTokenizer();
  if (tokenizer) return await loadTokenizer(tokenizer);
  if (modelFolder && await hasTokenizer(modelFolder)) return await loadTokenizer(modelFolder);
  return masked ? maskedByteTokenizer() : byteTokenizer();
}

/** Whether a folder holds tokenizer files. */
export async function hasTokenizer(folder: string): Promise<boolean> {
  return await isFile(`${folder}/tokenizer.json`) || await isFile(`${folder}/vocab.json`);
}

async function isStore(path: string): Promise<boolean> {
  return isHttpUrl(path) || await isFile(`${path}/zarr.json`) || await isFolder(path);
}

async function isFile(path: string): Promise<boolean> {
  try {
    return (await Deno.stat(path)).isFile;
  } catch {
    return false;
  }
}

async function isFolder(path: string): Promise<boolean> {
  try {
    return (await Deno.stat(path)).isDirectory;
  } catch {
    return false;
  }
}

function checkTokenizer(store: TokenStore, tokenizer: Tokenizer): void {
  const { name, hash, vocabSize } = store.info.tokenizer;
  if (hash === tokenizer.hash && vocabSize === tokenizer.vocabSize) return;
  throw new RangeError(
    `Cannot read ${store.name} with tokenizer "${tokenizer.name}" (${tokenizer.vocabSize} ids, hash ${
      tokenizer.hash.slice(0, 12)
    }): ` +
      `it was made with "${name}" (${vocabSize} ids, hash ${
        hash.slice(0, 12)
      }); give --tokenizer the folder of that one`,
  );
}

function checkSequence(store: TokenStore, seq: number, added = 0): void {
  const held = store.info.seq;
  if (held !== seq) {
    throw new RangeError(
      `Cannot train on sequences of ${seq}: ${store.name} holds sequences of ${held}; use --seq ${held + added}`,
    );
  }
}
