/** Adapters per example on the compiled CPU backend: PyTorch's numbers of FLoRA, explicit weights, batches of LoRA adapters. */
import { adapterBatchLaws } from "../../models/testing/adapter_batch_laws.ts";
import { floraGoldens } from "../../models/testing/flora_goldens.ts";
import { floraLaws } from "../../models/testing/flora_laws.ts";
import { cpuBackend } from "./mod.ts";

const make = () => cpuBackend({ threads: 2, blas: "off" });
floraGoldens("cpu on 2 threads", make);
floraLaws("cpu on 2 threads", make);
adapterBatchLaws("cpu on 2 threads", make);
