/**
 * Writes the weights of a Hugging Face folder: one `model.safetensors`, or shards and their index.
 *
 * Shards are cut as Hugging Face's libraries cut them: entries in their order, a new file where the next would not fit.
 * The index is written last, so that shards without one are a write that did not finish. It does no I/O of its own.
 */
import { formatWeightIndex, INDEX_FILE, shardName, WEIGHTS_FILE } from "./safetensors_index.ts";
import { quote } from "./safetensors_json.ts";
import { type ByteSink, checkEntry, type TensorEntry, writeSafetensors } from "./safetensors_write.ts";

/** A folder to write into, whoever holds it. */
export interface FolderWriter {
  /** Creates a file; disposing it closes it. */
  create(file: string): Promise<ByteSink & AsyncDisposable>;
}

/**
 * Writes weights as Hugging Face's folders hold them, and returns the names of the files: `model.safetensors`, or shards
 * of at most `maxShardBytes` of tensors and, last, their index. A tensor beyond that size gets a shard of its own.
 *
 * @param options `maxShardBytes`: 5e9 by default, as Hugging Face's; `metadata`: of each file, `{ format: "pt" }` by default
 * @throws RangeError or TypeError as `writeSafetensors`, before the first file is created where the entries show it
 */
export async function writeWeights(
  writer: FolderWriter,
  entries: Iterable<TensorEntry>,
  { maxShardBytes = 5e9, metadata = { format: "pt" } }: {
    readonly maxShardBytes?: number;
    readonly metadata?: Readonly<Record<string, string>>;
  } = {},
): Promise<string[]> {
  if (!(maxShardBytes > 0)) {
    throw new RangeError(`Cannot write weights: maxShardBytes must be above 0: got ${maxShardBytes}`);
  }
  const { shards, totalSize } = splitShards(entries, maxShardBytes);
  const files = shards.length === 1 ? [WEIGHTS_FILE] : shards.map((_, i) => shardName(i, shards.length));
  for (const [i, shard] of shards.entries()) {
    await using sink = await writer.create(files[i]);
    await writeSafetensors(sink, shard, metadata);
  }
  if (shards.length === 1) return files;
  const weightMap = new Map(shards.flatMap((shard, i) => shard.map(({ name }) => [name, files[i]])));
  await using sink = await writer.create(INDEX_FILE);
  await sink.write(new TextEncoder().encode(formatWeightIndex(weightMap, totalSize)));
  return [...files, INDEX_FILE];
}

/** Entries in their order, cut where the next one would not fit. */
function splitShards(
  entries: Iterable<TensorEntry>,
  maxShardBytes: number,
): { shards: TensorEntry[][]; totalSize: number } {
  const shards: TensorEntry[][] = [[]];
  const names = new Set<string>();
  let shardBytes = 0;
  let totalSize = 0;
  for (const entry of entries) {
    const bytes = checkEntry(entry);
    if (names.has(entry.name)) throw new RangeError(`Cannot write weights: ${quote(entry.name)} is there twice`);
    names.add(entry.name);
    if (shardBytes + bytes > maxShardBytes && shards.at(-1)!.length > 0) {
      shards.push([]);
      shardBytes = 0;
    }
    shards.at(-1)!.push(entry);
    shardBytes += bytes;
    totalSize += bytes;
  }
  return { shards, totalSize };
}
