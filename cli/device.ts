/** Picks the device of a run and says what was picked and why. */
import { type CpuBackend, cpuBackend } from "../backends/cpu/mod.ts";
import { UnsupportedError } from "../core/mod.ts";
import type { Run } from "./options.ts";

/** Opens the device that a run asks for. @throws UnsupportedError for one that this version does not have. */
export async function openDevice(run: Pick<Run, "device" | "threads" | "blas" | "memoryLimit">): Promise<CpuBackend> {
  if (run.device === "webgpu") {
    throw new UnsupportedError("Cannot run on webgpu: this version trains on the CPU; use --device cpu");
  }
  const limit = run.memoryLimit ?? Math.floor(0.9 * availableMemory());
  return await cpuBackend({ threads: run.threads, blas: run.blas, limit: Math.min(limit, 2 ** 32 - 2 ** 26) });
}

/** Bytes that the system could give now. Infinity where it may not be asked. */
export function availableMemory(): number {
  try {
    return Deno.systemMemoryInfo().available;
  } catch {
    return Infinity;
  }
}
