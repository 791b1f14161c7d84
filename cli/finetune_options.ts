/**
 * What a fine-tuning run is made of: the type that its recipes write, the defaults that flags override, and the flags.
 *
 * A recipe is a module whose default export is a part of `Finetune`, or a function from what the flags say to one.
 */
import type { Flags } from "./arguments.ts";
import { checkUses } from "./flag_uses.ts";
import { deviceFlags, optimizerFlags, runFlags, scheduleFlags } from "./flags.ts";
import {
  adapterFlags,
  hasPrompts,
  METHOD_DEFAULTS,
  METHOD_RATES,
  METHOD_USES,
  type MethodOptions,
  PROJECTING,
  USUAL_TARGETS,
  wayFlags,
} from "./finetune_method_options.ts";
import { DEFAULT_RATES, isProjecting } from "./optimizer_family.ts";
import { checkReloraSchedule } from "./relora.ts";
import { kebab } from "./verbs.ts";
import { DEFAULTS, type OptimizerOptions, type Run } from "./options.ts";
import { IMAGE_DEFAULTS, imageFlags, type ImageOptions, IMAGES } from "./vision_options.ts";

/** The options of a training run that fine-tuning shares. */
type Shared = Pick<
  Run,
  | "batch"
  | "gradAccum"
  | "checkpointActivations"
  | "device"
  | "threads"
  | "blas"
  | "memoryLimit"
  | "autotune"
  | "seed"
  | "out"
  | "logEvery"
  | "saveEvery"
  | "keep"
>;

/** Everything that decides a fine-tuning run. */
export interface Finetune extends Omit<OptimizerOptions, "rank">, MethodOptions, ImageOptions, Shared {
  /** A Hugging Face folder, or a run folder; of `train`, a ViT by name too. */
  readonly model: string;
  /** A task of GLUE by name, `own`: one over columns that are named here, `sft`: answers, or `images`: what they show. */
  readonly task: string;
  /** Of an own task: the columns of a sentence, of the second one of a pair, and of the label. */
  readonly sentence?: string;
  readonly sentence2?: string;
  readonly label?: string;
  /** Of an own task: the classes in the order of their numbers, or `score` for a regression. */
  readonly labels?: readonly string[];
  /** A folder with the task's files, the training file and the file to evaluate on, or a store of images. */
  readonly data: readonly string[];
  readonly epochs: number;
  /** Of `train`: optimizer steps of the run, whatever `epochs` says. */
  readonly steps?: number;
  /** Tokens of an example, special ones included, before it is cut. Default: 128, or all that there are positions for. */
  readonly maxLength?: number;
  /** Of sentences: the share of activations that is dropped in training, in place of what the model's configuration says. */
  readonly dropout?: number;
  /** Of conversations: tokens of a row that they are packed into. Default: 512, or all that there are positions for. */
  readonly seq?: number;
  /** Of conversations: cut those longer than a row, rather than refuse them; leave out those that lose all answers. */
  readonly truncate: boolean;
  /** Steps between evaluations. Default: an epoch's. 0: only at the end. */
  readonly evalEvery?: number;
  /** Evaluations without a new best before the run stops; 0: never. */
  readonly patience: number;
}

/** The task of learning the answers of conversations. */
export const SFT = "sft";

/** Tokens of an example where nothing else is said. */
export const USUAL_LENGTH = 128;

/** Rows to a batch of conversations where nothing else is said: a row holds many of them, and a file fills few rows. */
const USUAL_ROWS = 4;

/** The run of `deno task finetune` without flags, save for model, task and data; sft has `USUAL_ROWS` to a batch. */
export const FINETUNE_DEFAULTS: Omit<Finetune, "model" | "task" | "targets"> = {
  ...sharedDefaults(),
  ...METHOD_DEFAULTS,
  ...IMAGE_DEFAULTS,
  data: [],
  optimizer: "adamw",
  truncate: false,
  schedule: "linear",
  warmup: 0,
  minLr: 0,
  batch: 16,
  epochs: 3,
  patience: 0,
};

function sharedDefaults(): OptimizerOptions & Shared {
  const { model: _m, data: _d, method: _t, holdOut: _h, seq: _s, steps: _n, dtype: _y, ...rest } = DEFAULTS;
  const { evalEvery: _e, evalBatches: _b, sampleEvery: _a, sampleTokens: _k, overfitBatch: _o, ...shared } = rest;
  return shared;
}

