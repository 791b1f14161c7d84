/**
 * What the CPU backend would allocate: the wrappers of its compiled kernels and its fused entries run as they are, over
 * storage that only counts and a runner that runs nothing. What they would hand to the plain loops, or to a BLAS, is
 * checked and left out: neither takes work space from the storage.
 */
import type { Backend, Kernels } from "../../core/backend.ts";
import { bytesPerElement, type DType, type HostArray, hostArray } from "../../core/dtype.ts";
import { UNIT } from "../cpu/heap.ts";
import { wasmFused } from "../cpu/wasm_fused.ts";
import { type WasmDevice, wasmKernels } from "../cpu/wasm_kernels.ts";
import { wasmUpdates } from "../cpu/wasm_updates.ts";
import type { DryStorage } from "./storage.ts";

/** Bytes that the heap gives for a buffer. */
export function heapBytes(bytes: number): number {
  return Math.max(1, Math.ceil(bytes / UNIT)) * UNIT;
}

/** Kernels, fused entries and updates of the CPU backend over `storage`; `fallback` stands for the plain loops. */
export function onCpu(storage: DryStorage, fallback: Kernels): Pick<Backend, "kernels" | "fused" | "updates"> {
  const zeros = new Zeros();
  const device: WasmDevice = {
    runner: { run: () => {} },
    memory: {
      alloc: (bytes, label) => storage.alloc(bytes, label),
      free: (buffer) => storage.free(buffer),
      address: ({ buffer }) => (storage.checkRange(buffer, 0, 0, "use"), 0),
      view: (buffer, dtype) => zeros.view(storage.bytesOf(buffer), dtype),
    },
  };
  return { kernels: wasmKernels(device, fallback), fused: wasmFused(device), updates: wasmUpdates(device) };
}

/** What the host sees in memory that is not there: indices, targets and gates are looked at before a kernel runs. */
class Zeros {
  #bytes = new ArrayBuffer(0);

  view(bytes: number, dtype: DType): HostArray {
    if (this.#bytes.byteLength < bytes) this.#bytes = new ArrayBuffer(bytes);
    return hostArray(dtype, this.#bytes, 0, Math.floor(bytes / bytesPerElement(dtype)));
  }
}

/** The kernels, each behind the contract's check. */
export function checked(check: Kernels, kernels: Kernels): Kernels {
  const both = (name: keyof Kernels) => {
    const [first, second] = [check[name], kernels[name]] as unknown as ((...operands: unknown[]) => void)[];
    return (...operands: unknown[]) => {
      first(...operands);
      second(...operands);
    };
  };
  const names = Object.keys(kernels) as (keyof Kernels)[];
  return Object.fromEntries(names.map((name) => [name, both(name)])) as unknown as Kernels;
}
