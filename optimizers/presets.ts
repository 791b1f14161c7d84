/**
 * Whole optimizers under the names that users know: `galore_adamw`, `galore_adafactor`, `galore_sgd`, `muon`.
 *
 * Paper and released code differ in Adam's eps and in weight decay. `released` (the default here, as in the code that
 * people have run): eps 1e-6 beside the root of the uncorrected second moment, decay after the update. `paper`: eps 1e-8
 * after the correction (Kingma & Ba), decay before the update (Loshchilov & Hutter).
 */
import { adafactor, type AdafactorWOptions, finishAdafactor } from "./adafactor.ts";
import { type AdamOptions, scaleByAdam } from "./adam.ts";
import { apollo, type ApolloOptions } from "./apollo.ts";
import { fira, type FiraOptions } from "./fira.ts";
import { galore, type GaloreOptions } from "./galore.ts";
import { type MuonOptions, scaleByMuon } from "./muon.ts";
import { type GradientRule, route, type Routing, type Rule } from "./rule.ts";
import type { Schedule } from "./schedule.ts";
import { finish, identity, trace } from "./sgd.ts";
import { type Codec, storeAs } from "./store_as.ts";

/** Which convention an AdamW follows where paper and released code differ. */
export type Convention = "released" | "paper";

const CONVENTIONS = {
  released: { eps: 1e-6, epsPlacement: "uncorrected", decayPlacement: "after" },
  paper: { eps: 1e-8, epsPlacement: "corrected", decayPlacement: "before" },
} as const;

/** Options common to the presets. */
export interface PresetOptions {
  readonly learningRate: number | Schedule;
  readonly weightDecay?: number;
  readonly convention?: Convention;
  /** How moments of 4,096 elements and more are stored, such as `blockwise8bit()`. Default: in f32. */
  readonly states?: Codec;
  /** Seeds a codec that rounds at random. Default 0. */
  readonly seed?: number;
}

/** Options of `galoreAdamW`. `galore.rank` is required. */
export interface GaloreAdamWOptions extends PresetOptions, Pick<AdamOptions, "beta1" | "beta2" | "eps"> {
  readonly galore: GaloreOptions;
  /** Names of the parameters to project; the others get plain AdamW at the same rate. */
  readonly projected: RegExp;
}

/** AdamW on the projected matrices in their subspace, and plain AdamW on everything else: the paper's set-up. */
export function galoreAdamW(options: GaloreAdamWOptions): Routing {
  return projectedAdamW(options, (adam) => galore(adam, options.galore));
}

/** Fira over AdamW on the projected matrices, and plain AdamW on everything else. */
export function firaAdamW(
  options: Omit<GaloreAdamWOptions, "galore"> & { readonly fira: FiraOptions },
): Routing {
  return projectedAdamW(options, (adam) => fira(adam, options.fira));
}

/** APOLLO over AdamW on the projected matrices, and plain AdamW on everything else. */
export function apolloAdamW(
  options: Omit<GaloreAdamWOptions, "galore"> & { readonly apollo: ApolloOptions },
): Routing {
  return projectedAdamW(options, (adam) => apollo(adam, options.apollo));
}

function projectedAdamW(
  options: Omit<GaloreAdamWOptions, "galore">,
  wrap: (adam: GradientRule) => GradientRule,
): Routing {
  const { projected, learningRate, weightDecay } = options;
  const { adam, decayPlacement } = adamOf(options, "released");
  const tail = { learningRate, weightDecay, decayPlacement };
  return route([[projected, finish(wrap(adam()), tail)], [/(?:)/, finish(adam(), tail)]]);
}

/** Plain AdamW in either convention (`paper` is torch.optim.AdamW). */
export function adamWPreset(options: AdamWPresetOptions): Rule {
  const { learningRate, weightDecay } = options;
  const { adam, decayPlacement } = adamOf(options, "paper");
  return finish(adam(), { learningRate, weightDecay, decayPlacement });
}

/** Options of `adamWPreset`. */
export type AdamWPresetOptions = PresetOptions & Pick<AdamOptions, "beta1" | "beta2" | "eps">;

