/**
 * `plan` of a fine-tuning run: its memory, and which tensors are trained and how large a part of the model they are; or
 * the ways to fine-tune side by side. It needs neither data nor weights.
 */
import { formatBytes, sizeOf } from "../core/mod.ts";
import { loadVitConfig, type VitConfig, vitConfig } from "../models/mod.ts";
import { type Flags, UsageError } from "./arguments.ts";
import { exists, FileFolder } from "./files.ts";
import { adapterFlags, FINETUNE_METHODS, type FinetuneMethodName, sizeInWords } from "./finetune_method_options.ts";
import { checkFinetuneFlags, completeFinetune, type Finetune, finetuneFlags, SFT } from "./finetune_options.ts";
import { finetunedWeights, type FinetunePlan, planFinetune, type TrainedTensor } from "./finetune_plan.ts";
import { formatShare, formatTable, type Output } from "./log.ts";
import { isBuiltIn, plannedConfig } from "./model_source.ts";
import { isVision } from "./objective.ts";
import { DEFAULTS, METHODS, type Run } from "./options.ts";
import { compareFinetune, compareFinetuneRows, compareVisionRows, COMPARISON_NOTE } from "./plan_finetune_compare.ts";
import { GLUE, plannedSubject, usualTask } from "./planned_subject.ts";
import { findModel } from "./resume.ts";
import { kebab } from "./verbs.ts";
import { isVitModel } from "./vision_model.ts";
import { IMAGES } from "./vision_options.ts";

/** What fine-tuning is told beside what training is told as well. */
export const planFinetuneFlags = {
  task: {
    type: "string",
    value: "NAME",
    help: `fine-tuning: a task of GLUE, ${GLUE} for any of them, ${SFT}, or ${IMAGES}`,
    defaultHelp: `with a method of fine-tuning ${GLUE}, of a LLaMA ${SFT}`,
    group: "Fine-tuning",
  },
  maxLength: { ...finetuneFlags.maxLength, group: "Fine-tuning" },
  ...adapterFlags,
} as const satisfies Flags;

/** `--method` of both kinds of run. */
export const planMethods: readonly (Run["method"] | FinetuneMethodName)[] = [
  ...new Set([...METHODS, ...FINETUNE_METHODS]),
];

/** What was asked for on the command line. */
export type PlanAsked = Partial<Omit<Finetune, "method"> & Omit<Run, "method">> & { readonly method?: string };

/** Whether a plan is one of a fine-tuning run. @throws UsageError for flags that only such a one has a use for */
export async function isFinetunePlan(asked: PlanAsked): Promise<boolean> {
  const { task, method, model } = asked;
  const isTraining = (METHODS as readonly (string | undefined)[]).includes(method);
  if (task !== undefined || (method !== undefined && !isTraining)) return true;
  if (model !== undefined && await isVitModel(model)) return true;
  const lost = Object.keys(planFinetuneFlags).find((key) => key in asked);
  if (lost === undefined) return false;
  throw new UsageError(`Cannot use --${kebab(lost)} without --task: it is for plans of fine-tuning`);
}

/** How a plan is made and printed. */
export interface PlanTaskOptions {
  readonly policy: "cpu" | "webgpu";
  readonly compare: boolean;
  readonly json: boolean;
}

/** Plans a fine-tuning run, or the ways to fine-tune. */
export async function planTask(
  asked: PlanAsked,
  { policy, compare, json }: PlanTaskOptions,
  output: Output,
): Promise<void> {
  if (compare) checkComparison(asked);
  const resolved = await resolvePlan(asked);
  if (!compare) checkFinetuneFlags(resolved.run, asked as Partial<Finetune>);
  const request = { ...resolved, device: { kind: policy } };
  const { run, subject, rows: { batch, seq } } = request;
  const recomputed = run.checkpointActivations ? "activations checkpointed, " : "";
  const size = `batch ${batch} x ${seq}, f32, ${recomputed}${policy === "webgpu" ? "on a GPU" : "on the CPU"}`;
  if (compare) {
    const compared = await compareFinetune({ ...request, ranks: asked.rank === undefined ? undefined : [asked.rank] });
    if (json) return output.out(JSON.stringify({ model: run.model, task: run.task, compared }));
    output.out(`${run.model} on ${run.task}, ${size}`);
    const rows = isVision(subject.config) ? compareVisionRows(compared) : compareFinetuneRows(compared);
    for (const line of formatTable(rows, "lrrrrrrr")) output.out(line);
    return isVision(subject.config) ? undefined : output.out(COMPARISON_NOTE);
  }
  const plan = await planFinetune({ ...request, weights: finetunedWeights(subject.config) });
  if (json) return output.out(JSON.stringify({ model: run.model, task: run.task, method: run.method, ...plan }));
  printPlan(run, plan, size, output);
}

