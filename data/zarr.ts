/**
 * The store's metadata, written and read: a Zarr v3 group whose attributes say which tokenizer made the tokens, and one
 * 2-D array per split, `[sequences, seq + 1]`, sharded. Source: zarr-specs v3.1, `sharding_indexed` v1.0.
 * Reading accepts what `prepareStore` writes and close kin (no compression, index at the end), and refuses the rest before anything is
 * allocated: `data` is no general Zarr reader.
 */

/** One input file, as the store remembers it. */
export interface SourceInfo {
  /** The file's name, without its folder. */
  readonly name: string;
  /** Stored bytes of the file. */
  readonly bytes: number;
  /** SHA-256 of the stored bytes, in hexadecimal. */
  readonly sha256: string;
}

/** A split's name: an array of that name inside the store. */
export type SplitName = "train" | "validation";

/** What a store says about itself, in the attributes of its group. */
export interface StoreInfo {
  /** What kind of group this is. */
  readonly format: "lowrank-tokens";
  /** Raised when readers of this version could not read it. */
  readonly formatVersion: 1;
  /** The program that wrote the store. */
  readonly writer: string;
  /** Whose ids the tokens are. */
  readonly tokenizer: {
    /** Its name, for people. */
    readonly name: string;
    /** SHA-256 of the tokenizer's files; compare it with `Tokenizer.hash` before training. */
    readonly hash: string;
    /** One more than the largest id. */
    readonly vocabSize: number;
    /** The id between documents. */
    readonly eosId: number;
  };
  /** How a token is stored: `uint16` for vocabularies of up to 65,536 ids. */
  readonly dtype: "uint16" | "uint32";
  /** Predicted tokens of a row; a row holds one more. */
  readonly seq: number;
  /** Tokens of the whole stream, those of the last incomplete row included. */
  readonly tokens: number;
  /** The fraction that was asked to be held out. */
  readonly holdOut: number;
  /** Rows of each split; `validation` is absent when nothing was held out. */
  readonly splits: Readonly<Partial<Record<SplitName, { readonly rows: number }>>>;
  /** The input files, in order. */
  readonly sources: readonly SourceInfo[];
}

/** How one split is laid out in files. */
export interface SplitLayout {
  readonly rows: number;
  readonly seq: number;
  readonly dtype: "uint16" | "uint32";
  readonly rowsPerChunk: number;
  readonly chunksPerShard: number;
  /** Whether chunks are compressed with zstd. */
  readonly compressed: boolean;
  /** Bytes of each shard's file, in order; absent in stores that others wrote. */
  readonly shardBytes?: readonly number[];
}

/** Bytes of one stored token. */
export function itemSize(dtype: "uint16" | "uint32"): number {
  return dtype === "uint16" ? 2 : 4;
}

/** Bytes of one decoded inner chunk. The last is as large as the others: Zarr pads it. */
export function chunkBytes({ rowsPerChunk, seq, dtype }: SplitLayout): number {
  return rowsPerChunk * (seq + 1) * itemSize(dtype);
}

/** Inner chunks that hold rows. */
export function numChunks({ rows, rowsPerChunk }: SplitLayout): number {
  return Math.ceil(rows / rowsPerChunk);
}

/** Bytes of a shard's index: offset and length of each inner chunk, and a checksum. */
export function indexBytes({ chunksPerShard }: SplitLayout): number {
  return 16 * chunksPerShard + 4;
}

/** The shard's key under the store's root. */
export function shardKey(split: SplitName, shard: number): string {
  return `${split}/c/${shard}/0`;
}

const LITTLE = { name: "bytes", configuration: { endian: "little" } };
const CRC = { name: "crc32c" };

/** `zarr.json` of the group. */
export function groupMetadata(info: StoreInfo): string {
  return JSON.stringify({ zarr_format: 3, node_type: "group", attributes: info }, null, 2) + "\n";
}

/** `zarr.json` of one split's array. */
export function arrayMetadata(layout: SplitLayout, level: number): string {
  const { rows, seq, dtype, rowsPerChunk, chunksPerShard, shardBytes } = layout;
  const sharding = {
    chunk_shape: [rowsPerChunk, seq + 1],
    codecs: [LITTLE, { name: "zstd", configuration: { level, checksum: false } }, CRC],
    index_codecs: [LITTLE, CRC],
    index_location: "end",
  };
  const metadata = {
    zarr_format: 3,
    node_type: "array",
    shape: [rows, seq + 1],
    data_type: dtype,
    chunk_grid: { name: "regular", configuration: { chunk_shape: [rowsPerChunk * chunksPerShard, seq + 1] } },
    chunk_key_encoding: { name: "default", configuration: { separator: "/" } },
    fill_value: 0,
    codecs: [{ name: "sharding_indexed", configuration: sharding }],
    dimension_names: ["sequence", "token"],
    attributes: { shard_bytes: shardBytes },
  };
  return JSON.stringify(metadata) + "\n";
}
