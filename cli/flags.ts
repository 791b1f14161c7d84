/** The flags that several verbs share, declared once. Defaults stand in `options.ts`, so that recipes can set them. */
import type { Flags } from "./arguments.ts";
import { BASES, DEFAULTS, OPTIMIZERS, SCHEDULES } from "./options.ts";

const GROUPS = { model: "Model and data", optimizer: "Optimizer", schedule: "Schedule", device: "Device", run: "Run" };

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

/** How weights move. */
export const optimizerFlags = {
  optimizer: {
    type: "string",
    choices: OPTIMIZERS,
    help: "how weights move",
    defaultHelp: DEFAULTS.optimizer,
    group: GROUPS.optimizer,
  },
  rank: {
    type: "number",
    integer: true,
    min: 1,
    help: "vectors in each GaLore basis",
    defaultHelp: "hidden size / 4",
    group: GROUPS.optimizer,
  },
  updateProjGap: {
    type: "number",
    integer: true,
    min: 1,
    help: "steps between two bases",
    defaultHelp: String(DEFAULTS.updateProjGap),
    group: GROUPS.optimizer,
  },
  scale: {
    type: "number",
    above: 0,
    help: "multiplies GaLore's change",
    defaultHelp: String(DEFAULTS.scale),
    group: GROUPS.optimizer,
  },
  projType: {
    type: "string",
    choices: ["std", "reverse_std", "left", "right", "full"],
    help: "which side GaLore compresses",
    defaultHelp: DEFAULTS.projType,
    group: GROUPS.optimizer,
  },
  basis: {
    type: "string",
    choices: BASES,
    help: "how bases are found",
    defaultHelp: "polar on a GPU, subspace on the CPU",
    group: GROUPS.optimizer,
  },
  refresh: {
    type: "string",
    choices: ["together", "staggered"],
    help: "renew all bases in one step, or each in its turn",
    defaultHelp: DEFAULTS.refresh,
    group: GROUPS.optimizer,
  },
  lr: {
    type: "number",
    above: 0,
    help: "peak learning rate",
    aliases: ["learningRate"],
    defaultHelp: "0.02 GaLore, 0.003 Adam, 0.1 SGD",
    group: GROUPS.optimizer,
  },
  weightDecay: {
    type: "number",
    min: 0,
    help: "decoupled weight decay",
    defaultHelp: String(DEFAULTS.weightDecay),
    group: GROUPS.optimizer,
  },
  beta1: {
    type: "number",
    min: 0,
    max: 1,
    help: "Adam's first decay",
    defaultHelp: String(DEFAULTS.beta1),
    group: GROUPS.optimizer,
  },
  beta2: {
    type: "number",
    min: 0,
    max: 1,
    help: "Adam's second decay",
    defaultHelp: String(DEFAULTS.beta2),
    group: GROUPS.optimizer,
  },
  eps: {
    type: "number",
    above: 0,
    help: "Adam's eps",
    defaultHelp: "1e-6 released, 1e-8 paper",
    group: GROUPS.optimizer,
  },
  momentum: {
    type: "number",
    min: 0,
    max: 1,
    help: "momentum of SGD",
    defaultHelp: String(DEFAULTS.momentum),
    group: GROUPS.optimizer,
  },
  convention: {
    type: "string",
    choices: ["released", "paper"],
    help: "eps and decay as in GaLore's released code, or as in the papers",
    defaultHelp: "released for GaLore, else paper",
    group: GROUPS.optimizer,
  },
  clip: {
    type: "number",
    min: 0,
    help: "global norm to clip to; 0 is off",
    defaultHelp: String(DEFAULTS.clip),
    group: GROUPS.optimizer,
  },
  freeze: {
    type: "strings",
    value: "REGEX",
    help: "leave parameters of these names as they are",
    group: GROUPS.optimizer,
  },
  rounding: {
    type: "string",
    choices: ["stochastic", "master", "nearest"],
    help: "how changes reach bf16 weights; master keeps an f32 copy",
    defaultHelp: DEFAULTS.rounding,
    group: GROUPS.optimizer,
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
    help: "llama-9m ... llama-7b, or a Hugging Face folder",
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
  batch: {
    type: "number",
    integer: true,
    min: 1,
    help: "sequences to a batch",
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
    help: "text (.txt, .jsonl, .jsonl.gz; may be given many times), or one token store (folder or URL)",
    group: GROUPS.model,
  },
  tokenizer: {
    type: "string",
    value: "byte|FOLDER",
    help: "how text becomes tokens",
    defaultHelp: "the model folder's, else byte",
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
