/**
 * Entries of a matrix from a file of (row, column, value): `.csv` with RFC 4180's quotes, or `.tsv` and `.txt` with tabs,
 * with or without a first line of names. The file is read in pieces and never held whole; what is kept of an entry is two
 * numbers and a value. Labels are text of any kind and are numbered in order of their first appearance.
 */
import { Readable } from "node:stream";
import { CsvError, parse } from "npm:csv-parse@7.0.3";

/** The known entries of a matrix. */
export interface Triples {
  /** What the rows are called, in order of first appearance. */
  readonly rows: readonly string[];
  /** What the columns are called. */
  readonly columns: readonly string[];
  /** Of each entry: the place of its row, the place of its column, and its value. */
  readonly row: Int32Array;
  readonly column: Int32Array;
  readonly value: Float64Array;
  /** The names of the three fields that were read. */
  readonly fields: readonly [row: string, column: string, value: string];
}

/** How a file is read. */
export interface ReadTriplesOptions {
  /**
   * The names of the fields that hold row, column and value. Without them: those named so, where there are such, or the
   * first three. With `withoutValues` a first line that does not name them is an entry already.
   */
  readonly fields?: readonly string[];
  /** Reads rows and columns alone: a list of entries that are asked for. Their values are 0. */
  readonly withoutValues?: boolean;
}

const USUAL = ["row", "column", "value"] as const;

/**
 * Reads a file of entries.
 *
 * @throws {Deno.errors.NotFound} when there is no such file.
 * @throws {TypeError} when the name ends in no known way.
 * @throws {RangeError} for fields that the first line does not name.
 * @throws {SyntaxError} with the line, when the file is empty, a line lacks a field, a value is no finite number, or a pair
 * of row and column has two values.
 */
export async function readTriples(file: string, options: ReadTriplesOptions = {}): Promise<Triples> {
  const kind = /\.(csv|tsv|txt)$/i.exec(file)?.[1].toLowerCase();
  if (!kind) throw new TypeError(`Cannot read "${file}": its name must end in .csv, .tsv or .txt`);
  const entries = new Entries(file, options);
  const records = await openRecords(file, kind === "csv");
  try {
    for await (const { record, info } of records) entries.add(record, info.lines);
  } catch (error) {
    if (!(error instanceof CsvError)) throw error;
    throw new SyntaxError(`Cannot read "${file}": it is not sound CSV (${error.message})`);
  }
  return entries.finish();
}

interface CsvRecord {
  readonly record: readonly string[];
  readonly info: { readonly lines: number };
}

async function openRecords(file: string, isCsv: boolean): Promise<AsyncIterable<CsvRecord>> {
  let opened: Deno.FsFile;
  try {
    opened = await Deno.open(file);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    throw new Deno.errors.NotFound(`Cannot read "${file}": there is no such file`);
  }
  if (!(await opened.stat()).isFile) {
    opened.close();
    throw new TypeError(`Cannot read "${file}": expected a file, got a folder or a device`);
  }
  const parser = parse({
    ...{ info: true, bom: true, relax_column_count: true, skip_empty_lines: true },
    ...isCsv ? {} : { delimiter: "\t", quote: null },
  });
  // deno-lint-ignore no-explicit-any -- the two declarations of a web stream differ, the streams do not
  const source = Readable.fromWeb(opened.readable as any);
  source.on("error", (error: Error) => parser.destroy(error));
  return source.pipe(parser) as AsyncIterable<CsvRecord>;
}

/** Entries as they come. */
class Entries {
  readonly #rows = new Map<string, number>();
  readonly #columns = new Map<string, number>();
  /** The line of each pair, for the message about a second one. */
  readonly #lines = new Map<number, number>();
  readonly #row: number[] = [];
  readonly #column: number[] = [];
  readonly #value: number[] = [];
  /** Where the three fields stand; undefined before the first line. */
  #places: readonly number[] | undefined;
  #names: readonly [string, string, string] = USUAL as unknown as [string, string, string];

