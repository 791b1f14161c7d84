/**
 * Ways to fine-tune by name, with what each of them may be told: options, their defaults and flags. How a way works stands
 * in its own `finetune_NAME.ts`.
 */
import type { Flags } from "./arguments.ts";
import { isProjecting } from "./optimizer_family.ts";
import type { Run } from "./options.ts";

/**
 * What is trained: every weight, every weight with GaLore, factors in place of matrices, adapters beside them, learned tokens,
 * or the head alone.
 */
export const FINETUNE_METHODS = [
  ...["full", "galore", "lowrank"] as const,
  ...["lora", "dora", "relora", "flora", "deep-lora"] as const,
  ...["vpt-shallow", "vpt-deep", "linear"] as const,
] as const;
/** One of `FINETUNE_METHODS`. */
export type FinetuneMethodName = typeof FINETUNE_METHODS[number];

/** By how much a method's usual rate differs from that of training from scratch (AdamW: 0.002). */
export const METHOD_RATES: Readonly<Record<FinetuneMethodName, number>> = {
  ...{ full: 1 / 100, galore: 1 / 100, lowrank: 1 / 100 },
  ...{ lora: 1 / 4, dora: 1 / 4, relora: 1 / 4 },
  // elements of a product of ones move the weights in proportion (Wen & Chaudhuri 2024: 8e-3 where LoRA has 1e-4)
  flora: 2,
  // three factors grow together from almost nothing, which takes longer than a factor beside one that is drawn
  "deep-lora": 1 / 2,
  // what begins from nothing beside a model that stays as it is
  ...{ "vpt-shallow": 5, "vpt-deep": 5, linear: 5 },
};

/** The modules that get an adapter where nothing else is said: PEFT's choice for RoBERTa, LLaMA and ViT. */
export const USUAL_TARGETS = {
  sentences: ["query", "value"],
  sft: ["q_proj", "v_proj"],
  images: ["query", "value"],
} as const;

/** Whether a method is Visual Prompt Tuning. */
export function hasPrompts(method: FinetuneMethodName): boolean {
  return method.startsWith("vpt-");
}

/** How large what a run trains is, in words: its prompts, or the rank of its method or optimizer. Empty without either. */
export function sizeInWords(
  { method, prompts, rank, optimizer }: Pick<MethodOptions, "method" | "prompts" | "rank"> & Pick<Run, "optimizer">,
): string {
  if (hasPrompts(method)) return `, ${prompts} prompts`;
  const isWhole = method === "full" || method === "galore" || method === "linear";
  if (!isWhole) return `, rank ${rank}`;
  if (!isProjecting(optimizer)) return "";
  return `, rank ${optimizer === "apollo_mini" ? 1 : rank}`;
}

/** What ReLoRA does to moments at a restart. */
const RELORA_RESETS = ["zero", "magnitude", "random"] as const;
/** How FLoRA's factors begin. */
const FLORA_INITS = ["residual", "ones"] as const;

/** What decides a method. */
export interface MethodOptions {
  readonly method: FinetuneMethodName;
  /** Vectors of a GaLore basis, or rows and columns of an adapter's factors. */
  readonly rank: number;
  /** Adapters: their product counts alpha / rank. */
  readonly alpha: number;
  /** Adapters: alpha / sqrt(rank) instead. */
  readonly rslora: boolean;
  /** Adapters: the part of their input that is dropped in training. */
  readonly loraDropout: number;
  /** Adapters: the modules that get one, by name or end of a name, `all-linear`, or `/EXPRESSION/` for whole names. */
  readonly targets: readonly string[];
  /** Adapters: further modules that are trained whole, by name or end of a name. */
  readonly modulesToSave: readonly string[];
  /** Adapters: write the model with the adapter folded in, beside the adapter. */
  readonly merge: boolean;
  /** ReLoRA: steps between restarts, of which the run must have a whole number. Default: a quarter of the run. */
  readonly reloraEvery?: number;
  /** ReLoRA: steps over which the rate rises again. Default: a tenth of `reloraEvery`, 100 at most. */
  readonly reloraWarmup?: number;
  /** ReLoRA: what becomes of the moments: all are set to 0, or all but the largest, or all but a random share. */
  readonly reloraReset: typeof RELORA_RESETS[number];
  /** ReLoRA: the share of them that is set to 0. Default: 0.9 of the smallest, 0.999 at random. */
  readonly reloraPrune?: number;
  /** FLoRA: factors that begin as no change beside ones, or as ones themselves. */
  readonly floraInit: typeof FLORA_INITS[number];
  /** Deep LoRA: size of the orthogonal factors at the start. */
  readonly deepInit: number;
  /** Deep LoRA: train in the subspace of the first gradient. */
  readonly deepCompress: boolean;
  /** Deep LoRA, compressed: the rate of the subspace itself as a multiple of the others'. */
  readonly deepGamma: number;
  /** Visual Prompt Tuning: tokens in the sequence, of every layer where it is deep. */
  readonly prompts: number;
  /** Visual Prompt Tuning: the part of their numbers that is dropped in training. */
  readonly promptDropout: number;
  /** Visual Prompt Tuning: width of prompts that one map takes to the model's. Default: they have the model's. */
  readonly promptProject?: number;
}

