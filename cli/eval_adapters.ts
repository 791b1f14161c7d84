/**
 * `eval` with adapters by name: a column of the file says which adapter each example is for, batches hold examples of
 * several, and what comes out is told for all of them and for each. With one adapter by its folder, or none, every example
 * is for that.
 */
import { readTable } from "../data/mod.ts";
import { type AdapterFlag, NO_ADAPTER, parseAdapters, placeOfAdapter } from "./adapted.ts";

/** The column where none is named. */
const USUAL_COLUMN = "adapter";

/** Which adapters there are, and how examples find theirs. */
export interface AdapterFlags {
  /** `--adapter FOLDER`, or `--adapter NAME=FOLDER` many times. */
  readonly adapter: readonly string[];
  readonly adapterColumn?: string;
}

/** Adapters, and which of them the examples of a file are for. */
export interface AdapterChoice {
  readonly adapters: readonly AdapterFlag[];
  /** Whether files say by a column which adapter an example is for. */
  readonly byName: boolean;
  /** The places of the adapters that these lines of a file are for. */
  placesOf(file: string, lines: readonly number[]): Promise<number[]>;
}

/**
 * Reads the flags.
 *
 * @throws RangeError as `parseAdapters`, and for a column without names that it could hold
 */
export function chooseAdapters({ adapter, adapterColumn }: AdapterFlags): AdapterChoice {
  const adapters = parseAdapters(adapter);
  const byName = adapters.some(({ name }) => name !== undefined);
  if (adapterColumn !== undefined && !byName) {
    throw new RangeError("Cannot use --adapter-column: no adapter has a name: give --adapter NAME=FOLDER");
  }
  const placesOf = async (file: string, lines: readonly number[]) => {
    if (!byName) return lines.map(() => adapters.length - 1);
    const places = await readAdapterColumn(file, adapterColumn ?? USUAL_COLUMN, adapters);
    return lines.map((line) => places.get(line)!);
  };
  return { adapters, byName, placesOf };
}

/** The place of the adapter of each line. */
async function readAdapterColumn(
  file: string,
  column: string,
  adapters: readonly AdapterFlag[],
): Promise<ReadonlyMap<number, number>> {
  const { columns, rows, unit } = await readTable(file, {
    pick: (there) => there.includes(column) ? [column] : there,
    // who reads the examples leaves these lines out, or has refused them
    onMalformed: () => {},
  });
  const at = columns.indexOf(column);
  if (at < 0) {
    const there = columns.slice(0, 20).map((name) => JSON.stringify(name.slice(0, 40))).join(", ");
    throw new SyntaxError(
      `Cannot read "${file}": it needs a column "${column}" with the adapters' names: its columns are ${there}` +
        (column === USUAL_COLUMN ? "; --adapter-column names another" : ""),
    );
  }
  const places = new Map<number, number>();
  for (const { line, fields } of rows) {
    places.set(line, placeOfAdapter(adapters, fields[at], `Cannot read "${file}": ${unit} ${line}`));
  }
  return places;
}

/** What was measured of the examples of one adapter. */
export interface AdapterShare<Measured> {
  /** Its name; null: the model alone. */
  readonly adapter: string | null;
  readonly measured: Measured;
}

/** Measures the examples of each adapter that has some, in the order of the flags, then those of none. */
export function byAdapter<Example extends { readonly adapter: number }, Measured>(
  { adapters, byName }: AdapterChoice,
  examples: readonly Example[],
  measure: (examples: readonly Example[]) => Measured,
): AdapterShare<Measured>[] {
  if (!byName) return [];
  return [...adapters.keys(), NO_ADAPTER].flatMap((place) => {
    const own = examples.filter(({ adapter }) => adapter === place);
    return own.length === 0 ? [] : [{ adapter: adapters[place]?.name ?? null, measured: measure(own) }];
  });
}

/** How an adapter is called in a line for people. */
export function calledInText(adapter: string | null): string {
  return adapter ?? "no adapter";
}
