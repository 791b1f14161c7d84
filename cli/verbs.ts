/**
 * What a verb of the command line is, as data, and the help that follows from it. Refuses to know any verb (`main.ts`
 * feeds the list) and to parse (`arguments.ts`).
 */
import { formatTable } from "./log.ts";

/** The command line was used wrongly: exit code 2. */
export class UsageError extends Error {
  override readonly name = "UsageError";
}

interface FlagBase {
  readonly help: string;
  /** Heading in the help. Default: `Flags`. */
  readonly group?: string;
  /** What the help calls the value: `FOLDER`. */
  readonly value?: string;
  /** Other names that mean this flag. */
  readonly aliases?: readonly string[];
  /** Refuse the command without this flag. */
  readonly required?: boolean;
  /** Said in the help in place of the default. */
  readonly defaultHelp?: string;
}

/** One flag. The key in `Verb.flags` is its camelCase name; on the command line it is kebab-case. */
export type Flag =
  | FlagBase & {
    readonly type: "number";
    readonly default?: number;
    readonly min?: number;
    readonly max?: number;
    /** The value must be larger than this. */
    readonly above?: number;
    readonly integer?: boolean;
  }
  /** A size such as `8GB` or `512MiB`, as a number of bytes. */
  | FlagBase & { readonly type: "bytes"; readonly default?: number; readonly min?: number }
  | FlagBase & {
    readonly type: "string";
    readonly default?: string;
    readonly choices?: readonly string[];
    /** The value when the flag is given without one. */
    readonly bare?: string;
  }
  /** May be given many times. */
  | FlagBase & { readonly type: "strings"; readonly default?: readonly string[]; readonly choices?: readonly string[] }
  /** `--name` and `--no-name`. */
  | FlagBase & { readonly type: "boolean"; readonly default?: boolean };

/** Flags by camelCase name. */
export type Flags = Readonly<Record<string, Flag>>;

/** Words after the flags. */
export interface Positional {
  readonly name: string;
  readonly help: string;
  /** Fewest words. Default 0. */
  readonly min?: number;
  /** Most words. Default 1. */
  readonly max?: number;
}

/** A verb of the command line, as data. */
export interface Verb<F extends Flags = Flags> {
  readonly name: string;
  readonly summary: string;
  /** One or more whole command lines. */
  readonly example: string | readonly string[];
  readonly flags: F;
  readonly positional?: Positional;
}

/** Declares a verb. Types of its options follow from the flags. */
export function defineVerb<const F extends Flags>(verb: Verb<F>): Verb<F> {
  return verb;
}

/** A verb as `main.ts` lists it. */
export interface VerbEntry {
  readonly name: string;
  readonly summary: string;
}

/** What `--help` without a verb prints. */
export function verbsHelp(verbs: readonly VerbEntry[]): string {
  return [
    "Lowrank: memory-efficient transformer training",
    "",
    "Usage",
    "  deno task VERB [flags]",
    "",
    "Verbs",
    ...formatTable(verbs.map(({ name, summary }) => [`  ${name}`, summary])),
    "",
    "Every verb has its own help: deno task train --help",
  ].join("\n");
}

/** The verb of that name. @throws UsageError for none, with the nearest name. */
export function findVerb<V extends VerbEntry>(verbs: readonly V[], name: string): V {
  const found = verbs.find((verb) => verb.name === name);
  if (found) return found;
  const near = nearest(name, verbs.map((verb) => verb.name));
  const hint = near ? `did you mean ${near}?` : `there are ${verbs.map((verb) => verb.name).join(", ")}`;
  throw new UsageError(`Cannot run ${JSON.stringify(name)}: no such verb; ${hint}`);
}

