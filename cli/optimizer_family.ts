/** The optimizers by the names of the command line: from options to rules per parameter. */
import {
  adafactorPreset,
  adamWPreset,
  affine,
  apolloAdamW,
  type BasisStrategy,
  bfloat16,
  blockwise8bit,
  type Codec,
  exactBasis,
  firaAdamW,
  galoreAdafactor,
  galoreAdamW,
  galoreSgd,
  gramBasis,
  muonPreset,
  polarBasis,
  type PresetOptions,
  type ProjectionOptions,
  randomBasis,
  randomizedBasis,
  route,
  type Routing,
  type Rule,
  type Schedule,
  sgd,
  subspaceBasis,
} from "../optimizers/mod.ts";
import type { BasisName, OptimizerName, OptimizerOptions, Run } from "./options.ts";

/** Peak rates where none is given: the best of the study in BENCHMARKS.md, which has the default run's model and steps. */
export const DEFAULT_RATES: Readonly<Record<OptimizerName, number>> = {
  galore_adamw: 0.02,
  galore_adamw_8bit: 0.02,
  galore_adafactor: 0.03,
  galore_sgd: 0.1,
  q_galore: 0.02,
  fira: 0.01,
  apollo: 0.01,
  apollo_mini: 0.01,
  adamw: 0.002,
  adamw_8bit: 0.002,
  adam: 0.002,
  adafactor: 0.003,
  muon: 0.005,
  sgd: 0.1,
};

const PROJECTING: ReadonlySet<OptimizerName> = new Set([
  "galore_adamw",
  "galore_adamw_8bit",
  "galore_adafactor",
  "galore_sgd",
  "q_galore",
  "fira",
  "apollo",
  "apollo_mini",
]);

/** Whether an optimizer works in a subspace. */
export function isProjecting(optimizer: OptimizerName): boolean {
  return PROJECTING.has(optimizer);
}

/** The strategies that `--basis` names. */
export const STRATEGIES = {
  subspace: () => subspaceBasis(),
  randomized: () => randomizedBasis(),
  gram: gramBasis,
  exact: exactBasis,
  polar: () => polarBasis(),
  random: () => randomBasis(),
};

/**
 * What `auto` stands for: subspace iteration factors on the host, the polar basis only multiplies, so that it suits a GPU;
 * APOLLO draws its bases.
 */
export function resolveBasis(
  { basis, optimizer }: Pick<OptimizerOptions, "basis" | "optimizer">,
  kind: "cpu" | "webgpu",
): Exclude<BasisName, "auto"> {
  if (basis !== "auto") return basis;
  if (optimizer.startsWith("apollo")) return "random";
  return kind === "webgpu" ? "polar" : "subspace";
}

/** What decides a family's rules beside the options. */
export interface FamilyContext {
  readonly learningRate: Schedule;
  readonly rank: number;
  readonly projected: RegExp;
  readonly seed: number;
  readonly dtype: Run["dtype"];
  /** Replaces the basis strategy: the planner's, which computes nothing. */
  readonly basis?: BasisStrategy;
}

/** The rules of an optimizer, by parameter name. */
export function familyRouting(options: OptimizerOptions, context: FamilyContext): Routing {
  const { optimizer, momentum, beta1, beta2, eps, weightDecay, convention, residual } = options;
  const { learningRate, projected, seed } = context;
  const states = statesOf(options);
  const common = { learningRate, weightDecay, convention, states, seed };
  const adam = { ...common, beta1, beta2, eps };
  const adafactor = { ...adafactorOf(options, learningRate), weightDecay, states, seed };
  const projection = projectionOf(options, context);
  const scaled = { ...projection, scale: options.scale ?? 0.25 };
  switch (optimizer) {
    case "galore_adamw":
    case "galore_adamw_8bit":
    case "q_galore":
      return galoreAdamW({ ...adam, galore: scaled, projected });
    case "galore_sgd":
      return galoreSgd({ ...common, galore: scaled, projected, momentum });
    case "galore_adafactor":
      return galoreAdafactor({ ...adafactor, galore: scaled, projected });
    case "fira":
      return firaAdamW({ ...adam, fira: { ...scaled, residual }, projected });
    case "apollo":
    case "apollo_mini":
      return apolloAdamW({ ...adam, apollo: { ...projection, ...apolloOf(options) }, projected });
    case "muon":
      return muonPreset({ ...adam, hidden: projected });
    default:
      return everywhere(wholeRule(options, common));
  }
}

function everywhere(rule: Rule): Routing {
  return route([[/(?:)/, rule]]);
}

/** The rules that treat every parameter alike. */
function wholeRule(options: OptimizerOptions, common: PresetOptions & { readonly learningRate: Schedule }): Rule {
  const { optimizer, momentum, beta1, beta2, eps } = options;
  const { weightDecay, states, seed } = common;
  switch (optimizer) {
    case "sgd":
      return sgd({ ...common, momentum });
    case "adafactor":
      return adafactorPreset({ ...adafactorOf(options, common.learningRate), weightDecay, states, seed });
    default:
      return adamWPreset({ ...common, beta1, beta2, eps });
  }
}

/** A beta1 of 0 is no first moment, and no memory for one. */
function adafactorOf({ beta1, relativeStep, scaleParameter }: OptimizerOptions, learningRate: Schedule) {
  const rate = relativeStep ? { relativeStep } : { learningRate };
  return { beta1: beta1 === 0 ? undefined : beta1, scaleParameter, ...rate };
}

function apolloOf({ optimizer, scale }: OptimizerOptions) {
  const isMini = optimizer === "apollo_mini";
  return { over: isMini ? "tensor" : "channel", scale: scale ?? (isMini ? 128 : 1) } as const;
}

function projectionOf(options: OptimizerOptions, { rank, seed, dtype, basis }: FamilyContext): ProjectionOptions {
  const { optimizer, updateProjGap, projType, refresh, moments } = options;
  const name = resolveBasis(options, "cpu");
  const isDrawn = name === "random";
  const strategy = isDrawn ? randomBasis() : basis ?? STRATEGIES[name]();
  const isLazy = options.lazyRefresh ?? optimizer === "q_galore";
  return {
    ...{ rank, updateProjGap, projType, refresh, moments, seed, basis: strategy },
    ...(isDrawn ? {} : { projector: projectorOf(options, dtype), lazy: isLazy ? {} : undefined }),
  };
}

function projectorOf({ projector, optimizer }: OptimizerOptions, dtype: Run["dtype"]): Codec | undefined {
  const name = projector !== "auto" ? projector : optimizer === "q_galore" ? "int4" : dtype;
  switch (name) {
    case "f32":
      return undefined;
    case "bf16":
      return bfloat16({ rounding: "nearest" });
    default:
      return affine({ bits: name === "int4" ? 4 : 8 });
  }
}

function statesOf({ states, optimizer, stateBlock, stateRounding }: OptimizerOptions): Codec | undefined {
  const name = states !== "auto" ? states : /8bit|^q_/.test(optimizer) ? "8bit" : "f32";
  switch (name) {
    case "f32":
      return undefined;
    case "bf16":
      return bfloat16();
    case "8bit":
      return blockwise8bit({ blockSize: stateBlock, rounding: stateRounding });
  }
}
