/** Adapters per example on WebGPU: PyTorch's numbers of FLoRA, explicit weights, batches of LoRA adapters. */
import { adapterBatchLaws } from "../../models/testing/adapter_batch_laws.ts";
import { floraGoldens } from "../../models/testing/flora_goldens.ts";
import { floraLaws } from "../../models/testing/flora_laws.ts";
import { webgpuBackend } from "./mod.ts";
import { noWebgpu as ignore } from "./testing.ts";

const make = () => webgpuBackend();
floraGoldens("webgpu", make, { ignore });
floraLaws("webgpu", make, { ranks: [1, 4], ignore });
adapterBatchLaws("webgpu", make, { ignore });
