/** The fused kernels of the seam on WebGPU. Definitions: the composed forms in core/ops. */
import type { FusedKernels } from "../../core/backend.ts";
import type { Gpu } from "./gpu.ts";
import { attentionEntry } from "./kernels/attention.ts";
import { crossEntropyEntry, softmaxEntry } from "./kernels/softmax.ts";
import { layerNormEntry, rmsNormEntry } from "./kernels/norms.ts";
import { ropeEntry } from "./kernels/rope.ts";
import { geluEntry, siluEntry, swigluEntry } from "./kernels/activations.ts";
import { sumOfSquaresEntry } from "./kernels/sum_of_squares.ts";

/** All fused kernels over `gpu`. */
export function webgpuFused(gpu: Gpu): FusedKernels {
  return {
    softmax: softmaxEntry(gpu),
    crossEntropy: crossEntropyEntry(gpu),
    rmsNorm: rmsNormEntry(gpu),
    layerNorm: layerNormEntry(gpu),
    gelu: geluEntry(gpu),
    silu: siluEntry(gpu),
    swiglu: swigluEntry(gpu),
    rope: ropeEntry(gpu),
    attention: attentionEntry(gpu),
    sumOfSquares: sumOfSquaresEntry(gpu),
  };
}
