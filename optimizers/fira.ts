/**
 * Fira: a full-rank update under low-rank states (Chen et al. 2024, arXiv 2410.01623). Formulas and departures: at `fira`. It
 * needs the whole gradient at the update, so nothing of it is held projected.
 */
import { add, mul, sub, type Tensor } from "../core/mod.ts";
import type { GaloreOptions } from "./galore.ts";
import { GROWTH_LIMIT, limitGrowth } from "./norm_growth.ts";
import type { GradientContext, GradientRule } from "./rule.ts";
import { scaled } from "./sgd.ts";
import { project, projectBack } from "./sides.ts";
import { channelled, channelRatio, type LimitedState, wholeGradient } from "./whole_gradient.ts";

/** Options of `fira`. */
export interface FiraOptions extends GaloreOptions {
  /** What is subtracted from the gradient: its projection (`orthogonal`, the paper), or `scale` times that (`released`). */
  readonly residual?: "orthogonal" | "released";
  /** How much the norm of the residual's update may grow a step. Default 1.01. */
  readonly growthLimit?: number;
}

/**
 * Fira (Chen et al. 2024, arXiv 2410.01623, algorithm 1): what GaLore throws away of a gradient follows it at the scale
 * at which the inner rule moves what it keeps.
 *
 *     R = P G, N = inner(R)
 *     S = phi (G - P^T R), phi of channel j: |N_j| / |R_j|
 *     change = scale P^T N + S, with the growth of |S| limited
 *
 * The released code subtracts scale P^T R, so that its residual is orthogonal to the subspace only where scale is 1. State
 * beside GaLore's: one number a matrix.
 *
 * @throws RangeError for `projType: "full"`, which has no channels
 */
export function fira(inner: GradientRule, options: FiraOptions): GradientRule<LimitedState> {
  const { scale = 1, residual = "orthogonal", growthLimit = GROWTH_LIMIT } = options;
  const projection = channelled("fira", options);
  const update = (gradient: Tensor, state: LimitedState, context: GradientContext): [Tensor, LimitedState] => {
    const bases = projection.bases(state, gradient, gradient.shape, context);
    const raw = project(gradient, bases);
    const [direction, innerState] = inner.update(raw, state.inner, context);
    const g = scaled(gradient, context.factor);
    const r = scaled(raw, context.factor);
    const kept = projectBack(residual === "released" ? mul(r, scale) : r, bases);
    const rest = mul(sub(g, kept), channelRatio(direction, r, state));
    const [limited, norm] = limitGrowth(rest, state.norm, growthLimit);
    return [add(projectBack(mul(direction, scale), bases), limited), { ...state, inner: innerState, norm }];
  };
  return {
    name: "fira",
    options: { ...projection.options, inner, scale, residual, growthLimit },
    ...wholeGradient(projection, inner),
    update,
  };
}
