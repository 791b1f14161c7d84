/**
 * The picture of a run for the README: loss over steps, held-out loss, and what counting achieves, as one SVG file.
 *
 *     deno run --allow-read --allow-write cli/bench/run_picture.ts runs/NAME .pictures/run.svg
 */
import { heldOutBaselines } from "../baselines.ts";
import { chooseTokenizer, openData } from "../data_source.ts";
import { join, readJsonFile } from "../files.ts";
import { isStepRow, readMetrics } from "../metrics.ts";
import { plotSvg, type Point } from "../report_plot.ts";
import type { Run } from "../options.ts";

const [folder, out] = Deno.args;
const { run } = await readJsonFile(join(folder, "config.json")) as { run: Run };
const rows = await readMetrics(join(folder, "metrics.jsonl"));
const tokenizer = await chooseTokenizer(run);
const baselines = await heldOutBaselines(await openData(run, tokenizer));
const svg = plotSvg({
  series: [
    { name: "training", points: rows.filter(isStepRow).map((row): Point => [row.step, row.loss]), style: { color: 1 } },
    {
      name: "held out",
      points: rows.flatMap((row): Point[] => isStepRow(row) ? [] : [[row.step, row.validationLoss]]),
      style: { color: 2, dots: true },
    },
  ],
  references: baselines.map(({ name, nats }) => ({ y: nats, label: `${name} ${nats.toFixed(2)}` })),
  xLabel: "step",
  yLabel: "loss, nats a byte",
  title: `Loss of ${run.model} with ${run.optimizer} on TypeScript declarations`,
  yFrom: 0.9,
  width: 900,
  height: 380,
  standalone: true,
});
await Deno.writeTextFile(out, svg);
