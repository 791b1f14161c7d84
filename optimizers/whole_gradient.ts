/**
 * What Fira and APOLLO share: a rule runs in a subspace only to show how it scales a gradient, per channel or as a whole, and
 * that scale is applied to whole gradients.
 */
import { add, div, sqrt, square, sum, type Tensor, zeros } from "../core/mod.ts";
import { Projection, type ProjectionOptions, type ProjectionState } from "./projection.ts";
import { finishNow, finishReading } from "./reading.ts";
import type { GradientRule } from "./rule.ts";

/** GaLore's state and the norm of the last limited update, a scalar. */
export interface LimitedState extends ProjectionState {
  norm: Tensor;
}

/** Keeps ratios of channels without a gradient finite. */
export const TINY = 1e-8;

export function channelled(name: string, options: ProjectionOptions): Projection {
  if (options.projType === "full") throw new RangeError(`Cannot project both sides in ${name}(): channels need one`);
  return new Projection(options);
}

/** |N_j| / |R_j| over the basis' axis: [1, n] where the left side is projected, else [m, 1]. */
export function channelRatio(direction: Tensor, projected: Tensor, { side }: LimitedState): Tensor {
  const axis = side === "left" ? 0 : 1;
  const lengths = (x: Tensor) => sqrt(sum(square(x), axis, true));
  return div(lengths(direction), add(lengths(projected), TINY));
}

/** What a rule has that projects at the update, from the whole gradient. */
export function wholeGradient(projection: Projection, inner: GradientRule) {
  if (inner.stage) throw new TypeError(`Cannot project ${inner.name}: it projects the gradient itself`);
  type Part = Pick<
    GradientRule<LimitedState>,
    "slots" | "init" | "learningRate" | "refreshDue" | "refresh" | "refreshNow"
  >;
  const part: Part = {
    slots: {},
    learningRate: inner.learningRate,
    init: (spec) => ({
      ...projection.init(inner, spec),
      norm: zeros(spec.backend, [], spec.dtype === "f64" ? "f64" : "f32"),
    }),
    refreshDue: (state, step) => projection.isDue(state, step),
    refresh: async (gradient, state, context) => {
      const next = await finishReading(projection.renew(gradient, state, inner, context));
      return [gradient, next as LimitedState];
    },
    refreshNow: (gradient, state, context) => {
      if (!projection.canRenewNow(gradient, state)) return undefined;
      return [gradient, finishNow(projection.renew(gradient, state, inner, context)) as LimitedState];
    },
  };
  return part;
}
