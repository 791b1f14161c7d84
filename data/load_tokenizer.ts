/**
 * From a name or a folder to a tokenizer. It looks only at the files listed below, and never at the network.
 */

import { byteTokenizer } from "./byte_tokenizer.ts";
import { buildGpt2Files } from "./gpt2_files.ts";
import { huggingFaceTokenizer } from "./hf_tokenizer.ts";
import { maskedByteTokenizer } from "./masked_byte_tokenizer.ts";
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

/** Copied too, but not hashed: it changes no text's ids. */
const CHAT_TEMPLATE = "chat_template.jinja";

/**
 * Loads a tokenizer: `"byte"`, `"masked-byte"`, a folder with `tokenizer.json`, or one with GPT-2's `vocab.json` and
 * `merges.txt`.
 * A folder that holds the files of one for bytes gives that one, which is much faster.
 *
 * @throws {Deno.errors.NotFound} when the folder has neither `tokenizer.json` nor `vocab.json` with `merges.txt`.
 * @throws {SyntaxError} when a file is not what its name says, or no end-of-text token is named.
 */
export async function loadTokenizer(spec: string): Promise<Tokenizer> {
  const ofBytes = [byteTokenizer(), maskedByteTokenizer()];
  const named = ofBytes.find(({ name }) => name === spec);
  if (named) return named;
  const files = await readFiles(spec, FILE_NAMES);
  if (!files.has("tokenizer.json") && !(files.has("vocab.json") && files.has("merges.txt"))) {
    throw new Deno.errors.NotFound(
      `Cannot load the tokenizer "${spec}": expected "byte", "masked-byte", or a folder with tokenizer.json, ` +
        "or with vocab.json and merges.txt",
    );
  }
  const template = await readFiles(spec, [CHAT_TEMPLATE]);
  const known = hashFiles(files);
  const byte = ofBytes.find(({ hash }) => hash === known);
  if (byte) {
    return template.size === 0 ? byte : { ...byte, files: new Map([...byte.files, ...template]) };
  }
  const name = spec.replace(/[/\\]+$/, "").split(/[/\\]/).at(-1) || spec;
  const complete = files.has("tokenizer.json") ? files : buildGpt2Files(spec, files);
  const hash = hashFiles(complete);
  return huggingFaceTokenizer({ name, hash, files: new Map([...complete, ...template]), folder: spec });
}

async function readFiles(folder: string, names: readonly string[]): Promise<Map<string, Uint8Array>> {
  const files = new Map<string, Uint8Array>();
  for (const name of names) {
    try {
      files.set(name, await Deno.readFile(`${folder}/${name}`));
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound) && !(error instanceof Deno.errors.NotADirectory)) throw error;
    }
  }
  return files;
}