/** Adam's direction in a convention and a storage. The released 8-bit Adam places eps as the paper does. */
function adamOf(options: AdamWPresetOptions, standard: Convention) {
  const { convention = standard, states } = options;
  const { decayPlacement, ...placement } = CONVENTIONS[convention];
  const { eps, epsPlacement } = states?.name === "blockwise8bit" ? CONVENTIONS.paper : placement;
  const adam = () => stored(scaleByAdam({ eps, epsPlacement, ...definedOnly(options) }), options);
  return { adam, decayPlacement };
}

function stored(rule: GradientRule, { states, seed }: Pick<PresetOptions, "states" | "seed">): GradientRule {
  return states ? storeAs(states, rule, { seed }) : rule;
}

/** GaLore over gradient descent, with momentum in the subspace if asked for. */
export function galoreSgd(
  options: PresetOptions & { readonly galore: GaloreOptions; readonly projected: RegExp; readonly momentum?: number },
): Routing {
  const { projected, galore: projection, momentum = 0, learningRate, weightDecay } = options;
  const inner = () => momentum === 0 ? identity() : stored(trace({ decay: momentum }), options);
  const tail = { learningRate, weightDecay };
  return route([[projected, finish(galore(inner(), projection), tail)], [/(?:)/, finish(inner(), tail)]]);
}

/** Options of `adafactorPreset`: Adafactor's. */
export interface AdafactorPresetOptions extends AdafactorWOptions, Pick<PresetOptions, "states" | "seed"> {
  /** Default false. */
  readonly scaleParameter?: boolean;
}

/**
 * Adafactor without scaling by the parameter's size unless asked for; with a rate, the GaLore paper's baseline, without one
 * at the relative step.
 */
export function adafactorPreset(options: AdafactorPresetOptions): Rule {
  const whole = { ...options, scaleParameter: options.scaleParameter ?? false };
  return finishAdafactor(stored(adafactor(whole), options), whole);
}

/** Options of `galoreAdafactor`. `galore.rank` is required. */
export interface GaloreAdafactorOptions extends AdafactorPresetOptions {
  readonly galore: GaloreOptions;
  /** Names of the parameters to project; the others get plain Adafactor at the same rate. */
  readonly projected: RegExp;
}

/** Adafactor on the projected matrices in their subspace, and plain Adafactor on everything else. */
export function galoreAdafactor(options: GaloreAdafactorOptions): Routing {
  const { projected, galore: projection, weightDecay, ...rest } = options;
  const inner = { ...rest, scaleParameter: rest.scaleParameter ?? false };
  return route([
    [projected, finishAdafactor(galore(stored(adafactor(inner), options), projection), { ...inner, weightDecay })],
    [/(?:)/, adafactorPreset(options)],
  ]);
}

/** Options of `muonPreset`. */
export interface MuonPresetOptions extends PresetOptions, MuonOptions, Pick<AdamOptions, "beta1" | "beta2" | "eps"> {
  /** Names of the matrices inside the network; embeddings, heads and vectors get AdamW. */
  readonly hidden: RegExp;
  /** Rate of AdamW. Default: `learningRate`, which suits both with the scale `rms`. */
  readonly adamLearningRate?: number | Schedule;
  /** Default `rms`. */
  readonly scale?: MuonOptions["scale"];
}

/** Muon on the hidden matrices and AdamW (`paper` by default: torch's) on everything else. */
export function muonPreset(options: MuonPresetOptions): Routing {
  const { hidden, learningRate, adamLearningRate = learningRate, weightDecay, convention = "paper" } = options;
  const { momentum, nesterov, iterations, scale = "rms" } = options;
  const { decayPlacement, ...placement } = CONVENTIONS[convention];
  const tail = { weightDecay, decayPlacement };
  const direction = stored(scaleByMuon({ momentum, nesterov, iterations, scale }), options);
  const adam = stored(scaleByAdam({ ...placement, ...definedOnly(options) }), options);
  return route([
    [hidden, finish(direction, { ...tail, learningRate })],
    [/(?:)/, finish(adam, { ...tail, learningRate: adamLearningRate })],
  ]);
}

function definedOnly({ beta1, beta2, eps }: Pick<AdamOptions, "beta1" | "beta2" | "eps">): AdamOptions {
  return Object.fromEntries(Object.entries({ beta1, beta2, eps }).filter(([, value]) => value !== undefined));
}
