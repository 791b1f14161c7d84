/** AdamW and GaLore AdamW against PyTorch and the released code. */
import { loopsBackend } from "../backends/cpu/loops/mod.ts";
import { optimizerGoldens } from "./testing/goldens.ts";

optimizerGoldens("the loops", () => loopsBackend());
