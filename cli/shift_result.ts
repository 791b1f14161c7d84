/** What a comparison by groups came to, as data, and as text: JSON, CSV, a table, and what deserves a word. */
import { SMALLEST_GROUP, spearman } from "../data/mod.ts";
import { formatTable } from "./log.ts";
import { findMeasure, type MeasuredValue } from "./shift_measures.ts";
import { BASE, REFERENCE } from "./shift_options.ts";
import type { Explanation, MapChange } from "./shift_spectral.ts";

/** Divergences after a layer, in bits at a place. */
export interface LensValue {
  /** From 1. */
  readonly layer: number;
  /** Null: all probes. */
  readonly group: string | null;
  /** KL(model || base) */
  readonly bitsFromBase: number;
  /** KL(reference || model) */
  readonly bitsToReference: number;
}

/** A model of the comparison. */
export interface ModelResult {
  readonly name: string;
  readonly folder: string;
  /** Numbers that were trained, as far as the folder or its run shows. */
  readonly size: number;
  readonly measures: readonly MeasuredValue[];
  readonly lens: readonly LensValue[];
  /** Of candidates. */
  readonly explanation?: Explanation;
}

/** The reference's shift of a linear map. */
export interface MapResult {
  readonly module: string;
  readonly energy: number;
  /** Null for a map that is too large to decompose. */
  readonly singularValues: readonly number[] | null;
}

/** A whole comparison. */
export interface ShiftResult {
  readonly task: string;
  readonly data: string;
  readonly column: string;
  /** What losses and divergences are a mean over. */
  readonly unit: string;
  readonly groups: readonly { readonly name: string; readonly n: number }[];
  /** The choice whose rates are compared, where something is chosen. */
  readonly positive: string | null;
  readonly bootstrap: number;
  /** The base, the reference, then the candidates. */
  readonly models: readonly ModelResult[];
  /** The share of the shift's energy that changes of a rank can hold. */
  readonly energy: readonly { readonly rank: number; readonly within: number }[];
  readonly maps: readonly MapResult[];
}

/** The models that are judged. */
export function candidatesOf({ models }: ShiftResult): readonly ModelResult[] {
  return models.filter(({ name }) => name !== BASE && name !== REFERENCE);
}

/** A value of a table: three digits, or the words that stand for it; a dash where it is undefined. */
export function formatValue(found: MeasuredValue | undefined, withInterval = false): string {
  if (!found) return "";
  if (found.value === null) return "–";
  if (typeof found.value === "string") return found.value;
  const digits = (value: number) => Object.is(Number(value.toFixed(3)), -0) ? "0.000" : value.toFixed(3);
  const isKnown = withInterval && found.low !== null && found.high !== null;
  return digits(found.value) + (isKnown ? ` [${digits(found.low!)}, ${digits(found.high!)}]` : "");
}

/** A column of the main table. */
export interface MainColumn {
  readonly title: string;
  readonly measure: string;
  readonly group?: string;
  readonly withInterval: boolean;
}

/** The main table's columns: what there is for these probes. */
export function mainColumns({ groups, models }: ShiftResult): MainColumn[] {
  const columns: MainColumn[] = [
    { title: "shift captured", measure: "shiftCapture", withInterval: true },
    ...groups.map(({ name }) => ({
      ...{ title: `of ${name}`, measure: "shiftCapture", group: name, withInterval: false },
    })),
    { title: "retained", measure: "retained", withInterval: true },
    { title: "new harms", measure: "newHarms", withInterval: false },
    { title: "accuracy", measure: "accuracy", withInterval: true },
    { title: "worst group", measure: "worstAccuracy", withInterval: false },
    { title: "dem. parity", measure: "demographicParity", withInterval: false },
    { title: "equal opp.", measure: "equalOpportunity", withInterval: false },
    { title: "eq. odds", measure: "equalisedOdds", withInterval: false },
    { title: "calibration gap", measure: "calibrationGap", withInterval: false },
    { title: "excess loss gap", measure: "excessLossGap", withInterval: false },
  ];
  return columns.filter(({ measure }) => models.some(({ measures }) => findMeasure(measures, measure)));
}

/** The main table as cells, its head first. */
export function mainTable(result: ShiftResult, withInterval = true): string[][] {
  const columns = mainColumns(result);
  const head = ["model", "trained", ...columns.map(({ title }) => title)];
  const rows = result.models.map(({ name, size, measures }) => [
    ...[name, name === BASE ? "" : size.toLocaleString("en-US")],
    ...columns.map((column) =>
      formatValue(findMeasure(measures, column.measure, column.group), withInterval && column.withInterval)
    ),
  ]);
  return [head, ...rows];
}

