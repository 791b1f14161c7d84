/**
 * Stores that are prepared once and found again: a folder named after everything that decides the tokens in it (the
 * inputs' contents, the tokenizer's files, `seq`, `holdOut`, and the version of the layout). Inputs are read and hashed each
 * time, at 1.9 GB/s, so that an edited file never gives yesterday's tokens.
 * Nothing is ever removed here: the folder may be deleted at any time.
 */

import { createHash } from "node:crypto";
import { Fingerprints, type PrepareOptions, prepareStore } from "./prepare.ts";
import { openStore } from "./store.ts";

/** What `cachedStore` is given: what `prepareStore` is, with a folder of stores in place of `out`. */
export interface CachedStoreOptions extends Omit<PrepareOptions, "out" | "rowsPerChunk" | "chunksPerShard"> {
  /** The folder that holds the stores; made when missing. */
  readonly cacheDir: string;
}

const LAYOUT_VERSION = 1;

/**
 * The folder of a store with these contents, prepared now unless it is there. One that is there is used when its metadata is sound
 * and every shard has its size; otherwise it is made anew. (Each chunk is checked when it is read, as always.)
 *
 * @throws whatever `prepareStore` throws.
 */
export async function cachedStore(options: CachedStoreOptions): Promise<string> {
  const { inputs, tokenizer, seq, holdOut = 0.05, cacheDir } = options;
  const files = typeof inputs === "string" ? [inputs] : inputs;
  const contents = await hashContents(files);
  const key = [LAYOUT_VERSION, contents, tokenizer.hash, tokenizer.vocabSize, tokenizer.eosId, seq, holdOut].join(" ");
  const name = createHash("sha256").update(key).digest("hex").slice(0, 32);
  const out = `${cacheDir.replace(/[/\\]+$/, "")}/${name}.zarr`;
  const state = await stateOf(out);
  if (state === "complete") return out;
  if (state === "damaged") await Deno.remove(out, { recursive: true });
  try {
    await prepareStore({ ...options, out });
  } catch (error) {
    // Another process may have finished the same store in the meantime.
    if (!(error instanceof Error) || (await stateOf(out)) !== "complete") throw error;
  }
  return out;
}

/** A file that cannot be read is left to `prepareStore`, which says so. */
async function hashContents(files: readonly string[]): Promise<string> {
  const prints = new Fingerprints(files);
  for (const path of files) {
    try {
      using file = await Deno.open(path, { read: true });
      const buffer = new Uint8Array(1024 * 1024);
      for (let got = await file.read(buffer); got !== null; got = await file.read(buffer)) {
        prints.add(path, buffer.subarray(0, got));
      }
    } catch {
      return "unreadable";
    }
  }
  // The kind of a file decides how it is read, so its ending counts and the rest of its name does not.
  return prints.sources().map(({ name, sha256 }) => `${/\.(txt|jsonl)(\.gz)?$/i.exec(name)?.[0]} ${sha256}`).join(" ");
}

async function stateOf(path: string): Promise<"absent" | "damaged" | "complete"> {
  try {
    await Deno.lstat(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return "absent";
    throw error;
  }
  try {
    const store = await openStore(path);
    for (const name of store.splits) {
      for (const [key, bytes] of store.split(name).shardSizes) {
        if ((await Deno.stat(`${path}/${key}`)).size !== bytes) return "damaged";
      }
    }
    return "complete";
  } catch {
    return "damaged";
  }
}
