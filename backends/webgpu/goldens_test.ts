/** Ops, models, optimizers and laws on WebGPU: PyTorch's numbers within what a GPU's functions allow. */
import { goldenOps } from "../../core/testing/golden_ops.ts";
import { overwritesSaved } from "../../core/testing/overwrites.ts";
import { llamaGoldens } from "../../models/testing/llama_goldens.ts";
import { optimizerGoldens } from "../../optimizers/testing/goldens.ts";
import { optimizerLaws } from "../../optimizers/testing/laws.ts";
import { RULES } from "../../optimizers/testing/rules.ts";
import { webgpuBackend } from "./mod.ts";
import { noWebgpu as ignore } from "./testing.ts";

const make = () => webgpuBackend();

goldenOps("webgpu", make, { ignore });
overwritesSaved("webgpu", make, { ignore });
llamaGoldens("webgpu", make, { logits: 1e-4, loss: 1e-5, gradient: 1e-4, ignore });
llamaGoldens("webgpu", make, { dtype: "bf16", logits: 2e-2, loss: 2e-3, gradient: 5e-2, ignore });
optimizerGoldens("webgpu", make, { ignore, loss: 1e-4, bases: ["gramBasis()", "subspaceBasis()"] });
// schedules are the host's affair, and every projection has the same kernels
const rules = RULES.filter(({ name }) => !/under |reverse_std|left| right|nesterov|decay before/.test(name));
optimizerLaws("webgpu", make, { dtypes: ["f32"], rules, ignore });
