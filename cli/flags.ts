/** The flags that several verbs share, declared once. Defaults stand in `options.ts`, so that recipes can set them. */
import type { Flags } from "./arguments.ts";
import { adapterFlags } from "./finetune_method_options.ts";
import { DEFAULTS, METHODS, SCHEDULES } from "./options.ts";

export { optimizerFlags } from "./optimizer_flags.ts";

const GROUPS = { model: "Model and data", relora: "ReLoRA", schedule: "Schedule", device: "Device", run: "Run" };

/** Which device computes, and how. */
export const deviceFlags = {
  device: {
    type: "string",
    choices: ["auto", "cpu", "webgpu"],
    help: "where to compute; auto takes a GPU if there is one",
    defaultHelp: DEFAULTS.device,
    group: GROUPS.device,
  },
  threads: {
    type: "number",
    integer: true,
    min: 1,
    max: 256,
    help: "CPU threads; results do not depend on it",
    defaultHelp: "all",
    group: GROUPS.device,
  },
  blas: {
    type: "string",
    choices: ["auto", "off", "require"],
    help: "native BLAS through FFI, where permitted (train:native)",
    defaultHelp: DEFAULTS.blas,
    group: GROUPS.device,
  },
  memoryLimit: {
    type: "bytes",
    help: "most that tensors may take, such as 2GB",
    defaultHelp: "nine tenths of what is free; of a GPU, all",
    group: GROUPS.device,
  },
  autotune: {
    type: "string",
    choices: ["on", "off"],
    help: "measure a GPU's matmul kernels once and keep the result",
    defaultHelp: DEFAULTS.autotune,
    group: GROUPS.device,
  },
} as const satisfies Flags;

/** How long, and at which rates. */
export const scheduleFlags = {
  steps: {
    type: "number",
    integer: true,
    min: 1,
    help: "optimizer steps",
    defaultHelp: String(DEFAULTS.steps),
    group: GROUPS.schedule,
  },
  schedule: {
    type: "string",
    choices: SCHEDULES,
    help: "course of the learning rate",
    defaultHelp: DEFAULTS.schedule,
    group: GROUPS.schedule,
  },
  warmup: {
    type: "number",
    integer: true,
    min: 0,
    help: "steps of linear warm-up",
    defaultHelp: "a tenth of the steps",
    group: GROUPS.schedule,
  },
  minLr: {
    type: "number",
    min: 0,
    max: 1,
    help: "last rate, as a part of the peak",
    defaultHelp: String(DEFAULTS.minLr),
    group: GROUPS.schedule,
  },
  gradAccum: {
    type: "number",
    integer: true,
    min: 1,
    help: "micro-batches to a step",
    defaultHelp: String(DEFAULTS.gradAccum),
    group: GROUPS.schedule,
  },
} as const satisfies Flags;

/** What is trained on what. */
export const modelFlags = {
  model: {
    type: "string",
    value: "NAME|FOLDER",
    help: "llama-9m ... llama-7b, roberta-2m, roberta-base, roberta-large, vit-0.2m, vit-tiny-16, vit-base-16, ..., " +
      "or a Hugging Face folder",
    defaultHelp: DEFAULTS.model,
    group: GROUPS.model,
  },
  vocab: {
    type: "number",
    integer: true,
    min: 2,
    help: "vocabulary of a built-in model",
    defaultHelp: "the tokenizer's",
    group: GROUPS.model,
  },
  method: {
    type: "string",
    choices: METHODS,
    help: "train matrices whole, as factors W = BA of --rank from scratch, or by factors that are folded in",
    defaultHelp: DEFAULTS.method,
    group: GROUPS.model,
  },
  reloraEvery: { ...adapterFlags.reloraEvery, group: GROUPS.relora },
  reloraWarmup: { ...adapterFlags.reloraWarmup, group: GROUPS.relora },
  reloraReset: { ...adapterFlags.reloraReset, group: GROUPS.relora },
  reloraPrune: { ...adapterFlags.reloraPrune, group: GROUPS.relora },
  alpha: {
    type: "number",
    above: 0,
    help: "relora: the product of factors counts alpha / rank",
    defaultHelp: String(DEFAULTS.alpha),
    group: GROUPS.relora,
  },
  batch: {
    type: "number",
    integer: true,
    min: 1,
    help: "sequences, or images, to a batch",
    defaultHelp: String(DEFAULTS.batch),
    group: GROUPS.model,
  },
  seq: {
    type: "number",
    integer: true,
    min: 1,
    help: "tokens to a sequence",
    defaultHelp: String(DEFAULTS.seq),
    group: GROUPS.model,
  },
  dtype: {
    type: "string",
    choices: ["f32", "bf16"],
    help: "weights' type; bf16 on a GPU",
    defaultHelp: DEFAULTS.dtype,
    group: GROUPS.model,
  },
  checkpointActivations: {
    type: "boolean",
    help: "keep only each layer's input and run it again in backward: less memory, a third more time",
    group: GROUPS.model,
  },
} as const satisfies Flags;

