/** What a completion leaves for others: predictions as CSV, and factors as safetensors with their labels. */
import type { Params } from "../core/mod.ts";
import { paramEntries, writeSafetensors } from "../models/mod.ts";
import { type Entries, predictionOf } from "./complete_data.ts";
import { writeFileDurably } from "./durable.ts";
import { FileSink, join } from "./files.ts";

/** The factors of each form, and what their rows and columns are called. */
export async function writeFactors(
  folder: string,
  factors: ReadonlyMap<string, Params>,
  entries: Entries,
): Promise<void> {
  const { triples: { rows, columns }, mean, scale } = entries;
  {
    await using sink = await FileSink.create(join(folder, "factors.safetensors"));
    const tensors = [...factors].flatMap(([form, params]) =>
      paramEntries(params).map((entry) => ({ ...entry, name: `${form}.${entry.name}` }))
    );
    await writeSafetensors(sink, tensors, { mean: String(mean), scale: String(scale) });
  }
  await writeFileDurably(join(folder, "labels.json"), JSON.stringify({ rows, columns, mean, scale }) + "\n");
}

/** What is predicted. */
export interface Wanted {
  readonly entries: Entries;
  /** Places to predict; without them all that the data lacks. */
  readonly wanted?: readonly (readonly [row: number, column: number])[];
}

/** Predictions as CSV under the data's own names, in pieces. How many there are. */
export async function writeCompleted(
  folder: string,
  { entries, wanted }: Wanted,
  matrix: ArrayLike<number>,
): Promise<number> {
  const { rows, columns, fields } = entries.triples;
  await using sink = await FileSink.create(join(folder, "completed.csv"));
  let text = fields.map(quoted).join(",") + "\n";
  let count = 0;
  for (const [i, j] of wanted ?? missingEntries(entries)) {
    const value = Number(predictionOf(entries, matrix, i, j).toPrecision(7));
    text += `${quoted(rows[i])},${quoted(columns[j])},${value}\n`;
    count++;
    if (text.length < 2 ** 20) continue;
    await sink.write(new TextEncoder().encode(text));
    text = "";
  }
  await sink.write(new TextEncoder().encode(text));
  return count;
}

/** Every place that the data says nothing of, row by row. */
function* missingEntries({ triples }: Entries): Generator<readonly [number, number]> {
  const { rows, columns, row, column } = triples;
  const known = new Uint8Array(rows.length * columns.length);
  row.forEach((i, at) => known[i * columns.length + column[at]] = 1);
  for (let i = 0; i < rows.length; i++) {
    for (let j = 0; j < columns.length; j++) if (known[i * columns.length + j] === 0) yield [i, j];
  }
}

/** A field of CSV: in quotes where it has to be. */
function quoted(text: string): string {
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
