/**
 * Any tokenizer that has a `tokenizer.json`, through `npm:@huggingface/tokenizers` (no native code).
 * It encodes text as that library does, special tokens written out in the text included, but adds none of its own.
 *
 * Cutting a long document is exact for the splitting expressions listed below, and only there: none of their
 * alternatives matches a letter or digit followed by white space, so between those two every split has a boundary,
 * and what is left of it was matched without looking past it. Other tokenizers get their documents whole.
 */

import { Tokenizer as Library } from "npm:@huggingface/tokenizers@0.2.0";
import type { Tokenizer } from "./tokenizer.ts";

/** What the loader hands over: the files, and their names for messages. */
export interface HuggingFaceFiles {
  readonly name: string;
  readonly hash: string;
  readonly folder: string;
  readonly files: ReadonlyMap<string, Uint8Array>;
}

interface AddedToken {
  readonly id: number;
  readonly content: string;
  readonly rstrip?: boolean;
  readonly single_word?: boolean;
}

interface PreTokenizer {
  readonly type: string;
  readonly add_prefix_space?: boolean;
  readonly use_regex?: boolean;
  readonly behavior?: string;
  readonly pattern?: { readonly Regex?: string };
  readonly pretokenizers?: readonly PreTokenizer[];
}

interface TokenizerJson {
  readonly added_tokens: readonly AddedToken[];
  readonly normalizer: unknown;
  readonly pre_tokenizer: PreTokenizer | null;
  readonly post_processor: unknown;
  readonly decoder: unknown;
  readonly model: { readonly type?: string };
}

/** Splitting expressions read by eye: Llama 3, Qwen 2, cl100k as Hugging Face writes it. */
const SAFE_EXPRESSIONS = new Set([
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
  "'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*|\\s*[\\r\\n]|\\s+(?!\\S)|\\s+",
]);

/** The names of special tokens where no file says which, by the key that would. */
const USUAL_NAMES = {
  eos_token: ["<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "[SEP]"],
  bos_token: ["<s>", "<|begin_of_text|>", "<bos>", "[CLS]"],
  pad_token: ["<pad>", "[PAD]"],
  unk_token: ["<unk>", "[UNK]"],
  mask_token: ["<mask>", "[MASK]"],
} as const;

/**
 * A tokenizer over the Hugging Face library. Ids that the library gives no token for decode to U+FFFD.
 *
 * @throws {SyntaxError} when `tokenizer.json` is not one, is of a kind that the library cannot run, or names no end of text.
 */
export function huggingFaceTokenizer({ name, hash, folder, files }: HuggingFaceFiles): Tokenizer {
  const json = parseJson<TokenizerJson>(folder, files, "tokenizer.json");
  const complete = {
    ...json,
    added_tokens: json.added_tokens ?? [],
    normalizer: json.normalizer ?? null,
    pre_tokenizer: json.pre_tokenizer ?? null,
    post_processor: json.post_processor ?? null,
    decoder: json.decoder ?? null,
  };
  const config = files.has("tokenizer_config.json")
    ? parseJson<Record<string, unknown>>(folder, files, "tokenizer_config.json")
    : {};
  let library: Library;
  try {
    library = new Library(complete, config);
  } catch (error) {
    throw new SyntaxError(`Cannot load the tokenizer "${folder}": tokenizer.json: ${(error as Error).message}`);
  }
  let vocabSize = 0;
  for (const id of library.get_vocab(true).values()) vocabSize = Math.max(vocabSize, id + 1);
  const splittable = isSplittable(complete);
  const named = tokenNames(folder, files, config);
  const specialId = specialIds(library, named);
  return {
    name,
    hash,
    vocabSize,
    eosId: specialId("eos_token") ?? refuseWithoutEnd(folder, named("eos_token")),
    bosId: specialId("bos_token") ?? specialId("cls_token"),
    padId: specialId("pad_token"),
    unkId: specialId("unk_token"),
    maskId: specialId("mask_token"),
    files,
    encode: (text) => encodeWith(library, text),
    decode: (ids) => decodeWith(library, ids),
    splitPoint: splittable ? afterLastWord : undefined,
  };
}

function parseJson<T>(folder: string, files: ReadonlyMap<string, Uint8Array>, name: string): T {
  try {
    const value = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(files.get(name)!));
    if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as T;
  } catch (error) {
    throw new SyntaxError(`Cannot load the tokenizer "${folder}": ${name} is not JSON: ${(error as Error).message}`);
  }
  throw new SyntaxError(`Cannot load the tokenizer "${folder}": ${name} must hold an object`);
}

