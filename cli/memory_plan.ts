/**
 * The memory of a training run before it starts: steps of the training loop on the dry backend, under the policy of the
 * device that is asked for. It counts what that device's allocator would hand out, temporaries of kernels included, and
 * computes nothing. What it says is therefore what training allocates, not a formula beside it.
 */
import { bytesFor, empty, formatBytes, isHalf, own, Params, sizeOf, Tensor } from "../core/mod.ts";
import { type DryBackend, dryBackend, type PlannedGpu } from "../backends/dry/mod.ts";
import { type BasisStrategy, Optimizer, type State, walkState } from "../optimizers/mod.ts";
import { elementCounts, modelShapes, paperMemory, type PaperMethod } from "./accounting.ts";
import type { Device } from "./device.ts";
import { checkMethod, type Method, resolveMethod } from "./method.ts";
import {
  isMasked,
  makeObjective,
  type ModelConfig,
  plannedTokens,
  projectedOf,
  rowLength,
  weightsOf,
} from "./objective.ts";
import { chooseOptimizer, driverOptions } from "./optimizer_choice.ts";
import { isProjecting, resolveBasis, STRATEGIES } from "./optimizer_family.ts";
import type { OptimizerOptions, Run } from "./options.ts";
import { plannedBasis } from "./plan_basis.ts";
import { planSteps } from "./plan_steps.ts";

/** Bytes by purpose. */
export interface MemoryPlan {
  readonly parameters: number;
  /** Parameters that GaLore projects. */
  readonly projectedParameters: number;
  readonly weightBytes: number;
  /** What is staged of the gradients until the update: projected ones where GaLore holds a basis. */
  readonly gradientBytes: number;
  /** Gradients at a step that renews every basis, when they are staged whole. */
  readonly refreshGradientBytes: number;
  /** Moments, and the f32 copies of 16-bit weights where rounding keeps them. */
  readonly optimizerBytes: number;
  readonly projectorBytes: number;
  /** Activations and temporaries at the worst moment of a step. */
  readonly activationBytes: number;
  /** Most bytes at once, over an ordinary step and one that renews every basis. */
  readonly peakBytes: number;
  /** The same in blocks of the device's allocator: what `--memory-limit` must leave. */
  readonly heldBytes: number;
  /** The largest tensor: a parameter's name or a description, and what a device must hold in one piece. */
  readonly largest: { readonly label: string; readonly bytes: number };
  /** Weights, gradients and states as the GaLore paper counts them; left out where it has no such method. */
  readonly paper?: { readonly weightBytes: number; readonly gradientBytes: number; readonly stateBytes: number };
}

/** What is planned. */
export interface PlanRequest
  extends OptimizerOptions, Pick<Run, "method" | "batch" | "seq" | "gradAccum" | "steps" | "seed" | "dtype"> {
  readonly checkpointActivations: boolean;
  /** Whose allocations are counted. Default `cpu`. */
  readonly policy?: "cpu" | "webgpu";
  /** The card, under `webgpu`. Default: a large one. */
  readonly gpu?: PlannedGpu;
}

/** What a plan takes from a device. */
export type PlannedDevice = Pick<Device, "kind" | "adapter"> & {
  /** The GPU's own choices. */
  readonly gpu?: { readonly subgroups: boolean; readonly tiles: { entries(): Record<string, string> } };
};

/** A run as it would be on a device. */
export function planRequest(run: Run, { kind, adapter, gpu }: PlannedDevice): PlanRequest {
  if (!adapter) return { ...run, policy: kind };
  const { limits, isSoftware } = adapter;
  return { ...run, policy: kind, gpu: { limits, isSoftware, subgroups: gpu?.subgroups, tiles: gpu?.tiles.entries() } };
}