/** Lines for the terminal. */
export function resultLines(result: ShiftResult): string[] {
  const table = mainTable(result);
  const lines = formatTable(table, "l" + "r".repeat(table[0].length - 1));
  return [...lines, ...verdictsOf(result).map(({ text }) => text)];
}

/** Groups that no gap counts. */
export function smallGroups({ groups }: Pick<ShiftResult, "groups">): readonly { name: string; n: number }[] {
  return groups.filter(({ n }) => n < SMALLEST_GROUP);
}

/** Groups of which the reference says what the base says: null alone where it does so of all probes. */
export function unmovedGroups({ groups, models }: Pick<ShiftResult, "groups" | "models">): (string | null)[] {
  const reference = models.find(({ name }) => name === REFERENCE)!;
  const isStill = (group: string | null) => findMeasure(reference.measures, "shiftCapture", group)?.value === null;
  return isStill(null) ? [null] : groups.map(({ name }) => name).filter(isStill);
}

/** `a token`, `an example`. */
export function aUnit({ unit }: Pick<ShiftResult, "unit">): string {
  return `${/^[aeiou]/.test(unit) ? "an" : "a"} ${unit}`;
}

/** What deserves a word: groups left behind, and how well weights explain it. */
export function verdictsOf(result: ShiftResult): { readonly ok?: boolean; readonly text: string }[] {
  const found: { ok?: boolean; text: string }[] = [];
  for (const { name, measures } of candidatesOf(result)) {
    const all = findMeasure(measures, "shiftCapture")?.value;
    const large = result.groups.filter(({ n }) => n >= SMALLEST_GROUP);
    for (const { name: group } of large) {
      const own = findMeasure(measures, "shiftCapture", group)?.value;
      if (typeof own !== "number" || typeof all !== "number" || all <= 0 || own >= all / 2) continue;
      const text = `${name} leaves ${group} behind: it has captured ${own.toFixed(3)} of its shift, and ` +
        `${all.toFixed(3)} of all`;
      found.push({ ok: false, text });
    }
  }
  const order = predictionOrder(result);
  if (order !== undefined) {
    const text = `Excess losses predicted from weights and measured ones have the same order to ${order.toFixed(2)} ` +
      "(Spearman's correlation over candidates and groups)";
    found.push({ text });
  }
  return found;
}

/** Spearman's correlation of predicted and measured excess losses, over candidates and groups: four pairs at least. */
export function predictionOrder(result: ShiftResult): number | undefined {
  const pairs = candidatesOf(result).flatMap(({ measures, explanation }) =>
    result.groups.flatMap(({ name }, group) => {
      const measured = findMeasure(measures, "excessLoss", name)?.value;
      const predicted = explanation?.predictedExcess[group];
      return typeof measured === "number" && predicted !== undefined ? [[predicted, measured]] : [];
    })
  );
  if (pairs.length < 4) return undefined;
  return spearman(pairs.map(([predicted]) => predicted), pairs.map(([, measured]) => measured));
}

/** Every measure as a line: model, measure, group, n, value, low, high. */
export function resultCsv({ models }: ShiftResult): string {
  const lines = [["model", "measure", "group", "n", "value", "low", "high"]];
  for (const { name, measures } of models) {
    for (const { measure, group, n, value, low, high } of measures) {
      lines.push([name, measure, group ?? "", String(n), ...[value, low, high].map((one) => String(one ?? ""))]);
    }
  }
  return lines.map((cells) => cells.map(csvCell).join(",") + "\n").join("");
}

/** RFC 4180: quoted where it has to be. */
function csvCell(text: string): string {
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** The result as JSON, singular vectors left out. */
export function resultJson(result: ShiftResult, indent?: number): string {
  return JSON.stringify(result, undefined, indent);
}

/** For tables: the mean over maps of the smallest and of the largest angle, in degrees. */
export function meanAngles(maps: readonly MapChange[]): { smallest: number; largest: number } | undefined {
  const lists = maps.flatMap(({ angles }) => [angles.left, angles.right]).filter((list) => list.length > 0);
  if (lists.length === 0) return undefined;
  const mean = (of: (list: readonly number[]) => number) =>
    lists.reduce((sum, list) => sum + of(list), 0) / lists.length;
  return { smallest: mean((list) => list[0]), largest: mean((list) => list[list.length - 1]) };
}
