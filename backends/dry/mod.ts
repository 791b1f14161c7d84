/**
 * The dry backend: every allocation is counted, every operand checked, nothing is stored and nothing computed. A training
 * step on it tells the memory of a real one in milliseconds; reads give zeros.
 */
import type { Backend, FusedKernels, UpdateKernels } from "../../core/backend.ts";
import { dryKernels } from "./kernels.ts";
import { DryStorage } from "./storage.ts";

export { dryFused, dryUpdates } from "./fused.ts";

/** What `dryBackend` can be told. */
export interface DryOptions {
  /** The most bytes that may be in use; unlimited by default. */
  readonly limit?: number;
  /** Fused entries to present; none by default, so that composed forms are counted. See `dryFused`. */
  readonly fused?: FusedKernels;
  /** Fused updates to present; none by default. See `dryUpdates`. */
  readonly updates?: UpdateKernels;
  /** False hides `readSync`, as on a device whose memory the host cannot see. */
  readonly readSync?: boolean;
}

/** A backend that only counts, and what it counted. */
export interface DryBackend extends Backend {
  /** The largest buffer so far, by its label. */
  largest(): { readonly label: string; readonly bytes: number };
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
export function dryBackend(
  { limit = Infinity, fused = {}, updates = {}, readSync = true }: DryOptions = {},
): DryBackend {
  const storage = new DryStorage(limit);
  return {
    name: storage.name,
    alloc: (bytes, label) => storage.alloc(bytes, label),
    free: (buffer) => storage.free(buffer),
    write: (buffer, byteOffset, data) => storage.write(buffer, byteOffset, data),
    read: (buffer, byteOffset, bytes) => storage.read(buffer, byteOffset, bytes),
    ...(readSync ? { readSync: (buffer, byteOffset, bytes) => storage.zeros(buffer, byteOffset, bytes) } : {}),
    memory: () => storage.memory(),
    largest: () => storage.largest(),
    resetPeak: () => storage.resetPeak(),
    kernels: dryKernels(storage),
    fused,
    updates,
    [Symbol.dispose]: () => storage.clear(),
  };
}
