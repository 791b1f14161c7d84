/**
 * The memory of a fine-tuning run before its weights are loaded: the run's own method, optimizer and training loop on the
 * dry backend, over the largest batch that it will see. As for training, what it counts is what the device's allocator
 * would hand out.
 *
 * What is done beside steps is planned too: gradients may be held before the first step, what is held out may be longer
 * than what is trained on, and adapters are folded in, to be written, beside all that training holds.
 */
import {
  empty,
  foldIn,
  formatBytes,
  keyOf,
  noGrad,
  OutOfMemoryError,
  own,
  Params,
  scope,
  type Shape,
} from "../core/mod.ts";
import { type DryBackend, dryBackend } from "../backends/dry/mod.ts";
import { Optimizer } from "../optimizers/mod.ts";
import { llamaWeights, type NamedShapes, robertaWeights, vitWeights } from "../models/mod.ts";
import { type Device, largestTensorOf } from "./device.ts";
import { isWrittenWhole } from "./finetune_checkpoint.ts";
import { chooseFinetuneOptimizer } from "./finetune_choice.ts";
import { type FinetuneMethod, finetuneMethod, type MergedModel } from "./finetune_method.ts";
import type { Finetune } from "./finetune_options.ts";
import type { Subject, SubjectRows } from "./finetune_subject.ts";
import { type MemoryPlan, planRequest, stateBytesOf } from "./memory_plan.ts";
import { isMasked, isVision } from "./objective.ts";
import { driverOptions, type OptimizerChoice } from "./optimizer_choice.ts";
import { isProjecting, resolveBasis, STRATEGIES } from "./optimizer_family.ts";
import { DEFAULTS } from "./options.ts";
import { plannedBasis, type PlannedBasisRequest } from "./plan_basis.ts";
import { planSteps, type StepPlan } from "./plan_steps.ts";

/** A tensor that is trained. */
export interface TrainedTensor {
  readonly name: string;
  readonly shape: Shape;
}

/** Bytes by purpose. */
export interface FinetunePlan extends Omit<MemoryPlan, "projectedParameters" | "paper"> {
  /** What is trained, in order. `parameters` counts the model's own weights, whether they are trained or not. */
  readonly trained: readonly TrainedTensor[];
  readonly trainedParameters: number;
  /** Of what a method holds beside the model's own weights; 0 where those are trained. */
  readonly adapterBytes: number;
  /** Most bytes at once in a step: an ordinary one, or one that renews every basis. */
  readonly stepBytes: number;
  /** Most bytes at once before the first step: what a method begins with, gradients that it begins from included. */
  readonly beginningBytes: number;
  /** Most bytes at once in an evaluation. */
  readonly evaluationBytes: number;
  /** Most bytes at once while the model is written, adapters folded in. `peakBytes` is the largest of the four. */
  readonly writingBytes: number;
}

/** What a plan needs to know of a subject: neither its data nor its tokenizer. */
export type PlannedSubject = Pick<
  Subject,
  "task" | "config" | "modelType" | "peftTask" | "projected" | "modulesToSave" | "batchesAnEpoch" | "epoch" | "loss"
>;

/** What is planned. */
export interface FinetunePlanRequest {
  readonly run: Finetune;
  readonly subject: PlannedSubject;
  /** The model's own weights. */
  readonly weights: NamedShapes;
  /** The largest batch to train on. */
  readonly rows: SubjectRows;
  /** The largest one to evaluate on. Default: the same. */
  readonly heldOut?: SubjectRows;
  /** Optimizer steps of the whole run. */
  readonly steps: number;
  /** Where the run is computed. */
  readonly device: Parameters<typeof planRequest>[1];
}

/** The weights of a model under the head that fine-tuning gives it. */
export function finetunedWeights(config: Subject["config"]): NamedShapes {
  if (isVision(config)) return vitWeights(config);
  return isMasked(config) ? robertaWeights(config, "classification") : llamaWeights(config);
}

/** Runs three steps of a run on the dry backend, the first and the third with every basis due. */
export async function planFinetune(request: FinetunePlanRequest): Promise<FinetunePlan> {
  const { run, weights } = request;
  const { policy, gpu } = planRequest(DEFAULTS, request.device);
  const open = () => dryBackend({ policy, gpu });
  using backend = open();
  using base = new Params(backend);
  for (const [name, { shape }] of weights) base.set(name, own(empty(backend, shape, "f32", name)));
  const modelBytes = base.bytes;
  const subject = request.subject as Subject; // methods ask for the rest only when they write
  using method = await finetuneMethod({ base, run, subject, modelFolder: run.model, steps: request.steps });
  const beginning = peakOf(backend);
  const adapterBytes = backend.memory().inUse - modelBytes;
  const { routing } = await plannedChoice(request, method, { device: [policy, gpu], open });
  using optimizer = new Optimizer(method.trained, routing, driverOptions(run, backend));
  const [first, second, third] = await stepsOf(request, { backend, method, optimizer });
  backend.resetPeak();
  evaluateOnce(request, method);
  const evaluating = peakOf(backend);
  backend.resetPeak();
  if (isWrittenWhole({ method, run })) makeEach(method.merged!());
  const writing = peakOf(backend);
  const { optimizerBytes, projectorBytes } = stateBytesOf(optimizer);
  const standing = modelBytes + adapterBytes + optimizerBytes + projectorBytes;
  // staggered, only the first step has every gradient in full; layer by layer there is one at a time
  const worst = run.refresh === "together" || run.perLayer ? [first, second, third] : [first, second];
  const stepBytes = Math.max(...worst.map(({ peak }) => peak));
  const moments = [beginning, evaluating, writing, ...worst];
  const trained = [...method.trained.entries()].filter(([name]) => !method.trained.isFrozen(name));
  return {
    parameters: base.size,
    trained: trained.map(([name, { shape }]) => ({ name, shape })),
    trainedParameters: trained.reduce((sum, [, { size }]) => sum + size, 0),
    ...{ weightBytes: modelBytes, adapterBytes, optimizerBytes, projectorBytes },
    gradientBytes: second.staged,
    refreshGradientBytes: first.staged,
    activationBytes: Math.max(0, second.peak - standing),
    ...{ stepBytes, beginningBytes: beginning.peak },
    ...{ evaluationBytes: evaluating.peak, writingBytes: writing.peak },
    peakBytes: Math.max(...moments.map(({ peak }) => peak)),
    heldBytes: Math.max(...moments.map(({ held }) => held)),
    largest: backend.largest(),
  };
}

