/**
 * AdamW, Adafactor and GaLore over both against PyTorch and the released code, composed on the loops and fused on the
 * CPU backend.
 */
import { loopsBackend } from "../backends/cpu/loops/mod.ts";
import { cpuBackend } from "../backends/cpu/mod.ts";
import { optimizerGoldens } from "./testing/goldens.ts";

optimizerGoldens("the loops", () => loopsBackend());
optimizerGoldens("the CPU backend", () => cpuBackend({ threads: 2, blas: "off" }));
