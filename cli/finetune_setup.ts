/** What a fine-tuning run is made of, opened and printed: task, data, device, model, method, optimizer. */
import { createHash } from "node:crypto";
import type { Params } from "../core/mod.ts";
import { Optimizer } from "../optimizers/mod.ts";
import { openClassification } from "./classification.ts";
import { type Device, openDevice } from "./device.ts";
import { hashFile } from "./durable.ts";
import { baseName, exists, join } from "./files.ts";
import { chooseFinetuneOptimizer } from "./finetune_choice.ts";
import { type FinetuneMethod, finetuneMethod } from "./finetune_method.ts";
import { adapterOptions } from "./finetune_method_options.ts";
import { type Finetune, SFT } from "./finetune_options.ts";
import {
  checkFinetuneMemory,
  finetunedWeights,
  type FinetunePlan,
  largestBatch,
  planFinetune,
} from "./finetune_plan.ts";
import type { Subject } from "./finetune_subject.ts";
import { formatBytes, formatTable, type Output } from "./log.ts";
import { driverOptions, type OptimizerChoice } from "./optimizer_choice.ts";
import { resolveBasis } from "./optimizer_family.ts";
import { findModel } from "./resume.ts";
import { openSft } from "./sft.ts";
import { parameterRows } from "./training_setup.ts";
import { openVision } from "./vision.ts";
import { isVitName } from "./vision_model.ts";
import { IMAGES } from "./vision_options.ts";

/** Everything that a run needs, opened. */
export interface FinetuneSetup extends Disposable {
  /** With what `auto` stands for here. */
  readonly run: Finetune;
  readonly backend: Device;
  readonly subject: Subject;
  readonly modelName: string;
  /** SHA-256 of its weights' files; empty where they are drawn. */
  readonly modelHash: string;
  /** What it takes of the device's memory. */
  readonly plan: FinetunePlan;
  readonly base: Params;
  readonly method: FinetuneMethod;
  readonly choice: OptimizerChoice;
  readonly optimizer: Optimizer;
  /** Optimizer steps of the whole run. */
  readonly steps: number;
  /** Steps between evaluations; 0: only at the end. */
  readonly evalEvery: number;
}

/** Opens everything that a run needs. Nothing is written. Dispose it. */
export async function prepareFinetune(given: Finetune, output: Output): Promise<FinetuneSetup> {
  const isDrawn = given.task === IMAGES && isVitName(given.model);
  const asked = isDrawn ? checkDrawn(given) : { ...given, model: await findFolder(given.model) };
  const subject = await openSubject(asked, output);
  const parts = new DisposableStack();
  parts.defer(() => subject.close?.());
  try {
    const modelHash = isDrawn ? "" : await hashWeights(asked.model);
    const backend = parts.use(await openDevice(asked, output));
    const run = { ...asked, ...subject.resolved, basis: resolveBasis(asked, backend.kind) };
    const modelName = baseName(given.model) || "model";
    return await openOnDevice(run, { backend, subject, modelName, modelHash, parts, output });
  } catch (error) {
    parts.dispose();
    throw error;
  }
}

/** @throws RangeError where there is no such folder, or none with a whole model */
async function findFolder(model: string): Promise<string> {
  if (await exists(model)) return await findModel(model);
  throw new RangeError(`Cannot fine-tune ${model}: there is no such folder`);
}

/** @throws RangeError for a method that leaves weights as they were drawn */
function checkDrawn(run: Finetune): Finetune {
  if (run.method === "full" || run.method === "galore") return run;
  throw new RangeError(
    `Cannot fine-tune ${run.model} with --method ${run.method}: its weights are drawn, and would stay so; ` +
      `train it first: deno task train --model ${run.model} --data STORE`,
  );
}

async function openSubject(run: Finetune, output: Output): Promise<Subject> {
  switch (run.task) {
    case SFT:
      return await openSft(run, output);
    case IMAGES:
      return await openVision(run);
    default:
      return await openClassification(run, output);
  }
}

/** What the device gets. */
interface Opened extends Pick<FinetuneSetup, "backend" | "subject" | "modelName" | "modelHash"> {
  readonly parts: DisposableStack;
  readonly output: Output;
}

