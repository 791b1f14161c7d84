/** Deep LoRA on WebGPU: PyTorch's numbers of a map, whole and compressed. */
import { deepLoraGoldens } from "../../models/testing/deep_lora_goldens.ts";
import { webgpuBackend } from "./mod.ts";
import { noWebgpu as ignore } from "./testing.ts";

deepLoraGoldens("webgpu", () => webgpuBackend(), { slack: 10, ignore });
