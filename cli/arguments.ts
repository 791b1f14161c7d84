/**
 * Flags of a verb, declared as data: parsed with types that follow from the declaration, refused with one clear line,
 * and printed as help. Refuses to read the environment, to print, or to exit: `main.ts` does that.
 *
 * Over `node:util`'s tokens, which are the user's own text. npm:cac turns values into numbers before they can be seen
 * (`--prompt 007` becomes 7) and takes a value that begins with a dash for another flag.
 */
import { parseArgs } from "node:util";
import { type Flag, type Flags, kebab, nearest, UsageError, type Verb } from "./verbs.ts";

export { defineVerb, formatHelp, UsageError } from "./verbs.ts";
export type { Flag, Flags, Positional, Verb } from "./verbs.ts";

type Value<F extends Flag> = F extends { type: "number" | "bytes" } ? number
  : F extends { type: "boolean" } ? boolean
  : F extends { type: "strings"; choices: readonly (infer C)[] } ? readonly C[]
  : F extends { type: "strings" } ? readonly string[]
  : F extends { type: "string"; choices: readonly (infer C)[]; bare: infer B } ? C | B
  : F extends { type: "string"; choices: readonly (infer C)[] } ? C
  : string;

type Always<F extends Flag> = F extends { type: "strings" | "boolean" } ? true
  : F extends { required: true } ? true
  : F extends { default: string | number } ? true
  : false;

/** The options of a verb: one property a flag, `undefined` where neither given nor defaulted. */
export type Options<F extends Flags> = {
  readonly [K in keyof F]: Always<F[K]> extends true ? Value<F[K]> : Value<F[K]> | undefined;
};

/** What a command line came to. */
export interface Parsed<F extends Flags> {
  readonly options: Options<F>;
  /** Flags that the user gave, defaults left out: what overrides a recipe or a resumed run. */
  readonly given: ReadonlySet<keyof F & string>;
  readonly positional: readonly string[];
}

/** Whether `--help` or `-h` is among the words before `--`. */
export function wantsHelp(argv: readonly string[]): boolean {
  const end = argv.indexOf("--");
  return (end < 0 ? argv : argv.slice(0, end)).some((word) => word === "--help" || word === "-h");
}

/** Only the options that the user gave: spread these over a recipe. */
export function givenOptions<F extends Flags>({ options, given }: Parsed<F>): Partial<Options<F>> {
  return Object.fromEntries([...given].map((key) => [key, options[key]])) as Partial<Options<F>>;
}

/** Reads the words after a verb. @throws UsageError for an unknown flag, a bad or a missing value, an extra word. */
export function parseVerb<F extends Flags>(verb: Verb<F>, argv: readonly string[]): Parsed<F> {
  const keys = new Map<string, string>();
  for (const [key, flag] of Object.entries(verb.flags)) {
    for (const name of [key, ...flag.aliases ?? []]) keys.set(kebab(name), key);
  }
  const values: Record<string, unknown> = {};
  const given = new Set<string>();
  const positional: string[] = [];
  for (const { name, text, word } of tokens(verb, keys, argv)) {
    if (name === undefined) {
      positional.push(word!);
      continue;
    }
    const { key, negated } = resolve(verb, keys, name);
    const value = readValue(verb.flags[key], text, negated, (rule, got) => bad(verb, `--${name}`, rule, got));
    const before = given.has(key) ? values[key] as readonly unknown[] : [];
    values[key] = verb.flags[key].type === "strings" ? [...before, value] : value;
    given.add(key);
  }
  fill(verb, values, given);
  checkWords(verb, positional);
  return { options: values as Options<F>, given: given as Set<keyof F & string>, positional };
}

interface Token {
  readonly name?: string;
  readonly text?: string;
  readonly word?: string;
}

function tokens<F extends Flags>(verb: Verb<F>, keys: Map<string, string>, argv: readonly string[]): Token[] {
  const takesValue = [...keys].filter(([, key]) => verb.flags[key].type !== "boolean");
  const types = Object.fromEntries(takesValue.map(([name]) => [name, { type: "string" as const }]));
  const words = protectBare(verb, keys, argv.map(plainName));
  const { tokens } = parseArgs({ args: words, options: types, strict: false, allowPositionals: true, tokens: true });
  return tokens.flatMap((token): Token[] => {
    if (token.kind === "option-terminator") return [];
    if (token.kind === "positional") return [{ word: token.value }];
    if (!token.rawName.startsWith("--")) throw unknownFlag(verb, keys, token.rawName);
    const swallowed = token.inlineValue === false && /^--[a-z]/i.test(token.value ?? "");
    if (!swallowed) return [{ name: token.name, text: token.value }];
    const hint = `; for a value that begins with --, write --${token.name}=${token.value}`;
    throw new UsageError(`Cannot use --${token.name} in ${verb.name}: it needs a value, got ${token.value}${hint}`);
  });
}

/** `--update_proj_gap=3` as `--update-proj-gap=3`: the names that users know from elsewhere. */
function plainName(word: string): string {
  const [, name, rest] = /^--([a-z][\w-]*)(=[^]*)?$/i.exec(word) ?? [];
  return name ? `--${kebab(name)}${rest ?? ""}` : word;
}

/** Gives a flag that may stand alone its bare value where no value follows. */
function protectBare<F extends Flags>(verb: Verb<F>, keys: Map<string, string>, words: readonly string[]): string[] {
  return words.map((word, i) => {
    const flag = word.startsWith("--") ? verb.flags[keys.get(word.slice(2)) ?? ""] : undefined;
    if (flag?.type !== "string" || flag.bare === undefined) return word;
    return words[i + 1] === undefined || words[i + 1].startsWith("-") ? `${word}=${flag.bare}` : word;
  });
}

