/**
 * Labelled sentences, alone or in pairs, from a task's files. It knows no tokenizer and no model.
 * A file without a header line is known by its first line: the label stands where the layout without names has it
 * (`sentence TAB label`, `sentence TAB sentence TAB label`, or the task's own, as CoLA has).
 */

import type { SentenceTask } from "./glue_tasks.ts";
import { findSplitFiles } from "./split_files.ts";
import { readTable, type Table } from "./table.ts";

/** One labelled sentence, or pair. */
export interface Example {
  /** One sentence, or two. */
  readonly sentences: readonly string[];
  /** The class's number, or the score. */
  readonly label: number;
  /** The line of its file, from 1; of a Parquet file the row, from 1. */
  readonly row: number;
}

/** What `readExamples` is told besides the task. */
export interface ReadExamplesOptions {
  /** `train` (the default), or one of the task's `devSplits`. In `train` every class must have an example. */
  readonly split?: string;
  /** Is told of every line that was left out as malformed, which only QQP's files have. */
  readonly onSkip?: (file: string, line: number) => void;
}

/**
 * Reads a split of a task: from a folder, whose files are found by the split's name, or from the one file given.
 *
 * @throws {Deno.errors.NotFound} when the folder has no file of the split.
 * @throws {SyntaxError} when a file is empty or unsound, or lacks a column, with the columns it has.
 * @throws {RangeError} when a label is none of the task's, with file, line and what is allowed; when a class is empty.
 */
export async function readExamples(
  path: string,
  task: SentenceTask,
  { split = "train", onSkip }: ReadExamplesOptions = {},
): Promise<Example[]> {
  const examples: Example[] = [];
  for (const file of await filesOf(path, task, split)) {
    const before = examples.length;
    for await (const { sentences, label, line, unit } of readRows(file, task, onSkip)) {
      examples.push({ sentences, label: parseLabel(label, task, `Cannot read "${file}": ${unit} ${line}`), row: line });
    }
    if (examples.length === before) throw new SyntaxError(`Cannot read "${file}": the file holds no examples`);
  }
  if (split === "train") requireEveryClass(examples, task, path);
  return examples;
}

/**
 * The names of the classes that a task of one's own has in its training files, sorted; whole numbers by size.
 *
 * @throws {RangeError} when there are fewer than two, or more than 1,000.
 */
export async function readClassNames(path: string, columns: SentenceTask["columns"]): Promise<string[]> {
  const task: SentenceTask = {
    name: "own",
    columns,
    labels: [],
    metrics: ["accuracy"],
    selectBy: "accuracy",
    devSplits: ["validation"],
  };
  const names = new Set<string>();
  for (const file of await filesOf(path, task, "train")) {
    for await (const { label } of readRows(file, task)) names.add(String(label).trim());
  }
  if (names.size < 2 || names.size > 1000) {
    const hint = names.size > 1000 ? "; is the column a score?" : "";
    throw new RangeError(`Cannot name the classes of "${path}": expected 2 to 1000 labels, got ${names.size}${hint}`);
  }
  const isNumeric = [...names].every((name) => /^-?\d+$/.test(name));
  return [...names].sort(isNumeric ? (a, b) => Number(a) - Number(b) : undefined);
}

/**
 * Refuses examples in which a class does not occur: a head trained on them never says it.
 *
 * @throws {RangeError} naming the empty classes.
 */
export function requireEveryClass(examples: readonly Example[], task: SentenceTask, where: string): void {
  if (task.labels === "score") return;
  const seen = new Set(examples.map(({ label }) => label));
  const empty = task.labels.filter((_, label) => !seen.has(label));
  if (empty.length === 0) return;
  const names = empty.map((name) => `"${name}"`).join(", ");
  const counted = `among ${examples.length} example${examples.length === 1 ? "" : "s"}`;
  throw new RangeError(
    `Cannot train on "${where}" for ${task.name}: every class needs an example: ${names} has none ${counted}`,
  );
}

async function filesOf(path: string, task: SentenceTask, split: string): Promise<string[]> {
  const info = await Deno.stat(path).catch((error) => {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    throw new Deno.errors.NotFound(`Cannot read "${path}": there is no such file or folder`);
  });
  return info.isDirectory ? await findSplitFiles(path, task.name, split) : [path];
}

interface LabelledRow {
  readonly sentences: string[];
  readonly label: unknown;
  readonly line: number;
  readonly unit: Table["unit"];
}

