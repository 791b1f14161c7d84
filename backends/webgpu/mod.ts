/**
 * The WebGPU backend: any GPU that speaks Vulkan, Metal or Direct3D 12, through the runtime's own `navigator.gpu`. It runs
 * in Deno and in a browser. Kernels are WGSL, one module each in `kernels/`; the loops of `backends/cpu` are their spec.
 *
 * Calls only record; work is submitted in portions and waited for when somebody reads.
 */
import type { Backend } from "../../core/backend.ts";
import { DeviceError } from "../../core/errors.ts";
import { type AdapterReport, findAdapter, openDevice } from "./adapter.ts";
import { autotune, choiceName, type SmallStore } from "./autotune.ts";
import { Faults, oneLine } from "./faults.ts";
import { webgpuFused } from "./fused.ts";
import { Gpu } from "./gpu.ts";
import { webgpuKernels } from "./kernels/kernels.ts";
import { Pipelines } from "./pipelines.ts";
import { BufferPool } from "./pool.ts";
import { Recorder, type RecorderCounters } from "./recorder.ts";
import { TileChoice } from "./tiles.ts";
import { webgpuUpdates } from "./updates.ts";

export type { AdapterReport } from "./adapter.ts";
export type { SmallStore } from "./autotune.ts";
export { findAdapter };

/** What `webgpuBackend` can be told. */
export interface WebgpuOptions {
  /** The most bytes that buffers may take together. WebGPU does not say what a card has: unlimited by default. */
  readonly memoryLimit?: number;
  /** Measures matmul designs once for an adapter. Default false: the standard design everywhere. */
  readonly autotune?: boolean;
  /** Where the autotune's findings are kept. */
  readonly store?: SmallStore;
  /** False keeps kernels from subgroup operations, even where there are some: for tests. Default true. */
  readonly subgroups?: boolean;
}

/** What a backend has done so far. */
export interface Counters extends RecorderCounters {
  readonly buffersCreated: number;
  readonly groupsCreated: number;
  readonly kernelsCompiled: number;
}

/** A WebGPU backend, and what it runs on. */
export interface WebgpuBackend extends Backend {
  /** What the bits depend on beside shapes, for example `webgpu NVIDIA H200`. */
  readonly kernelPath: string;
  readonly adapter: AdapterReport;
  counters(): Counters;
  /** The device itself: for benchmarks and fault tests. */
  readonly device: GPUDevice;
  /** What kernels see of it: for benchmarks. */
  readonly gpu: Gpu;
}

/**
 * Starts the WebGPU backend on the runtime's preferred adapter. Dispose it to give the device back.
 *
 * @throws UnsupportedError where there is no adapter
 * @example
 * ```ts ignore
 * import { webgpuBackend } from "./mod.ts";
 * using backend = await webgpuBackend({ memoryLimit: 8e9 });
 * console.log(backend.adapter.name);
 * ```
 */
export async function webgpuBackend(options: WebgpuOptions = {}): Promise<WebgpuBackend> {
  const { memoryLimit = Infinity } = options;
  const { device, report, subgroupHeader } = await openDevice();
  const faults = watch(device, report);
  const pipelines = new Pipelines(device, faults, subgroupHeader);
  const recorder = new Recorder(device, faults, pipelines);
  const largest = Math.floor(Math.min(report.limits.maxStorageBufferBindingSize, report.limits.maxBufferSize) / 4) * 4;
  const pool = new BufferPool({
    device,
    faults,
    limit: memoryLimit,
    largest,
    onDestroy: (block) => recorder.destroy(block),
  });
  const usesSubgroups = report.subgroups && (options.subgroups ?? true);
  const gpu = new Gpu(pool, recorder, pipelines, report.limits, usesSubgroups, new TileChoice(report.isSoftware));
  if (options.autotune) await autotune(gpu, { adapter: report.name, store: options.store });
  const tiles = choiceName(gpu);
  let disposed = false;
  return {
    name: "webgpu",
    kernelPath: `webgpu ${report.name}${tiles === undefined ? "" : `, tiles ${tiles}`}`,
    adapter: report,
    device,
    gpu,
    alloc: (bytes, label) => pool.alloc(bytes, label),
    free: (buffer) => pool.free(buffer),
    write: (buffer, byteOffset, data) => write(gpu, gpu.settled(buffer, "write"), byteOffset, data),
    read: async (buffer, byteOffset, bytes) => {
      const allocation = gpu.settled(buffer, "read");
      checkRange(allocation, byteOffset, bytes, "read");
      return await recorder.read(allocation.block, byteOffset, bytes);
    },
    memory: () => pool.memory(),
    resetPeak: () => pool.resetPeak(),
    kernels: webgpuKernels(gpu),
    fused: webgpuFused(gpu),
    updates: webgpuUpdates(gpu),
    counters: () => ({
      ...recorder.counters,
      buffersCreated: pool.created,
      groupsCreated: pipelines.groupsCreated,
      kernelsCompiled: pipelines.compiled,
    }),
    [Symbol.dispose]: () => {
      if (disposed) return;
      disposed = true;
      recorder.dispose();
      pool.clear();
      device.destroy();
    },
  };
}

/** Reports that the device makes on its own: errors that no scope caught, and its loss. */
function watch(device: GPUDevice, { name }: AdapterReport): Faults {
  const faults = new Faults();
  device.addEventListener("uncapturederror", (event) => {
    const { error } = event as GPUUncapturedErrorEvent;
    faults.report(new DeviceError(`Cannot go on with ${name}: ${oneLine(error.message)}`));
  });
  device.lost.then(({ reason, message }) => {
    const why = [reason, oneLine(message)].filter(Boolean).join(": ");
    faults.report(
      new DeviceError(`Cannot go on: the GPU (${name}) was lost (${why}); resume from the last checkpoint`),
    );
  });
  return faults;
}

interface Held {
  readonly block: Parameters<Recorder["write"]>[0];
  readonly bytes: number;
  readonly label: string;
}

function write({ recorder }: Gpu, held: Held, byteOffset: number, data: Uint8Array): void {
  checkRange(held, byteOffset, data.byteLength, "write");
  if (byteOffset % 4 !== 0) {
    throw new RangeError(`Cannot write to ${held.label} at byte ${byteOffset}: not a multiple of 4`);
  }
  const odd = data.byteLength % 4;
  if (odd === 0) return recorder.write(held.block, byteOffset, data);
  if (byteOffset + data.byteLength + 4 - odd < held.bytes) {
    throw new RangeError(`Cannot write ${data.byteLength} bytes into ${held.label}: they end inside a word`);
  }
  const padded = new Uint8Array(data.byteLength + 4 - odd);
  padded.set(data);
  recorder.write(held.block, byteOffset, padded);
}

function checkRange({ bytes, label }: Held, offset: number, count: number, verb: string): void {
  if (offset >= 0 && count >= 0 && offset + count <= bytes) return;
  throw new RangeError(`Cannot ${verb} ${label}: bytes ${offset} to ${offset + count} lie outside its ${bytes}`);
}
