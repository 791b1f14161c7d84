/** Picks the device of a run and says what was picked and why. */
import { type BlasReport, cpuBackend } from "../backends/cpu/mod.ts";
import type { AdapterReport, WebgpuBackend } from "../backends/webgpu/mod.ts";
import { type Backend, UnsupportedError } from "../core/mod.ts";
import type { Output } from "./log.ts";
import { DEFAULTS, type Run } from "./options.ts";
import { fileStore } from "./small_store.ts";

/** A backend, and what is told of it. */
export interface Device extends Backend {
  readonly kind: "cpu" | "webgpu";
  /** What the bits depend on beside shapes. */
  readonly kernelPath: string;
  /** For people: where a run is computed. */
  readonly summary: string;
  /** CPU threads, where they compute. */
  readonly threads?: number;
  /** The native BLAS of the CPU, or why there is none. */
  readonly blas?: BlasReport;
  /** The GPU. */
  readonly adapter?: AdapterReport;
}

/** What decides the device; fields left out take the defaults. */
export type DeviceRequest = Partial<Pick<Run, "device" | "threads" | "blas" | "memoryLimit" | "autotune">>;

/**
 * Opens the device that is asked for. `auto` takes a GPU where there is one, and the CPU otherwise.
 *
 * @throws UnsupportedError for `webgpu` where no adapter answers
 */
export async function openDevice(request: DeviceRequest, output?: Pick<Output, "err">): Promise<Device> {
  const { device = DEFAULTS.device } = request;
  if (device === "webgpu") {
    try {
      return await openWebgpu(request);
    } catch (error) {
      if (!(error instanceof UnsupportedError)) throw error;
      throw new UnsupportedError(`${error.message}; --device cpu needs none`, { cause: error });
    }
  }
  const gpu = device === "auto" ? await openFoundGpu(request, output) : undefined;
  return gpu ?? await openCpu(request);
}

async function openCpu({ threads, blas = DEFAULTS.blas, memoryLimit }: DeviceRequest): Promise<Device> {
  const limit = Math.min(memoryLimit ?? Math.floor(0.9 * availableMemory()), 2 ** 32 - 2 ** 26);
  const backend = await cpuBackend({ threads, blas, limit });
  return Object.assign(backend, { kind: "cpu" as const, summary: `${backend.kernelPath}, ${backend.threads} threads` });
}

/** The GPU backend, which is loaded only when it is wanted. @throws UnsupportedError where there is none */
export async function openWebgpu({ memoryLimit, autotune = DEFAULTS.autotune }: DeviceRequest): Promise<Device> {
  const { webgpuBackend } = await import("../backends/webgpu/mod.ts");
  return described(await webgpuBackend({ memoryLimit, autotune: autotune === "on", store: fileStore() }));
}

function described(backend: WebgpuBackend): Device {
  const software = backend.adapter.isSoftware ? " (in software)" : "";
  return Object.assign(backend, { kind: "webgpu" as const, summary: `${backend.kernelPath}${software}` });
}

/** A real GPU, if one can be had: an emulated one is slower than the CPU backend. */
async function openFoundGpu(request: DeviceRequest, output?: Pick<Output, "err">): Promise<Device | undefined> {
  const found = await findGpu().catch(() => undefined); // nobody asked for a GPU: no driver's complaint stops a run
  if (!found || found.isSoftware) return undefined;
  try {
    const device = await openWebgpu(request);
    output?.err(`note: computing on the GPU ${found.name}; --device cpu takes the CPU`);
    return device;
  } catch (error) {
    output?.err(`note: computing on the CPU: ${(error as Error).message}`);
    return undefined;
  }
}

/** The adapter that WebGPU would give. */
export async function findGpu(): Promise<{ name: string; isSoftware: boolean } | undefined> {
  const { findAdapter } = await import("../backends/webgpu/mod.ts");
  return await findAdapter();
}

/** Most bytes of one tensor on a device. */
export function largestTensorOf({ adapter }: Pick<Device, "adapter">): number {
  if (!adapter) return Infinity;
  return Math.min(adapter.limits.maxStorageBufferBindingSize, adapter.limits.maxBufferSize ?? Infinity);
}

/** Bytes that the system could give now. Infinity where it may not be asked. */
export function availableMemory(): number {
  try {
    return Deno.systemMemoryInfo().available;
  } catch {
    return Infinity;
  }
}