/** What a method is where nothing else is said. */
export const METHOD_DEFAULTS = {
  ...{ method: "full", rank: 8, alpha: 16, rslora: false, loraDropout: 0, modulesToSave: [], merge: true },
  ...{ reloraReset: "magnitude", floraInit: "residual", deepInit: 1e-3, deepCompress: false, deepGamma: 0.01 },
  ...{ prompts: 10, promptDropout: 0 },
} as const satisfies Partial<MethodOptions>;

/** Whether a method trains adapters beside frozen weights. */
function hasAdapters(method: FinetuneMethodName): boolean {
  return !["full", "galore", "lowrank", "linear"].includes(method);
}

/** The word for optimizers that have a rank of their own, in `METHOD_USES`. */
export const PROJECTING = "an optimizer that projects";

const LORA: readonly FinetuneMethodName[] = ["lora", "dora", "relora"];
const FACTORS: readonly FinetuneMethodName[] = [...LORA, "flora", "deep-lora"];
const PROMPTS = FINETUNE_METHODS.filter(hasPrompts);

/** Which methods have a use for a flag. `--no-merge` is for all: some have nothing to fold in anyway. */
export const METHOD_USES: Readonly<Partial<Record<keyof MethodOptions, readonly string[]>>> = {
  rank: ["galore", "lowrank", ...FACTORS, PROJECTING],
  ...{ alpha: LORA, rslora: LORA, loraDropout: FACTORS, targets: FACTORS, modulesToSave: FACTORS },
  ...{ reloraEvery: ["relora"], reloraWarmup: ["relora"], reloraReset: ["relora"], reloraPrune: ["relora"] },
  ...{ floraInit: ["flora"], deepInit: ["deep-lora"], deepCompress: ["deep-lora"], deepGamma: ["deep-lora"] },
  ...{ prompts: PROMPTS, promptDropout: PROMPTS, promptProject: PROMPTS },
};

/** The options of a run's method that decide its numbers, or null where it has none. */
export function adapterOptions(run: MethodOptions): Readonly<Record<string, unknown>> | null {
  const { method, alpha, rslora, loraDropout, targets, modulesToSave } = run;
  if (!hasAdapters(method)) return null;
  const shared = { targets, modulesToSave, loraDropout };
  switch (method) {
    case "vpt-shallow":
    case "vpt-deep": {
      const { prompts, promptDropout, promptProject = null } = run;
      return { prompts, promptDropout, promptProject };
    }
    case "flora":
      return { ...shared, floraInit: run.floraInit };
    case "deep-lora":
      return { ...shared, deepInit: run.deepInit, deepCompress: run.deepCompress, deepGamma: run.deepGamma };
    case "relora": {
      const { reloraEvery = null, reloraWarmup = null, reloraReset, reloraPrune = null } = run;
      return { ...shared, alpha, rslora, reloraEvery, reloraWarmup, reloraReset, reloraPrune };
    }
    default:
      return { ...shared, alpha, rslora };
  }
}

const MODEL = "Model and data";
const ADAPTERS = "Adapters";

/** Which method, and its rank. */
export const wayFlags = {
  method: {
    type: "string",
    choices: FINETUNE_METHODS,
    help:
      "train every weight, every weight with GaLore, factors in place of matrices, adapters or prompts beside frozen ones, or the head",
    defaultHelp: METHOD_DEFAULTS.method,
    group: MODEL,
  },
  rank: {
    type: "number",
    integer: true,
    min: 1,
    help: "vectors of a GaLore basis, or of an adapter's factors",
    defaultHelp: String(METHOD_DEFAULTS.rank),
    group: MODEL,
  },
} as const satisfies Flags;

