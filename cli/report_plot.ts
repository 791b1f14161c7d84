/**
 * Line plots as SVG text: no library, no network, readable without a script. Colours are classes that follow
 * `prefers-color-scheme`, so that one picture serves light and dark pages; `PLOT_CSS` must be on the page, or, with
 * `standalone`, is within the picture.
 *
 * Long series are thinned to the least and the greatest value per pixel column, so that spikes stay. Values that are not
 * finite break the line.
 */
import { formatNumber } from "./log.ts";
import { axis, type Scale } from "./report_axis.ts";

/** A point, x and y. */
export type Point = readonly [x: number, y: number];

/** How a line looks. */
export interface SeriesStyle {
  /** Place in the palette, 1 to 6. Default: the series' own place. */
  readonly color?: 1 | 2 | 3 | 4 | 5 | 6;
  readonly width?: number;
  /** A thin, pale line: raw values behind their mean. */
  readonly quiet?: boolean;
  readonly dashed?: boolean;
  /** A dot at every point: few, exact values. */
  readonly dots?: boolean;
}

/** A named line. */
export interface Series {
  readonly name: string;
  readonly points: readonly Point[];
  readonly style?: SeriesStyle;
}

/** What a plot shows. */
export interface PlotOptions {
  readonly series: readonly Series[];
  readonly xLabel: string;
  readonly yLabel: string;
  /** For readers who do not see the picture. Default: the labels. */
  readonly title?: string;
  readonly width?: number;
  readonly height?: number;
  readonly yScale?: Scale;
  readonly xScale?: Scale;
  /** Values to mark on the x axis, where its own would not be those measured. */
  readonly xTicks?: readonly number[];
  /** The y axis reaches down to this. */
  readonly yFrom?: number;
  /** Vertical lines: events. */
  readonly markers?: readonly { readonly x: number; readonly label: string }[];
  /** Horizontal lines: values to compare with. */
  readonly references?: readonly { readonly y: number; readonly label: string }[];
  readonly formatX?: (value: number) => string;
  readonly formatY?: (value: number) => string;
  /** A file of its own, with its style and a background. */
  readonly standalone?: boolean;
}

