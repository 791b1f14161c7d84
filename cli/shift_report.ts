/**
 * The page of a comparison by groups: what each model has captured of the shift, what it has kept of the old behaviour, its
 * fairness, where in the layers it differs, and why. One file that needs no network. Every text is escaped.
 */
import { SMALLEST_SHIFT } from "../data/mod.ts";
import { formatNumber } from "./log.ts";
import { pageHtml } from "./report_page.ts";
import { escapeText, type PlotOptions, plotSvg, type Series } from "./report_plot.ts";
import { findMeasure } from "./shift_measures.ts";
import { BASE, REFERENCE } from "./shift_options.ts";
import {
  aUnit,
  candidatesOf,
  formatValue,
  mainTable,
  meanAngles,
  type ModelResult,
  type ShiftResult,
  unmovedGroups,
  verdictsOf,
} from "./shift_result.ts";
import { MOST_DECOMPOSED } from "./shift_spectral.ts";

/** Published findings that disagree, so that nobody takes this page for the last word. */
const STUDIES =
  "Published studies disagree: Das et al. 2024 (arXiv 2405.18572) find that adapters of low rank keep bias and " +
  "toxicity of the model before; Ding et al. 2024 (COLM, arXiv 2405.17512) find no consistent pattern of LoRA being " +
  "less fair than whole fine-tuning. This page measures these models on these probes.";

/** These tables are wide: heads may break, numbers may not. */
const STYLE = "<style>.wide th{white-space:normal;vertical-align:bottom}.wide td{white-space:nowrap}" +
  ".wide th,.wide td{padding-right:14px}</style>";

/** More models than this have no room for their names under a plot of half the page. */
const MOST_BESIDE = 5;

/** As many names as have room over a plot: more models get another plot. */
const MOST_IN_KEY = 6;

/** Colours of a plot; more lines than that are dashed the second time round. */
const COLOURS = 6;

/** The report as one HTML page. */
export function shiftReport(result: ShiftResult): string {
  const title = `${result.column} in ${result.data.replace(/^.*[\\/]/, "")}`;
  const body = [
    STYLE,
    header(title, result),
    verdicts(result),
    mainSection(result),
    groupFigures(result),
    lensSection(result),
    spectralSection(result),
    measureTables(result),
    configSection(result),
    `<footer>${escapeText(STUDIES)}</footer>`,
  ];
  return pageHtml(title, body.join("\n"));
}

function header(title: string, result: ShiftResult): string {
  const facts = [
    ...result.groups.map(({ name, n }): [string, string] => [name, `${formatNumber(n)} probes`]),
    ["models judged", formatNumber(candidatesOf(result).length)],
    ...result.positive === null ? [] : [["rates of", result.positive] as [string, string]],
  ];
  const list = facts.map(([label, value]) => `<div><dt>${escapeText(label)}</dt><dd>${escapeText(value)}</dd></div>`);
  const [base, reference] = result.models.map(({ folder }) => folder);
  return `<header><p class="kind">Fairness and shift</p><h1>${escapeText(title)}</h1>` +
    `<p class="subtitle">${escapeText(`From ${base} to ${reference}, fine-tuned as a whole`)}</p>` +
    `<dl class="facts">${list.join("")}</dl></header>`;
}

function verdicts(result: ShiftResult): string {
  const lines = verdictsOf(result).map(({ ok, text }) => {
    const [kind, mark, word] = ok === false ? ["bad", "✗", "no"] : ["", "·", "note"];
    return `<li class="${kind}"><b role="img" aria-label="${word}">${mark}</b><span>${escapeText(text)}</span></li>`;
  });
  return lines.length > 0 ? `<ul class="verdicts">${lines.join("")}</ul>` : "";
}

interface TableText {
  readonly title: string;
  readonly note?: string;
  readonly cells: readonly (readonly string[])[];
}

/** A table whose first row is its head; the first column is left, the others right. */
function tableHtml({ title, note, cells: [head, ...rows] }: TableText): string {
  const side = (i: number) => i > 0 ? ' class="r"' : "";
  const heads = head.map((cell, i) => `<th scope="col"${side(i)}>${escapeText(cell)}</th>`).join("");
  const lines = rows.map((cells) =>
    `<tr>${cells.map((cell, i) => `<td${side(i)}>${escapeText(cell).replaceAll("[", "<wbr>[")}</td>`).join("")}</tr>`
  );
  return `<h2>${escapeText(title)}</h2>${note ? `<p class="note">${escapeText(note)}</p>` : ""}` +
    `<div class="scroll wide" tabindex="0" role="region" aria-label="${
      escapeText(title)
    }"><table><thead><tr>${heads}</tr>` +
    `</thead><tbody>${lines.join("")}</tbody></table></div>`;
}

