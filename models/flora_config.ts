/**
 * What a FLoRA adapter is: its settings, and its tensors by name, for any model's weights.
 *
 * Fast LoRA (Wen & Chaudhuri 2024, arXiv 2312.05677): a weight becomes W o M, element by element, with M of low rank. Modules
 * are matched as LoRA's are. Tensors of a module are `MODULE.flora_A` [R, in] and `MODULE.flora_B` [out, R], so that
 * M = B A; the paper, which writes x W, calls the transposed of our A its B, and the other way round.
 *
 * Two forms. `residual`, y = W x + (W o B A) x, is HiRA's (Huang et al. 2025), which PEFT has files for: no change is
 * B A = 0. `product`, y = (W o B A) x, is the paper's: no change is B A = 1 everywhere. A product of rank r is a residual of
 * rank r + 1. Embedding tables are not offered: nothing multiplies them.
 */
import type { Shape } from "../core/mod.ts";
import { type LoraConfig, loraNames, loraWeights, type NamedShapes } from "./lora_config.ts";
import { quote } from "./safetensors_json.ts";

/** Settings of an adapter. */
export interface FloraConfig {
  /** Rows of A and columns of B. */
  readonly r: number;
  /** What stands where the weight W was: W + W o B A, or W o B A. Default residual. */
  readonly form?: "residual" | "product";
  /** Whether the r parts of B A count in full or 1 / r each. Default sum, which is what files of PEFT mean. */
  readonly reduction?: "sum" | "mean";
  /** Share of the input that the adapter does not see, in training. Default 0. */
  readonly dropout?: number;
  /** As of `LoraConfig`, for linear maps only. */
  readonly targets: LoraConfig["targets"];
  /** As of `LoraConfig`. */
  readonly modulesToSave?: readonly string[];
}

/** Names of all adapter tensors but whole copies of modules. */
export const FLORA_TENSORS: RegExp = /\.flora_[AB]$/;

/** Names of an adapter's tensors for `module`. */
export function floraNames(module: string): Record<"A" | "B", string> {
  return { A: `${module}.flora_A`, B: `${module}.flora_B` };
}

/** A tensor of an adapter. */
export interface FloraWeightSpec {
  readonly shape: Shape;
  readonly what: string;
  /** Drawn as LoRA's A; zeros; ones; parts whose sum is 1; the model's own. */
  readonly start: "uniform" | "zero" | "ones" | "parts" | "copy";
  /** The name of the model's weight that it changes or replaces. */
  readonly weight: string;
}

/** What the sum of the r parts is multiplied by. */
export function floraShare({ r, reduction = "sum" }: FloraConfig): number {
  return reduction === "mean" ? 1 / r : 1;
}

/**
 * Every tensor of an adapter for a model with these weights: A and B of each target, then the copies of whole modules.
 *
 * @throws RangeError for a setting out of its range, or an entry of `targets` or `modulesToSave` that matches no module
 * @throws TypeError for a target that is no linear map
 */
export function floraWeights(weights: NamedShapes, config: FloraConfig): Map<string, FloraWeightSpec> {
  const { r, dropout, targets, modulesToSave, form = "residual" } = config;
  const adapter = new Map<string, FloraWeightSpec>();
  const matched = loraWeights(weights, { r, alpha: r, dropout, targets, modulesToSave });
  for (const [name, { shape, what, start, weight }] of matched) {
    const module = weight.replace(/\.weight$/, "");
    const lora = loraNames(module);
    const { A, B } = floraNames(module);
    if (start === "copy") adapter.set(name, { shape, what, start, weight });
    else if (name === lora.A) adapter.set(A, { shape, what, start: form === "residual" ? "uniform" : "ones", weight });
    else if (name === lora.B) adapter.set(B, { shape, what, start: form === "residual" ? "zero" : "parts", weight });
    else throw new TypeError(`Cannot adapt ${quote(module)}: FLoRA is offered for linear maps only: got a table`);
  }
  return adapter;
}
