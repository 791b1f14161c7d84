/** `plan --compare`: what every optimizer would take for one model, by the paper's rule and in bytes. */
import { formatBytes } from "../core/mod.ts";
import { type MemoryPlan, planMemory, type PlanRequest } from "./memory_plan.ts";
import type { ModelConfig } from "./objective.ts";
import { isProjecting } from "./optimizer_family.ts";
import { OPTIMIZERS } from "./options.ts";

/** One optimizer's plan. */
export interface Compared {
  readonly optimizer: PlanRequest["optimizer"];
  readonly plan: MemoryPlan;
}

/** Plans the same run with every optimizer; with factors, with those that do not project. */
export async function compareOptimizers(config: ModelConfig, request: PlanRequest): Promise<Compared[]> {
  const compared: Compared[] = [];
  for (const optimizer of OPTIMIZERS) {
    if (request.method !== "full" && isProjecting(optimizer)) continue;
    compared.push({ optimizer, plan: await planMemory(config, { ...request, optimizer }) });
  }
  return compared.sort((a, b) => b.plan.peakBytes - a.plan.peakBytes);
}

/** Bytes of moments, master copies and bases. */
export function stateOf({ optimizerBytes, projectorBytes }: MemoryPlan): number {
  return optimizerBytes + projectorBytes;
}

/** Rows of a table, the largest peak first. */
export function compareRows(compared: readonly Compared[]): string[][] {
  const rows = compared.map(({ optimizer, plan }) => {
    const state = stateOf(plan);
    const { paper } = plan;
    const printed = paper ? [paper.stateBytes, paper.weightBytes + paper.stateBytes].map(formatBytes) : ["", ""];
    return [optimizer, ...[state, plan.weightBytes + state].map(formatBytes), ...printed, formatBytes(plan.peakBytes)];
  });
  return [["optimizer", "state", "weights+state", "state (paper)", "weights+state (paper)", "peak"], ...rows];
}