function mainSection(result: ShiftResult): string {
  const interval = result.bootstrap > 0
    ? ` Intervals are further down: 95 %, of ${
      formatNumber(result.bootstrap)
    } bootstrap samples of the probes within groups. A gap's holds every difference between two groups at once: 0 lies ` +
      "within where they may well be alike."
    : "";
  const still = unmovedGroups(result).length > 0
    ? ` A dash: the reference lies within ${SMALLEST_SHIFT} nats ${aUnit(result)} of the base, and no shift is there.`
    : "";
  const note =
    "Shift captured: 1 - KL(reference || model) / KL(reference || base). Retained: of what the base does badly and " +
    `the reference well, the share that is still bad. Gaps that fewer than 30 items stand behind are refused.${still}${interval}`;
  return `<section>${tableHtml({ title: "Models", note, cells: mainTable(result, false) })}</section>`;
}

/** A measure of every model, a line a group. */
function byModel(result: ShiftResult, title: string, measure: string, models: readonly ModelResult[]): string[] {
  const names = models.map(({ name }) => name);
  const line = (name: string, group: string | null, i: number): Series => ({
    name,
    points: models.flatMap(({ measures }, x) => {
      const value = findMeasure(measures, measure, group)?.value;
      return typeof value === "number" ? [[x, value] as const] : [];
    }),
    style: { ...colour(i), dots: true },
  });
  const series = [
    ...result.groups.map(({ name }, i) => line(name, name, i)),
    ...result.groups.length > 1
      ? [{ ...line("all", null, 5), style: { color: 6, dots: true, dashed: true } } as Series]
      : [],
  ].filter(({ points }) => points.length > 0);
  if (series.length === 0) return [];
  const xTicks = names.map((_, i) => i);
  const width = names.length > MOST_BESIDE ? 1000 : 490;
  const most = Math.max(4, Math.floor((width - 60) / (6.7 * names.length)));
  const formatX = (x: number) => shortName(names[x] ?? "", most);
  return [figure(title, { series, xTicks, formatX, xLabel: "", yLabel: "", yFrom: 0, width, height: 240 })];
}

function colour(i: number): NonNullable<Series["style"]> {
  return { color: (i % COLOURS + 1) as 1 | 2 | 3 | 4 | 5 | 6, dashed: i >= COLOURS };
}

function shortName(name: string, most: number): string {
  return name.length > most ? `${name.slice(0, most - 1)}…` : name;
}

function groupFigures(result: ShiftResult): string {
  const { models } = result;
  const moved = models.filter(({ name }) => name !== BASE);
  const figures = [
    ...byModel(result, "Shift captured, by group", "shiftCapture", models),
    ...byModel(result, "Retained behaviour", "retained", models),
    ...byModel(result, "Accuracy", "accuracy", models),
    ...byModel(result, `Excess loss over the reference, nats ${aUnit(result)}`, "excessLoss", moved),
    ...byModel(result, "Calibration error", "calibrationError", models),
    ...byModel(result, `KL(model || base), bits ${aUnit(result)}`, "bitsFromBase", moved),
  ];
  const body = models.length > MOST_BESIDE ? figures.join("") : `<div class="grid">${figures.join("")}</div>`;
  return `<section><h2>By group</h2>${body}</section>`;
}

function lensSection(result: ShiftResult): string {
  const layers = Math.max(...result.models.flatMap(({ lens }) => lens.map(({ layer }) => layer)));
  if (layers < 2) return "";
  const lines = (of: "bitsFromBase" | "bitsToReference", without: string): Series[] =>
    result.models.filter(({ name }) => name !== without).map(({ name, lens }, i) => ({
      name,
      points: lens.filter(({ group }) => group === null).map((one) => [one.layer, one[of]] as const),
      style: { ...colour(i % MOST_IN_KEY), dots: true },
    }));
  const xTicks = Array.from({ length: layers }, (_, i) => i + 1).filter((layer) => layers <= 16 || layer % 4 === 0);
  const plot = { xTicks, formatX: String, xLabel: "layer", yLabel: "", yFrom: 0 };
  const figures = [
    [`KL(model || base), bits ${aUnit(result)}`, lines("bitsFromBase", BASE)] as const,
    [`KL(reference || model), bits ${aUnit(result)}`, lines("bitsToReference", REFERENCE)] as const,
  ].flatMap(([title, all]) => {
    const parts = Math.ceil(all.length / MOST_IN_KEY);
    return Array.from({ length: parts }, (_, i) => {
      const series = all.slice(i * MOST_IN_KEY, (i + 1) * MOST_IN_KEY);
      return figure(parts > 1 ? `${title} (${i + 1} of ${parts})` : title, { ...plot, series });
    });
  });
  const note = "What the final norm and the head make of each layer's output. The last layer is what the model says.";
  return `<section><h2>By layer</h2><p class="note">${escapeText(note)}</p>${figures.join("")}</section>`;
}

