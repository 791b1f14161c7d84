/**
 * What a training run is made of: the type that recipes write, and the defaults that flags override.
 *
 * A recipe is a module, `export default { ... } satisfies Run`; a variant is a function of a base recipe.
 */
import type { Convention, ProjType, RefreshMode, Rounding } from "../optimizers/mod.ts";
import type { ReloraOptions } from "./relora.ts";
import type { ImageOptions } from "./vision_options.ts";

/** Optimizers by the names that users know. */
export const OPTIMIZERS = [
  "galore_adamw",
  "galore_adamw_8bit",
  "galore_adafactor",
  "galore_sgd",
  "q_galore",
  "fira",
  "apollo",
  "apollo_mini",
  "adamw",
  "adamw_8bit",
  "adam",
  "adafactor",
  "muon",
  "sgd",
] as const;
/** One of `OPTIMIZERS`. */
export type OptimizerName = typeof OPTIMIZERS[number];

/** Learning-rate schedules by name. */
export const SCHEDULES = ["cosine", "linear", "constant", "wsd"] as const;
/** One of `SCHEDULES`. */
export type ScheduleName = typeof SCHEDULES[number];

/** Ways to find a basis, by name. */
export const BASES = ["auto", "subspace", "randomized", "gram", "exact", "polar", "random"] as const;
/** One of `BASES`. */
export type BasisName = typeof BASES[number];

/** How projectors are stored, by name. */
export const PROJECTORS = ["auto", "f32", "bf16", "int8", "int4"] as const;
/** One of `PROJECTORS`. */
export type ProjectorName = typeof PROJECTORS[number];

/** How moments are stored, by name. */
export const STATES = ["auto", "f32", "bf16", "8bit"] as const;
/** One of `STATES`. */
export type StatesName = typeof STATES[number];

/** What is trained of each projected matrix: all of it, factors W = B A of a rank, or such beside it, folded in at times. */
export const METHODS = ["full", "lowrank", "relora"] as const;
/** One of `METHODS`. */
export type MethodName = typeof METHODS[number];

/** How an optimizer is set. Fields left out take the defaults of `DEFAULTS`. */
export interface OptimizerOptions {
  readonly optimizer: OptimizerName;
  /** Vectors in each basis. Default: a quarter of the hidden size. */
  readonly rank?: number;
  readonly updateProjGap: number;
  /** Multiplies a projected change. Default: 0.25 for GaLore and Fira, 1 for APOLLO (its root counts), 128 for its Mini. */
  readonly scale?: number;
  readonly projType: ProjType;
  /** How bases are found. `auto`: polar on a GPU, subspace on the CPU. */
  readonly basis: BasisName;
  /** Whether all bases are renewed in one step, or each in its turn. */
  readonly refresh: RefreshMode;
  /** Renews bases less often where the subspace hardly changes. Default: only `q_galore`. */
  readonly lazyRefresh?: boolean;
  /** What a new basis does to first moments. */
  readonly moments: "keep" | "transport";
  /** How bases are stored. `auto`: int4 for `q_galore`, bf16 beside bf16 weights, else f32. */
  readonly projector: ProjectorName;
  /** How moments of 4,096 elements and more are stored. `auto`: 8 bits where the optimizer's name says so, else f32. */
  readonly states: StatesName;
  /** Elements that share a scale in 8-bit states. */
  readonly stateBlock: number;
  /** How 8-bit states are rounded: without ever losing a second moment, or as bitsandbytes. */
  readonly stateRounding: "safe" | "stock";
  /** What Fira takes away from the gradient: its projection, or as the released code `scale` times that. */
  readonly residual: "orthogonal" | "released";
  /** Adafactor: its own rate, falling as 1 / sqrt(step); `lr` is not used then. */
  readonly relativeStep: boolean;
  /** Adafactor: the rate times the root mean square of the parameter. */
  readonly scaleParameter: boolean;
  /** Updates each parameter as soon as backward has its gradient. */
  readonly perLayer: boolean;
  /** Adds up whole gradients over micro-batches, so that their norm is exact. */
  readonly clipExact: boolean;
  /** Peak learning rate. Default: by optimizer, see `chooseOptimizer`. */
  readonly lr?: number;
  readonly weightDecay: number;
  readonly beta1: number;
  readonly beta2: number;
  readonly eps?: number;
  readonly momentum: number;
  /** Where paper and released code differ. Default: released for GaLore, paper (torch) otherwise. */
  readonly convention?: Convention;
  readonly schedule: ScheduleName;
  /** Steps of linear warm-up. Default: a tenth of the steps. */
  readonly warmup?: number;
  /** The rate at the end, as a part of the peak. */
  readonly minLr: number;
  /** Global norm to clip to; 0 is off. */
  readonly clip: number;
  /** Parameters to leave as they are: regular expressions over names. */
  readonly freeze: readonly string[];
  /** How changes reach 16-bit weights. */
  readonly rounding: Rounding;
}