/** Ids of special tokens: the one a file names, or else the first usual name that the vocabulary has. */
function specialIds(library: Library, named: (key: string) => unknown): (key: string) => number | undefined {
  // RoBERTa's vocabulary also has GPT-2's end, as a word like any other
  const isRoberta = ["<s>", "<pad>", "</s>", "<mask>"].every((name) => library.token_to_id(name) !== undefined);
  return (key) => {
    const name = named(key);
    if (typeof name === "string") return library.token_to_id(name);
    // a file may say that there is none, though the vocabulary has a word of that spelling
    if (name === null && key !== "eos_token") return undefined;
    if (isRoberta && key === "eos_token") return library.token_to_id("</s>");
    const usual = Object.hasOwn(USUAL_NAMES, key) ? USUAL_NAMES[key as keyof typeof USUAL_NAMES] : [];
    const found = usual.find((candidate) => library.token_to_id(candidate) !== undefined);
    return found === undefined ? undefined : library.token_to_id(found);
  };
}

/** What the folder's files call a special token. */
function tokenNames(
  folder: string,
  files: ReadonlyMap<string, Uint8Array>,
  config: Record<string, unknown>,
): (key: string) => unknown {
  const map = files.has("special_tokens_map.json")
    ? parseJson<Record<string, unknown>>(folder, files, "special_tokens_map.json")
    : {};
  const contentOf = (token: unknown): unknown =>
    typeof token === "object" && token !== null ? (token as { content?: unknown }).content : token;
  return (key) => contentOf(config[key]) ?? contentOf(map[key]) ?? config[key];
}

function refuseWithoutEnd(folder: string, named: unknown): never {
  const got = typeof named === "string" ? `"${named}", which the vocabulary does not have` : "none";
  throw new SyntaxError(`Cannot load the tokenizer "${folder}": tokenizer_config.json must name eos_token, got ${got}`);
}

function encodeWith(library: Library, text: string): Uint32Array {
  if (text === "") return new Uint32Array(0);
  const ids: (number | undefined)[] = library.encode(text, { add_special_tokens: false }).ids;
  const out = new Uint32Array(ids.length);
  for (let i = 0; i < ids.length; i++) {
    const id = ids[i];
    if (id === undefined) {
      throw new RangeError("Cannot encode a text: the vocabulary lacks one of its pieces and names no unk_token");
    }
    out[i] = id;
  }
  return out;
}

function decodeWith(library: Library, ids: ArrayLike<number>): string {
  const options = { skip_special_tokens: false, clean_up_tokenization_spaces: false };
  let text = "";
  let run: number[] = [];
  const flush = (): void => {
    if (run.length > 0) text += library.decode(run, options);
    run = [];
  };
  for (let i = 0; i < ids.length; i++) {
    if (library.id_to_token(ids[i]) !== undefined) {
      run.push(ids[i]);
      continue;
    }
    flush();
    text += "\ufffd";
  }
  flush();
  return text;
}

/** Whether the head comment's argument holds: the listed expressions, nothing before them, plain added tokens. */
function isSplittable(json: TokenizerJson): boolean {
  const steps = json.pre_tokenizer?.type === "Sequence" ? json.pre_tokenizer.pretokenizers ?? [] : [json.pre_tokenizer];
  const [first, second] = steps;
  const isByteLevel = (step: PreTokenizer | null | undefined, useRegex: boolean): boolean =>
    step?.type === "ByteLevel" && !step.add_prefix_space && (step.use_regex ?? true) === useRegex;
  const gpt2 = steps.length === 1 && isByteLevel(first, true);
  const listed = steps.length === 2 && first?.type === "Split" && first.behavior === "Isolated" &&
    SAFE_EXPRESSIONS.has(first.pattern?.Regex ?? "") && isByteLevel(second, false);
  const plain = json.added_tokens.every((token) => !token.rstrip && !token.single_word && !/\s/.test(token.content));
  return (gpt2 || listed) && plain && (json.normalizer === null) && json.model.type === "BPE";
}

/** The end of the last word that white space follows: the character before is a letter or digit. */
function afterLastWord(text: string): number {
  for (let i = text.length - 1; i > 0; i--) {
    if (!/\s/u.test(text[i])) continue;
    const low = text.charCodeAt(i - 1);
    const before = low >= 0xdc00 && low <= 0xdfff ? text.slice(i - 2, i) : text[i - 1];
    if (/[\p{L}\p{N}]$/u.test(before)) return i;
  }
  return 0;
}
