/** The fused kernels of the WebGPU backend, against composed forms and the loops in f64. */
import { fusedParity } from "../../core/testing/parity.ts";
import { webgpuBackend } from "./mod.ts";
import { noWebgpu } from "./testing.ts";

fusedParity("webgpu", () => webgpuBackend(), { device: "gpu", dtypes: ["f32", "bf16", "f16"], ignore: noWebgpu });
