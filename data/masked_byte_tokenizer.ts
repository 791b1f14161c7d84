/**
 * The byte tokenizer for masked-LM models, which needs no files: ids 0 to 4 are RoBERTa's `<s>`, `<pad>`, `</s>`,
 * `<unk>` and `<mask>`, and a byte of the text's UTF-8 is its value plus 5 (as in ByT5, Xue et al. 2022, arXiv
 * 2105.13626, which has other special tokens). Small special ids keep the table of positions small, since RoBERTa
 * counts them from the padding's. Its `files` say the same in Hugging Face's terms. As with `byteTokenizer`, text is
 * only ever text: it forges no special token, which a special token written out in it would be for Hugging Face.
 */

import { byteToUnicode } from "./byte_tokenizer.ts";
import { hashFiles, type Tokenizer } from "./tokenizer.ts";
import { decodeRuns, endOfCodePoint } from "./utf8_runs.ts";

/** RoBERTa's special tokens by id. */
export const ROBERTA_SPECIAL: readonly string[] = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"];

const FIRST_BYTE = ROBERTA_SPECIAL.length;

function tokenizerJson(): Record<string, unknown> {
  const byteLevel = { type: "ByteLevel", add_prefix_space: false, trim_offsets: false, use_regex: true };
  const bytes = byteToUnicode().map((character, byte) => [character, byte + FIRST_BYTE] as const);
  const special = ROBERTA_SPECIAL.map((content, id) => [content, id] as const);
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: special.map(([content, id]) => {
      return { id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special: true };
    }),
    normalizer: null,
    pre_tokenizer: byteLevel,
    post_processor: {
      ...{ type: "RobertaProcessing", sep: ["</s>", 2], cls: ["<s>", 0] },
      ...{ trim_offsets: false, add_prefix_space: false },
    },
    decoder: byteLevel,
    model: {
      type: "BPE",
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      vocab: Object.fromEntries([...special, ...bytes]),
      merges: [],
    },
  };
}

function tokenizerConfig(): Record<string, unknown> {
  return {
    ...{ tokenizer_class: "PreTrainedTokenizerFast", bos_token: "<s>", cls_token: "<s>" },
    ...{ eos_token: "</s>", sep_token: "</s>", pad_token: "<pad>", unk_token: "<unk>", mask_token: "<mask>" },
    ...{ add_prefix_space: false, clean_up_tokenization_spaces: false },
  };
}

function decode(ids: ArrayLike<number>): string {
  const byteOf = (id: number) => id >= FIRST_BYTE && id < FIRST_BYTE + 256 ? id - FIRST_BYTE : undefined;
  return decodeRuns(ids, byteOf, (id) => ROBERTA_SPECIAL[id] ?? "\ufffd");
}

let shared: Tokenizer | undefined;

/**
 * The byte tokenizer for masked-LM models: `vocabSize` 261.
 *
 * @example
 * ```ts
 * import assert from "node:assert/strict";
 *
 * const tokenizer = maskedByteTokenizer();
 * assert.deepEqual([...tokenizer.encode("Hi")], [77, 110]);
 * assert.equal(tokenizer.decode([tokenizer.bosId!, 77, tokenizer.maskId!]), "<s>H<mask>");
 * ```
 */
export function maskedByteTokenizer(): Tokenizer {
  if (shared) return shared;
  const encoder = new TextEncoder();
  const json = (value: unknown): Uint8Array => encoder.encode(JSON.stringify(value, null, 2) + "\n");
  const files = new Map([
    ["tokenizer.json", json(tokenizerJson())],
    ["tokenizer_config.json", json(tokenizerConfig())],
  ]);
  shared = {
    name: "masked-byte",
    hash: hashFiles(files),
    vocabSize: 256 + FIRST_BYTE,
    ...{ bosId: 0, padId: 1, eosId: 2, unkId: 3, maskId: 4 },
    files,
    encode: (text) => Uint32Array.from(encoder.encode(text), (byte) => byte + FIRST_BYTE),
    decode,
    splitPoint: endOfCodePoint,
  };
  return shared;
}
