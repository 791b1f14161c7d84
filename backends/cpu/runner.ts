/**
 * How the CPU backend's wrappers reach compiled kernels: one call runs one WASM export over numbered tasks.
 *
 * The number of tasks and what each one covers depend on shapes alone, never on the number of threads; which thread
 * claims a task is free. A task writes nothing that another one reads. Together these make results bit-equal for any
 * number of threads.
 */
import type { Operand } from "../../core/backend.ts";

/** Runs compiled kernels, on one thread or many. */
export interface Runner {
  /**
   * Calls the export `name(begin, end, ...args)` until the tasks [0, tasks) are covered once, and returns when all have
   * run. Arguments are numbers; the export declares them as i32, usize, f32 or f64.
   */
  run(name: string, tasks: number, args: readonly number[]): void;
}

/** What wrappers need of the memory that all tensors live in. */
export interface Addresses {
  /** Byte address of the operand's first element in the WASM memory. */
  address(operand: Operand): number;
}
