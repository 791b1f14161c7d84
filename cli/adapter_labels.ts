/**
 * What the numbers of an adapter's head stand for: `labels.json` beside PEFT's files, which have no place for names. PEFT
 * loads a folder with it as one without.
 */
import type { SentenceTask } from "../data/mod.ts";
import type { Folder, FolderWriter } from "../models/mod.ts";
import { parseJson } from "./checkpoint.ts";
import type { Subject } from "./finetune_subject.ts";

/** The classes by number, or `score` for a regression. */
export type HeadLabels = SentenceTask["labels"];

/** The file in an adapter's folder. */
export const ADAPTER_LABELS_FILE = "labels.json";

/** Writes the names of a model's labels; of a model that has none, nothing. */
export async function saveAdapterLabels(writer: FolderWriter, config: Subject["config"]): Promise<void> {
  if (!("id2label" in config)) return;
  await using sink = await writer.create(ADAPTER_LABELS_FILE);
  await sink.write(new TextEncoder().encode(JSON.stringify({ labels: headLabels(config) }) + "\n"));
}

/** The labels of a model's own head. */
export function headLabels({ id2label }: { readonly id2label: Readonly<Record<number, string>> }): HeadLabels {
  const names = Object.values(id2label);
  return names.length === 1 ? "score" : names;
}

/** The labels of an adapter; undefined where its folder does not say them. @throws SyntaxError for a file that is unsound */
export async function readAdapterLabels(folder: Folder): Promise<HeadLabels | undefined> {
  if (!await folder.has(ADAPTER_LABELS_FILE)) return undefined;
  const what = `${folder.name}/${ADAPTER_LABELS_FILE}`;
  const labels = (parseJson(await folder.text(ADAPTER_LABELS_FILE), what) as { labels?: unknown } | null)?.labels;
  if (labels === "score" || isNames(labels)) return labels;
  throw new SyntaxError(`Cannot read ${what}: its labels must be two names or more, or "score"`);
}

function isNames(value: unknown): value is string[] {
  return Array.isArray(value) && value.length > 1 && value.every((name) => typeof name === "string");
}
