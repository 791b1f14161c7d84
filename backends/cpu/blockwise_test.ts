/** Block-wise 8-bit storage on the CPU backend, each build. */
import { blockwiseConformance } from "../conformance/blockwise.ts";
import { cpuBackend } from "./mod.ts";

blockwiseConformance("cpu, 2 threads", () => cpuBackend({ threads: 2, blas: "off" }));
blockwiseConformance("cpu, plain SIMD", () => cpuBackend({ threads: 1, blas: "off", wasm: "plain" }));
