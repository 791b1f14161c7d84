/** What a study says: markdown tables and plots of its results. Pure functions of them; nothing is read or written. */
import { formatBytes } from "../../core/mod.ts";
import { plotSvg, type Series } from "../report_plot.ts";
import { type AblationPoint, CONTROL, type Method } from "./study_methods.ts";
import { bestRate, ratesOf, type RateSummary, type Result, type StudyName } from "./study_results.ts";

/** A markdown table; all columns but the first to the right. */
export function markdownTable(rows: readonly (readonly string[])[]): string {
  const [head, ...body] = rows;
  const line = (cells: readonly string[]) => `| ${cells.join(" | ")} |`;
  return [line(head), `|${head.map((_, i) => i === 0 ? "---" : "--:").join("|")}|`, ...body.map(line)].join("\n");
}

const nats = (loss: number) => loss.toFixed(4);
const count = (value: number | undefined) => value === undefined ? "" : Math.round(value).toLocaleString("en-US");

/**
 * The best rate of each method: mean over its seeds, perplexity, the way from the frozen control to AdamW, memory, speed.
 * An asterisk marks a best rate at an edge of its grid, where the true best may lie beyond.
 */
export function mainTable(results: readonly Result[], methods: readonly Method[], study: StudyName): string {
  const adamW = bestRate(results, study, "AdamW")?.mean;
  const frozen = bestRate(results, study, CONTROL)?.mean;
  const rows = methods.map((method) => {
    const best = bestRate(results, study, method.name);
    if (!best) return [method.name, "", whyNot(results, study, method.name), "", "", "", "", "", ""];
    const [one] = best.results;
    const way = adamW === undefined || frozen === undefined ? "" : percent((frozen - best.mean) / (frozen - adamW));
    return [
      method.name,
      `${best.rate}${study === "main" && isAtEdge(best, method) ? "*" : ""}`,
      best.losses.map(nats).join(", "),
      nats(best.mean),
      Math.exp(best.mean).toFixed(3),
      way,
      count(one.weights),
      formatBytes(one.stateBytes ?? 0),
      count(one.tokensPerSecond),
    ];
  });
  return markdownTable([
    [
      "method",
      "best rate",
      "held-out nats by seed",
      "mean",
      "perplexity",
      "of the way from frozen to AdamW",
      "weights",
      "state",
      "tok/s",
    ],
    ...rows,
  ]);
}

function percent(part: number): string {
  return Number.isFinite(part) ? `${(100 * part).toFixed(1)} %` : "";
}

function isAtEdge({ rate }: RateSummary, { rates }: Method): boolean {
  return rate === rates[0] || rate === rates[rates.length - 1];
}

function whyNot(results: readonly Result[], study: StudyName, method: string): string {
  const failure = results.find((one) => one.study === study && one.method === method && one.failure)?.failure;
  return failure === undefined ? "not run" : `failed: ${failure.replaceAll("|", "\\|")}`;
}

/** Every run of the grids: loss by rate, means where there are more seeds, with what failed. */
export function ratesTable(results: readonly Result[], methods: readonly Method[]): string {
  const rows = methods.map(({ name, rates }) => {
    const known = ratesOf(results, "main", name);
    const cells = rates.map((rate) => {
      const summary = known.find((one) => one.rate === rate);
      if (summary) {
        return `${rate}: ${nats(summary.mean)}${summary.losses.length > 1 ? ` (${summary.losses.length})` : ""}`;
      }
      const failed = results.some((one) => one.study === "main" && one.method === name && one.rate === rate);
      return `${rate}: ${failed ? "failed" : "-"}`;
    });
    return [name, cells.join(", ")];
  });
  return markdownTable([["method", "rate: held-out nats (mean of so many seeds)"], ...rows]);
}

/** Perplexity by gap or by rank. */
export function ablationTable(results: readonly Result[], study: StudyName, points: readonly AblationPoint[]): string {
  const rows = points.map(({ name }) => {
    const best = bestRate(results, study, name);
    if (!best) return [name, whyNot(results, study, name), "", "", ""];
    const [one] = best.results;
    return [name, nats(best.mean), Math.exp(best.mean).toFixed(3), formatBytes(one.stateBytes ?? 0), `${best.rate}`];
  });
  return markdownTable([[study, "held-out nats", "perplexity", "state", "rate"], ...rows]);
}

/** Held-out loss over the rate, a line a method, with AdamW's best and the control's as references. */
export function ratesPlot(results: readonly Result[], methods: readonly Method[]): string {
  // what learns less than the control would flatten the rest; it stands in the table
  const most = 1.02 * (bestRate(results, "main", CONTROL)?.mean ?? Infinity);
  const series = methods.filter(({ name }) => name !== CONTROL).map(({ name }, i): Series => ({
    name,
    style: { dots: true, dashed: i >= 6 },
    points: ratesOf(results, "main", name).filter(({ mean }) => mean < most).map(({ rate, mean }) => [rate, mean]),
  }));
  const ticks = new Set(series.flatMap(({ points }) => points.map(([rate]) => rate)));
  const references = ["AdamW", CONTROL].flatMap((name) => {
    const best = bestRate(results, "main", name);
    return best ? [{ y: best.mean, label: `${name} ${best.mean.toFixed(2)}` }] : [];
  });
  return plotSvg({
    series: series.filter(({ points }) => points.length > 0),
    references,
    xLabel: "peak learning rate",
    yLabel: "held-out loss, nats a byte",
    xScale: "log",
    xTicks: spread([...ticks].sort((a, b) => a - b)),
    standalone: true,
    width: 1400,
    height: 520,
  });
}

/** Ticks at least a factor of 1.4 apart. */
function spread(ticks: readonly number[]): number[] {
  const kept: number[] = [];
  for (const tick of ticks) if (kept.length === 0 || tick >= 1.4 * kept[kept.length - 1]) kept.push(tick);
  return kept;
}

/** Perplexity over gap or rank; a gap without end stands at twice the longest. */
export function ablationPlot(results: readonly Result[], study: StudyName, points: readonly AblationPoint[]): string {
  const longest = Math.max(...points.map(({ value }) => value).filter(Number.isFinite));
  const place = (value: number) => Number.isFinite(value) ? value : 2 * longest;
  const line = points.flatMap(({ name, value }): [number, number][] => {
    const best = bestRate(results, study, name);
    return best ? [[place(value), Math.exp(best.mean)]] : [];
  });
  return plotSvg({
    series: [{ name: "", style: { dots: true }, points: line }],
    xLabel: study === "gap" ? "steps between two bases" : "rank",
    yLabel: "held-out perplexity",
    xScale: "log",
    xTicks: line.map(([value]) => value),
    formatX: (value) => study === "gap" && value === 2 * longest ? "infinite" : `${value}`,
    standalone: true,
    width: 720,
    height: 400,
  });
}
