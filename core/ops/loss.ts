/** Losses. Each gives a scalar, in f32 where the inputs are stored in 16 bits. */
import { checkAlike, composed, fused, widened } from "../define.ts";
import { type DType, isHalf } from "../dtype.ts";
import { describe, sameShape } from "../shape.ts";
import type { Tensor } from "../tensor.ts";
import { cast, div, equal, maximum, mul, neg, square, sub, where } from "./elementwise.ts";
import { gather } from "./indexing.ts";
import { reshape } from "./layout.ts";
import { logSoftmax } from "./norm.ts";
import { mean, sum } from "./reduce.ts";

/**
 * Mean negative log-likelihood of the targets, in nats, over those that are not `ignoreIndex`; 0 when none is left.
 * The loss over 16-bit logits is f32.
 *
 * @param logits [N, V]
 * @param targets i32 [N]
 */
export function crossEntropy(logits: Tensor, targets: Tensor, ignoreIndex = -100): Tensor {
  if (logits.shape.length !== 2 || targets.dtype !== "i32" || !sameShape(targets.shape, logits.shape.slice(0, 1))) {
    throw new TypeError(
      `Cannot score in crossEntropy(): expected logits [N, V] and targets i32[N]: got ${describe(logits)} and ${
        describe(targets)
      }`,
    );
  }
  const out = { shape: [], dtype: scalarOf(logits) };
  return fused("crossEntropy", [logits, targets], { ignoreIndex }, out, (scores, labels) => {
    const ignored = equal(labels, ignoreIndex);
    const picked = gather(logSoftmax(scores), reshape(where(ignored, 0, labels), [-1, 1]));
    const losses = where(ignored, 0, neg(reshape(picked, [-1])));
    const kept = where(ignored, 0, cast(equal(ignored, 0), scores.dtype));
    return div(sum(losses), maximum(sum(kept), 1));
  });
}

/** Mean of (prediction - target)^2. */
export function meanSquaredError(prediction: Tensor, target: Tensor): Tensor {
  checkAlike("meanSquaredError", prediction, target);
  const compose = widened(scalarOf(prediction), (a, b) => mean(square(sub(a, b))));
  return composed("meanSquaredError", () => compose(prediction, target));
}

/** Sum of squares: what a global norm adds up. Not finite when an element is infinite or NaN. */
export function sumOfSquares(x: Tensor): Tensor {
  return fused("sumOfSquares", [x], {}, { shape: [], dtype: scalarOf(x) }, (values) => sum(mul(values, values)));
}

/** The dtype of a scalar over x. */
function scalarOf({ dtype }: Tensor): DType {
  return isHalf(dtype) ? "f32" : dtype;
}
