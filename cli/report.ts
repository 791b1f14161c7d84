/**
 * `report.html`: one file that shows a run, and needs neither network nor script. What the page says is `ReportData`;
 * how it looks is `report_page.ts`. Every text is escaped: a sample may be anything that a model writes.
 */
import { writeFileDurably } from "./durable.ts";
import { formatBytes, formatDuration, formatNumber, type SpeedUnit, TOKENS } from "./log.ts";
import { type EvaluationRow, isStepRow, type MetricsRow, type StepRow } from "./metrics.ts";
import { imagesHtml, type ReportConfusion, type ReportPictures } from "./report_images.ts";
import { pageHtml } from "./report_page.ts";
import { escapeText, type PlotOptions, plotSvg, type Point, type Series } from "./report_plot.ts";

/** A table of the report. */
export interface ReportTable {
  readonly title: string;
  readonly note?: string;
  readonly head: readonly string[];
  readonly rows: readonly (readonly string[])[];
  /** One letter a column, `l` or `r`. */
  readonly align?: string;
}

/** What a report shows. Sections without data are left out. */
export interface ReportData {
  readonly title: string;
  readonly subtitle?: string;
  readonly rows: readonly MetricsRow[];
  /** The run's configuration, shown as it is. */
  readonly config?: unknown;
  /** Headline figures. Default: from the rows. */
  readonly facts?: readonly (readonly [label: string, value: string])[];
  /** What the run shows, in a sentence each. `ok` undefined: neither good nor bad. */
  readonly verdicts?: readonly { readonly ok?: boolean; readonly text: string }[];
  /** What a loss is in, for the plot. Default: nats a token. */
  readonly lossUnit?: string;
  /** What speed is in. Default: tokens a second. */
  readonly speedUnit?: SpeedUnit;
  /** Losses to compare with, in nats a token: dashed lines in the loss plot. */
  readonly baselines?: readonly { readonly name: string; readonly loss: number }[];
  readonly tables?: readonly ReportTable[];
  /** Images with what a model says of them. */
  readonly pictures?: ReportPictures;
  /** What a model takes for what. */
  readonly confusion?: ReportConfusion;
  readonly samples?: readonly { readonly title?: string; readonly prompt?: string; readonly text: string }[];
  /** Events: vertical lines in the loss plot. */
  readonly markers?: readonly { readonly x: number; readonly label: string }[];
  /** Last line of the page: version, device, date. */
  readonly footer?: string;
}

/** Writes the report, whole or not at all. */
export async function writeReport(path: string, data: ReportData): Promise<void> {
  await writeFileDurably(path, reportHtml(data));
}

/** The report as one HTML page. */
export function reportHtml(data: ReportData): string {
  const steps = data.rows.filter(isStepRow);
  const evaluations = data.rows.filter((row): row is EvaluationRow => !isStepRow(row));
  const body = [
    header(data, data.facts ?? headline(steps, evaluations)),
    verdicts(data),
    lossFigure(data, steps, evaluations),
    smallFigures(data, steps, evaluations),
    baselineTable(data, evaluations),
    imagesHtml(data.pictures, data.confusion),
    ...(data.samples?.length ? [samples(data.samples)] : []),
    ...(data.tables ?? []).map(table),
    config(data),
    `<footer>${escapeText(data.footer ?? "Made by Lowrank.")}</footer>`,
  ];
  return pageHtml(data.title, body.join("\n"));
}

function header({ title, subtitle }: ReportData, facts: readonly (readonly [string, string])[]): string {
  const figures = facts.map(([label, value]) =>
    `<div><dt>${escapeText(label)}</dt><dd>${escapeText(value)}</dd></div>`
  );
  return `<header><p class="kind">Training run</p><h1>${escapeText(title)}</h1>` +
    (subtitle ? `<p class="subtitle">${escapeText(subtitle)}</p>` : "") +
    (figures.length ? `<dl class="facts">${figures.join("")}</dl>` : "") + "</header>";
}

function headline(steps: readonly StepRow[], evaluations: readonly EvaluationRow[]): [string, string][] {
  const last = steps.at(-1);
  if (!last) return [];
  const validation = evaluations.at(-1)?.validationLoss;
  const facts: [string, string][] = [];
  if (validation !== undefined) {
    facts.push(["Validation loss", validation.toFixed(4)], ["Perplexity", formatNumber(Math.exp(validation))]);
  } else facts.push(["Loss", last.loss.toFixed(4)]);
  facts.push(["Steps", formatNumber(last.step)], ["Tokens", formatNumber(last.tokens)]);
  facts.push(["Tokens a second", formatNumber(Math.round(median(steps.map((row) => row.tokensPerSecond))))]);
  const memory = steps.reduce((most, row) => Math.max(most, row.memoryBytes ?? 0), 0);
  if (memory > 0) facts.push(["Peak memory", formatBytes(memory)]);
  facts.push(["Time in steps", formatDuration(steps.reduce((sum, row) => sum + row.stepMs, 0))]);
  return facts;
}

