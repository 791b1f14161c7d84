/**
 * The metadata of an image store, written and read: a Zarr v3 group whose attributes name the classes, and in each split a group
 * of two arrays, `images` u8 [n, h, w, c] and `labels` i32 [n], sharded. Source: zarr-specs v3.1, `sharding_indexed` v1.0.
 * Reading takes the very metadata that writing makes from the same numbers, and refuses the rest before anything is
 * allocated: `data` is no general Zarr reader. Caps: an inner chunk of 256 MiB, 2^20 chunks in a shard, 2^31 in an array.
 */

import type { Fit } from "./resize.ts";
import type { SplitName } from "./zarr.ts";
import { MetadataError } from "./zarr_check.ts";

/** What an image store says about itself, in the attributes of its group. */
export interface ImageStoreInfo {
  /** What kind of group this is. */
  readonly format: "lowrank-images";
  /** Raised when readers of this version could not read it. */
  readonly formatVersion: 1;
  /** The program that wrote the store. */
  readonly writer: string;
  /** Pixels. */
  readonly height: number;
  readonly width: number;
  /** 1 for grey, 3 for red, green and blue. */
  readonly channels: 1 | 3;
  /** How images of another shape were made to fit. */
  readonly fit: Fit;
  /** A label is a place in this list. */
  readonly classes: readonly string[];
  /** What the order of images, and the choice among them, was drawn from. */
  readonly seed: number;
  /** Each split's images, in all and of each class; `validation` is absent when nothing was held out. */
  readonly splits: Readonly<Partial<Record<SplitName, ImageSplitInfo>>>;
  /** Files that were left out because they could not be read. */
  readonly skipped: number;
  /** Names of the folders or files that were read. */
  readonly sources: readonly string[];
}

/** What the group says of one split. */
export interface ImageSplitInfo {
  /** Images. */
  readonly rows: number;
  /** Images of each class, in the order of `classes`. */
  readonly perClass: readonly number[];
}

/** Names of a split's arrays. */
export type ImageArray = "images" | "labels";

/** How one array is laid out in files. */
export interface ArrayLayout {
  /** The array's key under the store's root, such as `train/images`. */
  readonly key: `${SplitName}/${ImageArray}`;
  readonly rows: number;
  /** The shape of a row: [height, width, channels], or none for labels. */
  readonly rowShape: readonly number[];
  readonly rowsPerChunk: number;
  readonly chunksPerShard: number;
  /** Bytes of each shard's file, in order. */
  readonly shardBytes: readonly number[];
  /** SHA-256 of all rows, in order: what no checksum of a chunk can say, that each stands in its place. */
  readonly sha256: string;
}

const MAX_CHUNK_BYTES = 256 * 1024 * 1024;
const MAX_CHUNKS_PER_SHARD = 2 ** 20;
const MAX_CHUNKS = 2 ** 31;
/** zstd's own usual level: MNIST shrinks to a fifth. */
export const ZSTD_LEVEL = 3;

/** Bytes of one row: a pixel's channel takes one, a label four. */
export function rowBytes({ rowShape }: Pick<ArrayLayout, "rowShape">): number {
  return rowShape.length === 0 ? 4 : rowShape.reduce((product, side) => product * side, 1);
}

/** Inner chunks that hold rows. */
export function numArrayChunks({ rows, rowsPerChunk }: Pick<ArrayLayout, "rows" | "rowsPerChunk">): number {
  return Math.ceil(rows / rowsPerChunk);
}

/** Bytes of one decoded inner chunk. The last is as large as the others: Zarr pads it. */
export function arrayChunkBytes(layout: Pick<ArrayLayout, "rowShape" | "rowsPerChunk">): number {
  return layout.rowsPerChunk * rowBytes(layout);
}

/** Bytes of a shard's index: offset and length of each inner chunk, and a checksum. */
export function shardIndexBytes({ chunksPerShard }: Pick<ArrayLayout, "chunksPerShard">): number {
  return 16 * chunksPerShard + 4;
}

