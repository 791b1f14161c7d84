/**
 * Metadata that came from elsewhere, checked field by field before it steers an allocation or a path.
 * Caps: 1 MiB of `zarr.json` (its readers keep to that), an inner chunk of 256 MiB, an index of 64 MiB, 2^31 chunks.
 * A field that the specification does not know and that does not say `must_understand: false` is refused, as it demands.
 */

import type { SplitLayout, SplitName, StoreInfo } from "./zarr.ts";
import { chunkBytes, indexBytes, numChunks } from "./zarr.ts";

/** Bytes that a `zarr.json` may have. */
export const MAX_METADATA_BYTES = 1024 * 1024;
const MAX_CHUNK_BYTES = 256 * 1024 * 1024;
const MAX_INDEX_BYTES = 64 * 1024 * 1024;
const MAX_CHUNKS = 2 ** 31;

/** Tells why metadata is refused; the caller names the store. */
export class MetadataError extends Error {
  override readonly name = "MetadataError";
}

type Fields = Record<string, unknown>;

function need(condition: boolean, rule: string, got?: unknown): asserts condition {
  if (condition) return;
  const shown = got === undefined ? "nothing" : (JSON.stringify(got) ?? "nothing").slice(0, 80);
  throw new MetadataError(`${rule}, got ${shown}`);
}

function fields(value: unknown, what: string): Fields {
  need(typeof value === "object" && value !== null && !Array.isArray(value), `${what} must be an object`, value);
  return value as Fields;
}

function count(value: unknown, what: string, least: number): number {
  need(
    Number.isSafeInteger(value) && (value as number) >= least,
    `${what} must be a whole number from ${least}`,
    value,
  );
  return value as number;
}

function parse(json: string, file: string): Fields {
  let value: unknown;
  try {
    value = JSON.parse(json);
  } catch (error) {
    throw new MetadataError(`${file} is not JSON (${(error as Error).message})`);
  }
  return fields(value, file);
}

function noOthers(value: Fields, known: readonly string[], file: string): void {
  for (const [key, field] of Object.entries(value)) {
    const optional = typeof field === "object" && field !== null && (field as Fields).must_understand === false;
    need(known.includes(key) || optional, `${file} must hold only fields that the Zarr v3 specification knows`, key);
  }
}

/** The group's attributes as a `StoreInfo`. */
export function checkGroup(json: string): StoreInfo {
  const file = "zarr.json";
  const group = parse(json, file);
  need(group.zarr_format === 3, `${file}: zarr_format must be 3`, group.zarr_format);
  need(group.node_type === "group", `${file}: node_type must be "group"`, group.node_type);
  noOthers(group, ["zarr_format", "node_type", "attributes", "consolidated_metadata"], file);
  const info = fields(group.attributes, `${file}: attributes`);
  need(info.format === "lowrank-tokens", `${file}: attributes.format must be "lowrank-tokens"`, info.format);
  need(info.formatVersion === 1, `${file}: attributes.formatVersion must be 1`, info.formatVersion);
  need(
    info.dtype === "uint16" || info.dtype === "uint32",
    `${file}: attributes.dtype must be uint16 or uint32`,
    info.dtype,
  );
  count(info.seq, `${file}: attributes.seq`, 1);
  count(info.tokens, `${file}: attributes.tokens`, 2);
  const tokenizer = fields(info.tokenizer, `${file}: attributes.tokenizer`);
  for (const name of ["name", "hash"]) {
    need(
      typeof tokenizer[name] === "string",
      `${file}: attributes.tokenizer.${name} must be a string`,
      tokenizer[name],
    );
  }
  const vocabSize = count(tokenizer.vocabSize, `${file}: attributes.tokenizer.vocabSize`, 1);
  const eosId = count(tokenizer.eosId, `${file}: attributes.tokenizer.eosId`, 0);
  need(eosId < vocabSize, `${file}: attributes.tokenizer.eosId must be below vocabSize ${vocabSize}`, eosId);
  const splits = fields(info.splits, `${file}: attributes.splits`);
  need("train" in splits, `${file}: attributes.splits must have "train"`, Object.keys(splits));
  for (const [name, split] of Object.entries(splits)) {
    need(name === "train" || name === "validation", `${file}: a split must be "train" or "validation"`, name);
    count(fields(split, `${file}: splits.${name}`).rows, `${file}: splits.${name}.rows`, 1);
  }
  need(Array.isArray(info.sources), `${file}: attributes.sources must be a list`, info.sources);
  return info as unknown as StoreInfo;
}

