/**
 * What a fine-tuning run is made of: the type that its recipes write, the defaults that flags override, and the flags.
 *
 * A recipe is a module whose default export is a part of `Finetune`, or a function from what the flags say to one.
 */
import type { Flags } from "./arguments.ts";
import { deviceFlags, optimizerFlags, runFlags, scheduleFlags } from "./flags.ts";
import { DEFAULT_RATES, isProjecting } from "./optimizer_family.ts";
import { DEFAULTS, type OptimizerOptions, type Run } from "./options.ts";

/** What is trained: every weight, every weight with GaLore, or adapters beside frozen weights. */
export const FINETUNE_METHODS = ["full", "galore", "lora", "dora"] as const;
/** One of `FINETUNE_METHODS`. */
export type FinetuneMethodName = typeof FINETUNE_METHODS[number];

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
export interface Finetune extends OptimizerOptions, Shared {
  /** A Hugging Face folder, or a run folder. */
  readonly model: string;
  /** A task of GLUE by name, `own`: one over the columns that are named here, or `sft`: the answers of conversations. */
  readonly task: string;
  /** Of an own task: the columns of a sentence, of the second one of a pair, and of the label. */
  readonly sentence?: string;
  readonly sentence2?: string;
  readonly label?: string;
  /** Of an own task: the classes in the order of their numbers, or `score` for a regression. */
  readonly labels?: readonly string[];
  /** A folder with the task's files, or the training file and the file to evaluate on. */
  readonly data: readonly string[];
  readonly method: FinetuneMethodName;
  /** Vectors of a GaLore basis, or rows and columns of an adapter's factors. */
  readonly rank: number;
  /** Adapters: their product counts alpha / rank. */
  readonly alpha: number;
  /** Adapters: alpha / sqrt(rank) instead. */
  readonly rslora: boolean;
  /** Adapters: the part of their input that is dropped in training. */
  readonly loraDropout: number;
  /** Adapters: the modules that get one, by name or end of a name, or `all-linear`. */
  readonly targets: readonly string[];
  readonly epochs: number;
  /** Tokens of an example, special ones included, before it is cut. Default: 128, or all that there are positions for. */
  readonly maxLength?: number;
  /** Of conversations: tokens of a row that they are packed into. Default: 512, or all that there are positions for. */
  readonly seq?: number;
  /** Of conversations: cut those that are longer than a row, rather than refuse them. */
  readonly truncate: boolean;
  /** Adapters: write the model with the adapter folded in, beside the adapter. */
  readonly merge: boolean;
  /** Steps between evaluations. Default: an epoch's. 0: only at the end. */
  readonly evalEvery?: number;
  /** Evaluations without a new best before the run stops; 0: never. */
  readonly patience: number;
}

/** The modules that get an adapter where nothing else is said: PEFT's choice for RoBERTa and for LLaMA. */
const USUAL_TARGETS = { sentences: ["query", "value"], sft: ["q_proj", "v_proj"] } as const;

/** The task of learning the answers of conversations. */
export const SFT = "sft";

/** Tokens of an example where nothing else is said. */
export const USUAL_LENGTH = 128;

