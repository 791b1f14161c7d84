/**
 * What `testdata/golden.json` holds, and its runs as rules of ours. No comparing: that is in `goldens.ts`.
 */
import { type GoldenTensor, readGolden, readJson } from "../../core/testing/golden.ts";
import { type LlamaConfig, parseLlamaConfig } from "../../models/mod.ts";
import {
  adafactor,
  adafactorW,
  type AdafactorWOptions,
  adamW,
  type BasisStrategy,
  finish,
  finishAdafactor,
  galore,
  galoreAdafactor,
  galoreAdamW,
  type GaloreOptions,
  type ProjType,
  type Routing,
  type Rule,
  scaleByAdam,
} from "../mod.ts";

/** How far a run may lie from its file: after each snapshot's step, and in its losses. */
export interface Tolerance {
  readonly step1: number;
  readonly step4: number;
  readonly step12: number;
  readonly loss: number;
}

interface AdamSettings {
  readonly lr: number;
  readonly betas: readonly [number, number];
  readonly eps: number;
  readonly weight_decay: number;
}

/** What is left out has the default of the class. */
interface AdafactorSettings {
  readonly lr?: number | null;
  readonly eps?: readonly [number, number];
  readonly clip_threshold?: number;
  readonly decay_rate?: number;
  readonly beta1?: number | null;
  readonly weight_decay?: number;
  readonly relative_step?: boolean;
  readonly scale_parameter?: boolean;
  readonly warmup_init?: boolean;
}

/** One run of the file. */
export interface GoldenRun {
  readonly optimizer: string;
  readonly options: AdamSettings | AdafactorSettings;
  readonly galore:
    | { readonly rank: number; readonly update_proj_gap: number; readonly scale: number; readonly proj_type: ProjType }
    | null;
  readonly projector_refresh_before_steps: readonly number[] | null;
  readonly recommended_tolerance: Tolerance;
  readonly recommended_tolerance_own_svd?: Tolerance;
}

interface GoldenFile {
  readonly batch: number;
  readonly seq: number;
  readonly steps: number;
  readonly snapshots_after_steps: readonly (1 | 4 | 12)[];
  readonly runs: Readonly<Record<string, GoldenRun>>;
}

const FOLDER = new URL("../testdata/", import.meta.url);

export const FILE = readJson<GoldenFile>(new URL("golden.json", FOLDER));
export const START = tensorsOf("model");
export const BATCHES = tensorsOf("batches");
export const CONFIG: LlamaConfig = parseLlamaConfig(readJson(new URL("config.json", FOLDER)));
/** What every GaLore run projects. */
export const PROJECTED = /proj\.weight$/;

/** The tensors of a run, or of what all runs share. */
export function tensorsOf(name: string): ReadonlyMap<string, GoldenTensor> {
  return readGolden(new URL(`${name}.safetensors`, FOLDER));
}

const isAdafactor = ({ optimizer }: GoldenRun) => optimizer === "GaLoreAdafactor";

/** What a user calls for a run: the name of its test. */
export function presetName(run: GoldenRun): string {
  if (isAdafactor(run)) return run.galore ? "galoreAdafactor()" : "adafactorW()";
  return run.galore ? "galoreAdamW()" : "adamW()";
}

/** The rule of the parameters that no run projects. */
export function plainRule(run: GoldenRun): Rule {
  if (isAdafactor(run)) return adafactorW(adafactorOptions(run));
  const released = run.optimizer.startsWith("GaLore");
  return adamW({
    ...adamOptions(run),
    epsPlacement: released ? "uncorrected" : "corrected",
    decayPlacement: released ? "after" : "before",
  });
}

/** The rule of one projected matrix, with a basis of its own. */
export function projectedRule(run: GoldenRun, basis: BasisStrategy): Rule {
  const projection = galoreOptions(run, basis);
  if (isAdafactor(run)) {
    const { weightDecay, ...options } = adafactorOptions(run);
    return finishAdafactor(galore(adafactor(options), projection), { ...options, weightDecay });
  }
  const { learningRate, weightDecay, ...options } = adamOptions(run);
  const inner = scaleByAdam({ ...options, epsPlacement: "uncorrected" });
  return finish(galore(inner, projection), { learningRate, weightDecay, decayPlacement: "after" });
}

/** A projected run as a user writes it. */
export function presetOf(run: GoldenRun, basis: BasisStrategy): Routing {
  const target = { galore: galoreOptions(run, basis), projected: PROJECTED };
  if (!isAdafactor(run)) return galoreAdamW({ ...adamOptions(run), ...target });
  // scaleParameter is false in all of these runs, as it is in the preset
  const { learningRate, beta1, weightDecay } = adafactorOptions(run);
  return galoreAdafactor({ learningRate: learningRate!, beta1, weightDecay, ...target });
}

function galoreOptions({ galore: settings }: GoldenRun, basis: BasisStrategy): GaloreOptions {
  const { rank, update_proj_gap: updateProjGap, scale, proj_type: projType } = settings!;
  return { rank, updateProjGap, scale, projType, basis };
}

function adamOptions({ options }: GoldenRun) {
  const { lr: learningRate, betas: [beta1, beta2], eps, weight_decay: weightDecay } = options as AdamSettings;
  return { learningRate, beta1, beta2, eps, weightDecay };
}

function adafactorOptions({ options }: GoldenRun): AdafactorWOptions {
  const settings = options as AdafactorSettings;
  return {
    learningRate: settings.lr ?? undefined,
    eps1: settings.eps?.[0],
    eps2: settings.eps?.[1],
    clipThreshold: settings.clip_threshold,
    // the released code holds the exponent, -0.8
    decayRate: settings.decay_rate === undefined ? undefined : -settings.decay_rate,
    beta1: settings.beta1 ?? undefined,
    relativeStep: settings.relative_step,
    scaleParameter: settings.scale_parameter,
    warmupInit: settings.warmup_init,
    weightDecay: settings.weight_decay,
  };
}
