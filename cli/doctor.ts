/** `doctor`: what this machine offers a training run. */
import { formatBytes } from "../core/mod.ts";
import { defineVerb, parseVerb } from "./arguments.ts";
import { availableMemory, openDevice } from "./device.ts";
import { deviceFlags } from "./flags.ts";
import { formatTable, type Output } from "./log.ts";
import { matmulSpeed } from "./matmul_speed.ts";

/** The verb's flags. */
export const doctorVerb = defineVerb({
  name: "doctor",
  summary: "what this machine offers: threads, SIMD, BLAS, memory, and how fast it multiplies",
  example: "deno task doctor",
  flags: { ...deviceFlags },
});

/** Runs the verb. */
export async function doctor(argv: readonly string[], output: Output): Promise<void> {
  const { options } = parseVerb(doctorVerb, argv);
  using backend = await openDevice({ ...options, device: options.device ?? "auto", blas: options.blas ?? "auto" });
  const memory = availableMemory();
  const rows = [
    ["deno", `${Deno.version.deno}, V8 ${Deno.version.v8}, ${Deno.build.target}`],
    ["threads", `${backend.threads} of ${navigator.hardwareConcurrency}`],
    ["kernels", backend.kernelPath],
    ["BLAS", backend.blas.found ? `${backend.blas.name} (${backend.blas.path})` : `none: ${backend.blas.reason}`],
    [
      "memory",
      `${Number.isFinite(memory) ? formatBytes(memory) : "unknown"} free, tensors may take ${
        formatBytes(backend.memory().limit)
      }`,
    ],
    ["WebGPU", "not used by this version"],
    ["matmul 512", `${matmulSpeed(backend, 512).toFixed(1)} GFLOP/s`],
    ["matmul 1024", `${matmulSpeed(backend, 1024).toFixed(1)} GFLOP/s`],
  ];
  for (const line of formatTable(rows)) output.out(line);
}
