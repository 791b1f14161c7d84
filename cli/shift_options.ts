/** The flags of `eval --group`: which models are compared, on which groups, and what is written of it. */
import { defineVerb, type Flags, type Options, UsageError } from "./arguments.ts";
import { ownTaskFlags } from "./finetune_options.ts";
import { dataFlags, deviceFlags } from "./flags.ts";
import { DEFAULTS } from "./options.ts";
import { kebab } from "./verbs.ts";

const GROUP = "Fairness and shift";

/** What makes `eval` compare models by groups. */
export const shiftFlags = {
  group: {
    type: "string",
    value: "COLUMN",
    help: "compare models by groups: the column that says whose example it is; in place of --model",
    group: GROUP,
  },
  base: { type: "string", value: "FOLDER", help: "the model before fine-tuning", group: GROUP },
  reference: { type: "string", value: "FOLDER", help: "the model after fine-tuning as a whole", group: GROUP },
  candidate: {
    type: "strings",
    value: "NAME=FOLDER",
    help: "a model that is judged: a folder, a run folder, or an adapter on the base",
    group: GROUP,
  },
  positive: {
    type: "string",
    value: "CLASS",
    help: "the class whose rates are compared",
    defaultHelp: "the last one; of completions the unwanted one",
    group: GROUP,
  },
  bootstrap: {
    type: "number",
    integer: true,
    min: 0,
    help: "samples of the intervals; 0: none",
    defaultHelp: "1000",
    group: GROUP,
  },
  csv: { type: "string", value: "FILE", help: "write every measure as a line of CSV", group: GROUP },
  out: { type: "string", value: "FOLDER", help: "write report.html, shift.json and shift.csv", group: GROUP },
} as const satisfies Flags;

/** `eval` as it is with `--group`. */
export const shiftVerb = defineVerb({
  name: "eval",
  summary: "compares fine-tuned models by groups: captured shift, retained behaviour, fairness",
  example:
    "deno task eval --group race --base ./llama --reference runs/full --candidate lora=runs/lora --data probes.jsonl",
  flags: {
    ...shiftFlags,
    group: { ...shiftFlags.group, required: true },
    base: { ...shiftFlags.base, required: true },
    reference: { ...shiftFlags.reference, required: true },
    bootstrap: { ...shiftFlags.bootstrap, default: 1000 },
    data: dataFlags.data,
    batch: { type: "number", integer: true, min: 1, default: DEFAULTS.batch, help: "sequences to a batch" },
    task: { type: "string", value: "NAME", help: "own, or a task of GLUE: for a RoBERTa; sft for a LLaMA" },
    ...ownTaskFlags,
    maxLength: { type: "number", integer: true, min: 5, help: "task: tokens of an example before it is cut" },
    json: { type: "boolean", help: "print one JSON object" },
    ...deviceFlags,
  },
});

/** What is compared, and how. */
export interface ShiftOptions extends Omit<Options<typeof shiftVerb.flags>, "candidate"> {
  readonly candidates: readonly NamedFolder[];
}

/** A model by the name that tables call it. */
export interface NamedFolder {
  readonly name: string;
  readonly folder: string;
}

/** Names that tables give to the two models that are always there. */
export const BASE = "base";
/** The wholly fine-tuned model's. */
export const REFERENCE = "reference";

/** Whether a command line asks for a comparison by groups: any flag of its own does. */
export function isShift(argv: readonly string[]): boolean {
  const names = Object.keys(shiftFlags).map((key) => `--${kebab(key)}`);
  const end = argv.indexOf("--");
  return (end < 0 ? argv : argv.slice(0, end)).some((word) => names.includes(word.replace(/=[^]*$/, "")));
}

/** Candidates from `NAME=FOLDER`. @throws UsageError for none, one of another form, and a name that is taken */
export function parseCandidates(flags: readonly string[]): NamedFolder[] {
  if (flags.length === 0) throw new UsageError("Cannot eval by groups without --candidate NAME=FOLDER");
  const candidates = flags.map((flag) => {
    const [, name, folder] = /^([^=]+)=([^]+)$/.exec(flag) ?? [];
    if (name === undefined) {
      throw new UsageError(`Cannot use --candidate in eval: expected NAME=FOLDER, got ${JSON.stringify(flag)}`);
    }
    return { name, folder };
  });
  const names = [BASE, REFERENCE, ...candidates.map(({ name }) => name)];
  const twice = names.find((name, i) => names.indexOf(name) < i);
  if (twice === undefined) return candidates;
  throw new UsageError(
    `Cannot use --candidate in eval: expected names of their own, got ${JSON.stringify(twice)} again`,
  );
}
