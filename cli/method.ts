/** From `--method` to what is trained: a model's matrices whole, or as factors W = B A from the start. */
import type { Params, ParamsView } from "../core/mod.ts";
import { type FactorSpec, LOW_RANK_FACTORS, lowRankWeights, withLowRank } from "../models/mod.ts";
import { isMasked, type ModelConfig, projectedOf, weightsOf } from "./objective.ts";
import type { OptimizerChoice } from "./optimizer_choice.ts";
import type { Run } from "./options.ts";

/** A way to hold a model's weights. */
export interface Method {
  /** What is trained, by name. */
  readonly weights: ReadonlyMap<string, FactorSpec>;
  /** Names of the matrices that are projected, or of their factors. */
  readonly projected: RegExp;
  /** Columns of B and rows of A, where matrices are factors. */
  readonly rank?: number;
  /** The weights as the model sees them. */
  view(params: Params): ParamsView;
}

/**
 * The method of a run. The rank is a quarter of the hidden size unless it is given.
 *
 * @throws RangeError for factors of a RoBERTa
 */
export function resolveMethod({ method, rank }: Pick<Run, "method" | "rank">, config: ModelConfig): Method {
  if (method === "full") {
    return { weights: weightsOf(config), projected: projectedOf(config), view: (params) => params };
  }
  if (isMasked(config)) throw new RangeError("Cannot train with --method lowrank: it is for a LLaMA: got a RoBERTa");
  const kept = rank ?? Math.max(1, Math.floor(config.hidden_size / 4));
  return {
    weights: lowRankWeights(config, { rank: kept }),
    projected: LOW_RANK_FACTORS,
    rank: kept,
    view: withLowRank,
  };
}

/** @throws RangeError for factors under an optimizer that projects: both would be of low rank, which nobody asked for */
export function checkMethod({ rank }: Method, choice: Pick<OptimizerChoice, "rank">, optimizer: string): void {
  if (rank === undefined || choice.rank === undefined) return;
  throw new RangeError(
    `Cannot train with --method lowrank: its factors need an optimizer without a rank of its own, such as adamw: ` +
      `got ${optimizer}`,
  );
}