/** Everything that decides a training run. */
export interface Run extends OptimizerOptions, ReloraOptions, Partial<ImageOptions> {
  /** A built-in name (llama-9m ... llama-7b, roberta-2m, roberta-base, vit-0.2m, vit-base-16, ...) or a Hugging Face folder. */
  readonly model: string;
  /** Text files, or one token store (folder or URL); of a ViT, one store of images. */
  readonly data: readonly string[];
  /** `byte`, `masked-byte`, or a folder. Default: the model folder's, else byte, for a RoBERTa with a mask. */
  readonly tokenizer?: string;
  /** Vocabulary of a built-in model. Default: the tokenizer's. */
  readonly vocab?: number;
  /** Part of the text, at its end, that is held out. */
  readonly holdOut: number;
  /** Whether matrices are trained whole, or by factors. With factors, AdamW is the default optimizer. */
  readonly method: MethodName;
  /** ReLoRA: the product of factors counts alpha / rank. */
  readonly alpha: number;
  readonly batch: number;
  readonly seq: number;
  readonly gradAccum: number;
  readonly steps: number;
  /** What weights and saved activations are stored in. */
  readonly dtype: "f32" | "bf16";
  /** Keeps each layer's input alone and runs the layer again in backward. */
  readonly checkpointActivations: boolean;
  readonly device: "auto" | "cpu" | "webgpu";
  readonly threads?: number;
  readonly blas: "auto" | "off" | "require";
  /** Bytes that tensors may take. */
  readonly memoryLimit?: number;
  /** Whether a GPU's matmul designs are measured once. */
  readonly autotune: "on" | "off";
  readonly out?: string;
  readonly logEvery: number;
  /** Steps between evaluations; 0: only at the end. */
  readonly evalEvery: number;
  /** Batches an evaluation reads at most; 0: the whole held-out part. */
  readonly evalBatches: number;
  readonly sampleEvery: number;
  /** Tokens of a sample; 0: no samples, also not at the end. */
  readonly sampleTokens: number;
  readonly prompt?: string;
  /** Steps between checkpoints; 0: only at the end. */
  readonly saveEvery: number;
  /** Checkpoints to keep. */
  readonly keep: number;
  readonly overfitBatch: boolean;
}

/** The run of `deno task train` without flags, save for the data. */
export const DEFAULTS: Run = {
  model: "llama-9m",
  data: [],
  optimizer: "galore_adamw",
  updateProjGap: 200,
  projType: "std",
  basis: "auto",
  refresh: "staggered",
  moments: "keep",
  projector: "auto",
  states: "auto",
  stateBlock: 256,
  stateRounding: "safe",
  residual: "orthogonal",
  relativeStep: false,
  scaleParameter: false,
  perLayer: false,
  clipExact: false,
  weightDecay: 0,
  beta1: 0.9,
  beta2: 0.999,
  momentum: 0,
  schedule: "cosine",
  minLr: 0.1,
  clip: 1,
  freeze: [],
  rounding: "stochastic",
  holdOut: 0.1,
  method: "full",
  alpha: 32,
  reloraReset: "magnitude",
  batch: 16,
  seq: 128,
  gradAccum: 1,
  steps: 500,
  dtype: "f32",
  checkpointActivations: false,
  device: "auto",
  blas: "auto",
  autotune: "on",
  seed: 1,
  logEvery: 10,
  evalEvery: 100,
  evalBatches: 0,
  sampleEvery: 0,
  sampleTokens: 400,
  saveEvery: 0,
  keep: 2,
  overfitBatch: false,
};