function figure(title: string, options: Omit<PlotOptions, "title">): string {
  const plot = plotSvg({ width: 1000, height: 280, title, ...options });
  return `<figure style="margin-top:20px"><h3>${escapeText(title)}</h3>${plot}</figure>`;
}

function spectralSection(result: ShiftResult): string {
  const judged = candidatesOf(result);
  if (judged.length === 0) return "";
  const points = result.energy.map(({ rank, within }) => [rank, within] as const);
  // empty where no map is decomposed, or none has moved
  const curve = points.length === 0 ? "" : figure("Energy of the shift within its leading directions, all maps", {
    ...{ series: [{ name: "", points, style: { dots: true } }], xScale: "log", yFrom: 0, xLabel: "rank", yLabel: "" },
    ...{ xTicks: points.map(([rank]) => rank), formatX: String },
  });
  const note =
    "The shift is D* = W(reference) - W(base) of the linear maps. Missing: |D* - D|² / |D*|² of a model's own change D, " +
    "beside the least that its rank must miss. Overlap: mean squared cosine of the principal angles between leading " +
    "directions. Predicted excess: the sum over maps of tr((D* - D) S (D* - D)ᵀ), S of the group's inputs; it is exact for one " +
    "linear map, and here only its order counts." +
    (result.maps.some(({ singularValues }) => singularValues === null)
      ? ` Maps with sides above ${MOST_DECOMPOSED} are not decomposed.`
      : "");
  const number = (value: number | null | undefined) =>
    value === null || value === undefined ? "" : formatNumber(value, 3);
  const head = [
    "model",
    "rank",
    "effective rank",
    "missing",
    "least missing",
    "overlap",
    "angles",
    ...excessHeads(result),
  ];
  const rows = judged.map(({ name, measures, explanation: found }) => {
    const angles = found && meanAngles(found.maps);
    return [
      ...[name, number(found?.rank), number(found?.effectiveRank), number(found?.missing)],
      ...[number(found?.leastMissing), number(found?.overlap)],
      angles ? `${angles.smallest.toFixed(0)}° to ${angles.largest.toFixed(0)}°` : "",
      ...result.groups.flatMap((group, i) => [
        number(found?.predictedExcess[i]),
        formatValue(findMeasure(measures, "excessLoss", group.name)),
      ]),
    ];
  });
  return `<section>${
    tableHtml({ title: "Why: the shift in the weights", note, cells: [head, ...rows] })
  }${curve}</section>`;
}

function excessHeads({ groups }: ShiftResult): string[] {
  return groups.flatMap(({ name }) => [`predicted excess, ${name}`, `measured, ${name}`]);
}

/** Every measure with its interval: a table a model. */
function measureTables(result: ShiftResult): string {
  const details = result.models.map(({ name, measures }) => {
    const names = [...new Set(measures.map(({ measure }) => measure))];
    const levels = names.filter((measure) => measures.some((one) => one.measure === measure && one.group !== null));
    const cell = (measure: string, group: string | null) => formatValue(findMeasure(measures, measure, group), true);
    const levelRows = levels.map((measure) => [
      words(measure),
      cell(measure, null),
      ...result.groups.map((group) => cell(measure, group.name)),
    ]);
    const gapRows = names.filter((measure) => !levels.includes(measure)).map((measure) => [
      ...[words(measure), cell(measure, null), ...result.groups.map(() => "")],
    ]);
    const head = ["measure", "all", ...result.groups.map((group) => group.name)];
    return `<details><summary>${escapeText(name)}</summary>${
      tableHtml({ title: `Measures of ${name}`, cells: [head, ...levelRows, ...gapRows] }).replace(/^<h2>.*?<\/h2>/, "")
    }</details>`;
  });
  return `<section><h2>Every measure, with its interval</h2>${details.join("")}</section>`;
}

/** `equalOpportunity` as `equal opportunity`. */
function words(name: string): string {
  return name.replace(/([A-Z])/g, (letter) => ` ${letter.toLowerCase()}`);
}

function configSection({ models: _, maps: __, energy: ___, ...facts }: ShiftResult): string {
  return `<section><details><summary>Configuration</summary><pre>${
    escapeText(JSON.stringify(facts, null, 2))
  }</pre></details></section>`;
}
