/**
 * Which files of a folder hold a split of a data set: GLUE's folders as distributed (`SST-2/dev.tsv`), the Hub's
 * (`sst2/validation-00000-of-00001.parquet`), or plain `train.jsonl`, `validation.csv`. It opens no file.
 */

import { TABLE_KINDS } from "./table.ts";

/** File names before the ending, by split; the first one that is there is taken. */
const OTHER_NAMES: Readonly<Record<string, readonly string[]>> = {
  validation: ["validation", "dev", "valid", "val"],
  validation_matched: ["validation_matched", "dev_matched"],
  validation_mismatched: ["validation_mismatched", "dev_mismatched"],
};

const ENDINGS = ["parquet", "jsonl", "tsv", "csv", "txt"];

/**
 * The files of a split, in the order of their shards: looked for in the folder itself, then in its folder of the task's
 * name (any case, with or without hyphens), then in `data`.
 *
 * @throws {Deno.errors.NotFound} when there are none, with what was looked for and what the folder holds.
 */
export async function findSplitFiles(folder: string, task: string, split: string): Promise<string[]> {
  const here = await list(folder);
  const names = OTHER_NAMES[split] ?? [split];
  const isTask = (name: string): boolean => name.toLowerCase().replace(/[-_]/g, "") === task.toLowerCase();
  const folders = ["", ...here.filter((name) => isTask(name) || name === "data")];
  for (const inner of folders) {
    const path = inner === "" ? folder : `${folder}/${inner}`;
    const entries = inner === "" ? here : await list(path).catch(() => []);
    const found = pickFiles(entries, names);
    if (found.length > 0) return found.map((name) => `${path}/${name}`);
  }
  const wanted = `${names.join(" or ")}, as ${TABLE_KINDS}`;
  const held = here.length === 0 ? "is empty" : `holds ${here.slice(0, 8).join(", ")}${here.length > 8 ? ", ..." : ""}`;
  throw new Deno.errors.NotFound(
    `Cannot find the split "${split}" of ${task} in "${folder}": expected ${wanted}; the folder ${held}`,
  );
}

function pickFiles(entries: readonly string[], names: readonly string[]): string[] {
  for (const name of names) {
    const shards = entries.filter((entry) => entry.startsWith(`${name}-`) && /-\d+-of-\d+\.parquet$/.test(entry));
    if (shards.length > 0) return shards;
    const ending = ENDINGS.find((candidate) => entries.includes(`${name}.${candidate}`));
    if (ending) return [`${name}.${ending}`];
  }
  return [];
}

async function list(folder: string): Promise<string[]> {
  const names: string[] = [];
  for await (const entry of Deno.readDir(folder)) names.push(entry.name);
  return names.sort();
}
