/**
 * APOLLO: the gradient itself at the scale that a small sketch of it suggests (Zhu et al. 2024, arXiv 2412.05270). Formulas at
 * `apollo`. It needs the whole gradient at the update, so nothing of it is held projected.
 */
import { add, div, mul, sqrt, sumOfSquares, type Tensor } from "../core/mod.ts";
import { GROWTH_LIMIT, limitGrowth } from "./norm_growth.ts";
import type { ProjectionOptions } from "./projection.ts";
import { randomBasis } from "./random_basis.ts";
import type { GradientContext, GradientRule } from "./rule.ts";
import { scaled } from "./sgd.ts";
import { project } from "./sides.ts";
import { channelled, channelRatio, type LimitedState, TINY, wholeGradient } from "./whole_gradient.ts";

/** Options of `apollo`. */
export interface ApolloOptions extends ProjectionOptions {
  /** What a scale is taken over: each channel (APOLLO), or the whole matrix (APOLLO-Mini). Default `channel`. */
  readonly over?: "channel" | "tensor";
  /** Its root multiplies the change: it makes up for a small rank. Default 1; 128 for APOLLO-Mini. */
  readonly scale?: number;
  /** How much the norm of the update may grow a step. Default 1.01. */
  readonly growthLimit?: number;
}

/**
 * APOLLO (Zhu et al. 2024, arXiv 2412.05270, algorithm 1): the gradient itself, scaled as the inner rule scales a random
 * sketch of it.
 *
 *     R = P G, N = inner(R), P random and drawn again from a seed every gap, never stored
 *     s of channel j: |N_j| / |R_j|, or one |N| / |R|
 *     change = sqrt(scale) s G, with the growth of its norm limited
 *
 * APOLLO-Mini is rank 1, over the tensor, scale 128. Written from the paper alone.
 *
 * @throws RangeError for `projType: "full"`, which has no channels
 */
export function apollo(inner: GradientRule, options: ApolloOptions): GradientRule<LimitedState> {
  const { over = "channel", scale = 1, growthLimit = GROWTH_LIMIT } = options;
  const projection = channelled("apollo", { basis: randomBasis(), ...options });
  const update = (gradient: Tensor, state: LimitedState, context: GradientContext): [Tensor, LimitedState] => {
    const bases = projection.bases(state, gradient, gradient.shape, context);
    const raw = project(gradient, bases);
    const [direction, innerState] = inner.update(raw, state.inner, context);
    const r = scaled(raw, context.factor);
    const ratio = over === "channel" ? channelRatio(direction, r, state) : div(normOf(direction), add(normOf(r), TINY));
    const change = mul(scaled(gradient, context.factor), mul(ratio, Math.sqrt(scale)));
    const [limited, norm] = limitGrowth(change, state.norm, growthLimit);
    return [limited, { ...state, inner: innerState, norm }];
  };
  return {
    name: "apollo",
    options: { ...projection.options, inner, over, scale, growthLimit },
    ...wholeGradient(projection, inner),
    update,
  };
}

function normOf(x: Tensor): Tensor {
  return sqrt(sumOfSquares(x));
}