/** Help of one verb: usage, examples, flags under their headings in order of first use. */
export function formatHelp<F extends Flags>(verb: Verb<F>, columns = 100): string {
  const { positional } = verb;
  const words = positional ? ` ${(positional.min ?? 0) > 0 ? positional.name : `[${positional.name}]`}` : "";
  const lines = [`${verb.name}: ${verb.summary}`, "", "Usage", `  deno task ${verb.name}${words} [flags]`, ""];
  const examples = [verb.example].flat();
  lines.push(examples.length > 1 ? "Examples" : "Example", ...examples.map((example) => `  ${example}`));
  const rows = Object.entries(verb.flags).map(([key, flag]) => [spelling(key, flag), explanation(flag)] as const);
  if (positional) rows.push([positional.name, positional.help]);
  const width = Math.min(34, Math.max(0, ...rows.map(([left]) => left.length)));
  for (const [heading, flags] of groups(verb.flags)) {
    lines.push("", heading);
    for (const [key, flag] of flags) lines.push(...entry(spelling(key, flag), explanation(flag), width, columns));
  }
  if (positional) lines.push("", "Words", ...entry(positional.name, positional.help, width, columns));
  return lines.join("\n");
}

function groups(flags: Flags): Map<string, [string, Flag][]> {
  const found = new Map<string, [string, Flag][]>();
  for (const [key, flag] of Object.entries(flags)) {
    const heading = flag.group ?? "Flags";
    if (!found.has(heading)) found.set(heading, []);
    found.get(heading)!.push([key, flag]);
  }
  return found;
}

function spelling(key: string, flag: Flag): string {
  const name = `--${kebab(key)}`;
  if (flag.type === "boolean") return flag.default ? `--no-${kebab(key)}` : name;
  const choices = flag.type === "string" && flag.choices ? flag.choices.join("|") : "";
  const usual = { number: "N", bytes: "SIZE", string: "TEXT", strings: "TEXT" }[flag.type];
  const value = flag.value ?? (choices && choices.length <= 24 ? choices : usual);
  return flag.type === "string" && flag.bare !== undefined ? `${name} [${value}]` : `${name} ${value}`;
}

function explanation(flag: Flag): string {
  const notes: string[] = [];
  const choices = "choices" in flag && flag.choices ? flag.choices.join("|") : "";
  if (choices.length > 24 || (choices && flag.value)) notes.push(`one of ${choices.replaceAll("|", ", ")}`);
  if (flag.type === "strings") notes.push("may be repeated");
  if (flag.required) notes.push("required");
  const usual = flag.defaultHelp ?? (flag.type === "boolean" ? undefined : flag.default);
  if (usual !== undefined && String(usual) !== "") notes.push(`default ${usual}`);
  return notes.length === 0 ? flag.help : `${flag.help} (${notes.join("; ")})`;
}

function entry(left: string, text: string, width: number, columns: number): string[] {
  const indent = " ".repeat(width + 4);
  const lines = wrap(text, Math.max(30, columns - indent.length)).map((line) => indent + line);
  if (left.length > width) return [`  ${left}`, ...lines];
  return [`  ${left.padEnd(width)}  ${lines[0]?.trimStart() ?? ""}`.trimEnd(), ...lines.slice(1)];
}

function wrap(text: string, columns: number): string[] {
  const lines: string[] = [];
  let line = "";
  for (const word of text.split(" ")) {
    if (line && line.length + 1 + word.length > columns) {
      lines.push(line);
      line = word;
    } else {
      line = line ? `${line} ${word}` : word;
    }
  }
  return line ? [...lines, line] : lines;
}

/** The name closest to `word` by edits, when it is close enough to be meant. */
export function nearest(word: string, names: readonly string[]): string | undefined {
  let best: string | undefined;
  let bestEdits = Math.max(2, Math.floor(word.length / 3)) + 1;
  for (const name of names) {
    const edits = distance(word.toLowerCase(), name.toLowerCase());
    if (edits < bestEdits && edits < name.length) [best, bestEdits] = [name, edits];
  }
  return best;
}

/** Levenshtein distance where two neighbours swapped count once (optimal string alignment). */
function distance(a: string, b: string): number {
  let older: number[] = [];
  let previous = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const replaced = previous[j - 1] + (a[i - 1] === b[j - 1] ? 0 : 1);
      row[j] = Math.min(replaced, previous[j] + 1, row[j - 1] + 1);
      const swapped = i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1];
      if (swapped) row[j] = Math.min(row[j], older[j - 2] + 1);
    }
    [older, previous] = [previous, row];
  }
  return previous[b.length];
}

/** `updateProjGap` and `update_proj_gap` as `update-proj-gap`. */
export function kebab(name: string): string {
  return name.replaceAll("_", "-").replace(/([a-z0-9])([A-Z])/g, "$1-$2").toLowerCase();
}
