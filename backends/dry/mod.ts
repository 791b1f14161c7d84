/**
 * The dry backend: every allocation is counted, every operand checked, nothing is stored and nothing computed. A training
 * step on it tells the memory of a real one in milliseconds; reads give zeros.
 *
 * Under a policy it counts what another backend would allocate, temporaries of kernels included, by running that backend's
 * own code over no device: see `on_cpu.ts` and `on_webgpu.ts`.
 */
import type { Backend, BufferHandle, FusedKernels, Storage, UpdateKernels } from "../../core/backend.ts";
import { dryKernels } from "./kernels.ts";
import { checked, heapBytes, onCpu } from "./on_cpu.ts";
import { onWebgpu, type PlannedGpu } from "./on_webgpu.ts";
import { DryStorage, type Ledger } from "./storage.ts";

export { dryFused, dryUpdates } from "./fused.ts";
export type { PlannedGpu } from "./on_webgpu.ts";

/** Whose allocations are counted: the tensors' alone, or all that a backend makes. */
export type DryPolicy = "exact" | "cpu" | "webgpu";

/** What `dryBackend` can be told. */
export interface DryOptions {
  /**
   * `exact` (default): tensors alone, with the fused entries and updates given here. `cpu`, `webgpu`: what that backend
   * allocates, with its own entries.
   */
  readonly policy?: DryPolicy;
  /** The most bytes that may be in use; unlimited by default. */
  readonly limit?: number;
  /** Fused entries to present; none by default, so that composed forms are counted. See `dryFused`. */
  readonly fused?: FusedKernels;
  /** Fused updates to present; none by default. See `dryUpdates`. */
  readonly updates?: UpdateKernels;
  /** False hides `readSync`, as on a device whose memory the host cannot see. Default: false for `webgpu`. */
  readonly readSync?: boolean;
  /** The card that `webgpu` plans for. */
  readonly gpu?: PlannedGpu;
}

/** A backend that only counts, and what it counted. */
export interface DryBackend extends Backend {
  /** The largest buffer so far, by its label. */
  largest(): { readonly label: string; readonly bytes: number };
  /**
   * Most bytes at once in blocks of the backend's allocator, since `resetPeak`: at least `memory().peak`, because an
   * allocator rounds. A WebGPU backend fits under this limit and no lower one.
   */
  peakHeld(): number;
}

/**
 * A backend that only counts.
 *
 * @example
 * ```ts
 * import { dryBackend, dryFused } from "./mod.ts";
 * using backend = dryBackend({ limit: 8e9, fused: dryFused(["rmsNorm", "attention"]) });
 * backend.alloc(4_000_000, "a weight");
 * console.assert(backend.memory().peak === 4_000_000);
 * ```
 */
export function dryBackend(options: DryOptions = {}): DryBackend {
  const { policy = "exact", limit = Infinity, fused = {}, updates = {}, gpu = {} } = options;
  const { readSync = policy !== "webgpu" } = options;
  if (policy === "webgpu") {
    const { pool, kernels, ...entries } = onWebgpu(limit, gpu);
    const storage = Object.assign(pool, unstored(pool));
    return assemble(storage, { kernels: checked(dryKernels(pool), kernels), ...entries }, readSync);
  }
  const storage = new DryStorage(limit, policy === "cpu" ? heapBytes : undefined);
  const check = dryKernels(storage);
  if (policy === "exact") return assemble(storage, { kernels: check, fused, updates }, readSync);
  const { kernels, ...entries } = onCpu(storage, check);
  return assemble(storage, { kernels: checked(check, kernels), ...entries }, readSync);
}

type Counted = Omit<Storage, "name"> & Required<Pick<Storage, "readSync">> & Ledger & { clear(): void };

function assemble(
  storage: Counted,
  entries: Pick<Backend, "kernels" | "fused" | "updates">,
  readSync: boolean,
): DryBackend {
  return {
    name: "dry",
    alloc: (bytes, label) => storage.alloc(bytes, label),
    free: (buffer) => storage.free(buffer),
    write: (buffer, byteOffset, data) => storage.write(buffer, byteOffset, data),
    read: (buffer, byteOffset, bytes) => storage.read(buffer, byteOffset, bytes),
    ...(readSync ? { readSync: (buffer, byteOffset, bytes) => storage.readSync(buffer, byteOffset, bytes) } : {}),
    memory: () => storage.memory(),
    largest: () => storage.largest(),
    peakHeld: () => storage.peakHeld(),
    resetPeak: () => storage.resetPeak(),
    ...entries,
    [Symbol.dispose]: () => storage.clear(),
  };
}

/** Writes that are checked and forgotten, reads that give zeros. */
function unstored(ledger: Ledger): Pick<Counted, "write" | "read" | "readSync"> {
  const zeros = (buffer: BufferHandle, byteOffset: number, bytes: number) => {
    ledger.checkRange(buffer, byteOffset, bytes, "read");
    return new Uint8Array(bytes);
  };
  return {
    write: (buffer, byteOffset, data) => ledger.checkRange(buffer, byteOffset, data.byteLength, "write"),
    read: (buffer, byteOffset, bytes) => Promise.resolve(zeros(buffer, byteOffset, bytes)),
    readSync: zeros,
  };
}
