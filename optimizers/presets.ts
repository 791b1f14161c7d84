/**
 * Whole optimizers under the names that users know: `galore_adamw`, `galore_sgd`.
 *
 * Paper and released code differ in Adam's eps and in weight decay. `released` (the default here, as in the code that
 * people have run): eps 1e-6 beside the root of the uncorrected second moment, decay after the update. `paper`: eps 1e-8
 * after the correction (Kingma & Ba), decay before the update (Loshchilov & Hutter).
 */
import { type AdamOptions, scaleByAdam } from "./adam.ts";
import { galore, type GaloreOptions } from "./galore.ts";
import { route, type Routing, type Rule } from "./rule.ts";
import type { Schedule } from "./schedule.ts";
import { finish, identity, trace } from "./sgd.ts";

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
}

/** Options of `galoreAdamW`. `galore.rank` is required. */
export interface GaloreAdamWOptions extends PresetOptions, Pick<AdamOptions, "beta1" | "beta2" | "eps"> {
  readonly galore: GaloreOptions;
  /** Names of the parameters to project; the others get plain AdamW at the same rate. */
  readonly projected: RegExp;
}

/** AdamW on the projected matrices in their subspace, and plain AdamW on everything else: the paper's set-up. */
export function galoreAdamW(options: GaloreAdamWOptions): Routing {
  const { projected, convention = "released", galore: projection, learningRate, weightDecay } = options;
  const { decayPlacement, ...placement } = CONVENTIONS[convention];
  const adam = () => scaleByAdam({ ...placement, ...definedOnly(options) });
  const tail = { learningRate, weightDecay, decayPlacement };
  return route([[projected, finish(galore(adam(), projection), tail)], [/(?:)/, finish(adam(), tail)]]);
}

/** Plain AdamW in either convention (`paper` is torch.optim.AdamW). */
export function adamWPreset(options: PresetOptions & Pick<AdamOptions, "beta1" | "beta2" | "eps">): Rule {
  const { convention = "paper", learningRate, weightDecay } = options;
  const { decayPlacement, ...placement } = CONVENTIONS[convention];
  return finish(scaleByAdam({ ...placement, ...definedOnly(options) }), { learningRate, weightDecay, decayPlacement });
}

/** GaLore over gradient descent, with momentum in the subspace if asked for. */
export function galoreSgd(
  options: PresetOptions & { readonly galore: GaloreOptions; readonly projected: RegExp; readonly momentum?: number },
): Routing {
  const { projected, galore: projection, momentum = 0, learningRate, weightDecay } = options;
  const inner = () => momentum === 0 ? identity() : trace({ decay: momentum });
  const tail = { learningRate, weightDecay };
  return route([[projected, finish(galore(inner(), projection), tail)], [/(?:)/, finish(inner(), tail)]]);
}

function definedOnly({ beta1, beta2, eps }: Pick<AdamOptions, "beta1" | "beta2" | "eps">): AdamOptions {
  return Object.fromEntries(Object.entries({ beta1, beta2, eps }).filter(([, value]) => value !== undefined));
}
