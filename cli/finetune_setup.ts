/** What a fine-tuning run is made of, opened and printed: task, data, device, model, method, optimizer. */
import { createHash } from "node:crypto";
import type { Params } from "../core/mod.ts";
import { Optimizer } from "../optimizers/mod.ts";
import { openClassification } from "./classification.ts";
import { type Device, openDevice } from "./device.ts";
import { hashFile } from "./durable.ts";
import { baseName, exists, join } from "./files.ts";
import { type FinetuneMethod, finetuneMethod } from "./finetune_method.ts";
import { type Finetune, hasAdapters, SFT } from "./finetune_options.ts";
import type { Subject } from "./finetune_subject.ts";
import { formatTable, type Output } from "./log.ts";
import { chooseOptimizer, driverOptions, type OptimizerChoice } from "./optimizer_choice.ts";
import { resolveBasis } from "./optimizer_family.ts";
import { findModel } from "./resume.ts";
import { openSft } from "./sft.ts";
import { parameterRows } from "./training_setup.ts";

/** Everything that a run needs, opened. */
export interface FinetuneSetup extends Disposable {
  /** With what `auto` stands for here. */
  readonly run: Finetune;
  readonly backend: Device;
  readonly subject: Subject;
  /** Folder of the model before the run. */
  readonly modelFolder: string;
  readonly modelName: string;
  /** SHA-256 of its weights' files. */
  readonly modelHash: string;
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
  if (!await exists(given.model)) throw new RangeError(`Cannot fine-tune ${given.model}: there is no such folder`);
  const asked = { ...given, model: await findModel(given.model) };
  const subject = asked.task === SFT ? await openSft(asked, output) : await openClassification(asked, output);
  const modelHash = await hashWeights(asked.model);
  const backend = await openDevice(asked, output);
  const parts = new DisposableStack();
  try {
    parts.use(backend);
    const run = { ...asked, ...subject.resolved, basis: resolveBasis(asked, backend.kind) };
    const modelName = baseName(given.model) || "model";
    return await openOnDevice(run, { backend, subject, modelName, modelHash, parts, output });
  } catch (error) {
    parts.dispose();
    throw error;
  }
}

/** What the device gets. */
interface Opened extends Pick<FinetuneSetup, "backend" | "subject" | "modelName" | "modelHash"> {
  readonly parts: DisposableStack;
  readonly output: Output;
}

async function openOnDevice(run: Finetune, opened: Opened): Promise<FinetuneSetup> {
  const { backend, subject, parts, output } = opened;
  const base = parts.use(await subject.load(backend, output));
  const method = parts.use(finetuneMethod(base, run, subject));
  const { batchesAnEpoch } = subject;
  const steps = Math.max(1, Math.ceil(run.epochs * batchesAnEpoch / run.gradAccum));
  const choice = chooseOptimizer(run, {
    ...{ steps, gradAccum: run.gradAccum, seed: run.seed, dtype: "f32" },
    shapes: new Map([...method.trained.entries()].map(([name, { shape }]) => [name, shape])),
    projected: method.projected,
    hiddenSize: subject.config.hidden_size,
  });
  const optimizer = parts.use(new Optimizer(method.trained, choice.routing, driverOptions(run, backend)));
  for (const note of choice.notes) output.err(`note: ${note}`);
  return {
    ...opened,
    ...{ run, base, method, choice, optimizer, steps },
    modelFolder: run.model,
    evalEvery: run.evalEvery ?? Math.ceil(batchesAnEpoch / run.gradAccum),
    [Symbol.dispose]: () => parts.dispose(),
  };
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
  const { alpha, rslora, loraDropout, targets } = run;
  const adapter = hasAdapters(method) ? { alpha, rslora, loraDropout, targets } : null;
  return {
    model: subject.config,
    modelHash,
    ...{ method, rank, adapter, optimizer, projType, basis, refresh, beta1, beta2, momentum, batch, gradAccum },
    ...{ rounding, seed, freeze, moments, projector, states, stateBlock, stateRounding, residual, relativeStep },
    ...{ scaleParameter, clipExact, dtype: "f32" },
    convention: convention ?? null,
    lazyRefresh: lazyRefresh ?? null,
    tokenizer: subject.tokenizer.hash,
    task: subject.task,
    ...subject.identity,
  };
}

/** Says what is about to be trained, on what and how, and which parameter gets what. */
export function printFinetune(setup: FinetuneSetup, output: Output): void {
  const { run, backend, subject, base, method, choice, optimizer, steps } = setup;
  const many = (count: number) => count.toLocaleString("en-US");
  output.err(`device    ${backend.summary}`);
  output.err(
    `model     ${setup.modelName}: ${many(base.size)} weights, ${subject.words.model}; ${run.method}, ` +
      `${many(method.trained.size)} trained`,
  );
  output.err(`data      ${subject.task}: ${subject.words.data}`);
  output.err(`steps     ${many(steps)} in ${run.epochs} epochs, peak rate ${choice.learningRate}`);
  output.err("");
  const table = parameterRows({
    ...{ choice, optimizer, method, params: method.trained },
    run: { ...run, dtype: "f32" },
  });
  for (const line of formatTable(table, "lrllrr")) output.err(line);
  output.err("");
}
