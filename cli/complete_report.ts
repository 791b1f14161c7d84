/** The report of a completion: its error over iterations and over time, for each form, in one page that needs no network. */
import { formatDuration, formatNumber } from "./log.ts";
import { pageHtml } from "./report_page.ts";
import { escapeText, plotSvg, type Point, type Series } from "./report_plot.ts";
import type { Form } from "./complete_model.ts";

/** What a form had come to after a step. */
export interface CompletionRow {
  readonly form: Form;
  readonly step: number;
  /** In the units of the descent: half the sum of squares. */
  readonly loss: number;
  /** Root of the mean squared error of what is trained on, in the file's units. */
  readonly error: number;
  /** The same of what is held out, where something is. */
  readonly heldOutError?: number;
  /** Time in steps so far, without that of finding the start or of measuring. */
  readonly seconds: number;
}

/** What the page says. */
export interface CompletionReport {
  readonly title: string;
  readonly subtitle: string;
  readonly rows: readonly CompletionRow[];
  readonly facts: readonly (readonly [label: string, value: string])[];
  readonly config: unknown;
  readonly footer: string;
}

/** The page. */
export function completionHtml({ title, subtitle, rows, facts, config, footer }: CompletionReport): string {
  const figures = facts.map(([label, value]) =>
    `<div><dt>${escapeText(label)}</dt><dd>${escapeText(value)}</dd></div>`
  );
  const body = [
    `<header><p class="kind">Matrix completion</p><h1>${escapeText(title)}</h1>` +
    `<p class="subtitle">${escapeText(subtitle)}</p><dl class="facts">${figures.join("")}</dl></header>`,
    figure("Error over iterations", rows, ({ step }) => step, "iteration"),
    figure("Error over time", rows, ({ seconds }) => seconds, "seconds"),
    `<section><details><summary>Configuration</summary><pre>${
      escapeText(JSON.stringify(config, null, 2))
    }</pre></details></section>`,
    `<footer>${escapeText(footer)}</footer>`,
  ];
  return pageHtml(title, body.join("\n"));
}

function figure(title: string, rows: readonly CompletionRow[], x: (row: CompletionRow) => number, xLabel: string) {
  const forms = [...new Set(rows.map(({ form }) => form))];
  const series = forms.flatMap((form): Series[] => {
    const color = form === "full" ? 1 : 2;
    const own = rows.filter((row) => row.form === form);
    const held = own.flatMap((row): Point[] => row.heldOutError === undefined ? [] : [[x(row), row.heldOutError]]);
    return [
      ...held.length > 0 ? [{ name: `${form}, held out`, points: held, style: { color } } as const] : [],
      { name: `${form}, seen`, points: own.map((row): Point => [x(row), row.error]), style: { color, dashed: true } },
    ];
  });
  const svg = plotSvg({
    ...{ series, xLabel, yLabel: "root mean squared error", title, width: 1000, height: 380, yScale: "log" },
  });
  return `<section><h2>${title}</h2><figure>${svg}</figure></section>`;
}

/** The headline figures of each form: the error of the measure that is kept. */
export function completionFacts(
  rows: readonly CompletionRow[],
  startSeconds: ReadonlyMap<Form, number>,
): [string, string][] {
  return [...startSeconds].flatMap(([form, start]): [string, string][] => {
    const own = rows.filter((row) => row.form === form);
    const last = own.at(-1);
    if (!last) return [];
    const errors = own.map(({ heldOutError }) => heldOutError ?? Infinity);
    const least = Math.min(...errors);
    const { step } = own[errors.indexOf(least)];
    const [what, error] = last.heldOutError === undefined
      ? ["Error", last.error]
      : [`Held-out error at step ${formatNumber(step)}`, least];
    return [
      [`${what}, ${form}`, formatNumber(error)],
      [`Steps, ${form}`, formatDuration(1000 * last.seconds)],
      [`Start, ${form}`, formatDuration(1000 * start)],
    ];
  });
}
