/**
 * GPT-2's two files, `vocab.json` and `merges.txt`, written as the one `tokenizer.json` that the Hugging Face library reads:
 * byte-level BPE with GPT-2's splitting expression. RoBERTa ships the same two files with other special tokens, and is told
 * apart by them. Tokens of `added_tokens.json`, where there is one, are split out before BPE.
 * Source: `transformers/convert_slow_tokenizer.py` (GPT2Converter, RobertaConverter).
 */

import { END_OF_TEXT } from "./byte_tokenizer.ts";

const ROBERTA_SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"];

const ROBERTA_CONFIG = {
  tokenizer_class: "RobertaTokenizer",
  bos_token: "<s>",
  eos_token: "</s>",
  unk_token: "<unk>",
  pad_token: "<pad>",
  cls_token: "<s>",
  sep_token: "</s>",
  mask_token: "<mask>",
  add_prefix_space: false,
};

const GPT2_CONFIG = {
  tokenizer_class: "GPT2Tokenizer",
  bos_token: END_OF_TEXT,
  eos_token: END_OF_TEXT,
  add_prefix_space: false,
};

/**
 * The given files and the two that are missing: `tokenizer.json`, and `tokenizer_config.json` unless the folder has its own.
 *
 * @throws {SyntaxError} when a file cannot be read, a merge's parts are not in the vocabulary, or no end-of-text token is;
 * when an added token has the id of another, or another one than in the vocabulary.
 */
export function buildGpt2Files(folder: string, given: ReadonlyMap<string, Uint8Array>): Map<string, Uint8Array> {
  const vocab = readVocabulary(folder, given.get("vocab.json")!);
  const merges = readMerges(folder, given.get("merges.txt")!, vocab);
  const added = readAdded(folder, given.get("added_tokens.json"), vocab);
  const known = new Map([...vocab, ...added]);
  const isRoberta = ROBERTA_SPECIAL.every((token) => known.has(token));
  const special = (isRoberta ? ROBERTA_SPECIAL : [END_OF_TEXT]).filter((token) => known.has(token));
  if (special.length === 0) {
    throw new SyntaxError(`Cannot load the tokenizer "${folder}": vocab.json has neither "${END_OF_TEXT}" nor "</s>"`);
  }
  const config = isRoberta ? ROBERTA_CONFIG : GPT2_CONFIG;
  const encoder = new TextEncoder();
  const files = new Map(given);
  const json = tokenizerJson({ vocab, merges, added: addedTokens(known, special, added), isRoberta });
  files.set("tokenizer.json", encoder.encode(JSON.stringify(json)));
  if (!files.has("tokenizer_config.json")) {
    files.set("tokenizer_config.json", encoder.encode(JSON.stringify(config, null, 2) + "\n"));
  }
  return files;
}

/** Special tokens, and then the others that were added. */
function addedTokens(
  known: ReadonlyMap<string, number>,
  special: readonly string[],
  added: ReadonlyMap<string, number>,
): readonly Record<string, unknown>[] {
  const names = [...special, ...[...added.keys()].filter((token) => !special.includes(token))];
  return names.map((content, i) => ({
    id: known.get(content)!,
    content,
    single_word: false,
    lstrip: content === "<mask>",
    rstrip: false,
    normalized: false,
    special: i < special.length,
  }));
}

interface TokenizerParts {
  readonly vocab: ReadonlyMap<string, number>;
  readonly merges: readonly string[];
  readonly added: readonly Record<string, unknown>[];
  readonly isRoberta: boolean;
}

function tokenizerJson({ vocab, merges, added, isRoberta }: TokenizerParts): Record<string, unknown> {
  const byteLevel = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true };
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: added,
    normalizer: null,
    pre_tokenizer: byteLevel,
    post_processor: isRoberta
      ? {
        type: "RobertaProcessing",
        sep: ["</s>", vocab.get("</s>")],
        cls: ["<s>", vocab.get("<s>")],
        trim_offsets: true,
        add_prefix_space: false,
      }
      : byteLevel,
    decoder: byteLevel,
    model: {
      type: "BPE",
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: "",
      end_of_word_suffix: "",
      fuse_unk: false,
      byte_fallback: false,
      vocab: Object.fromEntries(vocab),
      merges,
    },
  };
}

function readVocabulary(folder: string, bytes: Uint8Array): Map<string, number> {
  const vocab = readIds(folder, "vocab.json", bytes);
  if (vocab.size > 0) return vocab;
  throw new SyntaxError(`Cannot load the tokenizer "${folder}": vocab.json must hold tokens: got none`);
}

/** The tokens of `added_tokens.json`, if there is one: with an id that no other has, or their own of the vocabulary. */
function readAdded(
  folder: string,
  bytes: Uint8Array | undefined,
  vocab: ReadonlyMap<string, number>,
): Map<string, number> {
  const added = bytes ? readIds(folder, "added_tokens.json", bytes) : new Map<string, number>();
  const owners = new Map([...vocab].map(([token, id]) => [id, token]));
  for (const [token, id] of added) {
    if ((owners.get(id) ?? token) === token && (vocab.get(token) ?? id) === id) continue;
    const other = vocab.has(token) ? `which has ${vocab.get(token)} in vocab.json` : `which is "${owners.get(id)}"`;
    throw new SyntaxError(
      `Cannot load the tokenizer "${folder}": added_tokens.json must give "${token}" an id of its own: got ${id}, ${other}`,
    );
  }
  return added;
}

/** Ids by token. */
function readIds(folder: string, file: string, bytes: Uint8Array): Map<string, number> {
  let parsed: unknown;
  try {
    parsed = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (error) {
    throw new SyntaxError(`Cannot load the tokenizer "${folder}": ${file} is not JSON: ${(error as Error).message}`);
  }
  const entries = Object.entries(parsed ?? {});
  const ids = new Set(entries.map(([, id]) => id));
  if (ids.size === entries.length && entries.every(([, id]) => Number.isSafeInteger(id) && id >= 0)) {
    return new Map(entries);
  }
  throw new SyntaxError(`Cannot load the tokenizer "${folder}": ${file} must map each token to its own whole number`);
}

function readMerges(folder: string, bytes: Uint8Array, vocab: ReadonlyMap<string, number>): string[] {
  const merges: string[] = [];
  const lines = new TextDecoder().decode(bytes).split(/\r?\n/);
  for (const [i, line] of lines.entries()) {
    if (line === "" || (i === 0 && line.startsWith("#version"))) continue;
    const parts = line.split(" ");
    if (parts.length !== 2 || !vocab.has(parts[0]) || !vocab.has(parts[1]) || !vocab.has(parts[0] + parts[1])) {
      const rule = "each line must hold two tokens of vocab.json that join to a third";
      throw new SyntaxError(`Cannot load the tokenizer "${folder}": merges.txt line ${i + 1}: ${rule}, got "${line}"`);
    }
    merges.push(line);
  }
  return merges;
}
