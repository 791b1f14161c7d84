/**
 * Ops, models, optimizers and laws on WebGPU: PyTorch's numbers within what a GPU's functions allow. Of the optimizers a
 * share, because software compiles and runs slowly; with LOWRANK_GOLDENS=all every trajectory and base.
 */
import { goldenOps } from "../../core/testing/golden_ops.ts";
import { overwritesSaved } from "../../core/testing/overwrites.ts";
import { llamaGoldens } from "../../models/testing/llama_goldens.ts";
import { robertaGoldens } from "../../models/testing/roberta_goldens.ts";
import { eightBitGoldens } from "../../optimizers/testing/eight_bit_goldens.ts";
import { optimizerGoldens } from "../../optimizers/testing/goldens.ts";
import { guardedBases } from "../../optimizers/testing/guarded_bases.ts";
import { optimizerLaws } from "../../optimizers/testing/laws.ts";
import { RULES } from "../../optimizers/testing/rules.ts";
import { STORED_RULES, SUBSPACE_RULES } from "../../optimizers/testing/stored_rules.ts";
import { webgpuBackend } from "./mod.ts";
import { noWebgpu as ignore } from "./testing.ts";

const make = () => webgpuBackend();

goldenOps("webgpu", make, { ignore });
overwritesSaved("webgpu", make, { ignore });
llamaGoldens("webgpu", make, { logits: 1e-4, loss: 1e-5, gradient: 1e-4, ignore });
llamaGoldens("webgpu", make, { dtype: "bf16", logits: 2e-2, loss: 2e-3, gradient: 5e-2, ignore });
// the third, a regression, differs in its loss alone
const models = ["classify", "mlm"];
robertaGoldens("webgpu", make, { models, within: { logits: 1e-4, loss: 1e-5, grad: 1e-4 }, ignore });
const isWhole = Deno.env.get("LOWRANK_GOLDENS") === "all";
const runs = isWhole
  ? /adamw|adafactor/
  : /^(adamw|galore_adamw_(std_wd|full)|galore_adafactor_std_gap5|adafactor_default_beta1_wd)$/;
const bases = isWhole ? ["gramBasis()", "subspaceBasis()"] : ["gramBasis()"];
optimizerGoldens("webgpu", make, { ignore, runs, loss: 1e-4, bases });
eightBitGoldens("webgpu", make, { ignore, blockSizes: [256], isWhole: false });
guardedBases("webgpu", make, { ignore, projectors: ["int4"] });
// schedules are the host's affair, and every projection has the same kernels
const others =
  /under |reverse_std|left| right|nesterov|decay before|scaled rms|eps uncorrected|(factor|momentum|Muon|identity|trace)\) full$|(identity|trace)\) std$/;
// of stored states and other subspaces the most different: fused 8 bits, packed 4 bits, drawn bases, random rounding
const share = /with decay|int4 projector|^apollo\(scaleByAdam|released residual/;
const isStored = new Set([...STORED_RULES, ...SUBSPACE_RULES]);
const rules = RULES.filter((rule) => isStored.has(rule) ? share.test(rule.name) : !others.test(rule.name));
optimizerLaws("webgpu", make, { dtypes: ["f32"], rules, ignore });
