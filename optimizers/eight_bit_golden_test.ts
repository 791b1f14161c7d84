/** 8-bit Adam and GaLore over it against stored numbers: composed on the loops, and fused on the CPU backend. */
import { loopsBackend } from "../backends/cpu/loops/mod.ts";
import { cpuBackend } from "../backends/cpu/mod.ts";
import { eightBitGoldens } from "./testing/eight_bit_goldens.ts";

eightBitGoldens("the loops", () => loopsBackend());
eightBitGoldens("the CPU backend", () => cpuBackend({ threads: 1, blas: "off" }));
