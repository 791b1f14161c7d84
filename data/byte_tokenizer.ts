/**
 * The tokenizer that needs no files: an id is a byte of the text's UTF-8, and 256 ends a document.
 * Its `files` say the same in Hugging Face's terms: GPT-2's byte-level alphabet (each byte has a printable character)
 * with the byte's value as id, and BPE without merges. One difference is on purpose: Hugging Face turns the literal
 * text `<|endoftext|>` into 256, while here text is only ever text, so no document can forge an end.
 */

import { hashFiles, type Tokenizer } from "./tokenizer.ts";
import { decodeRuns, endOfCodePoint } from "./utf8_runs.ts";

/** The name of the token that ends a document, as GPT-2 spells it. */
export const END_OF_TEXT = "<|endoftext|>";

/** GPT-2's printable character of each byte: itself where printable in Latin-1, else 256 and up in order. */
export function byteToUnicode(): string[] {
  const characters: string[] = [];
  let next = 256;
  for (let byte = 0; byte < 256; byte++) {
    const printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    characters.push(String.fromCharCode(printable ? byte : next++));
  }
  return characters;
}

function tokenizerJson(): Record<string, unknown> {
  const byteLevel = { type: "ByteLevel", add_prefix_space: false, trim_offsets: false, use_regex: true };
  const vocab = Object.fromEntries(byteToUnicode().map((character, byte) => [character, byte]));
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: [{
      id: 256,
      content: END_OF_TEXT,
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
      special: true,
    }],
    normalizer: null,
    pre_tokenizer: byteLevel,
    post_processor: null,
    decoder: byteLevel,
    model: {
      type: "BPE",
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      vocab,
      merges: [],
    },
  };
}

function decodeBytes(ids: ArrayLike<number>): string {
  return decodeRuns(ids, (id) => id < 256 ? id : undefined, (id) => id === 256 ? END_OF_TEXT : "\ufffd");
}

let shared: Tokenizer | undefined;

/**
 * The byte tokenizer: ids 0 to 255 are UTF-8 bytes, 256 is `<|endoftext|>`; `vocabSize` 257.
 *
 * @example
 * ```ts
 * import assert from "node:assert/strict";
 *
 * const tokenizer = byteTokenizer();
 * assert.deepEqual([...tokenizer.encode("é!")], [0xc3, 0xa9, 0x21]);
 * assert.equal(tokenizer.decode([72, 105, tokenizer.eosId]), "Hi<|endoftext|>");
 * ```
 */
export function byteTokenizer(): Tokenizer {
  if (shared) return shared;
  const encoder = new TextEncoder();
  const json = (value: unknown): Uint8Array => encoder.encode(JSON.stringify(value, null, 2) + "\n");
  const files = new Map([
    ["tokenizer.json", json(tokenizerJson())],
    [
      "tokenizer_config.json",
      json({
        tokenizer_class: "PreTrainedTokenizerFast",
        eos_token: END_OF_TEXT,
        add_prefix_space: false,
        clean_up_tokenization_spaces: false,
      }),
    ],
  ]);
  shared = {
    name: "byte",
    hash: hashFiles(files),
    vocabSize: 257,
    eosId: 256,
    files,
    encode: (text) => new Uint32Array(encoder.encode(text)),
    decode: decodeBytes,
    splitPoint: endOfCodePoint,
  };
  return shared;
}
