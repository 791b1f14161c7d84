/** From `--task` and `--data` to batches: a task, its examples as token ids, and their order in every epoch. */
import { createHash } from "node:crypto";
import {
  type EncodedExample,
  encodeExamples,
  type Example,
  glueTask,
  lengthBatches,
  ownTask,
  readClassNames,
  readExamples,
  requireEveryClass,
  type SentenceTask,
  type Tokenizer,
} from "../data/mod.ts";
import { exists } from "./files.ts";
import type { Finetune } from "./finetune_options.ts";
import type { SubjectRows } from "./finetune_subject.ts";
import type { Output } from "./log.ts";

/** Examples to train on and to evaluate on. */
export interface FinetuneData {
  readonly task: SentenceTask;
  readonly train: readonly EncodedExample[];
  /** The first one picks the best model. */
  readonly dev: readonly { readonly split: string; readonly examples: readonly EncodedExample[] }[];
  /** SHA-256 of ids and labels. */
  readonly hash: string;
}

/** A batch of examples, padded to the longest. */
export interface FinetuneRows extends SubjectRows {
  /** [batch, seq] */
  readonly tokens: Int32Array;
  /** [batch, seq]: 1 for a token, 0 for padding. */
  readonly mask: Uint32Array;
  readonly labels: Float32Array;
}

/** How batches are made. */
export interface Batching {
  readonly batch: number;
  readonly padId: number;
  /** Without one the examples come sorted by length. */
  readonly seed?: number;
}

/** The name of a task over columns that the flags name. */
export const OWN_TASK = "own";

/** What a task is chosen by. */
export type TaskOptions = Pick<Finetune, "task" | "sentence" | "sentence2" | "label" | "labels" | "data">;

/** The task of a run. The classes of an own task are, unless they are given, those of its training file. */
export async function resolveTask(
  { task, sentence, sentence2, label, labels, data }: TaskOptions,
): Promise<SentenceTask> {
  if (task !== OWN_TASK) return glueTask(task);
  if (sentence === undefined || label === undefined) {
    throw new RangeError("Cannot fine-tune on a task of your own: give --sentence COLUMN and --label COLUMN");
  }
  const columns = { sentence, sentence2, label };
  if (labels?.length === 1 && labels[0] === "score") return ownTask({ columns, labels: "score" });
  return ownTask({ columns, labels: labels ?? await readClassNames(firstOf(data), columnsOf(columns)) });
}

function columnsOf(columns: { sentence: string; sentence2?: string; label: string }): SentenceTask["columns"] {
  return ownTask({ columns, labels: "score" }).columns;
}

function firstOf([first]: readonly string[]): string {
  if (first === undefined) throw new RangeError("Cannot fine-tune without data: give --data FOLDER, or --data FILE");
  return first;
}

/** What examples become ids by. */
export interface DataParts {
  readonly task: SentenceTask;
  readonly tokenizer: Tokenizer;
  /** Most tokens of an example. */
  readonly maxLength: number;
  readonly positions: number;
}

/** Reads and encodes the examples of a run. @throws as `readExamples` and `encodeExamples` */
export async function openFinetuneData(
  paths: readonly string[],
  { task, tokenizer, maxLength, positions }: DataParts,
  output: Pick<Output, "err">,
): Promise<FinetuneData> {
  const texts = await readSplits(paths, task, output);
  const encode = (examples: readonly Example[]) => encodeExamples(tokenizer, examples, { maxLength, positions });
  const train = encode(texts.train);
  const dev = texts.dev.map(({ split, examples }) => ({ split, examples: encode(examples) }));
  const cut = train.filter(({ truncated }) => truncated).length;
  if (cut > 0) output.err(`note: ${cut.toLocaleString("en-US")} training examples are cut to ${maxLength} tokens`);
  const hash = createHash("sha256");
  for (const { ids, label } of [train, ...dev.map(({ examples }) => examples)].flat()) {
    hash.update(Float64Array.of(ids.length, label)).update(ids);
  }
  return { task, train, dev, hash: hash.digest("hex") };
}

/** Reads and encodes examples to evaluate on alone: a folder's splits for that, or files, each by its name. */
export async function openEvaluationData(
  paths: readonly string[],
  { task, tokenizer, maxLength, positions }: DataParts,
): Promise<FinetuneData["dev"]> {
  const first = firstOf(paths);
  const isFolder = paths.length === 1 && await exists(first) && !(await Deno.stat(first)).isFile;
  const places = isFolder ? task.devSplits.map((split) => [first, split]) : paths.map((path) => [path, path]);
  const dev = [];
  for (const [path, split] of places) {
    const examples = await readExamples(path, task, { split });
    dev.push({ split, examples: encodeExamples(tokenizer, examples, { maxLength, positions }) });
  }
  return dev;
}

interface Splits {
  readonly train: readonly Example[];
  readonly dev: readonly { readonly split: string; readonly examples: readonly Example[] }[];
}

async function readSplits(paths: readonly string[], task: SentenceTask, output: Pick<Output, "err">): Promise<Splits> {
  const [first, second, ...more] = [firstOf(paths), ...paths.slice(1)];
  if (more.length > 0) {
    throw new RangeError(
      `Cannot fine-tune on ${paths.length} paths: give a folder, or a file to train on and one to evaluate on`,
    );
  }
  const onSkip = (file: string, line: number) => output.err(`note: line ${line} of ${file} is malformed and left out`);
  const train = await readExamples(first, task, { onSkip });
  if (second !== undefined) {
    const examples = await readExamples(second, task, { split: task.devSplits[0], onSkip });
    return { train, dev: [{ split: "validation", examples }] };
  }
  if ((await Deno.stat(first)).isFile) return holdOut(train, task, first, output);
  const dev = [];
  for (const split of task.devSplits) dev.push({ split, examples: await readExamples(first, task, { split, onSkip }) });
  return { train, dev };
}

/** Every tenth example of a file, to evaluate on. */
function holdOut(all: readonly Example[], task: SentenceTask, file: string, output: Pick<Output, "err">): Splits {
  const train = all.filter((_, i) => i % 10 !== 9);
  const examples = all.filter((_, i) => i % 10 === 9);
  if (examples.length === 0) {
    throw new RangeError(`Cannot hold out a tenth of ${file}: it must have 10 examples: got ${all.length}`);
  }
  requireEveryClass(train, task, file);
  output.err(`note: every tenth example of ${file} is held out; a second --data FILE is evaluated on instead`);
  return { train, dev: [{ split: "validation", examples }] };
}

/** The batches of an epoch, in order, from the one at place `first` on. */
export function* epochRows(
  examples: readonly EncodedExample[],
  batching: Batching,
  epoch = 0,
  first = 0,
): Generator<FinetuneRows> {
  for (const rows of lengthBatches(examples, { ...batching, epoch, start: first })) {
    const { tokens, mask, labels, size, length } = rows;
    const count = mask.reduce((sum, one) => sum + one, 0);
    yield { tokens, mask, labels, batch: size, seq: length, count, index: 0 };
  }
}
