/** ViT and learned prompts on WebGPU: PyTorch's numbers within what a GPU's functions allow. */
import { vitGoldens } from "../../models/testing/vit_goldens.ts";
import { webgpuBackend } from "./mod.ts";
import { noWebgpu as ignore } from "./testing.ts";

vitGoldens("webgpu", () => webgpuBackend(), { within: { logits: 1e-4, loss: 1e-5, grad: 1e-4 }, ignore });