function printPlan(run: Finetune, plan: FinetunePlan, size: string, output: Output): void {
  const [all, trained] = [plan.parameters, plan.trainedParameters].map((count) => count.toLocaleString("en-US"));
  const share = formatShare(plan.trainedParameters / plan.parameters);
  output.out(`${run.model} on ${run.task}: ${all} weights; ${run.method} trains ${trained}, ${share}`);
  output.out(`${run.optimizer}${sizeInWords(run)}, ${size}`);
  for (const line of formatTable(finetunePlanRows(plan), "lr")) output.out(line);
  if (plan.adapterBytes > 0 || plan.trainedParameters < plan.parameters) {
    output.out("");
    for (const line of formatTable(trainedRows(plan.trained, plan.parameters), "lrlrr")) output.out(line);
  }
  output.out(`fine-tuning with these settings needs ${formatBytes(plan.heldBytes)} for tensors`);
}

/** @throws UsageError for what each of the compared methods has of its own */
function checkComparison(asked: PlanAsked): void {
  const own = (["method", "optimizer", "targets"] as const).find((key) => key in asked);
  if (own === undefined) return;
  throw new UsageError(`Cannot use --${own} with --compare of ways to fine-tune: each has its own`);
}

/** The run that is meant, and what it learns. */
async function resolvePlan(asked: PlanAsked) {
  const { method, dtype, steps, model } = asked;
  if (dtype === "bf16") throw new RangeError("Cannot plan to fine-tune in bf16: it is offered in f32 alone");
  if (model === undefined) throw new RangeError("Cannot fine-tune without a model: give --model NAME|FOLDER");
  const config = await isVitModel(model)
    ? await plannedVit(model, asked)
    : await plannedConfig({ model: await modelOf(model), vocab: asked.vocab, seq: 1 });
  const { task = usualTask(config) } = asked;
  // without either it is `train` of a ViT that is planned
  const usual = asked.task === undefined && method === undefined
    ? { optimizer: DEFAULTS.optimizer, rank: Math.max(1, Math.floor(config.hidden_size / 4)) }
    : {};
  const run = completeFinetune({ ...usual, ...asked, method: method as FinetuneMethodName | undefined, task });
  // memory does not depend on how long a run is, but ReLoRA asks for a whole number of its rounds
  return { run, ...plannedSubject(run, config), steps: steps ?? 4 * (run.reloraEvery ?? 250) };
}

/** @throws RangeError for a size of text */
async function plannedVit(model: string, { vocab }: PlanAsked): Promise<VitConfig> {
  if (vocab !== undefined) throw new RangeError(`Cannot use --vocab to plan ${model}: a ViT has no use for it`);
  return await exists(model) ? await loadVitConfig(new FileFolder(await findModel(model))) : vitConfig(model);
}

async function modelOf(model: string): Promise<string> {
  if (isBuiltIn(model)) return model;
  if (!await exists(model)) throw new RangeError(`Cannot fine-tune ${model}: there is no such folder`);
  return await findModel(model);
}

/** The plan as rows of a table: what, and bytes. */
export function finetunePlanRows(plan: FinetunePlan): string[][] {
  const rows: [what: string, bytes: number][] = [
    ["weights of the model", plan.weightBytes],
    ["trained beside them", plan.adapterBytes],
    ["gradients", plan.gradientBytes],
    ["gradients at a refresh", plan.refreshGradientBytes],
    ["optimizer state", plan.optimizerBytes],
    ["projectors", plan.projectorBytes],
    ["activations", plan.activationBytes],
    ["peak of a step", plan.stepBytes],
    ["before the first step", plan.beginningBytes],
    ["while the model is written", plan.writingBytes],
    ["in the device's blocks", plan.heldBytes],
    [`largest tensor, ${plan.largest.label}`, plan.largest.bytes],
  ];
  return [["", "bytes"], ...rows.map(([what, bytes]) => [what, formatBytes(bytes)])];
}

/**
 * Which tensors are trained, and how large a part they are of a model with so many weights: a header, a row for each name
 * with its layers' numbers left out, a total.
 */
export function trainedRows(trained: readonly TrainedTensor[], parameters: number): string[][] {
  const groups = new Map<string, { count: number; size: number; shape: readonly number[] }>();
  for (const { name, shape } of trained) {
    const key = `${name.replace(/\.\d+\./g, ".*.")} [${shape.join(", ")}]`;
    const group = groups.get(key) ?? { count: 0, size: 0, shape };
    groups.set(key, { shape, count: group.count + 1, size: group.size + sizeOf(shape) });
  }
  const row = (name: string, count: number, shape: string, size: number) => [
    ...[name, `${count}`, shape, size.toLocaleString("en-US")],
    formatShare(size / parameters),
  ];
  const total = trained.reduce((sum, { shape }) => sum + sizeOf(shape), 0);
  return [
    ["trained", "n", "shape", "weights", "of the model"],
    ...[...groups].map(([key, { count, size, shape }]) =>
      row(key.slice(0, key.lastIndexOf(" [")), count, `[${shape.join(", ")}]`, size)
    ),
    row("total", trained.length, "", total),
  ];
}
