/**
 * Fused optimizer updates on compiled SIMD code: Adam on f32 leaves. The corrections that depend on the step are computed
 * here, in f64; the formula stands in wasm/assembly/optimizer.ts.
 */
import type { UpdateKernels } from "../../core/backend.ts";
import { sizeOf } from "../../core/shape.ts";
import { chunks, type WasmDevice } from "./wasm_kernels.ts";

/** All fused updates over `device`. */
export function wasmUpdates({ runner, memory }: WasmDevice): UpdateKernels {
  return {
    adam({ grad, mu, nu, factor, param, out }, update, parameter) {
      const { beta1, beta2, eps, step, epsPlacement } = update;
      const { learningRate, weightDecay, decayPlacement } = parameter ??
        { learningRate: 0, weightDecay: 0, decayPlacement: "before" };
      if (param && !parameter) {
        throw new TypeError("Cannot update in adam(): a param needs its learning rate and decay");
      }
      const bias1 = 1 - beta1 ** step;
      const bias2 = 1 - beta2 ** step;
      const corrections = epsPlacement === "corrected" ? [1 / bias1, 1 / bias2] : [Math.sqrt(bias2) / bias1, 1];
      const size = sizeOf(grad.shape);
      if (factor && memory.view(factor.buffer, factor.dtype)[factor.offset] < 0) {
        if (out) memory.view(out.buffer, out.dtype).fill(0, out.offset, out.offset + size);
        return;
      }
      runner.run("adam", chunks(size), [
        ...[grad, mu, nu, factor, param, out].map((operand) => operand ? memory.address(operand) : 0),
        size,
        ...[beta1, 1 - beta1, beta2, 1 - beta2],
        ...corrections,
        eps,
        learningRate,
        weightDecay,
        learningRate * weightDecay,
        decayPlacement === "after" ? 1 : 0,
      ]);
    },
  };
}