async function* readRows(
  file: string,
  task: SentenceTask,
  onSkip?: ReadExamplesOptions["onSkip"],
): AsyncGenerator<LabelledRow> {
  const wanted = rolesOf(task);
  const { columns, rows, unit } = await readTable(file, {
    headerless: (fields) => headerlessColumns(fields, task),
    onMalformed: task.skipMalformed ? (line) => onSkip?.(file, line) : undefined,
    pick: (there) => there.filter((name) => wanted.some((names) => names.includes(name))),
  });
  const places = findColumns(file, task, columns);
  for (const { line, fields } of rows) {
    const values = places.map((place) => fields[place]);
    for (const [i, value] of values.entries()) {
      if (value === undefined || value === null) {
        throw new SyntaxError(`Cannot read "${file}": ${unit} ${line} has no "${columns[places[i]]}"`);
      }
      if (i < values.length - 1 && typeof value !== "string") {
        throw new SyntaxError(
          `Cannot read "${file}": ${unit} ${line}: "${columns[places[i]]}" must be text, got ${JSON.stringify(value)}`,
        );
      }
    }
    yield { sentences: values.slice(0, -1) as string[], label: values.at(-1), line, unit };
  }
}

/** The names that each field may have: the sentence or both, then the label. */
function rolesOf({ columns }: SentenceTask): (readonly string[])[] {
  return [columns.sentence, ...(columns.sentence2 ? [columns.sentence2] : []), columns.label];
}

/** Names for the fields of a first line that is data already, or undefined when it is a header. */
function headerlessColumns(fields: readonly string[], task: SentenceTask): readonly string[] | undefined {
  const roles = rolesOf(task);
  if (roles.every((names) => names.some((name) => fields.includes(name)))) return undefined;
  const plain = fields.length === 2
    ? [task.columns.sentence2 ? "sentence" : task.columns.sentence[0], task.columns.label[0]]
    : fields.length === roles.length
    ? roles.map((names) => names[0])
    : undefined;
  for (const layout of [task.headerless, plain]) {
    if (layout?.length !== fields.length) continue;
    const label = fields[layout.indexOf(task.columns.label[0])];
    if (labelNumber(label, task) !== undefined) return layout;
  }
  return undefined;
}

function findColumns(file: string, task: SentenceTask, columns: readonly string[]): number[] {
  const roles = rolesOf(task);
  const places = roles.map((names) => {
    const name = names.find((candidate) => columns.includes(candidate));
    return name === undefined ? -1 : columns.indexOf(name);
  });
  const missing = places.indexOf(-1);
  // In QNLI "sentence" is the second of a pair; alone it is a single sentence there too.
  if (missing < 0) return places;
  const single = columns.find((name) => name === "sentence" || name === "text");
  if (task.columns.sentence2 && single !== undefined && missing < 2) {
    const pair = `${task.columns.sentence[0]} and ${task.columns.sentence2[0]}`;
    throw new SyntaxError(
      `Cannot read "${file}" for ${task.name}: it takes pairs, ${pair}: got single sentences, "${single}"`,
    );
  }
  const there = columns.slice(0, 20).map((name) => JSON.stringify(name.slice(0, 40))).join(", ");
  const wanted = roles[missing].map((name) => `"${name}"`).join(" or ");
  throw new SyntaxError(
    `Cannot read "${file}" for ${task.name}: it needs a column ${wanted}: its columns are ${there}`,
  );
}

/** The class's number or the score that a field says, or undefined when it says none of the task's. */
function labelNumber(value: unknown, { labels, scoreRange = [-Infinity, Infinity] }: SentenceTask): number | undefined {
  if (labels === "score") {
    const score = typeof value === "string" && value.trim() !== "" ? Number(value) : value;
    const isScore = typeof score === "number" && Number.isFinite(score);
    return isScore && score >= scoreRange[0] && score <= scoreRange[1] ? score : undefined;
  }
  const text = String(value).trim();
  const named = labels.findIndex((name) => name.trim() === text);
  if (named >= 0) return named;
  // a class's number stands for it unless the names are numbers themselves
  if (!/^\d+$/.test(text) || labels.some((name) => /^-?\d+$/.test(name))) return undefined;
  return Number(text) < labels.length ? Number(text) : undefined;
}

function parseLabel(value: unknown, task: SentenceTask, where: string): number {
  const label = labelNumber(value, task);
  if (label !== undefined) return label;
  const { labels, scoreRange } = task;
  const range = scoreRange ? `a score from ${scoreRange[0]} to ${scoreRange[1]}` : "a finite score";
  const allowed = labels === "score" ? range : `one of ${labels.map((name, i) => `${i} (${name})`).join(", ")}`;
  const hint = String(value) === "-1" ? "; -1 marks a split whose labels are not given" : "";
  throw new RangeError(`${where}: the label must be ${allowed}: got ${JSON.stringify(value)}${hint}`);
}
