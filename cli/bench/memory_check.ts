/**
 * Planned memory against measured: three real steps of small models, the first and the third with every basis due, beside
 * what the plan says. States must agree to the byte, peaks within three per cent.
 *
 *     deno run -A cli/bench/memory_check.ts [--device cpu|webgpu|both] [--models llama-9m,llama-60m:4096] [--dtype f32]
 */
import { parseArgs } from "node:util";
import { DEFAULTS, type OptimizerName, type Run } from "../options.ts";
import { formatTable } from "../log.ts";
import { checkMemoryOf, type MemoryCheck } from "../testing/memory_check.ts";

const { values: flags } = parseArgs({
  options: {
    device: { type: "string", default: "both" },
    models: { type: "string", default: "llama-9m,llama-20m,llama-60m,llama-60m:4096" },
    optimizers: { type: "string", default: "adamw,galore_adamw,galore_adamw_8bit" },
    dtype: { type: "string", default: "f32" },
    batch: { type: "string", default: "2" },
    seq: { type: "string", default: "32" },
  },
});

const HEAD = [
  "device",
  "model",
  "vocabulary",
  "optimizer",
  "updates",
  "measured",
  "planned",
  "off by",
  "state",
  "planned",
];
const worst = { peak: 0, states: 0 };
const rows: string[][] = [];
for (const device of flags.device === "both" ? ["cpu", "webgpu"] as const : [flags.device as "cpu" | "webgpu"]) {
  for (const model of flags.models.split(",")) {
    for (const optimizer of flags.optimizers.split(",") as OptimizerName[]) {
      for (const perLayer of [false, true]) {
        const [name, vocab = "32000"] = model.split(":");
        const run: Run = {
          ...DEFAULTS,
          ...{ model: name, vocab: Number(vocab), optimizer, perLayer, device },
          ...{ batch: Number(flags.batch), seq: Number(flags.seq), dtype: flags.dtype as Run["dtype"] },
          ...{
            clip: perLayer ? 0 : DEFAULTS.clip,
            refresh: "together",
            updateProjGap: 2,
            lazyRefresh: false,
            steps: 3,
          },
        };
        const check = await checkMemoryOf(run);
        rows.push(rowOf(run, check));
        console.error(rows[rows.length - 1].join("  "));
        worst.peak = Math.max(worst.peak, Math.abs(offBy(check)));
        worst.states = Math.max(worst.states, Math.abs(check.stateBytes - check.plannedStateBytes));
      }
    }
  }
}
for (const line of formatTable([HEAD, ...rows], "llrllrrrrr")) console.log(line);
console.log(`peaks within ${(100 * worst.peak).toFixed(2)} %, states within ${worst.states} bytes`);
if (worst.peak > 0.03 || worst.states > 0) Deno.exit(1);

function offBy({ peakBytes, plannedPeakBytes }: MemoryCheck): number {
  return plannedPeakBytes / peakBytes - 1;
}

function rowOf({ device, model, vocab, optimizer, perLayer }: Run, check: MemoryCheck): string[] {
  return [
    ...[device, model, `${vocab}`, optimizer, perLayer ? "per layer" : "together"],
    ...[check.peakBytes, check.plannedPeakBytes].map((bytes) => bytes.toLocaleString("en-US")),
    `${(100 * offBy(check)).toFixed(2)} %`,
    ...[check.stateBytes, check.plannedStateBytes].map((bytes) => bytes.toLocaleString("en-US")),
  ];
}
