/** From a fine-tuning run's options and its method to an optimizer over what the method trains. */
import type { BasisStrategy } from "../optimizers/mod.ts";
import type { FinetuneMethod } from "./finetune_method.ts";
import type { Finetune } from "./finetune_options.ts";
import { chooseOptimizer, type OptimizerChoice } from "./optimizer_choice.ts";

/** What the choice depends on beside options and method. */
export interface FinetuneChoiceContext {
  /** Optimizer steps of the whole run. */
  readonly steps: number;
  readonly hiddenSize: number;
  /** Replaces the basis strategy: the planner's, which computes nothing. */
  readonly basis?: BasisStrategy;
}

/** The optimizer of a run. @throws as `chooseOptimizer` */
export function chooseFinetuneOptimizer(
  run: Finetune,
  { trained, projected, rates, eps, schedule }: Pick<
    FinetuneMethod,
    "trained" | "projected" | "rates" | "eps" | "schedule"
  >,
  { steps, hiddenSize, basis }: FinetuneChoiceContext,
): OptimizerChoice {
  return chooseOptimizer({ ...run, eps: run.eps ?? eps }, {
    ...{ steps, gradAccum: run.gradAccum, seed: run.seed, dtype: "f32" },
    shapes: new Map([...trained.entries()].map(([name, { shape }]) => [name, shape])),
    ...{ projected, rates, ownSchedule: schedule, hiddenSize, basis },
  });
}
