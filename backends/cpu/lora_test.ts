/** Adapters on the compiled CPU backend: PyTorch's numbers of a LoRA in PEFT's files. */
import { loraGoldens } from "../../models/testing/lora_goldens.ts";
import { cpuBackend } from "./mod.ts";

loraGoldens("cpu on 2 threads", () => cpuBackend({ threads: 2, blas: "off" }));
