/** LLaMA over rows of different lengths on WebGPU. */
import { llamaRows } from "../../models/testing/llama_rows.ts";
import { webgpuBackend } from "./mod.ts";
import { noWebgpu as ignore } from "./testing.ts";

llamaRows("webgpu", () => webgpuBackend(), { tolerance: 2e-5, ignore });
