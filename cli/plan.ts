/** `plan`: the memory of a run before it starts, of every optimizer beside it, and what fits into a budget. */
import { formatBytes, isHalf } from "../core/mod.ts";
import { defineVerb, givenOptions, parseVerb, UsageError } from "./arguments.ts";
import { findGpu } from "./device.ts";
import { deviceFlags, modelFlags, optimizerFlags, scheduleFlags } from "./flags.ts";
import { formatTable, type Output } from "./log.ts";
import { planMemory, planRows, rankOf } from "./memory_plan.ts";
import { isBuiltIn, plannedConfig } from "./model_source.ts";
import type { ModelConfig } from "./objective.ts";
import { isProjecting } from "./optimizer_family.ts";
import { DEFAULTS, type Run } from "./options.ts";
import { compareOptimizers, compareRows } from "./plan_compare.ts";
import { isFinetunePlan, type PlanAsked, planFinetuneFlags, planMethods, planTask } from "./plan_finetune.ts";
import { findFits, type Fit } from "./plan_fit.ts";
import { resolveRun } from "./recipe.ts";
import { kebab } from "./verbs.ts";
import { isVitModel } from "./vision_model.ts";

/** The verb's flags. */
export const planVerb = defineVerb({
  name: "plan",
  summary: "memory before you train: weights, gradients, optimizer state, projectors, activations",
  example: [
    "deno task plan --model llama-1b --rank 512 --batch 4 --seq 256",
    "deno task plan --model llama-7b --dtype bf16 --rank 1024 --batch 1 --seq 256 --compare",
    "deno task plan --model llama-7b --seq 256 --fit 24GB",
    "deno task plan --model roberta-base --task sst2 --method lora --rank 4",
    "deno task plan --model vit-base-16 --method vpt-deep --prompts 50",
    "deno task plan --model roberta-base --task glue --max-length 512 --compare",
  ],
  flags: {
    ...modelFlags,
    method: {
      type: "string",
      choices: planMethods,
      help: "train matrices whole, or as factors W = BA of --rank from scratch; or a way to fine-tune",
      defaultHelp: DEFAULTS.method,
      group: modelFlags.method.group,
    },
    ...planFinetuneFlags,
    ...optimizerFlags,
    ...scheduleFlags,
    device: deviceFlags.device,
    compare: {
      type: "boolean",
      help: "every optimizer for this model and rank; with --task, or of a ViT, ways to fine-tune",
    },
    fit: { type: "bytes", min: 1, help: "set-ups that fit, as commands; what is not given is chosen" },
    json: { type: "boolean", help: "print one JSON object" },
  },
});

/** Runs the verb. */
export async function plan(argv: readonly string[], output: Output): Promise<void> {
  const parsed = parseVerb(planVerb, argv);
  const { json, compare, fit } = parsed.options;
  if (compare && fit !== undefined) throw new UsageError("Cannot use --compare with --fit: choose one");
  const { json: _json, compare: _compare, fit: _fit, ...asked } = givenOptions(parsed);
  if (await isFinetunePlan(asked)) {
    if (fit !== undefined) await refuseFit(asked);
    const policy = await deviceOf({ device: DEFAULTS.device, dtype: "f32", ...asked }, false);
    return await planTask(asked, { policy, compare, json }, output);
  }
  const given = asked as Partial<Run>;
  const run = await resolveRun({ ...given, data: [] });
  const config = await plannedConfig(run);
  const policy = await deviceOf(run, fit !== undefined);
  const request = { ...run, policy };
  if (fit !== undefined) return await printFits(request, { config, given, budget: fit, json }, output);
  if (compare) {
    const compared = await compareOptimizers(config, request);
    if (json) return output.out(JSON.stringify({ model: run.model, compared }));
    output.out(describeRun(run, config, policy));
    for (const line of formatTable(compareRows(compared), "lrrrrr")) output.out(line);
    return;
  }
  const memory = await planMemory(config, request);
  if (json) return output.out(JSON.stringify({ model: run.model, ...memory }));
  const share = 100 * memory.projectedParameters / memory.parameters;
  output.out(
    `${run.model}: ${memory.parameters.toLocaleString("en-US")} weights, ${share.toFixed(0)}% in ${
      run.method === "full" ? "projected matrices" : `factors W ${run.method === "relora" ? "+" : "="} BA`
    }`,
  );
  output.out(describeRun(run, config, policy));
  for (const line of formatTable(planRows(memory), "lrr")) output.out(line);
  output.out(`a run with these settings needs ${formatBytes(memory.heldBytes)} for tensors`);
}

