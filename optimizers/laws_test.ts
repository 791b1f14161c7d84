/** The laws over every rule: composed on the loops, and with fused updates on the CPU backend. */
import { loopsBackend } from "../backends/cpu/loops/mod.ts";
import { cpuBackend } from "../backends/cpu/mod.ts";
import { optimizerLaws } from "./testing/laws.ts";

optimizerLaws("the loops", () => loopsBackend());
optimizerLaws("the CPU backend", () => cpuBackend({ threads: 2, blas: "off" }), { dtypes: ["f32"] });
