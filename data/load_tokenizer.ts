/**
 * From a name or a folder to a tokenizer. It looks only at the files listed below, and never at the network.
 */

import { byteTokenizer } from "./byte_tokenizer.ts";
import { buildGpt2Files } from "./gpt2_files.ts";
import { huggingFaceTokenizer } from "./hf_tokenizer.ts";
import { hashFiles, type Tokenizer } from "./tokenizer.ts";

/** Files that belong to a tokenizer, if a folder has them: they are hashed, and copied into checkpoints. */
const FILE_NAMES = [
  "tokenizer.json",
  "tokenizer_config.json",
  "special_tokens_map.json",
  "added_tokens.json",
  "vocab.json",
  "merges.txt",
];

/**
 * Loads a tokenizer: `"byte"`, a folder with `tokenizer.json`, or a folder with GPT-2's `vocab.json` and `merges.txt`.
 * A folder that holds the files of `byteTokenizer()` gives that one, which is much faster.
 *
 * @throws {Deno.errors.NotFound} when the folder has neither `tokenizer.json` nor `vocab.json` with `merges.txt`.
 * @throws {SyntaxError} when a file is not what its name says, or no end-of-text token is named.
 */
export async function loadTokenizer(spec: string): Promise<Tokenizer> {
  if (spec === "byte") return byteTokenizer();
  const files = await readTokenizerFiles(spec);
  const hash = hashFiles(files);
  const byte = byteTokenizer();
  if (hash === byte.hash) return byte;
  const name = spec.replace(/[/\\]+$/, "").split(/[/\\]/).at(-1) || spec;
  const complete = files.has("tokenizer.json") ? files : buildGpt2Files(spec, files);
  return huggingFaceTokenizer({ name, hash: hashFiles(complete), files: complete, folder: spec });
}

async function readTokenizerFiles(folder: string): Promise<Map<string, Uint8Array>> {
  const files = new Map<string, Uint8Array>();
  for (const name of FILE_NAMES) {
    try {
      files.set(name, await Deno.readFile(`${folder}/${name}`));
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound) && !(error instanceof Deno.errors.NotADirectory)) throw error;
    }
  }
  if (files.has("tokenizer.json") || (files.has("vocab.json") && files.has("merges.txt"))) return files;
  throw new Deno.errors.NotFound(
    `Cannot load the tokenizer "${folder}": expected "byte", or a folder with tokenizer.json, or with vocab.json and merges.txt`,
  );
}
