/**
 * Tokenizers for tests, and what the Python library says of them (`testdata/tokenizer_ids.json`, written by tokenizers 0.23.2).
 * Only tests import this.
 */

import { buildGpt2Files } from "../gpt2_files.ts";
import { huggingFaceTokenizer } from "../hf_tokenizer.ts";
import { hashFiles, type Tokenizer } from "../tokenizer.ts";

const TESTDATA = new URL("../testdata/", import.meta.url);

/** Ids by the Python library, special tokens not added unless it says so. */
export interface Golden {
  readonly gpt2: [text: string, ids: number[]][];
  readonly roberta: [text: string, ids: number[]][];
  readonly llama: [text: string, ids: number[]][];
  readonly llamaDecoded: [text: string, decoded: string][];
  /** With special tokens, cut longest first to `max`. */
  readonly robertaPairs: { a: string; b: string; max: number | null; ids: number[] }[];
  readonly robertaSingles: { a: string; max: number | null; ids: number[] }[];
}

/** What the Python library says. */
export async function loadGolden(): Promise<Golden> {
  return JSON.parse(await Deno.readTextFile(new URL("tokenizer_ids.json", TESTDATA)));
}

/** `testdata/tiny-bpe` with RoBERTa's special tokens after its 316 words, as a folder's two files. */
export async function tinyRobertaFiles(): Promise<Map<string, Uint8Array>> {
  const vocab = JSON.parse(await Deno.readTextFile(new URL("tiny-bpe/vocab.json", TESTDATA)));
  delete vocab["<|endoftext|>"];
  for (const [i, token] of ["<s>", "<pad>", "</s>", "<unk>", "<mask>"].entries()) vocab[token] = 316 + i;
  return new Map([
    ["vocab.json", new TextEncoder().encode(JSON.stringify(vocab))],
    ["merges.txt", await Deno.readFile(new URL("tiny-bpe/merges.txt", TESTDATA))],
  ]);
}

/** The tokenizer of these files. */
export async function tinyRoberta(): Promise<Tokenizer> {
  const files = buildGpt2Files("tiny-roberta", await tinyRobertaFiles());
  return huggingFaceTokenizer({ name: "tiny-roberta", hash: hashFiles(files), folder: "tiny-roberta", files });
}

/** LLaMA's kind: BPE of words that begin with "▁", bytes for what it lacks; trained on seven sentences. */
export const TINY_LLAMA = new URL("tiny-llama-bpe", TESTDATA).pathname;