/** The run's optimizer, whose bases come out empty: all due in the first step, none in the second, all in the third. */
async function plannedChoice(
  { run, subject, steps, device }: FinetunePlanRequest,
  method: FinetuneMethod,
  trial: Pick<PlannedBasisRequest, "device" | "open">,
): Promise<OptimizerChoice> {
  const matrices = [...method.trained.entries()].filter(([name]) => method.projected.test(name));
  const basis = isProjecting(run.optimizer)
    ? await plannedBasis(STRATEGIES[resolveBasis(run, device.kind)](), {
      shapes: matrices.map(([, { shape }]) => shape),
      ...{ rank: run.rank, projType: run.projType, ...trial },
    })
    : undefined;
  const planned: Finetune = { ...run, updateProjGap: 2, refresh: "together", lazyRefresh: false };
  return chooseFinetuneOptimizer(planned, method, { steps, hiddenSize: subject.config.hidden_size, basis });
}

interface PlannedParts {
  readonly backend: DryBackend;
  readonly method: FinetuneMethod;
  readonly optimizer: Optimizer;
}

function stepsOf({ run, subject, rows }: FinetunePlanRequest, { backend, method, optimizer }: PlannedParts) {
  const dropoutKey = foldIn(keyOf(run.seed), "dropout", 0);
  return planSteps({
    ...{ backend, params: method.trained, optimizer, rows, isUsedUp: run.perLayer && !run.clip },
    loss: (rows) =>
      subject.loss(method.view(dropoutKey), rows, {
        ...{ dropoutKey, recompute: run.checkpointActivations, prompts: method.prompts },
      }),
  });
}

/** The forward pass of an evaluation, which keeps nothing for a backward one. */
function evaluateOnce({ subject, rows, heldOut = rows }: FinetunePlanRequest, method: FinetuneMethod): void {
  using _evaluation = scope("evaluate");
  noGrad(() => subject.loss(method.view(), heldOut, { prompts: method.prompts }));
}

/** Most bytes at once since the last reset. */
function peakOf(backend: DryBackend): Pick<StepPlan, "peak" | "held"> {
  return { peak: backend.memory().peak, held: backend.peakHeld() };
}

/** Makes a model's weights as they are written: one at a time. */
export function makeEach(merged: MergedModel): void {
  using model = merged;
  for (const { make } of model.weights) make().dispose();
}

/**
 * The batch that takes the most memory: the largest, and of equals one with padding, whose mask is memory too.
 * Which examples meet in a batch differs between epochs; how long the longest batch is does not. Batches that must be
 * waited for, which are of images, are all of one size: the first one is taken.
 */
export async function largestBatch(batches: ReturnType<Subject["epoch"]>): Promise<SubjectRows> {
  const sizeOf = ({ batch, seq, count = batch * seq }: SubjectRows) => batch * seq + (count < batch * seq ? 0.5 : 0);
  let largest: SubjectRows | undefined;
  for (let isAll = false; !isAll;) {
    const next = batches.next();
    const { done, value } = await next;
    if (!done && (!largest || sizeOf(value) > sizeOf(largest))) largest = value;
    isAll = done || next instanceof Promise;
  }
  await batches.return?.();
  if (!largest) throw new RangeError("Cannot plan a run without a batch");
  return largest;
}

/** @throws OutOfMemoryError before anything is allocated, RangeError for a tensor that the device cannot hold */
export function checkFinetuneMemory(plan: FinetunePlan, model: string, device: Device): void {
  const largest = largestTensorOf(device);
  if (plan.largest.bytes > largest) {
    throw new RangeError(
      `Cannot fine-tune ${model} on ${device.kernelPath}: the tensor ${plan.largest.label} takes ` +
        `${formatBytes(plan.largest.bytes)}, and one may take ${formatBytes(largest)} there; ` +
        `use a smaller --batch or shorter rows, or --device cpu`,
    );
  }
  const { limit } = device.memory();
  if (plan.heldBytes <= limit) return;
  throw new OutOfMemoryError(plan.heldBytes, 0, limit, `fine-tuning ${model} (${partsOf(plan)})`);
}

/** What a run's memory is made of at the worst moment, in words. */
function partsOf(plan: FinetunePlan): string {
  const { weightBytes, adapterBytes, optimizerBytes, projectorBytes, heldBytes } = plan;
  const state = optimizerBytes + projectorBytes;
  const rest = plan.writingBytes === plan.peakBytes
    ? "a merged weight"
    : plan.evaluationBytes === plan.peakBytes
    ? "activations of an evaluation"
    : "gradients and activations";
  const parts: [what: string, bytes: number][] = [
    ["weights", weightBytes],
    ["adapter", adapterBytes],
    ["optimizer", state],
    [rest, heldBytes - weightBytes - adapterBytes - state],
  ];
  return parts.filter(([, bytes]) => bytes > 0).map(([what, bytes]) => `${what} ${formatBytes(bytes)}`).join(", ");
}
