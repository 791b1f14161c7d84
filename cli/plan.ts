/** `plan`: the memory of a training run before it starts. */
import { formatBytes } from "../core/mod.ts";
import { defineVerb, givenOptions, parseVerb } from "./arguments.ts";
import { loadConfig } from "./checkpoint.ts";
import { FileFolder } from "./files.ts";
import { deviceFlags, modelFlags, optimizerFlags, scheduleFlags } from "./flags.ts";
import { formatTable, type Output } from "./log.ts";
import { planMemory, planRows } from "./memory_plan.ts";
import { isBuiltIn } from "./model_source.ts";
import { llamaConfig } from "../models/mod.ts";
import { resolveRun } from "./recipe.ts";

/** The verb's flags. */
export const planVerb = defineVerb({
  name: "plan",
  summary: "memory before you train: weights, gradients, optimizer state, projectors, activations",
  example: "deno task plan --model llama-1b --rank 512 --batch 4 --seq 256",
  flags: {
    ...modelFlags,
    ...optimizerFlags,
    ...scheduleFlags,
    device: deviceFlags.device,
    json: { type: "boolean", help: "print one JSON object" },
  },
});

/** Runs the verb. */
export async function plan(argv: readonly string[], output: Output): Promise<void> {
  const parsed = parseVerb(planVerb, argv);
  const run = await resolveRun({ ...givenOptions(parsed), data: [] });
  const base = isBuiltIn(run.model)
    ? llamaConfig(run.model, { vocab_size: run.vocab ?? 32000 })
    : await loadConfig(new FileFolder(run.model));
  const config = { ...base, max_position_embeddings: Math.max(base.max_position_embeddings, run.seq) };
  const memory = await planMemory(config, { ...run, guarded: run.device === "webgpu" });
  if (parsed.options.json) return output.out(JSON.stringify({ model: run.model, ...memory }));
  const share = memory.projectedParameters / memory.parameters;
  output.out(
    `${run.model}: ${memory.parameters.toLocaleString("en-US")} weights, ${
      (100 * share).toFixed(0)
    }% in projected matrices, ` +
      `${run.optimizer}, batch ${run.batch} x ${run.seq}, ${run.dtype}`,
  );
  for (const line of formatTable(planRows(memory), "lr")) output.out(line);
  output.out(`a run with these settings needs ${formatBytes(memory.peakBytes)} for tensors`);
}