/** Where text and tokens come from. */
export const dataFlags = {
  data: {
    type: "strings",
    value: "PATH",
    help:
      "text (.txt, .jsonl, .jsonl.gz; may be given many times), one token store (folder or URL), or of images for a ViT",
    group: GROUPS.model,
  },
  tokenizer: {
    type: "string",
    value: "byte|masked-byte|FOLDER",
    help: "how text becomes tokens",
    defaultHelp: "the model folder's, else byte; for a RoBERTa masked-byte",
    group: GROUPS.model,
  },
  holdOut: {
    type: "number",
    min: 0,
    max: 0.5,
    help: "part of the text, at its end, to evaluate on",
    defaultHelp: String(DEFAULTS.holdOut),
    group: GROUPS.model,
  },
} as const satisfies Flags;

/** What a run leaves behind, and when. */
export const runFlags = {
  out: {
    type: "string",
    value: "FOLDER",
    help: "run folder",
    defaultHelp: "runs/MODEL-OPTIMIZER-TIME",
    group: GROUPS.run,
  },
  resume: {
    type: "string",
    value: "FOLDER",
    bare: "latest",
    help: "go on with a run: its folder, or nothing for the latest",
    group: GROUPS.run,
  },
  config: { type: "string", value: "RECIPE.ts", help: "a recipe module; flags override it", group: GROUPS.run },
  seed: {
    type: "number",
    integer: true,
    min: 0,
    help: "of weights and data order",
    defaultHelp: String(DEFAULTS.seed),
    group: GROUPS.run,
  },
  logEvery: {
    type: "number",
    integer: true,
    min: 1,
    help: "steps between log lines",
    defaultHelp: String(DEFAULTS.logEvery),
    group: GROUPS.run,
  },
  evalEvery: {
    type: "number",
    integer: true,
    min: 0,
    help: "steps between evaluations; 0: at the end",
    defaultHelp: String(DEFAULTS.evalEvery),
    group: GROUPS.run,
  },
  evalBatches: {
    type: "number",
    integer: true,
    min: 0,
    help: "most batches of an evaluation; 0: all",
    defaultHelp: String(DEFAULTS.evalBatches),
    group: GROUPS.run,
  },
  sampleEvery: {
    type: "number",
    integer: true,
    min: 0,
    help: "steps between samples; 0: at the end",
    defaultHelp: String(DEFAULTS.sampleEvery),
    group: GROUPS.run,
  },
  sampleTokens: {
    type: "number",
    integer: true,
    min: 0,
    help: "tokens of a sample; 0: no samples",
    defaultHelp: String(DEFAULTS.sampleTokens),
    group: GROUPS.run,
  },
  prompt: {
    type: "string",
    value: "TEXT",
    help: "beginning of the samples",
    defaultHelp: "held-out text",
    group: GROUPS.run,
  },
  saveEvery: {
    type: "number",
    integer: true,
    min: 0,
    help: "steps between checkpoints; 0: at the end",
    defaultHelp: String(DEFAULTS.saveEvery),
    group: GROUPS.run,
  },
  keep: {
    type: "number",
    integer: true,
    min: 1,
    help: "checkpoints to keep",
    defaultHelp: String(DEFAULTS.keep),
    group: GROUPS.run,
  },
  overfitBatch: {
    type: "boolean",
    help: "train on the first batch over and over: the loss must go to 0",
    group: GROUPS.run,
  },
  dryRun: {
    type: "boolean",
    help: "print shapes, parameter table and memory, take one step, save nothing",
    group: GROUPS.run,
  },
} as const satisfies Flags;
