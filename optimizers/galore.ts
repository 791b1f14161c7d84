/**
 * GaLore: optimizer states in a low-rank subspace of the gradient (Zhao et al., ICML 2024, algorithm 2).
 *
 *     R = P G (or G P^T)      the projected gradient
 *     N = inner(R)            any rule of the gradient alone
 *     change = scale P^T N (or scale N P)
 *
 * The inner state is kept as it is when a basis is renewed, unless first moments are to be transported. `std` compresses
 * the smaller side (ties: the right one), as the released code. Weight decay and learning rate sit outside, in full space;
 * `scale` applies to the projected-back change alone.
 */
import { mul, type Tensor } from "../core/mod.ts";
import { detached } from "./orthonormal.ts";
import { Projection, type ProjectionOptions, type ProjectionState } from "./projection.ts";
import { finishNow, finishReading } from "./reading.ts";
import type { GradientContext, GradientRule, StepContext } from "./rule.ts";
import { project, projectBack } from "./sides.ts";

/** Options of `galore`. The released default of `scale` is 1 (the paper's pre-training: 0.25). */
export interface GaloreOptions extends ProjectionOptions {
  /** Multiplies the projected-back change: alpha of the paper. Default 1. */
  readonly scale?: number;
}

/** Wraps a gradient-only rule so that it works, and keeps its state, in the subspace. For matrices. */
export function galore(inner: GradientRule, options: GaloreOptions): GradientRule<ProjectionState> {
  const { scale = 1 } = options;
  if (inner.stage) throw new TypeError(`Cannot project ${inner.name} in galore(): it projects the gradient itself`);
  const projection = new Projection(options);
  // scaled in the subspace, where it is cheap
  const updateScaled = (projected: Tensor, state: ProjectionState, context: GradientContext, factor: number) => {
    const [direction, innerState] = inner.update(projected, state.inner, context);
    const bases = projection.bases(state, projected, context.shape, context);
    const change = projectBack(mul(direction, scale * factor), bases);
    return [change, { ...state, inner: innerState }] as [Tensor, ProjectionState];
  };
  const projected = (gradient: Tensor, state: ProjectionState, context: StepContext) =>
    project(gradient, projection.bases(state, gradient, gradient.shape, context));
  return {
    name: "galore",
    options: { ...projection.options, inner, scale },
    slots: {},
    init: (spec) => projection.init(inner, spec),
    learningRate: inner.learningRate,
    stage: (gradient, state, context) =>
      projection.isDue(state, context.step) ? gradient : projected(gradient, state, context),
    refreshDue: (state, step) => projection.isDue(state, step),
    refresh: async (gradient, state, context) => {
      const next = await finishReading(projection.renew(gradient, state, inner, context));
      return [detached("project", () => projected(gradient, next, context)), next];
    },
    refreshNow: (gradient, state, context) => {
      if (!projection.canRenewNow(gradient, state)) return undefined;
      const next = finishNow(projection.renew(gradient, state, inner, context));
      return [detached("project", () => projected(gradient, next, context)), next];
    },
    update: (projected, state, context) => updateScaled(projected, state, context, 1),
    updateScaled,
  };
}