function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[values.length >> 1] ?? NaN;
}

function verdicts({ verdicts = [] }: ReportData): string {
  if (verdicts.length === 0) return "";
  const marks = (ok?: boolean) => ok === undefined ? ["", "·", "note"] : ok ? ["good", "✓", "yes"] : ["bad", "✗", "no"];
  const lines = verdicts.map(({ ok, text }) => {
    const [kind, mark, word] = marks(ok);
    return `<li class="${kind}"><b role="img" aria-label="${word}">${mark}</b><span>${escapeText(text)}</span></li>`;
  });
  return `<ul class="verdicts">${lines.join("")}</ul>`;
}

function lossFigure(data: ReportData, steps: readonly StepRow[], evaluations: readonly EvaluationRow[]): string {
  if (steps.length + evaluations.length === 0) return "";
  const train = steps.map((row): Point => [row.step, row.loss]);
  const series: Series[] = [];
  if (train.length > 0) {
    series.push({ name: "training", points: train, style: { color: 1, quiet: train.length > 8 } });
    if (train.length > 8) series.push({ name: "training, smoothed", points: smooth(train), style: { color: 1 } });
  }
  if (evaluations.length > 0) {
    const points = evaluations.map((row): Point => [row.step, row.validationLoss]);
    series.push({ name: "validation", points, style: { color: 2, dots: points.length <= 60 } });
  }
  const references = data.baselines?.map(({ name, loss }) => ({ y: loss, label: `${name} ${loss.toFixed(2)}` }));
  const plot: PlotOptions = {
    ...{ series, references, markers: data.markers, xLabel: "step", yLabel: data.lossUnit ?? "loss, nats a token" },
    ...{ title: "Loss by step", width: 1000, height: 400 },
  };
  return `<section class="switch"><h2>Loss</h2>` +
    `<input type="radio" name="scale" id="linear" checked><label for="linear">linear</label>` +
    `<input type="radio" name="scale" id="log"><label for="log">log</label>` +
    `<figure class="linear">${plotSvg(plot)}</figure><figure class="log">${
      plotSvg({ ...plot, yScale: "log" })
    }</figure>` +
    `</section>`;
}

function smallFigures(
  { speedUnit = TOKENS }: ReportData,
  steps: readonly StepRow[],
  evaluations: readonly EvaluationRow[],
): string {
  const of = (key: "lr" | "gradNorm" | "tokensPerSecond" | "memoryBytes") =>
    steps.flatMap((row): Point[] => row[key] === undefined ? [] : [[row.step, row[key]]]);
  const plots: [title: string, color: 3 | 4 | 5 | 6, points: Point[], options: Partial<PlotOptions>][] = [
    ["Learning rate", 4, of("lr"), { yFrom: 0 }],
    ["Gradient norm", 5, of("gradNorm"), { yScale: "log" }],
    [speedUnit.long, 3, of("tokensPerSecond").map(([x, y]): Point => [x, y / speedUnit.tokens]), { yFrom: 0 }],
    ["Memory of tensors", 6, of("memoryBytes"), { yFrom: 0, formatY: formatBytes }],
  ];
  const figures = plots.filter(([, , points]) => points.length > 0).map(([title, color, points, options]) => {
    const isNoisy = color !== 4 && color !== 6 && points.length > 60;
    const series: Series[] = [{ name: "", points, style: { color, quiet: isNoisy } }];
    if (isNoisy) series.push({ name: "", points: smooth(points), style: { color } });
    const size = { xLabel: "step", yLabel: "", title: `${title} by step`, width: 490, height: 220 };
    return `<figure><h3>${title}</h3>${plotSvg({ ...size, ...options, series })}</figure>`;
  });
  const all = [...scoreFigures(evaluations), ...figures];
  return all.length ? `<section class="grid">${all.join("")}</section>` : "";
}

