/**
 * What the WebGPU backend would allocate: its pool, its kernels' own decisions (slices of a product, f32 beside 16 bits,
 * copies of operands that share a buffer) and its fused entries, over a device that is not there. It is that backend's
 * code that runs, not a model of it: a temporary that a kernel comes to need is planned without a change here.
 *
 * It refuses to guess a card: limits and tiles are those of the options, by default of a large desktop card. Blocks that
 * recorded work still uses are freed by the device a submission later than the pool counts.
 */
import type { Backend, BufferHandle } from "../../core/backend.ts";
import { webgpuFused } from "../webgpu/fused.ts";
import { Gpu } from "../webgpu/gpu.ts";
import { webgpuKernels } from "../webgpu/kernels/kernels.ts";
import { Pipelines } from "../webgpu/pipelines.ts";
import { type Allocation, BufferPool, type PoolOptions } from "../webgpu/pool.ts";
import { TileChoice } from "../webgpu/tiles.ts";
import { webgpuUpdates } from "../webgpu/updates.ts";
import { NoFaults, nullDevice, NullRecorder } from "./null_device.ts";
import type { Ledger } from "./storage.ts";

/** The card that is planned for. */
export interface PlannedGpu {
  /** Limits granted; those of a large desktop card by default. */
  readonly limits?: Readonly<Record<string, number>>;
  /** True for a rasteriser on the CPU, which cuts no product. Default false. */
  readonly isSoftware?: boolean;
  /** Whether kernels may use subgroup operations. Default true. */
  readonly subgroups?: boolean;
  /** Matmul designs that were measured, by class of shapes: the entries of `TileChoice`. */
  readonly tiles?: Readonly<Record<string, string>>;
}

/** Limits that decide which kernels run, as NVIDIA and AMD cards grant them. */
const LARGE_CARD: Readonly<Record<string, number>> = {
  maxComputeWorkgroupStorageSize: 49152,
  maxComputeInvocationsPerWorkgroup: 1024,
  maxComputeWorkgroupSizeX: 1024,
  maxComputeWorkgroupSizeY: 1024,
  maxComputeWorkgroupsPerDimension: 65535,
  maxStorageBuffersPerShaderStage: 16,
};

/** The pool, with what its blocks take and the largest tensor asked for. */
class CountingPool extends BufferPool implements Ledger {
  #held = 0;
  #peakHeld = 0;
  #largest = { label: "", bytes: 0 };

  constructor(options: PoolOptions) {
    super(options);
  }

  override alloc(bytes: number, label = "a tensor"): Allocation {
    const allocation = super.alloc(bytes, label);
    this.#held += allocation.block.capacity;
    this.#peakHeld = Math.max(this.#peakHeld, this.#held);
    if (allocation.bytes > this.#largest.bytes) this.#largest = { label, bytes: allocation.bytes };
    return allocation;
  }

  override free(handle: BufferHandle): void {
    super.free(handle);
    this.#held -= (handle as Allocation).block.capacity;
  }

  checkRange(handle: BufferHandle, byteOffset: number, bytes: number, verb: string): void {
    const own = this.own(handle, verb);
    if (byteOffset >= 0 && byteOffset + bytes <= own.bytes) return;
    throw new RangeError(
      `Cannot ${verb} ${own.label}: bytes ${byteOffset} to ${byteOffset + bytes} lie outside its ${own.bytes}`,
    );
  }

  largest(): { readonly label: string; readonly bytes: number } {
    return this.#largest;
  }

  peakHeld(): number {
    return this.#peakHeld;
  }

  override resetPeak(): void {
    super.resetPeak();
    this.#peakHeld = this.#held;
  }
}

/** Pool, kernels, fused entries and updates of the WebGPU backend on no device. */
export function onWebgpu(
  limit: number,
  { limits = LARGE_CARD, isSoftware = false, subgroups = true, tiles = {} }: PlannedGpu,
): { readonly pool: CountingPool } & Pick<Backend, "kernels" | "fused" | "updates"> {
  const device = nullDevice();
  const faults = new NoFaults();
  const pipelines = new Pipelines(device, faults, "");
  const recorder = new NullRecorder(device, faults, pipelines);
  const onDestroy = () => {};
  const pool = new CountingPool({ device, faults, limit, largest: Infinity, onDestroy });
  const choice = new TileChoice(isSoftware);
  for (const [shapes, design] of Object.entries(tiles)) choice.set(shapes, design);
  const gpu = new Gpu(pool, recorder, pipelines, limits, subgroups, choice);
  return { pool, kernels: webgpuKernels(gpu), fused: webgpuFused(gpu), updates: webgpuUpdates(gpu) };
}
