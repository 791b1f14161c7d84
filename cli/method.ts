/** From `--method` to what is trained: a model's matrices whole, or as factors W = B A from the start. */
import type { Params, ParamsView } from "../core/mod.ts";
import {
  type FactorSpec,
  LLAMA_PROJECTED,
  type LlamaConfig,
  llamaWeights,
  LOW_RANK_FACTORS,
  lowRankWeights,
  withLowRank,
} from "../models/mod.ts";
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

/** The method of a run. The rank is a quarter of the hidden size unless it is given. */
export function resolveMethod({ method, rank }: Pick<Run, "method" | "rank">, config: LlamaConfig): Method {
  if (method === "full") {
    return { weights: llamaWeights(config), projected: LLAMA_PROJECTED, view: (params) => params };
  }
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
