/**
 * From `--method` to what is trained: a model's matrices whole, as factors W = B A from the start, or as factors beside
 * them that are folded in every so often (ReLoRA).
 */
import type { Params, ParamsView } from "../core/mod.ts";
import {
  type FactorSpec,
  type LoraConfig,
  loraWeights,
  LOW_RANK_FACTORS,
  lowRankWeights,
  withLora,
  withLowRank,
} from "../models/mod.ts";
import { isMasked, type ModelConfig, projectedOf, weightsOf } from "./objective.ts";
import type { OptimizerChoice } from "./optimizer_choice.ts";
import { DEFAULTS, type Run } from "./options.ts";

/** A way to hold a model's weights. */
export interface Method {
  /** What is trained, by name. */
  readonly weights: ReadonlyMap<string, FactorSpec>;
  /** Names of the matrices that are projected, or of their factors. */
  readonly projected: RegExp;
  /** Columns of B and rows of A, where matrices are factors from the start. */
  readonly rank?: number;
  /** How factors stand beside matrices. */
  readonly lora?: LoraConfig;
  /** Those matrices, which no gradient reaches. */
  readonly frozen?: ReadonlyMap<string, FactorSpec>;
  /** What its matrices are called in reports. */
  readonly words: string;
  /** The weights as the model sees them. `base`: every weight of the model, where factors stand beside them. */
  view(params: Params, base?: Params): ParamsView;
}

/**
 * The method of a run. The rank is a quarter of the hidden size unless it is given.
 *
 * @throws RangeError for factors of a RoBERTa
 */
export function resolveMethod(
  { method, rank, alpha = DEFAULTS.alpha }: Pick<Run, "method" | "rank"> & Partial<Pick<Run, "alpha">>,
  config: ModelConfig,
): Method {
  if (method === "full") {
    const words = "projected matrices";
    return { weights: weightsOf(config), projected: projectedOf(config), words, view: (params) => params };
  }
  if (isMasked(config)) throw new RangeError(`Cannot train with --method ${method}: it is for a LLaMA: got a RoBERTa`);
  const kept = rank ?? Math.max(1, Math.floor(config.hidden_size / 4));
  if (method === "relora") return reloraOf(config, { r: kept, alpha, targets: "all-linear" });
  return {
    weights: lowRankWeights(config, { rank: kept }),
    projected: LOW_RANK_FACTORS,
    rank: kept,
    words: `factors W = BA of rank ${kept}`,
    view: withLowRank,
  };
}

/** Factors beside the linear maps of attention and MLP; embeddings, norms and the output matrix are trained as they are. */
function reloraOf(config: ModelConfig, lora: LoraConfig): Method {
  const whole = weightsOf(config);
  const factors = loraWeights(whole, lora);
  const adapted = new Set([...factors.values()].map(({ weight }) => weight));
  return {
    weights: new Map([...factors, ...[...whole].filter(([name]) => !adapted.has(name))]),
    frozen: new Map([...whole].filter(([name]) => adapted.has(name))),
    projected: /\.lora_[AB]\.weight$/,
    lora,
    words: `factors W + BA of rank ${lora.r}`,
    view: (params, base) => withLora(base!, [{ params, config: lora }]),
  };
}

/** @throws RangeError for factors under an optimizer that projects: both would be of low rank, which nobody asked for */
export function checkMethod(
  { rank, lora }: Pick<Method, "rank" | "lora">,
  choice: Pick<OptimizerChoice, "rank">,
  optimizer: string,
): void {
  if ((rank ?? lora?.r) === undefined || choice.rank === undefined) return;
  throw new RangeError(
    `Cannot train with --method ${
      lora ? "relora" : "lowrank"
    }: its factors need an optimizer without a rank of its own, such as adamw: ` +
      `got ${optimizer}`,
  );
}