/** What adapters may be told. */
export const adapterFlags = {
  alpha: {
    type: "number",
    above: 0,
    help: "their product counts alpha / rank",
    defaultHelp: String(METHOD_DEFAULTS.alpha),
    group: ADAPTERS,
  },
  rslora: { type: "boolean", help: "alpha / sqrt(rank) instead", group: ADAPTERS },
  loraDropout: {
    type: "number",
    min: 0,
    max: 0.99,
    help: "part of their input that is dropped in training",
    defaultHelp: String(METHOD_DEFAULTS.loraDropout),
    group: ADAPTERS,
  },
  targets: {
    type: "strings",
    value: "NAME",
    help: "modules that get one, by name or its end; all-linear; or '/EXPRESSION/', which a whole name must match",
    defaultHelp: `${USUAL_TARGETS.sentences.join(" and ")}; sft: ${USUAL_TARGETS.sft.join(" and ")}`,
    group: ADAPTERS,
  },
  modulesToSave: {
    type: "strings",
    value: "NAME",
    help: "modules that are trained whole beside them, by name or its end; a classifier's head always is",
    group: ADAPTERS,
  },
  ...methodFlags(),
  ...promptFlags(),
  merge: {
    type: "boolean",
    help: "write the model with the adapter folded in as well; --no-merge: the adapter alone",
    defaultHelp: "on",
    group: ADAPTERS,
  },
} as const satisfies Flags;

/** What single methods need to know. */
function methodFlags() {
  const group = "ReLoRA, FLoRA and Deep LoRA";
  return {
    reloraEvery: {
      ...{ type: "number", integer: true, min: 1, group },
      help: "relora: steps between two restarts; the run has a whole number of them",
      defaultHelp: "a quarter of the run",
    },
    reloraWarmup: {
      ...{ type: "number", integer: true, min: 0, group },
      help: "relora: steps over which the rate rises after a restart",
      defaultHelp: "a tenth of --relora-every, 100 at most",
    },
    reloraReset: {
      ...{ type: "string", choices: RELORA_RESETS, group },
      help: "relora: what becomes 0 of the moments: all, the smallest, or a random share",
      defaultHelp: METHOD_DEFAULTS.reloraReset,
    },
    reloraPrune: {
      ...{ type: "number", min: 0, max: 1, group },
      help: "relora: how much of them",
      defaultHelp: "0.9 of the smallest, 0.999 at random",
    },
    floraInit: {
      ...{ type: "string", choices: FLORA_INITS, group },
      help: "flora: factors that begin as no change beside ones, or as ones",
      defaultHelp: METHOD_DEFAULTS.floraInit,
    },
    deepInit: {
      ...{ type: "number", above: 0, group },
      help: "deep-lora: size of its orthogonal factors at the start",
      defaultHelp: String(METHOD_DEFAULTS.deepInit),
    },
    deepCompress: { type: "boolean", help: "deep-lora: train in the subspace of the first gradient", group },
    deepGamma: {
      ...{ type: "number", min: 0, group },
      help: "deep-lora, compressed: rate of the subspace as a multiple of the others'",
      defaultHelp: String(METHOD_DEFAULTS.deepGamma),
    },
  } as const satisfies Flags;
}

/** What Visual Prompt Tuning needs to know. */
function promptFlags() {
  const group = "Visual prompts";
  return {
    prompts: {
      ...{ type: "number", integer: true, min: 1, group },
      help: "vpt: learned tokens in the sequence, of every layer with vpt-deep",
      defaultHelp: String(METHOD_DEFAULTS.prompts),
    },
    promptDropout: {
      ...{ type: "number", min: 0, max: 0.99, group },
      help: "vpt: part of their numbers that is dropped in training",
      defaultHelp: String(METHOD_DEFAULTS.promptDropout),
    },
    promptProject: {
      ...{ type: "number", integer: true, min: 1, group },
      help: "vpt: width of prompts that one shared map takes to the model's",
      defaultHelp: "the model's, and no map",
    },
  } as const satisfies Flags;
}
