/** `complete`: fills in a matrix of which some entries are known, by a deep factorisation, whole or compressed. */
import { readTriples, type Triples } from "../data/mod.ts";
import { defineVerb, parseVerb } from "./arguments.ts";
import { prepareEntries } from "./complete_data.ts";
import { checkCompletion, type Completion } from "./complete_check.ts";
import { runCompletion } from "./complete_run.ts";
import { openDevice } from "./device.ts";
import { checkUses } from "./flag_uses.ts";
import { deviceFlags } from "./flags.ts";
import type { Output } from "./log.ts";

const GROUP = "Factorisation";
const FORMS = ["full", "compressed", "both"] as const;

/** The verb's flags. */
export const completeVerb = defineVerb({
  name: "complete",
  summary: "fills in a matrix of which some entries are known, by a deep factorisation, whole or compressed",
  example: [
    "deno task complete --data cli/examples/ratings.csv --rank 5 --form both",
    "deno task complete --data ratings.csv --columns userId,movieId,rating --rank 10 --predict wanted.csv",
  ],
  flags: {
    data: {
      type: "string",
      required: true,
      value: "FILE",
      help: "known entries: row, column, value (.csv, .tsv, .txt)",
    },
    columns: {
      type: "string",
      value: "ROW,COLUMN,VALUE",
      help: "names of the three fields",
      defaultHelp: "row,column,value, or the first three fields",
    },
    predict: {
      type: "string",
      value: "FILE",
      help: "entries to predict: row, column",
      defaultHelp: "all that are not in the data",
    },
    holdOut: { type: "number", min: 0, max: 0.9, default: 0.1, help: "part of the entries to measure the error on" },
    center: { type: "boolean", default: true, help: "do not take the mean off the values" },
    form: {
      type: "string",
      choices: FORMS,
      default: "compressed",
      help: "factors as wide as the matrix, small ones, or both beside each other",
      group: GROUP,
    },
    rank: {
      type: "number",
      integer: true,
      min: 1,
      help: "directions of the gradient that the compressed form keeps of each side",
      defaultHelp: "10, or half the smaller side",
      group: GROUP,
    },
    depth: { type: "number", integer: true, min: 2, max: 16, default: 3, help: "factors", group: GROUP },
    gamma: {
      type: "number",
      min: 0,
      default: 1,
      help: "rate of the compressed form's outer factors as a multiple of the others'",
      group: GROUP,
    },
    epsilon: {
      type: "number",
      above: 0,
      default: 0.1,
      help: "size of the orthogonal factors at the start",
      group: GROUP,
    },
    lr: {
      type: "number",
      above: 0,
      default: 0.2,
      help: "learning rate, of values scaled to a spectral norm of about 1",
      group: GROUP,
    },
    steps: { type: "number", integer: true, min: 1, default: 4000, help: "iterations", group: GROUP },
    out: { type: "string", value: "FOLDER", help: "run folder", defaultHelp: "runs/complete-NAME-TIME", group: "Run" },
    seed: {
      type: "number",
      integer: true,
      min: 0,
      default: 1,
      help: "of the start and of what is held out",
      group: "Run",
    },
    logEvery: {
      type: "number",
      integer: true,
      min: 1,
      help: "iterations between two measures",
      defaultHelp: "a fiftieth of them",
      group: "Run",
    },
    ...deviceFlags,
  },
});

const COMPRESSED = ["--form compressed", "--form both"];
const USES = { rank: COMPRESSED, gamma: COMPRESSED };

/** Runs the verb. */
export async function complete(argv: readonly string[], output: Output): Promise<void> {
  const { options, given } = parseVerb(completeVerb, argv);
  checkUses(given, USES, (use) => use === `--form ${options.form}`, `with --form ${options.form}`);
  const triples = await readTriples(options.data, { fields: fieldsOf(options.columns) });
  const smaller = Math.min(triples.rows.length, triples.columns.length);
  const run: Completion = {
    ...options,
    forms: options.form === "both" ? ["full", "compressed"] : [options.form],
    rank: options.rank ?? Math.max(1, Math.min(10, Math.floor(smaller / 2))),
    logEvery: options.logEvery ?? Math.max(1, Math.floor(options.steps / 50)),
  };
  const wanted = options.predict === undefined ? undefined : await readWanted(options.predict, triples);
  using backend = await openDevice(options, output);
  await checkCompletion(run, triples, backend);
  const entries = prepareEntries(triples, { holdOut: run.holdOut, isCentred: options.center, seed: run.seed });
  await runCompletion({ run, entries, wanted, backend }, output);
}

/** @throws RangeError for another number of names than three */
function fieldsOf(columns: string | undefined): readonly string[] | undefined {
  if (columns === undefined) return undefined;
  const fields = columns.split(",").map((name) => name.trim());
  if (fields.length === 3 && fields.every((name) => name !== "")) return fields;
  throw new RangeError(`Cannot use --columns ${columns}: it must name three fields, ROW,COLUMN,VALUE`);
}

/** The entries that are asked for, as places in the matrix. @throws RangeError for a label that the data has not */
async function readWanted(file: string, { rows, columns, fields }: Triples): Promise<[row: number, column: number][]> {
  const asked = await readTriples(file, { withoutValues: true, fields });
  const places = (known: readonly string[], labels: readonly string[], what: string) => {
    const of = new Map(known.map((label, i) => [label, i]));
    return labels.map((label) => {
      const place = of.get(label);
      if (place !== undefined) return place;
      throw new RangeError(
        `Cannot predict for ${what} ${JSON.stringify(label)} of ${file}: the data has no such ${what}`,
      );
    });
  };
  const [i, j] = [places(rows, asked.rows, fields[0]), places(columns, asked.columns, fields[1])];
  return Array.from(asked.row, (row, at) => [i[row], j[asked.column[at]]]);
}
