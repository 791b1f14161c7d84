/** The fused kernels of the WebGPU backend, against composed forms and the loops in f64. */
import { fusedParity } from "../../core/testing/parity.ts";
import { webgpuBackend } from "./mod.ts";
import { noWebgpu as ignore } from "./testing.ts";

const make = () => webgpuBackend();

fusedParity("webgpu", make, { device: "gpu", dtypes: ["f32", "bf16"], ignore });
// f16 differs from bf16 in two conversions: one op for each way of loading and storing, since software compiles slowly
fusedParity("webgpu", make, { device: "gpu", dtypes: ["f16"], ops: ["softmax", "rmsNorm", "swiglu", "rope"], ignore });
