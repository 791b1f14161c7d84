/** Placeholder until the threaded backend lands: the loops under the CPU backend's interface. */
import type { Backend } from "../../core/backend.ts";
import { loopsBackend } from "./loops/mod.ts";
export { loopsBackend } from "./loops/mod.ts";

export interface CpuBackend extends Backend {
  readonly threads: number;
  readonly kernelPath: string;
  readonly blas: { found: boolean; name?: string; path?: string; reason?: string };
}

export function cpuBackend(
  _options: { threads?: number; blas?: "auto" | "off" | "require"; limit?: number } = {},
): Promise<CpuBackend> {
  const blas = { found: false, reason: "not built yet" };
  return Promise.resolve(Object.assign(loopsBackend(), { threads: 1, kernelPath: "loops", blas }));
}
