/**
 * `model.safetensors.index.json`: which shard holds which tensor, in Hugging Face's format.
 *
 * Shard names are plain file names of the same folder, never paths: letters, digits, dots, dashes and underscores, with a
 * letter or digit first and `.safetensors` last. Other keys of `metadata` are read over; a repeated key is refused.
 */
import { MAX_TENSORS, nameProblem } from "./safetensors_header.ts";
import { JsonReader, quote } from "./safetensors_json.ts";
import { compareText } from "./safetensors_write.ts";

/** The one file of a checkpoint that is not sharded. */
export const WEIGHTS_FILE = "model.safetensors";
/** The index of a sharded checkpoint. */
export const INDEX_FILE = "model.safetensors.index.json";

const PLAIN_NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,200}\.safetensors$/;

/** The most shards: each is an open file while its checkpoint is. */
const MAX_SHARDS = 1_000;

/** What an index says. */
export interface WeightIndex {
  /** Shard file of each tensor. */
  readonly weightMap: ReadonlyMap<string, string>;
  /** Shard files, in the order in which the map first names them. */
  readonly shards: readonly string[];
  /** Bytes of all tensors, where the index says so. */
  readonly totalSize: number | undefined;
}

/**
 * Reads an index.
 *
 * @throws SyntaxError naming the file, the key and the rule that is broken
 */
export function parseWeightIndex(text: string, file: string): WeightIndex {
  const json = new JsonReader(text, file);
  const weightMap = new Map<string, string>();
  const shards = new Set<string>();
  let totalSize: number | undefined;
  let hasMap = false;
  json.object("the index", (key) => {
    if (key === "weight_map") {
      hasMap = true;
      json.object("weight_map", (name) => {
        const problem = weightMap.size === MAX_TENSORS ? `an index names at most ${MAX_TENSORS}` : nameProblem(name);
        if (problem) json.refuse(problem, quote(name));
        const shard = readShardName(json, name);
        weightMap.set(name, shard);
        if (shards.add(shard).size > MAX_SHARDS) json.refuse(`an index names at most ${MAX_SHARDS} shards`, "more");
      });
    } else if (key === "metadata") {
      json.object("metadata", (name) => {
        if (name === "total_size") totalSize = json.integer("total_size");
        else json.skipScalar(`metadata ${quote(name)}`);
      });
    } else json.refuse("the index must have only metadata and weight_map", quote(key));
  });
  json.end(/[ \t\r\n]*/y, "nothing may follow the index");
  if (!hasMap) json.refuse("the index must have a weight_map", "none");
  return { weightMap, shards: [...shards], totalSize };
}

function readShardName(json: JsonReader, tensor: string): string {
  const shard = json.string(`shard of ${quote(tensor)}`);
  if (!PLAIN_NAME.test(shard) || shard.includes("..")) {
    json.refuse(`shard of ${quote(tensor)} must be a plain file name that ends in .safetensors`, quote(shard));
  }
  return shard;
}

/** The text of an index, as Hugging Face's libraries write it: sorted keys, two spaces of indent. */
export function formatWeightIndex(weightMap: ReadonlyMap<string, string>, totalSize: number): string {
  const lines = [...weightMap].sort(([a], [b]) => compareText(a, b))
    .map(([name, shard]) => `    ${JSON.stringify(name)}: ${JSON.stringify(shard)}`);
  const map = lines.length === 0 ? "{}" : `{\n${lines.join(",\n")}\n  }`;
  return `{\n  "metadata": {\n    "total_size": ${totalSize}\n  },\n  "weight_map": ${map}\n}\n`;
}

/** The file name of shard `index` (from 0) of `count`: `model-00001-of-00002.safetensors`. */
export function shardName(index: number, count: number): string {
  return `model-${String(index + 1).padStart(5, "0")}-of-${String(count).padStart(5, "0")}.safetensors`;
}
