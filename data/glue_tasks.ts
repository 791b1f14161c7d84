/**
 * The nine tasks of GLUE, and what a task is: which columns hold its sentences and labels, what its classes are called,
 * what is measured. It reads nothing; `examples.ts` does. A user's own task is one of these objects too.
 * Source: Wang et al. 2019 (GLUE), table 1; column names and class order of `nyu-mll/glue` on the Hub; the header lines of
 * the TSV files as gluebenchmark.com distributes them; `selectBy` is the measure that the GaLore paper's table reports.
 */

import type { MetricName } from "./metrics.ts";

/** Where a task's fields are found: the name on the Hub first, then other names for the same thing. */
export interface TaskColumns {
  readonly sentence: readonly string[];
  /** Given for tasks over pairs. */
  readonly sentence2?: readonly string[];
  readonly label: readonly string[];
}

/** A task over sentences, or pairs of them. */
export interface SentenceTask {
  readonly name: string;
  readonly columns: TaskColumns;
  /** The classes by number, or `"score"` for a regression. */
  readonly labels: readonly string[] | "score";
  /** The range of a score, both ends included; any finite number without it. */
  readonly scoreRange?: readonly [number, number];
  readonly metrics: readonly MetricName[];
  /** The measure that picks the best checkpoint: larger is better. */
  readonly selectBy: MetricName;
  /** The splits to evaluate on; the first one picks the best checkpoint. */
  readonly devSplits: readonly string[];
  /** The columns of files that come without a header line, in order; `""` for one that is not used. */
  readonly headerless?: readonly string[];
  /** Lines with another number of fields than the header are left out, as everyone does with QQP's broken ones. */
  readonly skipMalformed?: boolean;
}

/** The names of the nine tasks. */
export type GlueName = "cola" | "sst2" | "mrpc" | "stsb" | "qqp" | "mnli" | "qnli" | "rte" | "wnli";

const ONE = ["sentence", "text"];
const FIRST = ["sentence1", "text1"];
const SECOND = ["sentence2", "text2"];
const VALIDATION = ["validation"];
const ENTAILMENT = ["entailment", "not_entailment"];

/** GLUE, by name. */
export const GLUE_TASKS: Readonly<Record<GlueName, SentenceTask>> = {
  cola: {
    name: "cola",
    columns: { sentence: ONE, label: ["label"] },
    labels: ["unacceptable", "acceptable"],
    metrics: ["matthews"],
    selectBy: "matthews",
    devSplits: VALIDATION,
    headerless: ["", "label", "", "sentence"],
  },
  sst2: {
    name: "sst2",
    columns: { sentence: ONE, label: ["label"] },
    labels: ["negative", "positive"],
    metrics: ["accuracy"],
    selectBy: "accuracy",
    devSplits: VALIDATION,
  },
  mrpc: {
    name: "mrpc",
    columns: {
      sentence: [...FIRST, "#1 String"],
      sentence2: [...SECOND, "#2 String"],
      label: ["label", "Quality"],
    },
    labels: ["not_equivalent", "equivalent"],
    metrics: ["accuracy", "f1"],
    selectBy: "f1",
    devSplits: VALIDATION,
  },
  stsb: {
    name: "stsb",
    columns: { sentence: FIRST, sentence2: SECOND, label: ["label", "score"] },
    labels: "score",
    scoreRange: [0, 5],
    metrics: ["pearson", "spearman"],
    selectBy: "pearson",
    devSplits: VALIDATION,
  },
  qqp: {
    name: "qqp",
    columns: {
      sentence: ["question1", ...FIRST],
      sentence2: ["question2", ...SECOND],
      label: ["label", "is_duplicate"],
    },
    labels: ["not_duplicate", "duplicate"],
    metrics: ["accuracy", "f1"],
    selectBy: "accuracy",
    devSplits: VALIDATION,
    skipMalformed: true,
  },
  mnli: {
    name: "mnli",
    columns: {
      sentence: ["premise", ...FIRST],
      sentence2: ["hypothesis", ...SECOND],
      label: ["label", "gold_label"],
    },
    labels: ["entailment", "neutral", "contradiction"],
    metrics: ["accuracy"],
    selectBy: "accuracy",
    devSplits: ["validation_matched", "validation_mismatched"],
  },
  qnli: {
    name: "qnli",
    columns: { sentence: ["question", ...FIRST], sentence2: ["sentence", ...SECOND], label: ["label"] },
    labels: ENTAILMENT,
    metrics: ["accuracy"],
    selectBy: "accuracy",
    devSplits: VALIDATION,
  },
  rte: {
    name: "rte",
    columns: { sentence: FIRST, sentence2: SECOND, label: ["label"] },
    labels: ENTAILMENT,
    metrics: ["accuracy"],
    selectBy: "accuracy",
    devSplits: VALIDATION,
  },
  wnli: {
    name: "wnli",
    columns: { sentence: FIRST, sentence2: SECOND, label: ["label"] },
    labels: ["not_entailment", "entailment"],
    metrics: ["accuracy"],
    selectBy: "accuracy",
    devSplits: VALIDATION,
  },
};

/**
 * A task of GLUE by its name: `sst2`, `SST-2` and `sts-b` alike.
 *
 * @throws {RangeError} when there is none of that name, with the nine names.
 */
export function glueTask(name: string): SentenceTask {
  const key = name.toLowerCase().replace(/[-_]/g, "");
  if (Object.hasOwn(GLUE_TASKS, key)) return GLUE_TASKS[key as GlueName];
  throw new RangeError(`Cannot find the task "${name}": expected one of ${Object.keys(GLUE_TASKS).join(", ")}`);
}

/** A task of one's own: the names of its columns, and its classes in the order of their numbers, or `"score"`. */
export interface OwnTaskOptions {
  readonly name?: string;
  readonly columns: { readonly sentence: string; readonly sentence2?: string; readonly label: string };
  readonly labels: readonly string[] | "score";
}

/**
 * A task over files of one's own. Two classes are measured by accuracy and F1, more by accuracy, a score by both correlations.
 *
 * @throws {RangeError} when there are fewer than two classes, or two of one name.
 */
export function ownTask({ name = "own", columns, labels }: OwnTaskOptions): SentenceTask {
  if (labels !== "score" && (labels.length < 2 || new Set(labels).size < labels.length)) {
    throw new RangeError(
      `Cannot make a task: it needs at least two classes, each of its own name: got [${labels.join(", ")}]`,
    );
  }
  const score = labels === "score";
  return {
    name,
    columns: {
      sentence: [columns.sentence],
      sentence2: columns.sentence2 === undefined ? undefined : [columns.sentence2],
      label: [columns.label],
    },
    labels,
    metrics: score ? ["pearson", "spearman"] : labels.length === 2 ? ["accuracy", "f1"] : ["accuracy"],
    selectBy: score ? "pearson" : "accuracy",
    devSplits: VALIDATION,
  };
}
