/** ViT and learned prompts on the compiled CPU backend: PyTorch's numbers. */
import { vitGoldens } from "../../models/testing/vit_goldens.ts";
import { cpuBackend } from "./mod.ts";

vitGoldens("cpu on 2 threads", () => cpuBackend({ threads: 2, blas: "off" }));
