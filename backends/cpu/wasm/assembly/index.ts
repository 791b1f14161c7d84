/**
 * The entry of both binaries: what a Runner can call by name. Every export has the form
 * `name(begin: i32, end: i32, ...args): void` and runs the tasks [begin, end). One line a file; helpers that are not
 * called from JavaScript (math.ts, `gemm`, which attention uses) stay out of the exports.
 *
 * Compile-time constant: RELAXED (1: relaxed SIMD may be used, 0: not). From gemm.ts: SCRATCH, SCRATCH_BYTES, gemm.
 */
import { constantsEnd } from "./codebooks";

export * from "./activations";
export * from "./attention";
export { adamBlockwise, dequantizeBlockwise, quantizeBlockwise } from "./blockwise";
export * from "./copy";
export * from "./elementwise";
export { gemmBatch, gemmPackB, gemmTiles } from "./gemm";
export * from "./gemv";
export * from "./indexing";
export * from "./norms";
export { adam } from "./optimizer";
export * from "./random";
export * from "./reduce";
export * from "./rope";
export * from "./softmax";

/** Where the constants of the binary and its tables end; checked when it is loaded. */
export function heapBase(): usize {
  return constantsEnd();
}
