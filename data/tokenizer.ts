/**
 * What a tokenizer is to the rest of `data`: text to ids and back, and the files that let Hugging Face load the same one.
 * It trains no vocabulary, and adds no special tokens while encoding: `prepareStore` puts `eosId` between documents.
 * Source of the file formats: the `tokenizers` library's `tokenizer.json`, and GPT-2's `vocab.json` + `merges.txt`.
 */

import { createHash } from "node:crypto";

/** Text to token ids and back. */
export interface Tokenizer {
  /** `byte`, or the folder's own name. */
  readonly name: string;
  /** SHA-256, in hexadecimal, of `files` less a chat template: two tokenizers with one hash give one sequence of ids. */
  readonly hash: string;
  /** One more than the largest id, so the number of rows of an embedding. */
  readonly vocabSize: number;
  /** The id that ends a document; RoBERTa's `</s>`. */
  readonly eosId: number;
  /** The id that begins a text, RoBERTa's and LLaMA's `<s>`, if there is one. */
  readonly bosId?: number;
  /** The id of padding, if there is one. */
  readonly padId?: number;
  /** The id of what the vocabulary lacks, if there is one. */
  readonly unkId?: number;
  /** The id that hides a token in masked-language modelling, if there is one. */
  readonly maskId?: number;
  /** File name to content, to copy into a checkpoint folder so that Hugging Face loads the same tokenizer. */
  readonly files: ReadonlyMap<string, Uint8Array>;
  /** The ids of a text; no special token is added. */
  encode(text: string): Uint32Array;
  /** The text of some ids. Broken UTF-8 and ids that stand for nothing become U+FFFD. */
  decode(ids: ArrayLike<number>): string;
  /**
   * The largest index at which `text` may be cut so that the ids of the two parts, joined, are exactly the ids of the
   * whole, whatever text follows; 0 when no such place is known. Without it a document is encoded whole.
   */
  splitPoint?(text: string): number;
}

/** SHA-256, in hexadecimal, of a set of files: names in order, each with its length and bytes. */
export function hashFiles(files: ReadonlyMap<string, Uint8Array>): string {
  const hash = createHash("sha256");
  for (const name of [...files.keys()].sort()) {
    const bytes = files.get(name)!;
    hash.update(`${name}\0${bytes.byteLength}\0`);
    hash.update(bytes);
  }
  return hash.digest("hex");
}
