/**
 * Adam (Kingma & Ba 2015) and AdamW (Loshchilov & Hutter 2019).
 *
 * Implementations differ in two places, both options here. eps: after the bias correction (the paper, torch;
 * `corrected`) or beside the root of the uncorrected second moment (HF's old AdamW, copied by the released GaLore code,
 * with eps 1e-6; `uncorrected`). Weight decay: before the step (torch; `before`) or after it (the released GaLore
 * code; `after`).
 */
import { add, div, empty, mul, sqrt, square, type Tensor, zeros } from "../core/mod.ts";
import type { AdamUpdate, ParameterUpdate } from "../core/mod.ts";
import type { GradientContext, GradientRule, Rule, State, StepContext } from "./rule.ts";
import type { Schedule } from "./schedule.ts";
import { finish, type FinishOptions, scaled } from "./sgd.ts";

/** Options of `scaleByAdam`. */
export interface AdamOptions {
  readonly beta1?: number;
  readonly beta2?: number;
  readonly eps?: number;
  readonly epsPlacement?: "corrected" | "uncorrected";
}

/** First and second moment, like the gradient. */
export interface AdamState extends State {
  mu: Tensor;
  nu: Tensor;
}

/** The direction of Adam: mHat / (sqrt(vHat) + eps). Moments in f32. */
export function scaleByAdam(options: AdamOptions = {}): GradientRule<AdamState> {
  const { beta1 = 0.9, beta2 = 0.999, eps = 1e-8, epsPlacement = "corrected" } = options;
  const settings = { beta1, beta2, eps, epsPlacement };
  return {
    name: "scaleByAdam",
    options: settings,
    slots: { mu: "signed", nu: "nonnegative" },
    init: ({ backend, shape, dtype }) => {
      const moments = dtype === "f64" ? "f64" : "f32";
      return { mu: zeros(backend, shape, moments), nu: zeros(backend, shape, moments) };
    },
    update: (gradient, state, context) => {
      const fused = context.donated && gradient.dtype === "f32" && gradient.backend.updates.adam;
      if (fused) {
        const out = empty(gradient.backend, gradient.shape);
        fused({ grad: gradient, ...state, factor: context.factor, out }, { ...settings, step: context.step });
        return [out, state];
      }
      return composedAdam(gradient, state, { ...settings, step: context.step }, context);
    },
    fuseChain: (rest, gradient, state, context) => {
      const fused = context.donated && gradient.backend.updates.adam;
      const parameter = fused && matchAdamW(rest, context);
      if (!fused || !parameter || gradient.dtype !== "f32" || context.param.dtype !== "f32") return undefined;
      const { mu, nu } = state;
      fused(
        { grad: gradient, mu, nu, factor: context.factor, param: context.param },
        { ...settings, step: context.step },
        parameter,
      );
      return state;
    },
  };
}

/** The definition that the fused kernels are held to. */
function composedAdam(
  gradient: Tensor,
  state: AdamState,
  { beta1, beta2, eps, step, epsPlacement }: AdamUpdate,
  { factor }: GradientContext,
): [Tensor, AdamState] {
  const g = scaled(gradient, factor);
  const mu = add(mul(state.mu, beta1), mul(g, 1 - beta1));
  const nu = add(mul(state.nu, beta2), mul(square(g), 1 - beta2));
  const correction1 = 1 - beta1 ** step;
  const correction2 = 1 - beta2 ** step;
  if (epsPlacement === "corrected") {
    const denominator = add(mul(sqrt(nu), 1 / Math.sqrt(correction2)), eps);
    return [div(mul(mu, 1 / correction1), denominator), { mu, nu }];
  }
  return [mul(div(mu, add(sqrt(nu), eps)), Math.sqrt(correction2) / correction1), { mu, nu }];
}

/** What the rest of an AdamW chain does to the parameter, or undefined when it is another chain. */
export function matchAdamW(rest: readonly Rule[], { step }: StepContext): ParameterUpdate | undefined {
  const names = rest.map((rule) => rule.name).join(" ");
  const decayOf = (index: number) => rest[index].options.decay as number;
  const rate = (index: number) => rest[index].learningRate!(step);
  switch (names) {
    case "scaleByLearningRate":
      return { learningRate: rate(0), weightDecay: 0, decayPlacement: "before" };
    case "addDecayedWeights scaleByLearningRate":
      return { learningRate: rate(1), weightDecay: decayOf(0), decayPlacement: "before" };
    case "scaleByLearningRate decayAfterUpdate":
      return { learningRate: rate(0), weightDecay: decayOf(1), decayPlacement: "after" };
    default:
      return undefined;
  }
}

/** Options of `adam` and `adamW`. */
export interface AdamWOptions extends AdamOptions, FinishOptions {}

/** Adam with decoupled weight decay. torch.optim.AdamW by default, save that torch decays 0.01 unless told otherwise. */
export function adamW(options: AdamWOptions): Rule {
  return finish(scaleByAdam(options), options);
}

/** Adam without weight decay. */
export function adam(options: AdamOptions & { readonly learningRate: number | Schedule }): Rule {
  return adamW(options);
}
