/** The numbers of an Adam step as the kernels get them. Formula and conventions: `optimizers/adam.ts`. */
import type { AdamUpdate, ParameterUpdate } from "../../core/backend.ts";

/** Types of `adamParams`. */
export const ADAM_PARAMS = {
  beta1: "f32",
  gain1: "f32",
  beta2: "f32",
  gain2: "f32",
  scale1: "f32",
  scale2: "f32",
  eps: "f32",
  rate: "f32",
  before: "f32",
  after: "f32",
} as const;

const NO_PARAMETER: ParameterUpdate = { learningRate: 0, weightDecay: 0, decayPlacement: "before" };

/**
 * m = beta1 m + gain1 g, v = beta2 v + gain2 g^2, u = m scale1 / (sqrt(v) scale2 + eps), p = (p - rate u - before p)
 * after.
 */
export function adamParams(
  { beta1, beta2, eps, step, epsPlacement }: AdamUpdate,
  { learningRate, weightDecay, decayPlacement }: ParameterUpdate = NO_PARAMETER,
): Record<keyof typeof ADAM_PARAMS, number> {
  const [bias1, bias2] = [1 - beta1 ** step, 1 - beta2 ** step];
  const isCorrected = epsPlacement === "corrected";
  return {
    beta1,
    gain1: 1 - beta1,
    beta2,
    gain2: 1 - beta2,
    scale1: isCorrected ? 1 / bias1 : Math.sqrt(bias2) / bias1,
    scale2: isCorrected ? 1 / Math.sqrt(bias2) : 1,
    eps,
    rate: learningRate,
    before: decayPlacement === "before" ? learningRate * weightDecay : 0,
    after: decayPlacement === "after" ? 1 - learningRate * weightDecay : 1,
  };
}