/** Runs three steps of a configuration on the dry backend, the first and the third with every basis due. */
export async function planMemory(config: ModelConfig, request: PlanRequest): Promise<MemoryPlan> {
  const { dtype, policy = "cpu", gpu } = request;
  const method = resolveMethod(request, config);
  const open = () => dryBackend({ policy, gpu });
  using backend = open();
  using params = new Params(backend);
  for (const [name, { shape }] of method.weights) params.set(name, own(empty(backend, shape, dtype, name)));
  using base = method.frozen && plannedBase(params, method.frozen, dtype);
  using optimizer = await plannedOptimizer(request, { params, method, config, open });
  const [first, second, third] = await stepsOf(request, { params, base, method, config, optimizer, backend });
  const { optimizerBytes, projectorBytes } = stateBytesOf(optimizer);
  const frozen = [...method.frozen?.values() ?? []].reduce((sum, { shape }) => sum + sizeOf(shape), 0);
  const weightBytes = params.bytes + bytesFor(dtype, frozen);
  const standing = weightBytes + optimizerBytes + projectorBytes;
  // staggered, only the first step has every gradient in full; layer by layer there is one at a time
  const worst = request.refresh === "together" || request.perLayer ? [first, second, third] : [first, second];
  const projected = [...method.weights].filter(([name]) => method.projected.test(name));
  return {
    parameters: params.size + frozen,
    projectedParameters: projected.reduce((sum, [, { shape }]) => sum + sizeOf(shape), 0),
    weightBytes,
    gradientBytes: second.staged,
    refreshGradientBytes: first.staged,
    optimizerBytes,
    projectorBytes,
    activationBytes: Math.max(0, second.peak - standing),
    peakBytes: Math.max(...worst.map(({ peak }) => peak)),
    heldBytes: Math.max(...worst.map(({ held }) => held)),
    largest: backend.largest(),
    paper: paperPlan(config, request),
  };
}

/** Every weight of a model of which the frozen ones are not trained. */
function plannedBase(params: Params, frozen: NonNullable<Method["frozen"]>, dtype: PlanRequest["dtype"]): Params {
  const base = new Params(params.backend);
  for (const [name, { shape }] of frozen) base.set(name, own(empty(params.backend, shape, dtype, name)));
  for (const [name, tensor] of params.entries()) if (!/\.lora_[AB]\./.test(name)) base.set(name, tensor.retained());
  base.freeze(base.names());
  return base;
}

interface PlannedParts {
  readonly params: Params;
  readonly base?: Params;
  readonly method: Method;
  readonly config: ModelConfig;
}

/** The run's optimizer, whose bases come out empty: all due in the first step, none in the second, all in the third. */
async function plannedOptimizer(
  request: PlanRequest,
  { params, method, config, open }: PlannedParts & { readonly open: () => DryBackend },
): Promise<Optimizer> {
  const { policy = "cpu", gpu, projType } = request;
  const shapes = new Map([...method.weights].map(([name, { shape }]) => [name, shape]));
  const matrices = [...shapes].filter(([name]) => method.projected.test(name)).map(([, shape]) => shape);
  const rank = rankOf(request, config);
  const strategy: BasisStrategy = STRATEGIES[resolveBasis(request, policy)]();
  const choice = chooseOptimizer({ ...request, updateProjGap: 2, refresh: "together", lazyRefresh: false }, {
    ...request,
    shapes,
    projected: method.projected,
    hiddenSize: config.hidden_size,
    basis: isProjecting(request.optimizer)
      ? await plannedBasis(strategy, { shapes: matrices, rank, projType, device: [policy, gpu], open })
      : undefined,
  });
  checkMethod(method, choice, request.optimizer);
  return new Optimizer(params, choice.routing, driverOptions(request, params.backend));
}

/** Vectors in each basis. */
export function rankOf({ rank }: Pick<Run, "rank">, { hidden_size }: Pick<ModelConfig, "hidden_size">): number {
  return rank ?? Math.max(1, Math.floor(hidden_size / 4));
}

async function stepsOf(
  { batch, seq: length, seed, checkpointActivations: recompute, perLayer, clip }: PlanRequest,
  { params, base, method, config, optimizer, backend }: PlannedParts & { optimizer: Optimizer; backend: DryBackend },
) {
  const seq = rowLength(config, length);
  const rows = { batch, seq, tokens: new Uint32Array(batch * (seq + 1)) };
  const special = isMasked(config) ? plannedTokens(config) : undefined;
  const { loss } = makeObjective(backend, method.view(params, base), config, { seed, recompute, special });
  return await planSteps({ backend, params, optimizer, loss, rows, isUsedUp: perLayer && !clip });
}

