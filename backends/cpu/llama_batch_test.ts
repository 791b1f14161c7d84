/** LLaMA over rows of different lengths on the compiled CPU backend. */
import { llamaRows } from "../../models/testing/llama_rows.ts";
import { cpuBackend } from "./mod.ts";

llamaRows("cpu on 2 threads", () => cpuBackend({ threads: 2, blas: "off" }));
