/** Laws' rules on stored state and in subspaces other than GaLore's own. Test support; `rules.ts` has them all. */
import type { BlockwiseOptions } from "../../core/mod.ts";
import {
  adafactor,
  affine,
  apollo,
  bfloat16,
  blockwise8bit,
  finish,
  fira,
  galore,
  type GradientRule,
  polarBasis,
  randomBasis,
  scaleByAdam,
  scaleByMuon,
  storeAs,
  trace,
} from "../mod.ts";
import { LAW_GALORE, type RuleCase } from "./rule_case.ts";

/** State in fewer bits, whatever the size of the matrices. */
const eightBit = (inner: GradientRule, options: Partial<BlockwiseOptions> = {}) =>
  storeAs(blockwise8bit(options), inner, { minSize: 0 });
const halved = (inner: GradientRule) => storeAs(bfloat16(), inner, { minSize: 0 });

/** A direction that a rate follows. */
function follows(name: string, kind: RuleCase["kind"], direction: () => GradientRule): RuleCase {
  return { name, kind, make: (learningRate) => finish(direction(), { learningRate }) };
}

/** Rules on stored state, alone and in a subspace. */
export const STORED_RULES: readonly RuleCase[] = [
  {
    name: "storeAs(blockwise8bit, scaleByAdam) with decay",
    kind: "sign",
    make: (learningRate) => finish(eightBit(scaleByAdam()), { learningRate, weightDecay: 1e-3 }),
  },
  follows(
    "storeAs(blockwise8bit, trace), stock",
    "gradient",
    () => eightBit(trace({ decay: 0.5 }), { rounding: "stock" }),
  ),
  {
    name: "storeAs(blockwise8bit, adafactor with momentum)",
    kind: "sign",
    make: (learningRate) => eightBit(adafactor({ learningRate, scaleParameter: false, beta1: 0.9 })),
  },
  follows("storeAs(bfloat16, scaleByAdam)", "sign", () => halved(scaleByAdam())),
  follows("storeAs(bfloat16, scaleByMuon)", "sign", () => halved(scaleByMuon())),
  follows("galore(storeAs(blockwise8bit, scaleByAdam))", "sign", () => galore(eightBit(scaleByAdam()), LAW_GALORE)),
  follows(
    "galore(storeAs(blockwise8bit, scaleByAdam)) full, transport",
    "sign",
    () => galore(eightBit(scaleByAdam()), { ...LAW_GALORE, projType: "full", moments: "transport" }),
  ),
  follows(
    "galore(storeAs(blockwise8bit, scaleByAdam)), lazy, with an int4 projector",
    "sign",
    () => galore(eightBit(scaleByAdam()), { ...LAW_GALORE, lazy: {}, projector: affine({ bits: 4 }) }),
  ),
];

/** What is projected in other ways than GaLore's own. */
export const SUBSPACE_RULES: readonly RuleCase[] = [
  follows(
    "galore(trace), lazy, transport, with an int8 projector",
    "gradient",
    () =>
      galore(trace({ decay: 0.5 }), {
        ...LAW_GALORE,
        lazy: {},
        moments: "transport",
        projector: affine({ bits: 8, group: 4 }),
      }),
  ),
  follows(
    "galore(scaleByAdam) with a bfloat16 projector",
    "sign",
    () => galore(scaleByAdam(), { ...LAW_GALORE, projector: bfloat16({ rounding: "nearest" }) }),
  ),
  follows(
    "galore(scaleByAdam) on random bases",
    "sign",
    () => galore(scaleByAdam(), { ...LAW_GALORE, basis: randomBasis() }),
  ),
  follows("fira(scaleByAdam)", "sign", () => fira(scaleByAdam(), LAW_GALORE)),
  follows(
    "fira(storeAs(bfloat16, scaleByAdam)), released residual, with polarBasis()",
    "sign",
    () => fira(halved(scaleByAdam()), { ...LAW_GALORE, residual: "released", scale: 0.5, basis: polarBasis() }),
  ),
  follows("apollo(scaleByAdam)", "sign", () => apollo(scaleByAdam(), LAW_GALORE)),
  follows(
    "apollo(storeAs(blockwise8bit, scaleByAdam)) over the tensor",
    "sign",
    () => apollo(eightBit(scaleByAdam()), { ...LAW_GALORE, rank: 1, over: "tensor", scale: 4 }),
  ),
];