function bytesOf(tensor: Tensor): number {
  return bytesFor(tensor.dtype, tensor.size);
}

/** What the paper would print for a run; undefined for optimizers that it has no rule for. */
function paperPlan(config: ModelConfig, request: PlanRequest): MemoryPlan["paper"] {
  const usual = PAPER_METHODS[request.optimizer];
  const isFactored = request.method !== "full";
  if (!usual || isFactored && usual !== "full") return undefined;
  const method = isFactored ? FACTORED_METHODS[request.method] : usual;
  const model = modelShapes(weightsOf(config), projectedOf(config));
  const rank = rankOf(request, config);
  const { weights, states } = paperMemory(model, method, rank);
  const largest = Math.max(...[...model.values()].map(({ shape }) => sizeOf(shape)));
  const gradientBytes = 2 * (request.perLayer ? largest : elementCounts(model, rank)[isFactored ? "lowRank" : "all"]);
  return { weightBytes: weights, gradientBytes, stateBytes: states };
}

/** ReLoRA is counted as LoRA: its factors stand beside every weight. */
const FACTORED_METHODS = { lowrank: "low_rank", relora: "lora", full: "full" } as const;

const PAPER_METHODS: Partial<Record<string, PaperMethod>> = {
  adam: "full",
  adamw: "full",
  adamw_8bit: "full_8bit",
  galore_adamw: "galore",
  galore_adamw_8bit: "galore_8bit",
};

/** Bytes of moments with master copies, and of bases. */
export function stateBytesOf(optimizer: Optimizer): { optimizerBytes: number; projectorBytes: number } {
  let optimizerBytes = 0;
  let projectorBytes = 0;
  for (const { state, master } of optimizer.snapshot().leaves.values()) {
    if (master) optimizerBytes += bytesOf(master);
    walkState(state as State, (path, value) => {
      if (!(value instanceof Tensor)) return;
      // a basis may be stored in parts
      if (/(^|\/)(left|right)(\/|$)/.test(path)) projectorBytes += bytesOf(value);
      else optimizerBytes += bytesOf(value);
    });
  }
  return { optimizerBytes, projectorBytes };
}

/** Bytes that each parameter's state takes, bases and a master copy to come included. */
export function stateBytesByName(optimizer: Optimizer, { rounding }: Pick<Run, "rounding">): Map<string, number> {
  const bytes = new Map<string, number>();
  for (const [name, { state }] of optimizer.snapshot().leaves) {
    const param = optimizer.params.get(name);
    let total = isHalf(param.dtype) && rounding === "master" ? bytesFor("f32", param.size) : 0;
    walkState(state as State, (_, value) => total += value instanceof Tensor ? bytesOf(value) : 0);
    bytes.set(name, total);
  }
  return bytes;
}

/** The plan as rows of a table: what, bytes, and what the paper would print. */
export function planRows(plan: MemoryPlan): string[][] {
  const { paper } = plan;
  const row = (what: string, bytes: number, printed?: number) => [
    what,
    formatBytes(bytes),
    printed === undefined ? "" : formatBytes(printed),
  ];
  return [
    ["", "bytes", paper ? "paper's rule" : ""],
    row("weights", plan.weightBytes, paper?.weightBytes),
    row("gradients", plan.gradientBytes, paper?.gradientBytes),
    row("gradients at a refresh", plan.refreshGradientBytes),
    row("optimizer state", plan.optimizerBytes, paper?.stateBytes),
    row("projectors", plan.projectorBytes),
    row("activations", plan.activationBytes),
    row("peak", plan.peakBytes),
    row("in the device's blocks", plan.heldBytes),
    row(`largest tensor, ${plan.largest.label}`, plan.largest.bytes),
  ];
}
