/**
 * The memory of a training run before it starts: one step on the dry backend, which counts what the allocator would hand
 * out and computes nothing. What it says is therefore what training allocates, not a formula beside it.
 */
import {
  backward,
  bytesFor,
  empty,
  formatBytes,
  type FusedName,
  isHalf,
  own,
  Params,
  scope,
  sizeOf,
  Tensor,
  zeros,
} from "../core/mod.ts";
import { dryBackend, dryFused, dryUpdates } from "../backends/dry/mod.ts";
import { LLAMA_PROJECTED, type LlamaConfig, llamaLoss, llamaWeights } from "../models/mod.ts";
import { type BasisStrategy, Optimizer, type State, walkState } from "../optimizers/mod.ts";
import { chooseOptimizer } from "./optimizer_choice.ts";
import type { Device } from "./device.ts";
import type { OptimizerOptions, Run } from "./options.ts";

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
  /** The largest tensor: a parameter's name or a description, and what a device must hold in one piece. */
  readonly largest: { readonly label: string; readonly bytes: number };
}

/** What is planned. */
export interface PlanRequest
  extends OptimizerOptions, Pick<Run, "batch" | "seq" | "gradAccum" | "steps" | "seed" | "dtype"> {
  readonly checkpointActivations: boolean;
  /** Whether the optimizer guards itself, as on a device that is not read every step. Default false. */
  readonly guarded?: boolean;
  /** What the device has fused kernels for. Default: the CPU's. */
  readonly fused?: readonly FusedName[];
}

/** A run as it would be on a device. */
export function planRequest(run: Run, device: Pick<Device, "fused" | "readSync">): PlanRequest {
  return { ...run, guarded: !device.readSync, fused: Object.keys(device.fused) as FusedName[] };
}

const CPU_FUSED: readonly FusedName[] = [
  "softmax",
  "crossEntropy",
  "rmsNorm",
  "layerNorm",
  "gelu",
  "silu",
  "swiglu",
  "rope",
  "attention",
];

/** A basis of the right shape, and nothing in it. */
const emptyBasis: BasisStrategy = {
  name: "empty",
  options: {},
  compute: (gradient, { side, rank }) =>
    Promise.resolve(own(empty(gradient.backend, [rank, gradient.shape[side === "left" ? 0 : 1]]))),
};

/** Runs three steps of a configuration on the dry backend, the first and the third with every basis due. */
export async function planMemory(config: LlamaConfig, request: PlanRequest): Promise<MemoryPlan> {
  const { dtype, guarded: guard = false, fused = CPU_FUSED, rounding } = request;
  using backend = dryBackend({ fused: dryFused(fused), updates: dryUpdates() });
  using params = new Params(backend);
  const shapes = new Map<string, readonly number[]>();
  let projectedParameters = 0;
  for (const [name, { shape }] of llamaWeights(config)) {
    shapes.set(name, shape);
    params.set(name, own(empty(backend, shape, dtype, name)));
    if (LLAMA_PROJECTED.test(name)) projectedParameters += sizeOf(shape);
  }
  // all bases in the first step, none in the second, all again in the third
  const choice = chooseOptimizer({ ...request, updateProjGap: 2, refresh: "together" }, {
    ...request,
    shapes,
    projected: LLAMA_PROJECTED,
    hiddenSize: config.hidden_size,
    basis: emptyBasis,
  });
  using optimizer = new Optimizer(params, choice.routing, { clip: request.clip || undefined, guard, rounding });
  const first = await dryStep(config, request, params, optimizer);
  const second = await dryStep(config, request, params, optimizer);
  const third = await dryStep(config, request, params, optimizer); // new bases beside the old ones
  const { optimizerBytes, projectorBytes } = stateBytesOf(optimizer);
  const standing = params.bytes + optimizerBytes + projectorBytes;
  return {
    parameters: params.size,
    projectedParameters,
    weightBytes: params.bytes,
    gradientBytes: second.staged,
    refreshGradientBytes: first.staged,
    optimizerBytes,
    projectorBytes,
    activationBytes: Math.max(0, second.peak - standing),
    // staggered, only the first step has every gradient in full
    peakBytes: Math.max(first.peak, second.peak, request.refresh === "together" ? third.peak : 0),
    largest: backend.largest(),
  };
}

async function dryStep(
  config: LlamaConfig,
  { batch, seq, gradAccum, checkpointActivations }: PlanRequest,
  params: Params,
  optimizer: Optimizer,
) {
  const { backend } = params;
  backend.resetPeak();
  for (let micro = 0; micro < gradAccum; micro++) {
    using _ = scope("dry step");
    const tokens = zeros(backend, [batch, seq], "i32");
    const targets = zeros(backend, [batch, seq], "i32");
    const loss = llamaLoss(params, config, tokens, targets, { recompute: checkpointActivations });
    backward(loss, optimizer.stage);
  }
  let staged = 0;
  for (const { staged: tensor } of optimizer.snapshot().leaves.values()) {
    if (tensor) staged += bytesFor(tensor.dtype, tensor.size);
  }
  if (optimizer.refreshDue) await optimizer.refresh();
  optimizer.commit();
  return { peak: backend.memory().peak, staged };
}

/** Bytes of moments with master copies, and of bases. */
export function stateBytesOf(optimizer: Optimizer): { optimizerBytes: number; projectorBytes: number } {
  let optimizerBytes = 0;
  let projectorBytes = 0;
  for (const { state, master } of optimizer.snapshot().leaves.values()) {
    if (master) optimizerBytes += bytesFor(master.dtype, master.size);
    walkState(state as State, (path, value) => {
      if (!(value instanceof Tensor)) return;
      const bytes = bytesFor(value.dtype, value.size);
      if (/(^|\/)(left|right)$/.test(path)) projectorBytes += bytes;
      else optimizerBytes += bytes;
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
    walkState(state as State, (_, value) => total += value instanceof Tensor ? bytesFor(value.dtype, value.size) : 0);
    bytes.set(name, total);
  }
  return bytes;
}

/** The plan as rows of a table: what, bytes. */
export function planRows(plan: MemoryPlan): string[][] {
  const row = (what: string, bytes: number) => [what, formatBytes(bytes)];
  return [
    row("weights", plan.weightBytes),
    row("gradients", plan.gradientBytes),
    row("gradients at a refresh", plan.refreshGradientBytes),
    row("optimizer state", plan.optimizerBytes),
    row("projectors", plan.projectorBytes),
    row("activations", plan.activationBytes),
    row("peak", plan.peakBytes),
    row(`largest tensor, ${plan.largest.label}`, plan.largest.bytes),
  ];
}