function resolve<F extends Flags>(
  verb: Verb<F>,
  keys: Map<string, string>,
  name: string,
): { key: string; negated: boolean } {
  const key = keys.get(name);
  if (key !== undefined) return { key, negated: false };
  const positive = name.startsWith("no-") ? keys.get(name.slice(3)) : undefined;
  if (positive !== undefined && verb.flags[positive].type === "boolean") return { key: positive, negated: true };
  throw unknownFlag(verb, keys, `--${name}`);
}

function unknownFlag<F extends Flags>(verb: Verb<F>, keys: Map<string, string>, flag: string): UsageError {
  const near = nearest(flag.replace(/^-+/, ""), [...keys.keys()]);
  const hint = near ? `; did you mean --${near}?` : `; see ${verb.name} --help`;
  return new UsageError(`Cannot use ${flag} in ${verb.name}: no such flag${hint}`);
}

type Refuse = (rule: string, got: string) => UsageError;

function readValue(flag: Flag, text: string | undefined, negated: boolean, refuse: Refuse): unknown {
  if (flag.type === "boolean") {
    if (text === undefined) return !negated;
    if (negated || !/^(true|false)$/.test(text)) throw refuse("no value, it is on or off", quote(text));
    return text === "true";
  }
  if (text === undefined || (text === "" && flag.type !== "string")) throw refuse(expected(flag), "nothing");
  switch (flag.type) {
    case "number":
      return readNumber(flag, text, refuse);
    case "bytes":
      return readBytes(flag, text, refuse);
    default: {
      const isBare = flag.type === "string" && text === flag.bare;
      if (flag.choices && !isBare && !flag.choices.includes(text)) {
        const near = nearest(text, flag.choices);
        throw refuse(expected(flag), quote(text) + (near ? `; did you mean ${near}?` : ""));
      }
      return text;
    }
  }
}

function readNumber(flag: Flag & { type: "number" }, text: string, refuse: Refuse): number {
  const value = /^[+-]?(\d[\d_]*\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(text) ? Number(text.replaceAll("_", "")) : NaN;
  const { min = -Infinity, max = Infinity, above = -Infinity, integer = false } = flag;
  const fits = Number.isFinite(value) && value >= min && value <= max && value > above;
  if (!fits || (integer && !Number.isSafeInteger(value))) throw refuse(expected(flag), quote(text));
  return value;
}

const UNITS: Readonly<Record<string, number>> = {
  "": 1,
  b: 1,
  k: 1e3,
  kb: 1e3,
  kib: 2 ** 10,
  m: 1e6,
  mb: 1e6,
  mib: 2 ** 20,
  g: 1e9,
  gb: 1e9,
  gib: 2 ** 30,
  t: 1e12,
  tb: 1e12,
  tib: 2 ** 40,
};

function readBytes(flag: Flag & { type: "bytes" }, text: string, refuse: Refuse): number {
  const [, amount, unit] = /^(\d+\.?\d*|\.\d+) ?([kmgt]?i?b?)$/i.exec(text) ?? [];
  const bytes = Math.round(Number(amount) * (UNITS[(unit ?? "").toLowerCase()] ?? NaN));
  if (!Number.isSafeInteger(bytes) || bytes < (flag.min ?? 0)) throw refuse(expected(flag), quote(text));
  return bytes;
}

function expected(flag: Flag): string {
  switch (flag.type) {
    case "number": {
      const { min, max, above } = flag;
      const kind = flag.integer ? "a whole number" : "a number";
      const low = above !== undefined ? `above ${above}` : min !== undefined ? `of at least ${min}` : "";
      if (min !== undefined && max !== undefined) return `${kind} from ${min} to ${max}`;
      return [kind, low, max !== undefined ? `${low && "and "}of at most ${max}` : ""].filter(Boolean).join(" ");
    }
    case "bytes":
      return flag.min ? `a size of at least ${flag.min} bytes, such as 8GB` : "a size such as 8GB or 512MiB";
    case "boolean":
      return "no value";
    default:
      return flag.choices ? `one of ${flag.choices.join(", ")}` : `a value${flag.value ? ` (${flag.value})` : ""}`;
  }
}

function fill<F extends Flags>(verb: Verb<F>, values: Record<string, unknown>, given: ReadonlySet<string>): void {
  for (const [key, flag] of Object.entries(verb.flags)) {
    if (given.has(key)) continue;
    if (flag.required) throw new UsageError(`Cannot ${verb.name} without --${kebab(key)}: ${flag.help}`);
    values[key] = flag.default ?? (flag.type === "strings" ? [] : flag.type === "boolean" ? false : undefined);
  }
}

function checkWords<F extends Flags>(verb: Verb<F>, words: readonly string[]): void {
  const { name = "", min = 0, max = name ? 1 : 0 } = verb.positional ?? {};
  if (words.length < min) throw new UsageError(`Cannot ${verb.name} without ${name}: ${verb.positional?.help ?? ""}`);
  if (words.length <= max) return;
  const hint = max === 0 ? "; it takes flags only" : "";
  throw new UsageError(`Cannot use ${quote(words[max])} in ${verb.name}: one word too many${hint}`);
}

function bad<F extends Flags>(verb: Verb<F>, flag: string, rule: string, got: string): UsageError {
  return new UsageError(`Cannot use ${flag} in ${verb.name}: expected ${rule}, got ${got}`);
}

function quote(text: string): string {
  return JSON.stringify(text);
}