/** Text as it may stand in HTML or SVG, attributes included. */
export function escapeText(text: string): string {
  // deno-lint-ignore no-control-regex
  const clean = text.toWellFormed().replace(/[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]/g, "\ufffd");
  return clean.replace(/[&<>"']/g, (letter) => `&#${letter.charCodeAt(0)};`);
}

/** Colours of the plots, light and dark. Each pair keeps 4.5:1 against its page. */
export const PLOT_CSS: string = `
.plot{font:12px ui-sans-serif,system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;font-variant-numeric:tabular-nums}
.plot .paper{fill:#fdfcfa}.plot text{fill:#5d5a54}.plot .name{fill:#2a2825}
.plot .grid{stroke:#e9e6df}.plot .base{stroke:#a8a49b}.plot .ref{stroke:#8a867d;stroke-dasharray:2 4}
.plot .halo{stroke:#fdfcfa;stroke-width:4;stroke-linejoin:round;paint-order:stroke}
.plot .line{fill:none;stroke-linejoin:round;stroke-linecap:round}.plot .quiet{opacity:.38}
.plot .c1{stroke:#1d5fb8}.plot .c2{stroke:#c24a0a}.plot .c3{stroke:#16795a}
.plot .c4{stroke:#7646b4}.plot .c5{stroke:#0d7685}.plot .c6{stroke:#6c6a66}
.plot circle.c1{fill:#1d5fb8}.plot circle.c2{fill:#c24a0a}.plot circle.c3{fill:#16795a}
.plot circle.c4{fill:#7646b4}.plot circle.c5{fill:#0d7685}.plot circle.c6{fill:#6c6a66}
@media (prefers-color-scheme:dark){
.plot .paper{fill:#141517}.plot text{fill:#a29f98}.plot .name{fill:#e4e1da}
.plot .grid{stroke:#272a2e}.plot .base{stroke:#5c6068}.plot .ref{stroke:#85827b}.plot .halo{stroke:#141517}
.plot .quiet{opacity:.45}
.plot .c1{stroke:#79aeff}.plot .c2{stroke:#ff9a5a}.plot .c3{stroke:#5fcda3}
.plot .c4{stroke:#bb9af7}.plot .c5{stroke:#5cc8d8}.plot .c6{stroke:#a3a09a}
.plot circle.c1{fill:#79aeff}.plot circle.c2{fill:#ff9a5a}.plot circle.c3{fill:#5fcda3}
.plot circle.c4{fill:#bb9af7}.plot circle.c5{fill:#5cc8d8}.plot circle.c6{fill:#a3a09a}}
`.trim();

const BOTTOM = 40;

/** A line plot as an `<svg>` element. */
export function plotSvg(options: PlotOptions): string {
  const { width = 720, height = 320, standalone = false, series, markers = [], references = [] } = options;
  const shown = series.map(({ points }) => points.filter(([x, y]) => Number.isFinite(x) && Number.isFinite(y)));
  const xs = shown.flatMap((points) => points.map(([x]) => x));
  const ys = shown.flatMap((points) => points.map(([, y]) => y)).concat(references.map(({ y }) => y));
  const formatY = options.formatY ?? compact;
  const y = axis(ys, { scale: options.yScale, from: options.yFrom, pad: 0.06, ticks: Math.max(3, height / 62) });
  const left = 14 + Math.max(24, ...y.ticks.map((tick) => textWidth(formatY(tick))));
  const right = 14;
  const top = options.yLabel || series.filter(({ name }) => name).length > 1 ? 34 : 12;
  const x = axis(xs, { scale: options.xScale, pad: 0, ticks: Math.max(3, (width - left) / 100) });
  const box: Box = { left, top, width: width - left - right, height: height - top - BOTTOM };
  const px = (value: number) => round(left + box.width * x.place(value));
  const py = (value: number) => round(top + box.height * (1 - y.place(value)));
  const draw = { px, py, box, formatX: options.formatX ?? compact, formatY };

  const parts = [
    standalone ? `<rect class="paper" width="${width}" height="${height}"/>` : "",
    ...y.ticks.map((tick) => yTick(tick, draw)),
    `<line class="base" x1="${left}" x2="${width - right}" y1="${height - BOTTOM}" y2="${height - BOTTOM}"/>`,
    ...(options.xTicks ?? x.ticks).map((tick) => xTick(tick, draw, width)),
    text(left, 16, options.yLabel, "start", "axis"),
    text(width - right, height - 6, options.xLabel, "end", "axis"),
    legend(series, width - right, left + textWidth(options.yLabel) + 24),
    ...markers.map((marker) => markerLine(marker, draw)),
    ...referenceLines(references, draw),
    ...series.map((one, i) => seriesLine(one, i, draw)),
    ...xs.length === 0 ? [text(left + box.width / 2, top + box.height / 2, "no values", "middle")] : [],
  ];
  const label = escapeText(options.title ?? `${options.yLabel} by ${options.xLabel}`);
  const data = standalone
    ? ""
    : ` data-plot='${escapeText(JSON.stringify(hoverData(options, draw))).replaceAll("&#34;", '"')}'`;
  const style = standalone ? `<style>${PLOT_CSS}</style>` : "";
  return `<svg class="plot" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" role="img"` +
    ` aria-label="${label}"${standalone ? ` width="${width}" height="${height}"` : ""}${data}>` +
    `<title>${label}</title><desc>${escapeText(describe(series, draw))}</desc>${style}${parts.join("")}</svg>`;
}

interface Box {
  readonly left: number;
  readonly top: number;
  readonly width: number;
  readonly height: number;
}

interface Draw {
  readonly px: (value: number) => number;
  readonly py: (value: number) => number;
  readonly box: Box;
  readonly formatX: (value: number) => string;
  readonly formatY: (value: number) => string;
}

function yTick(value: number, { py, box, formatY }: Draw): string {
  const at = py(value);
  const line = `<line class="grid" x1="${box.left}" x2="${box.left + box.width}" y1="${at}" y2="${at}"/>`;
  return line + text(box.left - 8, at + 4, formatY(value), "end");
}

function xTick(value: number, { px, box, formatX }: Draw, width: number): string {
  const at = px(value);
  const base = box.top + box.height;
  const half = textWidth(formatX(value)) / 2;
  const middle = Math.min(at, width - half - 2);
  return `<line class="base" x1="${at}" x2="${at}" y1="${base}" y2="${base + 4}"/>` +
    text(round(middle), base + 18, formatX(value), "middle");
}

function seriesLine({ points, style = {} }: Series, index: number, { px, py, box }: Draw): string {
  const color = `c${style.color ?? index % 6 + 1}`;
  const width = style.width ?? (style.quiet ? 1 : 1.8);
  const dash = style.dashed ? ' stroke-dasharray="6 4"' : "";
  const classes = `line ${color}${style.quiet ? " quiet" : ""}`;
  let path = "";
  let isOpen = false;
  for (const [x, y] of thin(points, Math.max(2, Math.floor(box.width)))) {
    const fits = Number.isFinite(px(x)) && Number.isFinite(py(y));
    if (fits) path += `${isOpen ? "L" : "M"}${px(x)} ${py(y)}`;
    isOpen = fits;
  }
  const line = path ? `<path class="${classes}" stroke-width="${width}"${dash} d="${path}"/>` : "";
  if (!style.dots && points.length > 1) return line;
  const shown = points.filter(([x, y]) => Number.isFinite(px(x)) && Number.isFinite(py(y)));
  return line + shown.map(([x, y]) => `<circle class="${color}" cx="${px(x)}" cy="${py(y)}" r="2.6"/>`).join("");
}

/** Keeps the least and the greatest of each of `columns` stretches, in order, and every gap. */
export function thin(points: readonly Point[], columns: number): readonly Point[] {
  if (points.length <= 2 * columns) return points;
  const kept: Point[] = [];
  const stretch = points.length / columns;
  for (let column = 0; column < columns; column++) {
    const part = points.slice(Math.floor(column * stretch), Math.floor((column + 1) * stretch));
    const finite = part.map(([, y], i) => [y, i]).filter(([y]) => Number.isFinite(y));
    const low = finite.reduce((best, one) => one[0] < best[0] ? one : best, [Infinity, 0]);
    const high = finite.reduce((best, one) => one[0] > best[0] ? one : best, [-Infinity, 0]);
    const indices = new Set([low[1], high[1]]);
    if (finite.length < part.length) indices.add(part.findIndex(([, y]) => !Number.isFinite(y)));
    if (column === 0) indices.add(0);
    if (column === columns - 1) indices.add(part.length - 1);
    for (const i of [...indices].sort((a, b) => a - b)) kept.push(part[i]);
  }
  return kept;
}

function legend(series: readonly Series[], right: number, left: number): string {
  const named = series.map((one, i) => ({ ...one, color: one.style?.color ?? i % 6 + 1 })).filter(({ name }) => name);
  if (named.length < 2) return "";
  const widths = named.map(({ name }) => 40 + textWidth(name));
  let at = Math.max(left, right - widths.reduce((sum, width) => sum + width, -14));
  return named.map(({ name, color, style }, i) => {
    const quiet = style?.quiet ? " quiet" : "";
    const dash = style?.dashed ? ' stroke-dasharray="6 4"' : "";
    const swatch = `<path class="line c${color}${quiet}" stroke-width="2.4"${dash} d="M${at} 12h18"/>` +
      // a dot would hide the gap that tells a dashed line
      (style?.dots && !style.dashed ? `<circle class="c${color}" cx="${at + 9}" cy="12" r="2.6"/>` : "");
    const part = swatch + text(at + 24, 16, name, "start", "name");
    at = round(at + widths[i]);
    return part;
  }).join("");
}

function markerLine({ x, label }: { x: number; label: string }, { px, box }: Draw): string {
  const at = px(x);
  return `<line class="ref" x1="${at}" x2="${at}" y1="${box.top}" y2="${box.top + box.height}"/>` +
    text(at + 4, box.top + 10, label, "start", "halo");
}

/** Labels that would lie on one another move down. */
function referenceLines(references: readonly { y: number; label: string }[], { py, box }: Draw): string[] {
  let free = -Infinity;
  return [...references].filter(({ y }) => Number.isFinite(py(y))).sort((a, b) => py(a.y) - py(b.y)).map((one) => {
    const at = py(one.y);
    const baseline = Math.max(at - 4, free);
    free = baseline + 14;
    return `<line class="ref" x1="${box.left}" x2="${box.left + box.width}" y1="${at}" y2="${at}"/>` +
      text(box.left + box.width, round(baseline), one.label, "end", "halo");
  });
}

function text(x: number, y: number, words: string, anchor: "start" | "middle" | "end", kind = ""): string {
  const style = kind ? ` class="${kind}"` : "";
  return `<text${style} x="${x}" y="${y}" text-anchor="${anchor}">${escapeText(words)}</text>`;
}

/** Wide enough for 12 px sans; no font can be measured here. */
function textWidth(words: string): number {
  return Math.ceil(words.length * 6.7);
}

function round(value: number): number {
  return Math.round(value * 10) / 10;
}

/** `1,500` as `1.5k`: numbers for ticks. */
export function compact(value: number): string {
  const size = Math.abs(value);
  if (size >= 1e15) return value.toExponential(1);
  for (const [unit, suffix] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e4, "k"]] as const) {
    if (size >= unit) return `${formatNumber(value / (suffix === "k" ? 1e3 : unit), 4)}${suffix}`;
  }
  if (size > 0 && size < 1e-3) return value.toExponential(1).replace(".0e", "e");
  return formatNumber(Number(value.toPrecision(6)), 6);
}

function describe(series: readonly Series[], { formatX, formatY }: Draw): string {
  return series.filter(({ points }) => points.length > 0).map(({ name, points }) => {
    const [first, last] = [points[0], points[points.length - 1]];
    const least = points.reduce((best, point) => point[1] < best[1] ? point : best);
    return `${name || "value"}: ${formatY(first[1])} at ${formatX(first[0])}, ${formatY(last[1])} at ` +
      `${formatX(last[0])}, least ${formatY(least[1])} at ${formatX(least[0])}.`;
  }).join(" ");
}

/** What the page's script needs to tell values under the pointer: names, values, and their places in the picture. */
function hoverData({ series, xLabel }: PlotOptions, { px, py, box, formatX, formatY }: Draw): unknown {
  const lines = series.map(({ name, points, style }, i) => ({
    name,
    color: style?.color ?? i % 6 + 1,
    at: thin(points, 160).filter(([x, y]) => Number.isFinite(px(x)) && Number.isFinite(py(y)))
      .map(([x, y]) => [px(x), py(y), formatX(x), formatY(Number(y.toPrecision(5)))]),
  }));
  return { x: xLabel, top: box.top, bottom: box.top + box.height, lines };
}
