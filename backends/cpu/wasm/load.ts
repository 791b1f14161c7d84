/**
 * From the committed base64 to callable kernels: picks the binary that the engine can run, compiles it once, and makes
 * one instance a thread on the shared memory. Runtime-neutral; reads no files.
 */
import { PLAIN_BASE64, RELAXED_BASE64 } from "./kernels.wasm.ts";

/** Bytes at the start of the memory that belong to the binaries (constants); nothing else lies there. */
export const STATIC_BYTES = 65_536;

/** Scratch bytes of each thread: SCRATCH_BYTES in assembly/gemm.ts. */
export const SCRATCH_BYTES = 1 << 20;

/** A kernel: runs the tasks [begin, end). */
export type KernelFunction = (begin: number, end: number, ...args: number[]) => void;

/** Which binary: `auto` takes relaxed SIMD where the engine has it. */
export type WasmChoice = "auto" | "relaxed" | "plain";

/** A compiled binary and its name for people and checkpoints. It can be posted to workers. */
export interface CompiledKernels {
  readonly module: WebAssembly.Module;
  readonly name: "wasm-relaxed" | "wasm-plain";
}

// (module (func (result v128) (f32x4.relaxed_madd zero zero zero))), zero = (i32x4.splat (i32.const 0)).
const ZERO = [0x41, 0, 0xfd, 0x11];
const RELAXED_PROBE = new Uint8Array([
  ...[0, 0x61, 0x73, 0x6d, 1, 0, 0, 0, 1, 5, 1, 0x60, 0, 1, 0x7b, 3, 2, 1, 0, 10, 19, 1, 17, 0],
  ...[...ZERO, ...ZERO, ...ZERO, 0xfd, 0x85, 2, 0x0b],
]);

/** Whether the engine runs relaxed SIMD. */
export function hasRelaxedSimd(): boolean {
  return WebAssembly.validate(RELAXED_PROBE);
}

/** Compiles the chosen binary. @throws Error when the engine lacks what it needs */
export async function compileKernels(choice: WasmChoice): Promise<CompiledKernels> {
  const relaxed = choice === "relaxed" || (choice === "auto" && hasRelaxedSimd());
  const text = atob(relaxed ? RELAXED_BASE64 : PLAIN_BASE64);
  const bytes = Uint8Array.from(text, (character) => character.charCodeAt(0));
  try {
    return { module: await WebAssembly.compile(bytes), name: relaxed ? "wasm-relaxed" : "wasm-plain" };
  } catch (error) {
    const needs = relaxed ? "threads and relaxed SIMD" : "threads and SIMD";
    throw new Error(`Cannot start the cpu backend: this engine has no WebAssembly ${needs}`, { cause: error });
  }
}

/** One thread's kernels on the shared memory. `scratch` is the address of the thread's own SCRATCH_BYTES. */
export function instantiateKernels(
  module: WebAssembly.Module,
  memory: WebAssembly.Memory,
  scratch: number,
): Map<string, KernelFunction> {
  const abort = () => {
    throw new Error("a kernel aborted");
  };
  const { exports } = new WebAssembly.Instance(module, { env: { memory, scratch, abort } });
  const { heapBase, ...kernels } = exports as Record<string, KernelFunction | (() => number)>;
  const end = (heapBase as () => number)();
  if (end > STATIC_BYTES) throw new Error(`Cannot load the kernels: their constants take ${end} bytes`);
  return new Map(Object.keys(kernels).sort().map((name) => [name, kernels[name] as KernelFunction]));
}