/** A task's measures by evaluation, a plot each. */
function scoreFigures(evaluations: readonly EvaluationRow[]): string[] {
  const names = new Set(evaluations.flatMap(({ scores }) => Object.keys(scores ?? {})));
  return [...names].map((name) => {
    const points = evaluations.flatMap(({ step, scores }): Point[] =>
      scores?.[name] === undefined ? [] : [[step, scores[name]]]
    );
    const size = { xLabel: "step", yLabel: "", title: `${name} by step`, width: 490, height: 220 };
    const series: Series[] = [{ name: "", points, style: { color: 2, dots: points.length <= 60 } }];
    return `<figure><h3>${escapeText(name)}</h3>${plotSvg({ ...size, series })}</figure>`;
  });
}

/**
 * At each point the value of the straight line that fits its neighbours best, a fortieth of the series on either side:
 * unlike a running mean it neither lags nor bends at the ends. Values that are not finite are left out.
 */
export function smooth(points: readonly Point[]): Point[] {
  const reach = Math.max(2, Math.ceil(points.length / 40));
  // Running sums of 1, x, y, xx, xy with x from 0 to 1, so that their differences keep their digits.
  const sums: number[][] = [[0, 0, 0, 0, 0]];
  points.forEach(([, y], i) => {
    const x = i / points.length;
    const terms = Number.isFinite(y) ? [1, x, y, x * x, x * y] : [0, 0, 0, 0, 0];
    sums.push(terms.map((term, k) => sums[i][k] + term));
  });
  return points.map(([at], i) => {
    const from = sums[Math.max(0, i - reach)];
    const to = sums[Math.min(points.length, i + reach + 1)];
    const [n, x, y, xx, xy] = to.map((sum, k) => sum - from[k]);
    const spread = n * xx - x * x;
    const slope = spread > 1e-12 * n * n ? (n * xy - x * y) / spread : 0;
    return [at, (y + slope * (n * (i / points.length) - x)) / n];
  });
}

function baselineTable({ baselines = [], title }: ReportData, evaluations: readonly EvaluationRow[]): string {
  const own = evaluations.at(-1)?.validationLoss;
  if (baselines.length === 0) return "";
  const all = baselines.map(({ name, loss }) => ({ name, loss, own: false }));
  if (own !== undefined) all.push({ name: title, loss: own, own: true });
  const rows = all.sort((a, b) => b.loss - a.loss).map(({ name, loss, own }) => ({
    own,
    cells: [name, loss.toFixed(4), formatNumber(Math.exp(loss)), (loss / Math.LN2).toFixed(3)],
  }));
  const note = "On the same held-out text. Smaller is better.";
  const head = ["Model", "Loss, nats a token", "Perplexity", "Bits a token"];
  return tableHtml({ title: "Compared with counting", note, head, align: "lrrr", rows: [] }, rows);
}

function table(data: ReportTable): string {
  return tableHtml(data, data.rows.map((cells) => ({ cells, own: false })));
}

function tableHtml(data: ReportTable, rows: readonly { cells: readonly string[]; own: boolean }[]): string {
  const { title, note, head, align = "" } = data;
  const side = (i: number) => align[i] === "r" ? ' class="r"' : "";
  const heads = head.map((cell, i) => `<th scope="col"${side(i)}>${escapeText(cell)}</th>`).join("");
  const lines = rows.map(({ cells, own }) => {
    const cellsHtml = cells.map((cell, i) => `<td${side(i)}>${escapeText(cell)}</td>`).join("");
    return `<tr${own ? ' class="own"' : ""}>${cellsHtml}</tr>`;
  });
  return `<section><h2>${escapeText(title)}</h2>${note ? `<p class="note">${escapeText(note)}</p>` : ""}` +
    `<div class="scroll" tabindex="0" role="region" aria-label="${escapeText(title)}"><table><thead><tr>${heads}</tr>` +
    `</thead><tbody>${lines.join("")}</tbody></table></div></section>`;
}

function samples(samples: NonNullable<ReportData["samples"]>): string {
  const items = samples.map(({ title, prompt = "", text }) =>
    `<article>${title ? `<h3>${escapeText(title)}</h3>` : ""}` +
    `<pre><span class="prompt">${escapeText(prompt)}</span>${escapeText(text)}</pre></article>`
  );
  const note = samples.some(({ prompt }) => prompt) ? `<p class="note">The prompt is underlined.</p>` : "";
  return `<section><h2>What it writes</h2>${note}${items.join("")}</section>`;
}

function config({ config }: ReportData): string {
  if (config === undefined) return "";
  const text = escapeText(JSON.stringify(config, null, 2));
  return `<section><details><summary>Configuration</summary><pre>${text}</pre></details></section>`;
}
