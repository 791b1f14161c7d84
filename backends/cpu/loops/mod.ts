/**
 * The reference backend: plain loops over ArrayBuffers, every dtype, nothing fused. It is the living definition of the
 * kernels, what gradients are checked on in f64, and not meant to be fast.
 */
import type { Backend } from "../../../core/backend.ts";
import { loopKernels } from "./kernels.ts";
import { HostStorage } from "./storage.ts";

export { loopKernels } from "./kernels.ts";
export type { View } from "./operands.ts";

/** What `loopsBackend` can be told. */
export interface LoopsOptions {
  /** The most bytes that may be in use; unlimited by default. */
  readonly limit?: number;
  /** False hides `readSync`, as on a device whose memory the host cannot see. */
  readonly readSync?: boolean;
}

/**
 * A backend of plain loops. Kernels have run when they return.
 *
 * @example
 * ```ts
 * import { loopsBackend } from "./mod.ts";
 * using backend = loopsBackend({ limit: 2 ** 30 });
 * ```
 */
export function loopsBackend({ limit = Infinity, readSync = true }: LoopsOptions = {}): Backend {
  const storage = new HostStorage("loops", limit);
  return {
    name: storage.name,
    alloc: (bytes, label) => storage.alloc(bytes, label),
    free: (buffer) => storage.free(buffer),
    write: (buffer, byteOffset, data) => storage.write(buffer, byteOffset, data),
    read: (buffer, byteOffset, bytes) => storage.read(buffer, byteOffset, bytes),
    ...(readSync ? { readSync: (buffer, byteOffset, bytes) => storage.copy(buffer, byteOffset, bytes) } : {}),
    memory: () => storage.memory(),
    resetPeak: () => storage.resetPeak(),
    kernels: loopKernels((buffer, dtype) => storage.view(buffer, dtype)),
    fused: {},
    updates: {},
    [Symbol.dispose]: () => storage.clear(),
  };
}
