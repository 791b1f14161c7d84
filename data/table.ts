/**
 * Files of rows with named columns: `.tsv` (and `.txt`), `.csv`, `.jsonl`, `.parquet`, read as what they say they are.
 * It knows no task. TSV has no quoting rule at all: a quote is a character, since GLUE's files have lone ones; CSV has
 * RFC 4180's, through `npm:csv-parse`. A byte order mark and carriage returns at line ends are left out.
 * Rows come one by one from text that is held whole, as the largest of these files (MNLI) has 80 MB.
 */

import { CsvError, parse } from "npm:csv-parse@7.0.3/sync";
import { readParquet } from "./parquet.ts";
import { decodeStrictly } from "./utf8.ts";

/** One row. */
export interface TableRow {
  /** The line of the file, from 1; of Parquet the row, from 1. */
  readonly line: number;
  /** One value to a column; undefined where a JSON record lacks it. */
  readonly fields: readonly unknown[];
}

/** A file's columns, and its rows to go through once. */
export interface Table {
  readonly columns: readonly string[];
  readonly rows: Iterable<TableRow>;
  /** What `line` counts. */
  readonly unit: "line" | "row";
}

/** How a file is read. */
export interface TableOptions {
  /**
   * Given the fields of a first line, the names of the columns when that line is data already, or undefined when it is a
   * header. Only asked about TSV and CSV.
   */
  readonly headerless?: (fields: readonly string[]) => readonly string[] | undefined;
  /** Is told the line of a row with the wrong number of fields, which is then left out; without it that is an error. */
  readonly onMalformed?: (line: number) => void;
  /** Which of a Parquet file's columns to read; all without it. */
  readonly pick?: (columns: readonly string[]) => readonly string[];
}

/** The kinds of file, for messages. */
export const TABLE_KINDS = ".tsv, .csv, .jsonl, .parquet or .txt";

/**
 * Opens a table.
 *
 * @throws {TypeError} when the name ends in none of the known ways.
 * @throws {Deno.errors.NotFound} when there is no such file.
 * @throws {SyntaxError} when the file is empty or is not what its name says; while rows are read, with the line.
 */
export async function readTable(file: string, options: TableOptions = {}): Promise<Table> {
  const kind = /\.(tsv|txt|csv|jsonl|parquet)$/i.exec(file)?.[1].toLowerCase();
  if (!kind) throw new TypeError(`Cannot read "${file}": its name must end in ${TABLE_KINDS}`);
  const { isFile, size } = await statFile(file);
  if (!isFile) throw new TypeError(`Cannot read "${file}": expected a file, got a folder or a device`);
  if (size === 0) throw new SyntaxError(`Cannot read "${file}": the file is empty`);
  if (kind === "parquet") return await parquetTable(file, options.pick);
  const text = decodeStrictly(await Deno.readFile(file), file, 0).replace(/^\ufeff/, "");
  if (text.trim() === "") throw new SyntaxError(`Cannot read "${file}": the file is empty`);
  if (kind === "jsonl") return jsonTable(file, text);
  return separatedTable(file, kind === "csv" ? csvRows(file, text) : tsvRows(text), options);
}

async function statFile(file: string): Promise<Deno.FileInfo> {
  try {
    return await Deno.stat(file);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    throw new Deno.errors.NotFound(`Cannot read "${file}": there is no such file`);
  }
}

async function parquetTable(file: string, pick: TableOptions["pick"]): Promise<Table> {
  const { columns, rows } = await readParquet(file, pick);
  const values = function* (): Generator<TableRow> {
    for (const [i, row] of rows.entries()) yield { line: i + 1, fields: columns.map((name) => row[name]) };
  };
  return { columns, rows: values(), unit: "row" };
}

function jsonTable(file: string, text: string): Table {
  const records = jsonRecords(file, text);
  const first = records.next();
  // readTable() has seen that the text is not blank, so there is a first record
  const columns = Object.keys(first.value!.record);
  const values = function* (): Generator<TableRow> {
    yield { line: first.value!.line, fields: Object.values(first.value!.record) };
    for (const { line, record } of records) yield { line, fields: columns.map((name) => record[name]) };
  };
  return { columns, rows: values(), unit: "line" };
}

/** One object of a JSONL file. */
export interface JsonRecord {
  readonly line: number;
  readonly record: Readonly<Record<string, unknown>>;
}

/**
 * The objects of JSONL text; blank lines are left out.
 *
 * @throws {SyntaxError} at a line that is not a JSON object.
 */
export function* jsonRecords(file: string, text: string): Generator<JsonRecord, undefined> {
  for (const { line, content } of linesOf(text)) {
    if (content.trim() === "") continue;
    let record: unknown;
    try {
      record = JSON.parse(content);
    } catch (error) {
      throw new SyntaxError(`Cannot read "${file}": line ${line} is not JSON (${(error as Error).message})`);
    }
    if (typeof record !== "object" || record === null || Array.isArray(record)) {
      throw new SyntaxError(`Cannot read "${file}": line ${line} must be a JSON object`);
    }
    yield { line, record: record as Record<string, unknown> };
  }
}

function* linesOf(text: string): Generator<{ line: number; content: string }> {
  let line = 1;
  for (let start = 0; start < text.length; line++) {
    const found = text.indexOf("\n", start);
    const end = found < 0 ? text.length : found;
    const isReturn = end > start && text.charCodeAt(end - 1) === 13;
    yield { line, content: text.slice(start, isReturn ? end - 1 : end) };
    start = end + 1;
  }
}

interface TextRow {
  readonly line: number;
  readonly fields: readonly string[];
}

function* tsvRows(text: string): Generator<TextRow> {
  for (const { line, content } of linesOf(text)) if (content !== "") yield { line, fields: content.split("\t") };
}

function csvRows(file: string, text: string): Iterator<TextRow> & Iterable<TextRow> {
  try {
    const options = { info: true, relax_column_count: true, skip_empty_lines: true } as const;
    const records = parse(text, options) as unknown as { record: string[]; info: { lines: number } }[];
    return records.map(({ record, info }) => ({ line: info.lines, fields: record })).values();
  } catch (error) {
    if (!(error instanceof CsvError)) throw error;
    throw new SyntaxError(`Cannot read "${file}": it is not sound CSV (${error.message})`);
  }
}

function separatedTable(file: string, rows: Iterator<TextRow> & Iterable<TextRow>, options: TableOptions): Table {
  const first: TextRow = rows.next().value;
  const named = options.headerless?.(first.fields);
  const columns = named ?? first.fields;
  const values = function* (): Generator<TableRow> {
    if (named) yield first;
    for (const row of rows) {
      if (row.fields.length === columns.length) yield row;
      else if (options.onMalformed) options.onMalformed(row.line);
      else {
        const rule = `line ${row.line} must have ${columns.length} fields, as the first line has`;
        throw new SyntaxError(`Cannot read "${file}": ${rule}: got ${row.fields.length}`);
      }
    }
  };
  return { columns, rows: values(), unit: "line" };
}
