/** Normalisations over the last axis, and softmax. */
import { checkAlike, composed, fused, widened } from "../define.ts";
import { describe } from "../shape.ts";
import type { Tensor } from "../tensor.ts";
import { add, div, exp, log, mul, rsqrt, square, stopGradient, sub } from "./elementwise.ts";
import { max, mean, sum } from "./reduce.ts";
import { transpose } from "./layout.ts";

function checkVector(op: string, x: Tensor, vector: Tensor): void {
  checkAlike(op, x, vector);
  if (vector.shape.length !== 1 || vector.shape[0] !== x.shape[x.shape.length - 1]) {
    throw new TypeError(
      `Cannot apply ${op}(): got x ${describe(x)} and weight ${describe(vector)}; the last axes must match`,
    );
  }
}

/** x / rms(x) * weight over the last axis. x [.., D], weight [D]. Zhang & Sennrich 2019, eq. 4. */
export function rmsNorm(x: Tensor, weight: Tensor, eps: number): Tensor {
  checkVector("rmsNorm", x, weight);
  return fused(
    "rmsNorm",
    [x, weight],
    { eps },
    x,
    (input, scale) => mul(mul(input, rsqrt(add(mean(square(input), -1, true), eps))), scale),
  );
}

/** (x - mean) / sqrt(variance + eps) * weight + bias over the last axis. Ba et al. 2016. */
export function layerNorm(x: Tensor, weight: Tensor, bias: Tensor, eps: number): Tensor {
  checkVector("layerNorm", x, weight);
  checkVector("layerNorm", x, bias);
  return fused("layerNorm", [x, weight, bias], { eps }, x, (input, scale, shift) => {
    const centered = sub(input, mean(input, -1, true));
    const rstd = rsqrt(add(mean(square(centered), -1, true), eps));
    return add(mul(mul(centered, rstd), scale), shift);
  });
}

/** e^x normalised to sum 1 along `axis`. The maximum is subtracted first, so that nothing overflows. */
export function softmax(x: Tensor, axis = -1): Tensor {
  if (axis !== -1 && axis !== x.shape.length - 1) {
    return composed("softmax", () => transpose(softmax(transpose(x, axis, -1)), axis, -1));
  }
  return fused("softmax", [x], {}, x, (input) => {
    const weights = exp(sub(input, max(stopGradient(input), -1, true)));
    return div(weights, sum(weights, -1, true));
  });
}

/** log(softmax(x)) along the last axis, without leaving the log domain. */
export function logSoftmax(x: Tensor): Tensor {
  const compose = widened(x.dtype, (input) => {
    const shifted = sub(input, max(stopGradient(input), -1, true));
    return sub(shifted, log(sum(exp(shifted), -1, true)));
  });
  return composed("logSoftmax", () => compose(x));
}