/** The key of a shard's file under the store's root. */
export function arrayShardKey({ key, rowShape }: Pick<ArrayLayout, "key" | "rowShape">, shard: number): string {
  return `${key}/c/${[shard, ...rowShape.map(() => 0)].join("/")}`;
}

/** `zarr.json` of the store, and of a split's group without attributes. */
export function imageGroupMetadata(info?: ImageStoreInfo): string {
  return JSON.stringify({ zarr_format: 3, node_type: "group", attributes: info ?? {} }, null, 2) + "\n";
}

/** `zarr.json` of one array. */
export function imageArrayMetadata(layout: ArrayLayout): string {
  return JSON.stringify(describeArray(layout)) + "\n";
}

function describeArray({ rows, rowShape, rowsPerChunk, chunksPerShard, shardBytes, sha256 }: ArrayLayout): Fields {
  const little = { name: "bytes", configuration: { endian: "little" } };
  const crc = { name: "crc32c" };
  const isLabels = rowShape.length === 0;
  const sharding = {
    chunk_shape: [rowsPerChunk, ...rowShape],
    // a byte has no order, and no endian
    codecs: [
      isLabels ? little : { name: "bytes" },
      { name: "zstd", configuration: { level: ZSTD_LEVEL, checksum: false } },
      crc,
    ],
    index_codecs: [little, crc],
    index_location: "end",
  };
  return {
    zarr_format: 3,
    node_type: "array",
    shape: [rows, ...rowShape],
    data_type: isLabels ? "int32" : "uint8",
    chunk_grid: { name: "regular", configuration: { chunk_shape: [rowsPerChunk * chunksPerShard, ...rowShape] } },
    chunk_key_encoding: { name: "default", configuration: { separator: "/" } },
    fill_value: 0,
    codecs: [{ name: "sharding_indexed", configuration: sharding }],
    dimension_names: isLabels ? ["image"] : ["image", "row", "column", "channel"],
    attributes: { shard_bytes: shardBytes, sha256 },
  };
}

type Fields = Record<string, unknown>;

/**
 * One array's layout, from its metadata, which must be what the group says it is.
 *
 * @throws {MetadataError} naming the first field that is otherwise.
 */
export function checkImageArray(
  json: string,
  { key, rows, rowShape }: Pick<ArrayLayout, "key" | "rows" | "rowShape">,
): ArrayLayout {
  const file = `${key}/zarr.json`;
  const array = parseObject(json, file);
  // deno-lint-ignore no-explicit-any -- metadata of any shape: what is no number fails below.
  const { chunk_grid: grid, codecs, attributes } = array as any;
  const shardRows = grid?.configuration?.chunk_shape?.[0];
  const rowsPerChunk = requireCount(codecs?.[0]?.configuration?.chunk_shape?.[0], `${file}: rows of a chunk`, 1);
  const chunksPerShard = requireCount(shardRows / rowsPerChunk, `${file}: chunks of a shard`, 1);
  const layout = { key, rows, rowShape, rowsPerChunk, chunksPerShard };
  const caps: [string, number, number][] = [
    ["bytes of a chunk", arrayChunkBytes(layout), MAX_CHUNK_BYTES],
    ["chunks of a shard", chunksPerShard, MAX_CHUNKS_PER_SHARD],
    ["chunks", numArrayChunks(layout), MAX_CHUNKS],
  ];
  for (const [what, got, most] of caps) need(got <= most, `${file}: ${what} must be at most ${most}`, got);
  const shards = Math.ceil(numArrayChunks(layout) / chunksPerShard);
  const shardBytes = attributes?.shard_bytes;
  const rule = `${file}: attributes.shard_bytes must list ${shards} sizes`;
  need(Array.isArray(shardBytes) && shardBytes.length === shards, rule, shardBytes);
  for (const bytes of shardBytes) requireCount(bytes, rule, shardIndexBytes(layout));
  const sha256 = attributes?.sha256;
  need(/^[0-9a-f]{64}$/.test(String(sha256)), `${file}: attributes.sha256 must be 64 hexadecimal digits`, sha256);
  const checked = { ...layout, shardBytes: shardBytes as number[], sha256: String(sha256) };
  requireEqual(array, describeArray(checked), file);
  return checked;
}

