/** Gradient descent, and the rules that finish a chain: learning rate and decoupled weight decay. */
import { add, cast, mul, sub, type Tensor, zeros } from "../core/mod.ts";
import { chain, type GradientRule, type Rule, type State } from "./rule.ts";
import type { Schedule } from "./schedule.ts";

/** The gradient times the context's factor, if there is one. Every first rule starts here. */
export function scaled(gradient: Tensor, factor: Tensor | undefined): Tensor {
  return factor ? mul(gradient, factor) : gradient;
}

/** The gradient as it is: the inner rule of plain SGD. */
export function identity(): GradientRule<Record<never, never>> {
  return {
    name: "identity",
    options: {},
    slots: {},
    init: () => ({}),
    update: (gradient, state, { factor }) => [scaled(gradient, factor), state],
  };
}

/** State of momentum: one tensor like the gradient. */
export interface TraceState extends State {
  mu: Tensor;
}

/**
 * Heavy-ball momentum: mu = decay mu + g; the update is mu, or g + decay mu with `nesterov`. torch.optim.SGD without
 * dampening, except that torch starts mu at the first gradient, which is the same.
 */
export function trace({ decay, nesterov = false }: { decay: number; nesterov?: boolean }): GradientRule<TraceState> {
  return {
    name: "trace",
    options: { decay, nesterov },
    slots: { mu: "signed" },
    init: ({ backend, shape, dtype }) => ({ mu: zeros(backend, shape, dtype === "f64" ? "f64" : "f32") }),
    update: (gradient, state, { factor }) => {
      const g = scaled(gradient, factor);
      const mu = add(mul(state.mu, decay), g);
      return [nesterov ? add(g, mul(mu, decay)) : mu, { mu }];
    },
  };
}

/** Turns an update into a change: multiplies by minus the learning rate. */
export function scaleByLearningRate(rate: number | Schedule): GradientRule<Record<never, never>> {
  const schedule = typeof rate === "number" ? () => rate : rate;
  return {
    name: "scaleByLearningRate",
    options: { schedule },
    slots: {},
    init: () => ({}),
    learningRate: schedule,
    multiplier: (step) => -schedule(step),
    update: (update, state, { step }) => [mul(update, -schedule(step)), state],
  };
}

/**
 * Decoupled weight decay before the step, in an update's terms: u + decay p (Loshchilov & Hutter 2019; torch.AdamW).
 * Stands before `scaleByLearningRate`.
 */
export function addDecayedWeights(decay: number): Rule<Record<never, never>> {
  return {
    name: "addDecayedWeights",
    options: { decay },
    slots: {},
    init: () => ({}),
    update: (update, state, { param }) => [
      decay === 0 ? update : add(update, mul(cast(param, update.dtype), decay)),
      state,
    ],
  };
}

/**
 * Decoupled weight decay after the step, as the released GaLore code has it: p' = (p + change)(1 - rate decay). Stands
 * behind `scaleByLearningRate`.
 */
export function decayAfterUpdate(decay: number): Rule<Record<never, never>> {
  return {
    name: "decayAfterUpdate",
    options: { decay },
    slots: {},
    init: () => ({}),
    update: (change, state, { param, learningRate }) => {
      if (decay === 0) return [change, state];
      return [sub(change, mul(add(cast(param, change.dtype), change), learningRate * decay)), state];
    },
  };
}

/** Options of `sgd`. */
export interface SgdOptions {
  readonly learningRate: number | Schedule;
  readonly momentum?: number;
  readonly nesterov?: boolean;
  readonly weightDecay?: number;
}

/** Stochastic gradient descent, with momentum if asked for and decoupled weight decay. */
export function sgd({ learningRate, momentum = 0, nesterov = false, weightDecay = 0 }: SgdOptions): Rule {
  return finish(momentum === 0 ? identity() : trace({ decay: momentum, nesterov }), { learningRate, weightDecay });
}

/** What follows a direction in a whole optimizer. */
export interface FinishOptions {
  readonly learningRate: number | Schedule;
  /** Default 0: no decay. */
  readonly weightDecay?: number;
  /** Before the step (torch) or after it (the released GaLore code). Default `before`. */
  readonly decayPlacement?: "before" | "after";
}

/** Puts weight decay and learning rate behind a direction, in the placement asked for. */
export function finish(direction: Rule, options: FinishOptions): Rule {
  const { learningRate, weightDecay = 0, decayPlacement = "before" } = options;
  const rate = scaleByLearningRate(learningRate);
  if (weightDecay === 0) return chain(direction, rate);
  return decayPlacement === "before"
    ? chain(direction, addDecayedWeights(weightDecay), rate)
    : chain(direction, rate, decayAfterUpdate(weightDecay));
}
