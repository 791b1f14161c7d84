/**
 * FLoRA against a loop over adapters and against grouped LoRA, by the number of distinct adapters in a batch and by rank; and
 * the rank at which FLoRA is overtaken beside the paper's rule for it (Wen & Chaudhuri 2024).
 *
 *     deno run -A --no-lock cli/bench/adapters.ts --out runs/adapters
 *     deno run -A --no-lock cli/bench/adapters.ts --out runs/adapters --device cpu --width 1024
 *
 * One linear map of 8 examples by 16 tokens, forward, f32. Prints tables and writes two plots a device and `adapters.json`.
 */
import { parseArgs } from "node:util";
import { UnsupportedError } from "../../core/mod.ts";
import { type Device, openDevice } from "../device.ts";
import { join } from "../files.ts";
import { formatNumber, formatTable } from "../log.ts";
import { plotSvg, type Series } from "../report_plot.ts";
import {
  crossing,
  measureAdapters,
  type ProductCosts,
  ruleRatio,
  type SpeedCell,
  type SpeedPlan,
  type Way,
  WAYS,
} from "./adapter_speed.ts";

const { values: flags } = parseArgs({
  options: {
    out: { type: "string", default: "runs/adapters" },
    device: { type: "string", multiple: true, default: ["cpu", "webgpu"] },
    width: { type: "string", default: "512" },
    threads: { type: "string", default: "2" },
    /** How long to measure each device: the best of all rounds counts, so that others' work matters less. */
    seconds: { type: "string", default: "60" },
    /** Two ranks, two numbers of adapters, few tokens: whether it runs. */
    small: { type: "boolean", default: false },
  },
});

/** What was measured on a device. */
interface Result {
  readonly device: string;
  readonly plan: SpeedPlan;
  readonly cells: readonly SpeedCell[];
  readonly costs: readonly ProductCosts[];
}

await Deno.mkdir(flags.out, { recursive: true });
const results: Result[] = [];
for (const device of flags.device) {
  using opened = await openIfThere(device as "cpu" | "webgpu");
  if (!opened) continue;
  const plan = planOf(opened);
  const result: Result = { device: opened.summary, plan, ...await measureAdapters(opened, plan) };
  printResult(result);
  await writePlots(`${device}-${plan.width}`, result);
  results.push(result);
}
await Deno.writeTextFile(join(flags.out, "adapters.json"), JSON.stringify(results, undefined, 1) + "\n");

async function openIfThere(device: "cpu" | "webgpu"): Promise<Device | undefined> {
  try {
    return await openDevice({ device, threads: Number(flags.threads), blas: "off" });
  } catch (error) {
    if (!(error instanceof UnsupportedError)) throw error;
    console.log(`${device}: ${error.message}`);
  }
}

function planOf({ kind, adapter }: Device): SpeedPlan {
  const width = Number(flags.width);
  if (flags.small) return { width, examples: 2, tokens: 2, ranks: [1, 2], adapters: [1, 2], seconds: 0, repeats: 1 };
  return {
    ...{ width, examples: 8, tokens: 16, ranks: [1, 2, 3, 4, 6, 8], adapters: [1, 2, 4, 8] },
    seconds: Number(flags.seconds),
    // where the host computes, the clock can be read after every run; elsewhere a read costs as much as several
    repeats: kind === "cpu" ? 1 : adapter?.isSoftware ? 2 : 10,
  };
}

function tokensPerSecond({ examples, tokens }: SpeedPlan, { ms }: SpeedCell): number {
  return examples * tokens / ms * 1e3;
}

function printResult({ device, plan, cells, costs }: Result): void {
  const { width, examples, tokens, adapters, ranks } = plan;
  console.log(`\n${device}: [${examples}, ${tokens}, ${width}] by ${width}, thousands of tokens a second`);
  const head = ["way", "adapters", ...ranks.map((rank) => `r = ${rank}`)];
  const body = WAYS.flatMap((way) =>
    adapters.map((count) => [
      ...[way, String(count)],
      ...ranks.map((rank) => {
        const cell = cells.find((one) => one.way === way && one.adapters === count && one.rank === rank)!;
        return (tokensPerSecond(plan, cell) / 1e3).toFixed(1);
      }),
    ])
  );
  for (const line of formatTable([head, ...body], `lr${"r".repeat(ranks.length)}`)) console.log(line);
  printRule(plan, cells, costs);
}