/** One split's layout, from its array's metadata, which must agree with the group's. */
export function checkArray(json: string, split: SplitName, info: StoreInfo): SplitLayout {
  const file = `${split}/zarr.json`;
  const array = parse(json, file);
  need(
    array.zarr_format === 3 && array.node_type === "array",
    `${file} must describe a Zarr v3 array`,
    array.node_type,
  );
  const known = [
    "zarr_format",
    "node_type",
    "shape",
    "data_type",
    "chunk_grid",
    "chunk_key_encoding",
    "fill_value",
    "codecs",
  ];
  noOthers(array, [...known, "dimension_names", "attributes", "storage_transformers"], file);
  need(array.data_type === info.dtype, `${file}: data_type must be ${info.dtype}, as the group says`, array.data_type);
  const transformers = array.storage_transformers ?? [];
  need(
    Array.isArray(transformers) && transformers.length === 0,
    `${file}: storage_transformers must be empty`,
    transformers,
  );
  const width = info.seq + 1;
  const rows = pair(array.shape, `${file}: shape`, width);
  need(
    rows === info.splits[split]?.rows,
    `${file}: shape must have ${info.splits[split]?.rows} rows, as the group says`,
    rows,
  );
  const keys = fields(array.chunk_key_encoding, `${file}: chunk_key_encoding`);
  const separator = fields(keys.configuration ?? { separator: "/" }, `${file}: chunk_key_encoding`).separator ?? "/";
  need(keys.name === "default" && separator === "/", `${file}: chunk_key_encoding must be default with "/"`, keys);
  const grid = fields(array.chunk_grid, `${file}: chunk_grid`);
  need(grid.name === "regular", `${file}: chunk_grid must be regular`, grid.name);
  const shardRows = pair(fields(grid.configuration, `${file}: chunk_grid`).chunk_shape, `${file}: chunk_grid`, width);
  const { rowsPerChunk, compressed } = checkSharding(array.codecs, file, width);
  need(
    shardRows % rowsPerChunk === 0,
    `${file}: a shard's ${shardRows} rows must be a multiple of its chunks' rows`,
    rowsPerChunk,
  );
  const attributes = fields(array.attributes ?? {}, `${file}: attributes`);
  const shardBytes = attributes.shard_bytes as number[] | undefined;
  const layout = {
    rows,
    seq: info.seq,
    dtype: info.dtype,
    rowsPerChunk,
    compressed,
    chunksPerShard: shardRows / rowsPerChunk,
    shardBytes,
  };
  need(
    chunkBytes(layout) <= MAX_CHUNK_BYTES,
    `${file}: a chunk must decode to at most ${MAX_CHUNK_BYTES} bytes`,
    chunkBytes(layout),
  );
  need(
    indexBytes(layout) <= MAX_INDEX_BYTES,
    `${file}: a shard's index must be at most ${MAX_INDEX_BYTES} bytes`,
    indexBytes(layout),
  );
  need(numChunks(layout) <= MAX_CHUNKS, `${file}: an array must have at most ${MAX_CHUNKS} chunks`, numChunks(layout));
  checkShardBytes(shardBytes, layout, file);
  return layout;
}

function pair(value: unknown, what: string, width: number): number {
  need(Array.isArray(value) && value.length === 2 && value[1] === width, `${what} must be [rows, ${width}]`, value);
  return count(value[0], `${what}[0]`, 1);
}

function checkShardBytes(shardBytes: unknown, layout: SplitLayout, file: string): void {
  if (shardBytes === undefined) return;
  const shards = Math.ceil(numChunks(layout) / layout.chunksPerShard);
  const rule = `${file}: attributes.shard_bytes must list ${shards} sizes`;
  need(Array.isArray(shardBytes) && shardBytes.length === shards, rule, shardBytes);
  for (const bytes of shardBytes) count(bytes, rule, indexBytes(layout));
}

/** Rows of an inner chunk; the codecs must be the ones that are verified here. */
function checkSharding(codecs: unknown, file: string, width: number): { rowsPerChunk: number; compressed: boolean } {
  need(Array.isArray(codecs) && codecs.length === 1, `${file}: codecs must be sharding_indexed alone`, codecs);
  const sharding = fields(codecs[0], `${file}: codecs`);
  need(sharding.name === "sharding_indexed", `${file}: codecs must be sharding_indexed alone`, sharding.name);
  const configuration = fields(sharding.configuration, `${file}: sharding_indexed`);
  const location = configuration.index_location ?? "end";
  need(location === "end", `${file}: index_location must be "end"`, location);
  const inner = codecNames(configuration.codecs, file);
  need(/^bytes,(zstd,)?crc32c$/.test(inner), `${file}: inner codecs must be bytes, zstd or none, crc32c`, inner);
  const index = codecNames(configuration.index_codecs, file);
  need(index === "bytes,crc32c", `${file}: index_codecs must be bytes, crc32c`, index);
  const rowsPerChunk = pair(configuration.chunk_shape, `${file}: sharding_indexed chunk_shape`, width);
  return { rowsPerChunk, compressed: inner.includes("zstd") };
}

function codecNames(codecs: unknown, file: string): string {
  need(Array.isArray(codecs), `${file}: codecs must be a list`, codecs);
  return codecs.map((codec) => {
    const { name, configuration } = fields(codec, `${file}: a codec`);
    const endian = (configuration as Fields | undefined)?.endian;
    need(name !== "bytes" || endian === "little", `${file}: bytes must be little-endian`, endian);
    return String(name);
  }).join(",");
}
