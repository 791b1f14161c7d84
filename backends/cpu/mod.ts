/**
 * The CPU backend: every tensor in one shared WebAssembly memory, SIMD kernels on a pool of threads, and a native BLAS for
 * matmul where Deno's FFI permission is granted and a library is installed. Whatever has no compiled kernel runs on the
 * plain loops, over the same memory. Bits are the same for any number of threads, on one machine, build and kernel path.
 */
import type { Backend } from "../../core/backend.ts";
import { UnsupportedError } from "../../core/errors.ts";
import { type BlasLibrary, type BlasReport, findBlas } from "./blas.ts";
import { loopKernels } from "./loops/mod.ts";
import { cpuMatmul, PACK_BYTES } from "./matmul.ts";
import { WasmMemory } from "./memory.ts";
import { poolLayout, ThreadPool } from "./threads.ts";
import { compileKernels, type WasmChoice } from "./wasm/load.ts";
import { wasmFused } from "./wasm_fused.ts";
import { wasmKernels } from "./wasm_kernels.ts";
import { wasmUpdates } from "./wasm_updates.ts";

export { loopsBackend, type LoopsOptions } from "./loops/mod.ts";
export type { BlasLibrary, BlasReport } from "./blas.ts";
export type { WasmChoice } from "./wasm/load.ts";

/** What `cpuBackend` can be told. */
export interface CpuOptions {
  /** Threads that compute, the calling one included. Default: the processor's. */
  readonly threads?: number;
  /** `auto` (default) takes a native BLAS if there is one, `off` none, `require` throws without one. */
  readonly blas?: "auto" | "off" | "require";
  /** The most bytes that may be in use; by default what 4 GiB leave beside the backend's own. */
  readonly limit?: number;
  /** Which build of the kernels. `auto` (default) takes relaxed SIMD where the engine has it. */
  readonly wasm?: WasmChoice;
}

/** A CPU backend, and what it runs on. */
export interface CpuBackend extends Backend {
  /** Threads that compute, the calling one included. */
  readonly threads: number;
  /** What the bits depend on beside shapes, for example `wasm-relaxed+openblas 0.3.21`. */
  readonly kernelPath: string;
  /** The native BLAS in use, or why there is none. */
  readonly blas: BlasReport;
  /** Why fewer threads run than were asked for, if so. */
  readonly problem?: string;
}

/**
 * Starts the CPU backend. Dispose it to end its threads; a program that forgets to still ends.
 *
 * @throws RangeError for a number of threads that is no positive integer
 * @throws UnsupportedError for `blas: "require"` where none is found
 * @example
 * ```ts
 * import { cpuBackend } from "./mod.ts";
 * using backend = await cpuBackend({ threads: 2 });
 * console.log(backend.kernelPath);
 * ```
 */
export async function cpuBackend(options: CpuOptions = {}): Promise<CpuBackend> {
  const { threads = navigator.hardwareConcurrency, blas = "auto", limit, wasm = "auto" } = options;
  if (!Number.isInteger(threads) || threads < 1 || threads > 256) {
    throw new RangeError(`Cannot start the cpu backend: threads must be an integer from 1 to 256: got ${threads}`);
  }
  const report: BlasReport = blas === "off" ? { found: false, reason: "switched off" } : findBlas();
  if (blas === "require" && !report.found) {
    throw new UnsupportedError(`Cannot start the cpu backend with a native BLAS: ${report.reason}`);
  }
  const compiled = await compileKernels(wasm);
  const pack = poolLayout(threads).end;
  const memory = new WasmMemory({ reserve: pack + PACK_BYTES, limit });
  const library = report.found ? report : undefined;
  const pool = await ThreadPool.start({ threads, module: compiled.module, memory: memory.memory32, blas: library });
  const loops = loopKernels((buffer, dtype) => memory.view(buffer, dtype));
  const native = report.found;
  const matmul = cpuMatmul({ runner: pool, addresses: memory, pack, native, fallback: loops.matmul });
  const device = { runner: pool, memory };
  return {
    name: memory.name,
    threads: pool.threads,
    kernelPath: [compiled.name, ...(library ? [nameOf(library)] : [])].join("+"),
    blas: report,
    ...(pool.problem ? { problem: pool.problem } : {}),
    alloc: (bytes, label) => memory.alloc(bytes, label),
    free: (buffer) => memory.free(buffer),
    write: (buffer, byteOffset, data) => memory.write(buffer, byteOffset, data),
    read: (buffer, byteOffset, bytes) => memory.read(buffer, byteOffset, bytes),
    readSync: (buffer, byteOffset, bytes) => memory.readSync(buffer, byteOffset, bytes),
    memory: () => memory.memory(),
    resetPeak: () => memory.resetPeak(),
    kernels: wasmKernels(device, { ...loops, matmul }),
    fused: wasmFused(device),
    updates: wasmUpdates(device),
    [Symbol.dispose]: () => pool[Symbol.dispose](),
  };
}

function nameOf({ name, version }: BlasLibrary): string {
  return version ? `${name} ${version}` : name;
}