/** The group's attributes as an `ImageStoreInfo`. @throws {MetadataError} when a field is not what it must be. */
export function checkImageGroup(json: string): ImageStoreInfo {
  const file = "zarr.json";
  const group = parseObject(json, file);
  need(
    group.zarr_format === 3 && group.node_type === "group",
    `${file} must describe a Zarr v3 group`,
    group.node_type,
  );
  const info = (group.attributes ?? {}) as Fields;
  need(info.format === "lowrank-images", `${file}: attributes.format must be "lowrank-images"`, info.format);
  need(info.formatVersion === 1, `${file}: attributes.formatVersion must be 1`, info.formatVersion);
  for (const side of ["height", "width"]) requireCount(info[side], `${file}: attributes.${side}`, 1);
  need(info.channels === 1 || info.channels === 3, `${file}: attributes.channels must be 1 or 3`, info.channels);
  requireCount(info.seed, `${file}: attributes.seed`, 0);
  const { classes, splits } = info;
  const areNames = Array.isArray(classes) && classes.length > 0 && classes.every((name) => typeof name === "string");
  need(areNames, `${file}: attributes.classes must be a list of names`, classes);
  need(typeof splits === "object" && splits !== null && "train" in splits, `${file}: splits must have "train"`, splits);
  for (const [name, split] of Object.entries(splits)) {
    need(name === "train" || name === "validation", `${file}: a split must be "train" or "validation"`, name);
    const { rows, perClass } = (split ?? {}) as Fields;
    requireCount(rows, `${file}: splits.${name}.rows`, 1);
    const rule = `${file}: splits.${name}.perClass must list ${classes.length} counts that add up to ${rows}`;
    need(Array.isArray(perClass) && perClass.length === classes.length, rule, perClass);
    const sum = perClass.reduce((total: number, count) => total + requireCount(count, rule, 0), 0);
    need(sum === rows, rule, sum);
  }
  return info as unknown as ImageStoreInfo;
}

function parseObject(json: string, file: string): Fields {
  let value: unknown;
  try {
    value = JSON.parse(json);
  } catch (error) {
    throw new MetadataError(`${file} is not JSON (${(error as Error).message})`);
  }
  need(typeof value === "object" && value !== null && !Array.isArray(value), `${file} must be an object`, value);
  return value as Fields;
}

function requireCount(value: unknown, what: string, least: number): number {
  need(Number.isSafeInteger(value) && Number(value) >= least, `${what} must be a whole number from ${least}`, value);
  return value as number;
}

/** Names the first top-level field that differs. */
function requireEqual(got: Fields, wanted: Fields, file: string): void {
  for (const field of new Set([...Object.keys(wanted), ...Object.keys(got)])) {
    const rule = field in wanted ? `must be ${JSON.stringify(wanted[field])}` : "is not one that such a store has";
    need(canonical(got[field]) === canonical(wanted[field]), `${file}: ${field} ${rule}`, got[field]);
  }
}

/** JSON with the fields of objects in order. */
function canonical(value: unknown): string {
  return JSON.stringify(value, (_, field) => {
    const isObject = typeof field === "object" && field !== null && !Array.isArray(field);
    return isObject ? Object.fromEntries(Object.entries(field).sort(([a], [b]) => a < b ? -1 : 1)) : field;
  }) ?? "";
}

function need(condition: boolean, rule: string, got?: unknown): asserts condition {
  if (condition) return;
  throw new MetadataError(`${rule}, got ${(JSON.stringify(got) ?? "nothing").slice(0, 80)}`);
}