async function openOnDevice(run: Finetune, opened: Opened): Promise<FinetuneSetup> {
  const { backend, subject, parts, output } = opened;
  const { batchesAnEpoch } = subject;
  const steps = run.steps ?? Math.max(1, Math.ceil(run.epochs * batchesAnEpoch / run.gradAccum));
  const plan = await planChecked(run, steps, opened);
  const base = parts.use(await subject.load(backend, output));
  const method = parts.use(await finetuneMethod({ base, run, subject, modelFolder: run.model, steps }));
  const choice = chooseFinetuneOptimizer(run, method, { steps, hiddenSize: subject.config.hidden_size });
  const optimizer = parts.use(new Optimizer(method.trained, choice.routing, driverOptions(run, backend)));
  for (const note of [...method.notes ?? [], ...choice.notes]) output.err(`note: ${note}`);
  return {
    ...opened,
    ...{ run, plan, base, method, choice, optimizer, steps },
    evalEvery: run.evalEvery ?? Math.ceil(batchesAnEpoch / run.gradAccum),
    [Symbol.dispose]: () => parts.dispose(),
  };
}

/** The run's memory, before its weights are loaded. @throws as `checkFinetuneMemory` */
async function planChecked(
  run: Finetune,
  steps: number,
  { subject, backend, modelName }: Opened,
): Promise<FinetunePlan> {
  const request = { run, subject, steps, device: backend, weights: finetunedWeights(subject.config) };
  const [rows, heldOut] = [await largestBatch(subject.epoch(0, 0)), await largestBatch(subject.heldOut())];
  const plan = await planFinetune({ ...request, rows, heldOut });
  checkFinetuneMemory(plan, modelName, backend);
  return plan;
}

/** SHA-256 over those of a folder's weight files. */
async function hashWeights(folder: string): Promise<string> {
  const hash = createHash("sha256");
  const names = (await Array.fromAsync(Deno.readDir(folder))).map(({ name }) => name).sort();
  for (const name of names.filter((name) => name.endsWith(".safetensors"))) {
    hash.update(await hashFile(join(folder, name)));
  }
  return hash.digest("hex");
}

/** What must be the same for a resumed run to be the same run. */
export function finetuneIdentity({ run, subject, modelHash }: FinetuneSetup): Record<string, unknown> {
  const { optimizer, projType, basis, refresh, convention, beta1, beta2, momentum, batch, gradAccum } = run;
  const { rounding, seed, freeze, lazyRefresh, moments, projector, states, stateBlock, stateRounding } = run;
  const { residual, relativeStep, scaleParameter, clipExact, method, rank } = run;
  const adapter = adapterOptions(run);
  return {
    model: subject.config,
    modelHash,
    ...{ method, rank, adapter, optimizer, projType, basis, refresh, beta1, beta2, momentum, batch, gradAccum },
    ...{ rounding, seed, freeze, moments, projector, states, stateBlock, stateRounding, residual, relativeStep },
    ...{ scaleParameter, clipExact, dtype: "f32" },
    convention: convention ?? null,
    lazyRefresh: lazyRefresh ?? null,
    task: subject.task,
    ...subject.identity,
  };
}

/** Says what is about to be trained, on what and how, and which parameter gets what. */
export function printFinetune(setup: FinetuneSetup, output: Output): void {
  const { run, backend, subject, plan, base, method, choice, optimizer, steps } = setup;
  const { limit } = backend.memory();
  const many = (count: number) => count.toLocaleString("en-US");
  output.err(`device    ${backend.summary}`);
  output.err(
    `model     ${setup.modelName}: ${many(base.size)} weights, ${subject.words.model}; ${run.method}, ` +
      `${many(method.trained.size)} trained`,
  );
  output.err(`data      ${subject.task}: ${subject.words.data}`);
  const epochs = Number((steps * run.gradAccum / subject.batchesAnEpoch).toFixed(2));
  output.err(`steps     ${many(steps)} in ${epochs} epochs, peak rate ${choice.learningRate}`);
  output.err(
    `memory    ${formatBytes(plan.heldBytes)} at most as planned` +
      (Number.isFinite(limit) ? `, ${formatBytes(limit)} allowed` : ""),
  );
  output.err("");
  const table = parameterRows({
    ...{ choice, optimizer, method, params: method.trained },
    run: { ...run, dtype: "f32" },
  });
  for (const line of formatTable(table, "lrllrr")) output.err(line);
  output.err("");
}