/** The paper's rule beside what was measured, an adapter for each example. */
function printRule({ width, adapters }: SpeedPlan, cells: readonly SpeedCell[], costs: readonly ProductCosts[]): void {
  const most = Math.max(...adapters);
  const msOf = (way: Way, rank: number) =>
    cells.find((one) => one.way === way && one.rank === rank && one.adapters === most)!.ms;
  const rows = costs.map((cost) => {
    const { rank, batched, whole } = cost;
    const [flora, lora, grouped] = (["FLoRA", "batched LoRA", "grouped LoRA"] as const).map((way) => msOf(way, rank));
    return { rank, batched, whole, rule: ruleRatio(cost, width), measured: flora / lora, overGrouped: flora / grouped };
  });
  console.log(`\nFLoRA's time over batched LoRA's, ${most} adapters; c1 and c2 in picoseconds a multiply-add`);
  const head = ["r", "c1", "c2", "c1 / c2", "2 c1 / (d c2) + 1 / r", "by the rule", "measured", "over grouped LoRA's"];
  const table = rows.map(({ rank, batched, whole, rule, measured, overGrouped }) => [
    ...[String(rank), (batched * 1e12).toFixed(1), (whole * 1e12).toFixed(1), formatNumber(batched / whole, 3)],
    ...[2 * batched / (width * whole) + 1 / rank, rule, measured, overGrouped].map((value) => value.toFixed(2)),
  ]);
  for (const line of formatTable([head, ...table], "rrrrrrrr")) console.log(line);
  const [rule, measured] = (["rule", "measured"] as const).map((kind) =>
    crossing(rows.map((row) => ({ rank: row.rank, ratio: row[kind] })))
  );
  console.log(`FLoRA is overtaken at r = ${place(measured)} measured, ${place(rule)} by the rule`);
}

function place(rank: number): string {
  return rank === Infinity ? "any that was measured" : rank.toFixed(2);
}

/** Throughput over the number of adapters, and over rank. */
async function writePlots(name: string, { device, plan, cells }: Result): Promise<void> {
  const { adapters, ranks } = plan;
  const line = (label: string, x: "adapters" | "rank", chosen: (cell: SpeedCell) => boolean): Series => ({
    name: label,
    points: cells.filter(chosen).map((cell) => [cell[x], tokensPerSecond(plan, cell)] as const),
    style: { dots: true },
  });
  const [top, most] = [Math.max(...ranks), Math.max(...adapters)];
  const shownRanks = ranks.filter((rank) => Number.isInteger(Math.log2(rank)));
  const title = (by: string) => `Throughput by ${by}, ${device}, width ${plan.width}`;
  const shared = { yLabel: "tokens/s", yScale: "log" as const, xScale: "log" as const, standalone: true };
  const plots = {
    adapters: plotSvg({
      ...{
        ...shared,
        title: title("the number of adapters"),
        xLabel: "distinct adapters in the batch",
        xTicks: adapters,
      },
      series: [
        ...shownRanks.map((rank) =>
          line(`FLoRA r ${rank}`, "adapters", (cell) => cell.way === "FLoRA" && cell.rank === rank)
        ),
        ...([["grouped LoRA", "grouped"], ["loop", "loop"]] as const).map(([way, short]) =>
          line(`${short} r ${top}`, "adapters", (cell) => cell.way === way && cell.rank === top)
        ),
      ],
    }),
    ranks: plotSvg({
      ...{ ...shared, title: title("rank"), xLabel: `rank, ${most} adapters`, xTicks: ranks },
      series: WAYS.map((way) => line(way, "rank", (cell) => cell.way === way && cell.adapters === most)),
    }),
  };
  for (const [what, svg] of Object.entries(plots)) {
    await Deno.writeTextFile(join(flags.out, `${what}-${name}.svg`), svg + "\n");
  }
}
