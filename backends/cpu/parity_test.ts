/** The CPU backend on one thread and on two, each way to multiply: against composed forms, f64 and PyTorch. */
import { goldenOps } from "../../core/testing/golden_ops.ts";
import { overwritesSaved } from "../../core/testing/overwrites.ts";
import { fusedParity } from "../../core/testing/parity.ts";
import { llamaGoldens } from "../../models/testing/llama_goldens.ts";
import { robertaGoldens } from "../../models/testing/roberta_goldens.ts";
import { cpuBackend, type CpuOptions } from "./mod.ts";

const WAYS: Record<string, CpuOptions> = {
  "cpu on 1 thread": { threads: 1, blas: "off" },
  "cpu on 2 threads": { threads: 2, blas: "off" },
  "cpu without relaxed SIMD": { threads: 1, blas: "off", wasm: "plain" },
  "cpu with a BLAS, if there is one": { threads: 2 },
};

for (const [name, options] of Object.entries(WAYS)) {
  const makeBackend = () => cpuBackend(options);
  fusedParity(name, makeBackend);
  goldenOps(name, makeBackend);
  overwritesSaved(name, makeBackend);
  llamaGoldens(name, makeBackend);
  robertaGoldens(name, makeBackend);
}

// 16-bit operands run on the compiled f32 kernels between casts
const makeBackend = () => cpuBackend({ threads: 2, blas: "off" });
fusedParity("cpu", makeBackend, { dtypes: ["bf16"] });
llamaGoldens("cpu", makeBackend, { dtype: "bf16", logits: 2e-2, loss: 2e-3, gradient: 5e-2 });