  constructor(readonly file: string, readonly options: ReadTriplesOptions) {}

  add(record: readonly string[], line: number): void {
    if (!this.#places && this.#readHeader(record, line)) return;
    const [row, column, value] = this.#places!.map((place) => record[place]?.trim());
    const fail = (rule: string) => new SyntaxError(`Cannot read "${this.file}": line ${line}: ${rule}`);
    const { withoutValues = false } = this.options;
    const missing = [row, column, withoutValues ? "" : value].findIndex((field) => field === undefined);
    if (missing >= 0) {
      throw fail(`it must have a field for ${this.#names[missing]}: got ${record.length} fields`);
    }
    if (row === "" || column === "") throw fail(`${this.#names[row === "" ? 0 : 1]} must not be empty`);
    const number = withoutValues ? 0 : numberOf(value);
    if (number === undefined) {
      throw fail(`${this.#names[2]} must be a finite number: got ${JSON.stringify(value)}`);
    }
    const [i, j] = [placeOf(this.#rows, row), placeOf(this.#columns, column)];
    const pair = i * 2 ** 26 + j;
    const before = this.#lines.get(pair);
    if (before !== undefined) {
      throw fail(`it is a second value for ${JSON.stringify(row)}, ${JSON.stringify(column)}, after line ${before}`);
    }
    this.#lines.set(pair, line);
    this.#row.push(i);
    this.#column.push(j);
    this.#value.push(number);
  }

  /** Whether the first line is one of names. */
  #readHeader(record: readonly string[], line: number): boolean {
    const { fields, withoutValues = false } = this.options;
    const names = record.map((name) => name.trim());
    const count = withoutValues ? 2 : 3;
    if (record.length < count) {
      throw new SyntaxError(
        `Cannot read "${this.file}": line ${line} must have ${count} fields, row, column${
          withoutValues ? "" : " and value"
        }: got ${record.length}`,
      );
    }
    const areThere = (wanted: readonly string[]) => wanted.slice(0, count).every((name) => names.includes(name));
    const wanted = fields && !(withoutValues && !areThere(fields)) ? fields : areThere(USUAL) ? USUAL : undefined;
    if (wanted) {
      const lost = wanted.slice(0, count).filter((name) => !names.includes(name));
      if (lost.length > 0) {
        throw new RangeError(
          `Cannot read "${this.file}": its first line must name ${lost.map((name) => `"${name}"`).join(" and ")}: ` +
            `got ${names.slice(0, 8).map((name) => `"${name}"`).join(", ")}`,
        );
      }
      this.#places = wanted.map((name) => names.indexOf(name));
      this.#names = [...wanted] as [string, string, string];
      return true;
    }
    this.#places = [0, 1, 2];
    // a first line whose value is a word is one of names; one that only looks like a number is data, and may be wrong
    const isHeader = withoutValues ? false : !/^[-+.\d]|^(nan|inf)/i.test(names[2]) && names[2] !== "";
    if (isHeader) this.#names = names.slice(0, 3) as [string, string, string];
    return isHeader;
  }

  finish(): Triples {
    if (!this.#places) throw new SyntaxError(`Cannot read "${this.file}": the file is empty`);
    if (this.#row.length === 0) throw new SyntaxError(`Cannot read "${this.file}": it has names and no entry`);
    return {
      rows: [...this.#rows.keys()],
      columns: [...this.#columns.keys()],
      row: Int32Array.from(this.#row),
      column: Int32Array.from(this.#column),
      value: Float64Array.from(this.#value),
      fields: this.#names,
    };
  }
}

function placeOf(places: Map<string, number>, label: string): number {
  const found = places.get(label);
  if (found !== undefined) return found;
  places.set(label, places.size);
  return places.size - 1;
}

/** What text says as a decimal number: `Number` would take "", "0x1f" and " " as well. */
function numberOf(text: string): number | undefined {
  if (!/^[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$/i.test(text)) return undefined;
  const value = Number(text);
  return Number.isFinite(value) ? value : undefined;
}
