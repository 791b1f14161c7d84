/**
 * Parquet files as rows of plain values, through `npm:hyparquet` (no dependencies, no native code), the one file that
 * imports it. Snappy is in that library; gzip, brotli and zstd come from the runtime. It writes no Parquet.
 * Whole numbers of 64 bits become numbers, or an error beyond 2^53.
 */

import { brotliDecompressSync, gunzipSync, zstdDecompressSync } from "node:zlib";
import type { AsyncBuffer } from "npm:hyparquet@1.33.0";

/** A file's columns and rows. */
export interface ParquetRows {
  readonly columns: readonly string[];
  readonly rows: readonly Readonly<Record<string, unknown>>[];
}

/**
 * Reads some columns of a file, or all of them.
 *
 * @param pick is given the names of the columns, and returns those to read.
 * @throws {SyntaxError} when the file is not Parquet, or is damaged.
 */
export async function readParquet(
  file: string,
  pick: (columns: readonly string[]) => readonly string[] = (columns) => columns,
): Promise<ParquetRows> {
  // loaded when it is wanted: it would be a third of the time that a command takes to start
  const { parquetMetadataAsync, parquetReadObjects, parquetSchema } = await import("npm:hyparquet@1.33.0");
  const bytes = await Deno.readFile(file);
  const buffer: AsyncBuffer = {
    byteLength: bytes.byteLength,
    slice: (start, end) => bytes.buffer.slice(start, end),
  };
  const metadata = await guarded(file, () => parquetMetadataAsync(buffer));
  const columns = parquetSchema(metadata).children.map(({ element }) => element.name);
  const wanted = [...pick(columns)];
  const compressors = { GZIP: gunzip, BROTLI: brotli, ZSTD: zstd };
  const rows = await guarded(
    file,
    () => parquetReadObjects({ file: buffer, metadata, columns: wanted, compressors }),
  );
  for (const row of rows) for (const name of wanted) row[name] = plainValue(file, name, row[name]);
  return { columns, rows };
}

async function guarded<T>(file: string, read: () => Promise<T>): Promise<T> {
  try {
    return await read();
  } catch (error) {
    throw new SyntaxError(`Cannot read "${file}": it is not sound Parquet (${(error as Error).message})`);
  }
}

const gunzip = (input: Uint8Array): Uint8Array => new Uint8Array(gunzipSync(input));
const brotli = (input: Uint8Array): Uint8Array => new Uint8Array(brotliDecompressSync(input));
const zstd = (input: Uint8Array): Uint8Array => new Uint8Array(zstdDecompressSync(input));

function plainValue(file: string, name: string, value: unknown): unknown {
  if (typeof value !== "bigint") return value;
  if (BigInt.asIntN(54, value) === value) return Number(value);
  throw new RangeError(`Cannot read "${file}": column "${name}": whole numbers must be below 2^53: got ${value}`);
}
