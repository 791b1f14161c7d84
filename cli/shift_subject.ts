/**
 * What models are compared on, whatever the models: probes with a group each, and batches of them that a model's layers are read
 * on. `shift_sentences.ts` and `shift_completions.ts` make one; nothing else of the comparison knows which.
 */
import type { Backend, Params, ParamsView } from "../core/mod.ts";
import { readTable, TABLE_KINDS } from "../data/mod.ts";
import type { LlamaConfig, LogitLens, RobertaConfig } from "../models/mod.ts";
import type { Output } from "./log.ts";

/** The probes, as far as measures need to know them. Arrays are by item. */
export interface Probes {
  readonly groupNames: readonly string[];
  /** Numbers of groups. */
  readonly groups: Int32Array;
  /** Names of what is chosen among, where something is: the classes, or wanted and unwanted. */
  readonly choices: readonly string[];
  /** Which choice is right. Empty where nothing is chosen. */
  readonly labels: Int32Array;
  /** The choice whose rates are compared. */
  readonly positive: number;
}

/** A place that a model's distribution is read at. */
export interface ProbeRow {
  readonly item: number;
  /** What is there: the token, or the label. */
  readonly target: number;
  /** Whether it is of what is wanted; the rest, of unwanted completions, only decides choices. */
  readonly isWanted: boolean;
}

/** Some sequences. */
export interface ProbeBatch {
  /** The layers of a model at the rows' places. Dispose it. */
  lens(view: ParamsView): LogitLens;
  readonly rows: readonly ProbeRow[];
  /** Whose item each token of the flat batch is: -1 for padding and for what is not wanted. */
  readonly owners: Int32Array;
}

/** What is compared on. */
export interface ShiftSubject {
  readonly task: string;
  readonly modelType: "llama" | "roberta";
  readonly config: LlamaConfig | RobertaConfig;
  /** Names of the linear maps' matrices. */
  readonly projected: RegExp;
  readonly probes: Probes;
  readonly batches: readonly ProbeBatch[];
  /** Whether a place's own distribution is what is chosen among; else the choice is between two completions, if any. */
  readonly isClassifier: boolean;
  /** What a loss and a divergence are a mean over, in the singular. */
  readonly unit: "token" | "example";
  /** The weights of a folder. @throws RangeError for another model than the base */
  load(backend: Backend, folder: string, output: Pick<Output, "err">): Promise<Params>;
  /**
   * Loaded weights with their choices in the probes' order, where their folder has names for them in another one.
   *
   * @throws RangeError for choices that cannot be the probes'
   */
  inOrder(view: ParamsView, place: LoadedFolder, output: Pick<Output, "err">): Promise<ParamsView>;
}

/** Where loaded weights lie, and an adapter on them. */
export interface LoadedFolder {
  readonly weights: string;
  readonly adapter?: string;
}

/** Groups by name, and whose each line of a file is. */
export interface LineGroups {
  readonly names: readonly string[];
  readonly of: ReadonlyMap<number, number>;
}

/**
 * The group of every line of a file. Names are sorted, so that their order says nothing.
 *
 * @throws SyntaxError when the file has no such column, or a line no value; RangeError when all are of one group
 */
export async function readGroups(file: string, column: string): Promise<LineGroups> {
  const { columns, rows, unit } = await readTable(file);
  const place = columns.indexOf(column);
  if (place < 0) {
    const there = columns.slice(0, 20).map((name) => JSON.stringify(name.slice(0, 40))).join(", ");
    throw new SyntaxError(`Cannot read "${file}": it has no group column "${column}": its columns are ${there}`);
  }
  const values = new Map<number, string>();
  for (const { line, fields } of rows) {
    const value = fields[place];
    if (value === undefined || value === null || String(value).trim() === "") {
      throw new SyntaxError(`Cannot read "${file}": ${unit} ${line} names no group: it has no "${column}"`);
    }
    values.set(line, String(value).trim());
  }
  const names = [...new Set(values.values())].sort();
  if (names.length < 2) {
    const got = names.length === 0 ? "none" : `"${names[0]}" on every ${unit}`;
    throw new RangeError(`Cannot compare groups of "${file}": "${column}" must have two values or more: got ${got}`);
  }
  return { names, of: new Map([...values].map(([line, name]) => [line, names.indexOf(name)])) };
}

/** The one file of probes. @throws RangeError for none or several */
export function probesFile(data: readonly string[]): string {
  if (data.length === 1) return data[0];
  throw new RangeError(`Cannot compare groups on ${data.length} files: give --data FILE, one of ${TABLE_KINDS}`);
}

/** Demands that a model has the base's sizes: distributions are compared, and weights subtracted. */
export function checkAlike(folder: string, config: ShiftSubject["config"], base: ShiftSubject["config"]): void {
  for (const key of ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"] as const) {
    if (config[key] === base[key]) continue;
    throw new RangeError(
      `Cannot compare ${folder} with the base: they must be of one model: ${key} is ${config[key]}, the base's ${
        base[key]
      }`,
    );
  }
}