/** @throws UsageError with what makes the plan one of fine-tuning, or of images */
async function refuseFit({ task, method, model }: PlanAsked): Promise<never> {
  const isVit = model !== undefined && await isVitModel(model);
  const what = task !== undefined ? "--task" : isVit ? `the ViT ${model}` : `--method ${method}`;
  throw new UsageError(`Cannot use --fit with ${what}: it proposes runs of training on text`);
}

/** Where the run would be computed: `auto` takes a GPU that is found, and one in mind where only a GPU will do. */
async function deviceOf(run: Pick<Run, "device" | "dtype">, isSearch: boolean): Promise<"cpu" | "webgpu"> {
  if (run.device !== "auto") {
    if (run.device === "cpu" && isHalf(run.dtype)) {
      throw new RangeError(`Cannot train in ${run.dtype} on the CPU: use --dtype f32`);
    }
    return run.device;
  }
  if (isHalf(run.dtype) || isSearch) return "webgpu";
  const found = await findGpu().catch(() => undefined);
  return found && !found.isSoftware ? "webgpu" : "cpu";
}

function describeRun(run: Run, config: ModelConfig, policy: "cpu" | "webgpu"): string {
  const words = [
    isProjecting(run.optimizer) ? `${run.optimizer} of rank ${rankOf(run, config)}` : run.optimizer,
    `batch ${run.batch} x ${run.seq}`,
    run.dtype,
    ...(run.perLayer ? ["per layer"] : []),
    ...(run.checkpointActivations ? ["activations checkpointed"] : []),
    policy === "webgpu" ? "on a GPU" : "on the CPU",
  ];
  return words.join(", ");
}

/** What the CPU backend can address, less its own part. */
const LARGEST_CPU_MEMORY = 2 ** 32 - 2 ** 26;

interface FitOptions {
  readonly config: ModelConfig;
  /** What was given on the command line. */
  readonly given: Partial<Run>;
  readonly budget: number;
  readonly json: boolean;
}

/** @throws RangeError when nothing fits, with what the smallest set-up needs */
async function printFits(
  request: Run & { readonly policy: "cpu" | "webgpu" },
  { config, given, budget, json }: FitOptions,
  output: Output,
): Promise<void> {
  const most = request.policy === "cpu" ? Math.min(budget, LARGEST_CPU_MEMORY) : budget;
  const { fits, smallest } = await findFits({ config, request, given: new Set(Object.keys(given)), budget: most });
  if (fits.length === 0) {
    throw new RangeError(
      `Cannot fit ${request.model} into ${formatBytes(most)}: the smallest set-up needs ` +
        `${formatBytes(smallest.plan.heldBytes)} (${
          describeRun({ ...request, ...smallest.choice }, config, request.policy)
        })`,
    );
  }
  const fixed = { device: request.policy, ...(isBuiltIn(request.model) ? { vocab: config.vocab_size } : {}) };
  const commands = fits.map(({ choice }) => {
    const { clip, ...chosen } = choice;
    const clipping = clip === request.clip ? {} : { clip };
    return trainCommand({ ...given, ...fixed, ...chosen, ...clipping }, request, most);
  });
  if (json) {
    const listed = fits.map(({ choice, plan }, index) => ({ choice, plan, command: commands[index] }));
    return output.out(JSON.stringify({ model: request.model, budget, fits: listed }));
  }
  output.out(`${request.model} in ${formatBytes(most)}, the largest batch first`);
  fits.forEach((fit, index) => {
    output.out("");
    output.out(summary(fit, request, config));
    output.out(`  ${commands[index]}`);
  });
}

function summary({ choice, plan }: Fit, request: Run & { readonly policy: "cpu" | "webgpu" }, config: ModelConfig) {
  return `${describeRun({ ...request, ...choice }, config, request.policy)}: peak ${formatBytes(plan.peakBytes)}, ` +
    `${formatBytes(plan.heldBytes)} in the device's blocks`;
}

/** A whole command line for a set-up. Optimizers without a basis are told no rank. */
function trainCommand(chosen: Partial<Run>, { model, seq }: Run, budget: number): string {
  const all = { model, ...chosen, seq, memoryLimit: sizeText(budget) };
  const words = Object.entries(all).flatMap(([key, value]) => {
    const flag = `--${kebab(key)}`;
    if (value === undefined || value === false) return [];
    if (value === true) return [flag];
    return [value].flat().map((one) => `${flag} ${/^[\w./-]+$/.test(String(one)) ? one : JSON.stringify(one)}`);
  });
  return `deno task train ${words.join(" ")}`;
}

/** A size as the flag takes it, exact. */
function sizeText(bytes: number): string {
  const units = [["GB", 1e9], ["MB", 1e6], ["KB", 1e3]] as const;
  const [name, size] = units.find(([, size]) => bytes % size === 0) ?? ["B", 1];
  return `${bytes / size}${name}`;
}