/**
 * A run from what was asked for, defaults filled in: GaLore's optimizer where the method is GaLore, and a peak rate that
 * is a part of what an optimizer takes from scratch (AdamW: 2e-5, with LoRA 5e-4).
 *
 * @throws RangeError for a method and an optimizer that contradict each other, or without a model or a task
 */
export function completeFinetune(asked: Partial<Finetune>): Finetune {
  const { model, task, method = METHOD_DEFAULTS.method } = asked;
  if (model === undefined) throw new RangeError("Cannot fine-tune without a model: give --model FOLDER");
  if (task === undefined) throw new RangeError("Cannot fine-tune without a task: give --task NAME");
  const optimizer = asked.optimizer ?? (method === "galore" ? "galore_adamw" : FINETUNE_DEFAULTS.optimizer);
  if (method === "galore" && !isProjecting(optimizer)) {
    throw new RangeError(
      `Cannot fine-tune with --method galore: its optimizer must be one that projects, such as galore_adamw: got ${optimizer}`,
    );
  }
  checkLengthFlags(task, asked);
  checkMethod(task, method);
  const lr = asked.lr ?? DEFAULT_RATES[optimizer] * METHOD_RATES[method];
  const targets = USUAL_TARGETS[task === SFT || task === IMAGES ? task : "sentences"];
  const batch = task === SFT ? USUAL_ROWS : FINETUNE_DEFAULTS.batch;
  return { ...FINETUNE_DEFAULTS, targets, batch, ...asked, model, task, method, optimizer, lr };
}

/** @throws RangeError for a method that trains what the task's model has not got */
function checkMethod(task: string, method: Finetune["method"]): void {
  const rule = hasPrompts(method) && task !== IMAGES
    ? `prompts are for a ViT, --task ${IMAGES}`
    : method === "linear" && task === SFT
    ? "it trains a classifier's head, and a LLaMA that answers has none"
    : undefined;
  if (rule) throw new RangeError(`Cannot fine-tune with --method ${method} on ${task}: ${rule}`);
}

/** @throws RangeError for a length that the task has no use for */
function checkLengthFlags(task: string, asked: Partial<Finetune>): void {
  const { seq, maxLength, truncate } = asked;
  if (asked.dropout !== undefined && (task === SFT || task === IMAGES)) {
    throw new RangeError(`Cannot use --dropout with --task ${task}: it is for tasks of sentences`);
  }
  const imageFlag = (["crop", "cropPadding", "flip"] as const).find((key) => asked[key]);
  if (imageFlag && task !== IMAGES) {
    throw new RangeError(`Cannot use --${kebab(imageFlag)} with --task ${task}: it is for images`);
  }
  const [name, rule] = task === IMAGES
    ? [(maxLength !== undefined && "max-length") || (seq !== undefined && "seq") || (truncate && "truncate"), NO_TEXT]
    : task === SFT
    ? [maxLength !== undefined && "max-length", "--seq is the length of its rows, and --truncate cuts"]
    : [(seq !== undefined && "seq") || (truncate && "truncate"), "its examples are cut to --max-length"];
  if (name) throw new RangeError(`Cannot use --${name} with --task ${task}: ${rule}`);
}

/**
 * Refuses flags that the run's method or task has no use for.
 *
 * @param flags what was given on the command line; what defaults, a recipe or an earlier start say beside it is harmless
 * @throws RangeError with what the flag is for
 */
export function checkFinetuneFlags({ method, task, optimizer }: Finetune, flags: Partial<Finetune>): void {
  const given = Object.entries(flags).filter(([, value]) => value !== false).map(([key]) => key);
  const isMethod = (use: string) => use === method || (use === PROJECTING && isProjecting(optimizer));
  checkUses(given, METHOD_USES, isMethod, `with --method ${method}`);
  checkReloraSchedule({ method, schedule: flags.schedule });
  checkUses(given, TASK_USES, (use) => use === `--task ${task}`, `with --task ${task}`);
}

const OWN = ["--task own"];
const TASK_USES = { sentence: OWN, sentence2: OWN, label: OWN, labels: OWN };

const NO_TEXT = "images have no text to cut";

const GROUPS = { model: "Model and data", run: "Run" };
const { rank: _rank, lr: _lr, optimizer: _optimizer, ...moreOptimizerFlags } = optimizerFlags;
const { steps: _steps, schedule: _schedule, warmup: _warmup, minLr: _minLr, ...moreScheduleFlags } = scheduleFlags;
const { out, resume, config, seed, logEvery, saveEvery, keep } = runFlags;

