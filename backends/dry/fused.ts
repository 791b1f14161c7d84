/**
 * Fused entries that compute nothing, with what a real backend's entries would keep until backward: so that a plan sees
 * the memory of fused training. Residuals are f32, or f64 for f64.
 */
import type { FusedKernel, FusedKernels, FusedName, Spec, UpdateKernels } from "../../core/backend.ts";
import { sizeOf } from "../../core/shape.ts";

/** What an entry keeps: inputs by index, the output, and the shapes of its residuals. */
interface Kept {
  readonly inputs: readonly number[];
  readonly out?: boolean;
  readonly overwrites?: readonly number[];
  readonly residuals?: (inputs: readonly Spec[]) => readonly (readonly number[])[];
}

const KEPT: { readonly [Name in FusedName]: Kept } = {
  softmax: { inputs: [], out: true },
  /** The log-sum-exp of each row. */
  crossEntropy: { inputs: [0, 1], overwrites: [0], residuals: ([logits]) => [[logits.shape[0]]] },
  /** 1 / rms of each row. */
  rmsNorm: { inputs: [0, 1], residuals: ([x]) => [[rows(x)]] },
  /** Mean and 1 / standard deviation of each row. */
  layerNorm: { inputs: [0, 1], residuals: ([x]) => [[rows(x)], [rows(x)]] },
  gelu: { inputs: [0] },
  silu: { inputs: [0] },
  swiglu: { inputs: [0, 1] },
  rope: { inputs: [1, 2] },
  /** The log-sum-exp of each query's scores: [B, H, T]. */
  attention: {
    inputs: [0, 1, 2, 3],
    out: true,
    residuals: ([{ shape: [batch, tokens, heads] }]) => [[batch, heads, tokens]],
  },
  sumOfSquares: { inputs: [0] },
};

function rows(x: Spec): number {
  return sizeOf(x.shape.slice(0, -1));
}

/** Entries for `names`; for every fused op when left out. */
export function dryFused(names: readonly FusedName[] = Object.keys(KEPT) as FusedName[]): FusedKernels {
  return Object.fromEntries(names.map((name) => [name, entry(KEPT[name])]));
}

function entry({ inputs, out = false, overwrites, residuals }: Kept): FusedKernel<unknown> {
  return {
    supports: () => true,
    residuals: (specs) => {
      const dtype = specs[0].dtype === "f64" ? "f64" : "f32";
      return (residuals?.(specs) ?? []).map((shape) => ({ shape, dtype }));
    },
    forward: () => {},
    vjp: { saves: { inputs, out, ...(overwrites && { overwrites }) }, run: () => {} },
  };
}

/** The fused optimizer updates: they work in place, so that a plan counts no temporaries. */
export function dryUpdates(): UpdateKernels {
  return { adam: () => {}, adamBlockwise: () => {}, quantizeBlockwise: () => {}, dequantizeBlockwise: () => {} };
}