/** The run of `deno task finetune` without flags, save for model, task and data. */
export const FINETUNE_DEFAULTS: Omit<Finetune, "model" | "task" | "targets"> = {
  ...sharedDefaults(),
  data: [],
  method: "full",
  optimizer: "adamw",
  rank: 8,
  alpha: 16,
  rslora: false,
  loraDropout: 0,
  merge: true,
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

/** Whether a method trains adapters beside frozen weights. */
export function hasAdapters(method: FinetuneMethodName): boolean {
  return method === "lora" || method === "dora";
}

/**
 * A run from what was asked for, defaults filled in: GaLore's optimizer where the method is GaLore, and a peak rate of a
 * hundredth of what an optimizer takes from scratch (AdamW: 2e-5), or for adapters of a quarter (5e-4).
 *
 * @throws RangeError for a method and an optimizer that contradict each other, or without a model or a task
 */
export function completeFinetune(asked: Partial<Finetune>): Finetune {
  const { model, task, method = FINETUNE_DEFAULTS.method } = asked;
  if (model === undefined) throw new RangeError("Cannot fine-tune without a model: give --model FOLDER");
  if (task === undefined) throw new RangeError("Cannot fine-tune without a task: give --task NAME");
  const optimizer = asked.optimizer ?? (method === "galore" ? "galore_adamw" : FINETUNE_DEFAULTS.optimizer);
  if (method === "galore" && !isProjecting(optimizer)) {
    throw new RangeError(
      `Cannot fine-tune with --method galore: its optimizer must be one that projects, such as galore_adamw: got ${optimizer}`,
    );
  }
  checkLengthFlags(task, asked);
  const lr = asked.lr ?? DEFAULT_RATES[optimizer] / (hasAdapters(method) ? 4 : 100);
  const targets = USUAL_TARGETS[task === SFT ? SFT : "sentences"];
  return { ...FINETUNE_DEFAULTS, targets, ...asked, model, task, method, optimizer, lr };
}

/** @throws RangeError for a length that the task has no use for */
function checkLengthFlags(task: string, { seq, maxLength, truncate }: Partial<Finetune>): void {
  const [name, rule] = task === SFT
    ? [maxLength !== undefined && "max-length", "--seq is the length of its rows, and --truncate cuts"]
    : [(seq !== undefined && "seq") || (truncate && "truncate"), "its examples are cut to --max-length"];
  if (name) throw new RangeError(`Cannot use --${name} with --task ${task}: ${rule}`);
}

const GROUPS = { model: "Model and data", adapter: "Adapters", run: "Run" };
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
    help: "a Hugging Face folder or a run folder: a RoBERTa, or a LLaMA for sft",
    group: GROUPS.model,
  },
  task: {
    type: "string",
    value: "NAME",
    help: "a task of GLUE, such as sst2; own; or sft, the answers of conversations",
    group: GROUPS.model,
  },
  data: {
    type: "strings",
    value: "FOLDER|FILE",
    help: "a folder with the task's files, or the training file and then the file to evaluate on; sft takes .jsonl",
    group: GROUPS.model,
  },
  ...ownTaskFlags,
  method: {
    type: "string",
    choices: FINETUNE_METHODS,
    help: "train every weight, every weight with GaLore, or adapters beside frozen weights",
    defaultHelp: FINETUNE_DEFAULTS.method,
    group: GROUPS.model,
  },
  rank: {
    type: "number",
    integer: true,
    min: 1,
    help: "vectors of a GaLore basis, or of an adapter's factors",
    defaultHelp: String(FINETUNE_DEFAULTS.rank),
    group: GROUPS.model,
  },
  batch: {
    type: "number",
    integer: true,
    min: 1,
    help: "examples, or rows of conversations, to a batch",
    defaultHelp: String(FINETUNE_DEFAULTS.batch),
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
  seq: {
    type: "number",
    integer: true,
    min: 2,
    help: "sft: tokens of a row that conversations are packed into",
    defaultHelp: "512, or the model's positions",
    group: GROUPS.model,
  },
  truncate: { type: "boolean", help: "sft: cut conversations that are longer than a row", group: GROUPS.model },
  checkpointActivations: {
    type: "boolean",
    help: "keep only each layer's input and run it again in backward",
    group: GROUPS.model,
  },
  alpha: {
    type: "number",
    above: 0,
    help: "their product counts alpha / rank",
    defaultHelp: String(FINETUNE_DEFAULTS.alpha),
    group: GROUPS.adapter,
  },
  rslora: { type: "boolean", help: "alpha / sqrt(rank) instead", group: GROUPS.adapter },
  loraDropout: {
    type: "number",
    min: 0,
    max: 0.99,
    help: "part of their input that is dropped in training",
    defaultHelp: String(FINETUNE_DEFAULTS.loraDropout),
    group: GROUPS.adapter,
  },
  targets: {
    type: "strings",
    value: "NAME",
    help: "modules that get one, by name or its end, or all-linear",
    defaultHelp: `${USUAL_TARGETS.sentences.join(" and ")}; sft: ${USUAL_TARGETS.sft.join(" and ")}`,
    group: GROUPS.adapter,
  },
  merge: {
    type: "boolean",
    help: "write the model with the adapter folded in as well; --no-merge: the adapter alone",
    defaultHelp: "on",
    group: GROUPS.adapter,
  },
  optimizer: {
    ...optimizerFlags.optimizer,
    help: "how the trained weights move",
    defaultHelp: "adamw; galore_adamw with --method galore",
  },
  lr: { ...optimizerFlags.lr, defaultHelp: "a hundredth of train's; a quarter of it for adapters" },
  ...moreOptimizerFlags,
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
