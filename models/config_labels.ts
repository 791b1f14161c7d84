/** A classifier's labels in a Hugging Face `config.json`: their number and names. A file may say either or both. */
import { type ConfigJson, wholeNumber, wrong } from "./config_json.ts";

/** Labels of a classifier. */
export interface Labels {
  readonly num_labels: number;
  /** Names of the labels by number. */
  readonly id2label: Readonly<Record<string, string>>;
}

/** Labels with these names, or Hugging Face's LABEL_0, LABEL_1, ... for a number of them. */
export function labelsOf(names: readonly string[] | number): Labels {
  const list = typeof names === "number" ? Array.from({ length: names }, (_, label) => `LABEL_${label}`) : names;
  return { num_labels: list.length, id2label: Object.fromEntries(list.entries()) };
}

/**
 * The labels that a file says; nothing where it says none.
 *
 * @throws SyntaxError for names that are not numbered from 0, or a number that is not theirs
 */
export function readLabels(json: ConfigJson): Labels | undefined {
  const count = json.num_labels == null ? undefined : wholeNumber(json, "num_labels");
  const { id2label } = json;
  if (id2label == null) return count === undefined ? undefined : labelsOf(count);
  const names = typeof id2label === "object" ? Object.entries(id2label) : [];
  const isNumbered = names.length > 0 &&
    names.every(([key, name]) => typeof name === "string" && /^(0|[1-9]\d*)$/.test(key) && Number(key) < names.length);
  if (!isNumbered) throw wrong(json, "id2label", "names by number from 0");
  if (count !== undefined && count !== names.length) {
    throw wrong(json, "num_labels", `the ${names.length} of id2label`);
  }
  return { num_labels: names.length, id2label: id2label as Record<string, string> };
}

/** Numbers of the labels by name, as files hold them beside `id2label`. */
export function label2id({ id2label }: Pick<Labels, "id2label">): Record<string, number> {
  return Object.fromEntries(Object.entries(id2label).map(([id, label]) => [label, Number(id)]));
}