/** What a task is, where it is not one of GLUE. */
export const ownTaskFlags = {
  sentence: { type: "string", value: "COLUMN", help: "own task: the sentence", group: GROUPS.model },
  sentence2: { type: "string", value: "COLUMN", help: "own task: the second sentence of a pair", group: GROUPS.model },
  label: { type: "string", value: "COLUMN", help: "own task: the label", group: GROUPS.model },
  labels: {
    type: "strings",
    value: "CLASS",
    help: "own task: its classes, each by a flag, or score for a regression",
    group: GROUPS.model,
  },
} as const satisfies Flags;

/** The flags of the verb. */
export const finetuneFlags = {
  model: {
    type: "string",
    value: "FOLDER",
    help: "a Hugging Face folder or a run folder: a RoBERTa, a LLaMA for sft, or a ViT for images",
    group: GROUPS.model,
  },
  task: {
    type: "string",
    value: "NAME",
    help: "a task of GLUE, such as sst2; own; sft, the answers of conversations; or images, what they show",
    group: GROUPS.model,
  },
  data: {
    type: "strings",
    value: "FOLDER|FILE",
    help: "a folder with the task's files, or the training file and then the file to evaluate on; sft takes .jsonl; " +
      "images a store of prepare --images",
    group: GROUPS.model,
  },
  ...ownTaskFlags,
  ...wayFlags,
  batch: {
    type: "number",
    integer: true,
    min: 1,
    help: "examples, images, or rows of conversations, to a batch",
    defaultHelp: `${FINETUNE_DEFAULTS.batch}; sft: ${USUAL_ROWS}`,
    group: GROUPS.model,
  },
  maxLength: {
    type: "number",
    integer: true,
    min: 5,
    help: "tokens of an example before it is cut",
    defaultHelp: String(USUAL_LENGTH),
    group: GROUPS.model,
  },
  dropout: {
    type: "number",
    min: 0,
    max: 0.99,
    help: "part of the activations that is dropped in training, for tasks of sentences",
    defaultHelp: "the model's",
    group: GROUPS.model,
  },
  seq: {
    type: "number",
    integer: true,
    min: 2,
    help: "sft: tokens of a row that conversations are packed into",
    defaultHelp: "512, or the model's positions",
    group: GROUPS.model,
  },
  truncate: {
    type: "boolean",
    help: "sft: cut conversations that are longer than a row, and leave out those that lose all answers",
    group: GROUPS.model,
  },
  checkpointActivations: {
    type: "boolean",
    help: "keep only each layer's input and run it again in backward",
    group: GROUPS.model,
  },
  ...imageFlags,
  ...adapterFlags,
  optimizer: {
    ...optimizerFlags.optimizer,
    help: "how the trained weights move",
    defaultHelp: "adamw; galore_adamw with --method galore",
  },
  lr: {
    ...optimizerFlags.lr,
    defaultHelp: "a hundredth of train's; lora: a quarter, flora: twice, deep-lora: half, vpt and linear: 5 times",
  },
  ...moreOptimizerFlags,
  eps: {
    ...optimizerFlags.eps,
    defaultHelp: `${optimizerFlags.eps.defaultHelp}; deep-lora: 1e-8 times --deep-init squared`,
  },
  epochs: {
    type: "number",
    above: 0,
    help: "passes over the training examples",
    defaultHelp: String(FINETUNE_DEFAULTS.epochs),
    group: "Schedule",
  },
  schedule: { ...scheduleFlags.schedule, defaultHelp: FINETUNE_DEFAULTS.schedule },
  warmup: { ...scheduleFlags.warmup, defaultHelp: String(FINETUNE_DEFAULTS.warmup) },
  minLr: { ...scheduleFlags.minLr, defaultHelp: String(FINETUNE_DEFAULTS.minLr) },
  ...moreScheduleFlags,
  evalEvery: {
    type: "number",
    integer: true,
    min: 0,
    help: "steps between evaluations; 0: at the end",
    defaultHelp: "an epoch's",
    group: GROUPS.run,
  },
  patience: {
    type: "number",
    integer: true,
    min: 0,
    help: "stop after so many evaluations without a new best; 0: never",
    defaultHelp: String(FINETUNE_DEFAULTS.patience),
    group: GROUPS.run,
  },
  ...{ out, resume, config, seed, logEvery, saveEvery, keep },
  ...deviceFlags,
} as const satisfies Flags;
