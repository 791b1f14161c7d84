/**
 * Which number of a head stands for which class of a task: a model's labels, or those that adapters on it were trained for,
 * are met with the task's by name. Nothing is scored by names that contradict each other without a word.
 */
import type { SentenceTask } from "../data/mod.ts";
import type { AdapterFlag } from "./adapted.ts";
import { type HeadLabels, readAdapterLabels } from "./adapter_labels.ts";
import { FileFolder } from "./files.ts";
import { shorten } from "./log.ts";

/** A head, and what its numbers stand for. */
export interface Head {
  /** For messages: the folder that it lies in. */
  readonly where: string;
  /** What it is the head of. */
  readonly of: "model" | "adapter";
  /** Undefined where nothing says them. */
  readonly labels: HeadLabels | undefined;
}

/** The heads of adapters. @throws RangeError where two of them say different labels, or an order that differs */
export async function adapterHeads(adapters: readonly AdapterFlag[]): Promise<Head[]> {
  const heads: Head[] = [];
  for (const { folder } of adapters) {
    heads.push({ where: folder, of: "adapter", labels: await readAdapterLabels(new FileFolder(folder)) });
  }
  const [first, ...others] = heads.filter(({ labels }) => labels !== undefined);
  const other = others.find(({ labels }) => !isSame([labels!].flat(), [first.labels!].flat()));
  if (other === undefined) return heads;
  throw new RangeError(
    `Cannot use adapters of different labels at once: ${first.where} has ${inWords(first.labels)}, ` +
      `${other.where} has ${inWords(other.labels)}`,
  );
}

/**
 * The labels of an own task: those that the adapters were trained for, else those that are given.
 *
 * @throws RangeError where both are there and differ
 */
export function labelsOfTask(
  heads: readonly Head[],
  given: readonly string[] | undefined,
): readonly string[] | undefined {
  const known = heads.find(({ labels }) => labels !== undefined);
  if (known === undefined) return given;
  const labels = [known.labels!].flat();
  if (given === undefined || isSame(given, labels)) return labels;
  throw new RangeError(
    `Cannot use --labels ${given.join(", ")} with the adapter ${known.where}: its labels are ${inWords(labels)}`,
  );
}

/**
 * The number that a head has for each class of a task: its own, where its names are the task's in another order. Names
 * that are others, or that nobody says, are taken in the task's order, and `onNote` is told; `LABEL_0` and the like are none.
 *
 * @throws RangeError for another number of labels
 */
export function numbersOf(head: Head, task: SentenceTask, onNote: (line: string) => void): readonly number[] {
  const { where, of, labels } = head;
  const expected = [task.labels].flat();
  const numbers = [...expected.keys()];
  if (labels === undefined) {
    if (task.labels !== "score") onNote(unlabelledNote(where, expected));
    return numbers;
  }
  const names = [labels].flat();
  if (names.length !== expected.length) {
    throw new RangeError(
      `Cannot evaluate ${where} on ${task.name}: the task has ${expected.length} labels, the ${of} ${names.length}`,
    );
  }
  if (task.labels === "score" || names.every((name) => /^LABEL_\d+$/.test(name))) return numbers;
  if (isSame(names, expected)) return numbers;
  const lower = names.map((name) => name.toLowerCase());
  const found = expected.map((name) => lower.indexOf(name.toLowerCase()));
  if (!found.includes(-1) && new Set(found).size === found.length) return found;
  onNote(`note: the head of ${where} counts as it is: its labels are ${inWords(labels)}, now ${inWords(expected)}`);
  return numbers;
}

function isSame(some: readonly string[], others: readonly string[]): boolean {
  return some.length === others.length && some.every((name, i) => name === others[i]);
}

/** What is told where nobody says what the numbers of an adapter's head stand for. */
export function unlabelledNote(where: string, taken: readonly string[]): string {
  return `note: ${where} does not say its labels: they are taken to be ${shorten(taken)}, in this order`;
}

function inWords(labels: HeadLabels | undefined): string {
  return shorten([labels ?? []].flat());
}
