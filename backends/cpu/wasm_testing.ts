/**
 * What the tests and benches of the compiled kernels share: a device whose runner splits tasks as told, operands from host
 * arrays, and comparisons. Not part of the backend.
 */
import assert from "node:assert/strict";
import type { Operand } from "../../core/backend.ts";
import { bytesFor, type DType, type HostArray, hostArray } from "../../core/dtype.ts";
import { contiguousStrides, type Shape, sizeOf } from "../../core/shape.ts";
import { WasmMemory } from "./memory.ts";
import type { Runner } from "./runner.ts";
import { poolLayout, ThreadPool } from "./threads.ts";
import { compileKernels, instantiateKernels, SCRATCH_BYTES, STATIC_BYTES, type WasmChoice } from "./wasm/load.ts";
import type { WasmDevice } from "./wasm_kernels.ts";

/** A memory of its own; on one thread, tasks run in parts, the last part first, on dirty scratch. */
export class TestDevice implements WasmDevice {
  readonly memory: WasmMemory;
  readonly runner: Runner;

  private constructor(memory: WasmMemory, runner: Runner) {
    this.memory = memory;
    this.runner = runner;
  }

  /** On this thread, tasks in `pieces` parts. */
  static async start(choice: WasmChoice = "relaxed", pieces = 1): Promise<TestDevice> {
    const { module } = await compileKernels(choice);
    const memory = new WasmMemory({ reserve: STATIC_BYTES + SCRATCH_BYTES });
    const kernels = instantiateKernels(module, memory.memory32, STATIC_BYTES);
    const scratch = new Uint8Array(memory.memory32.buffer, STATIC_BYTES, SCRATCH_BYTES);
    const run = (name: string, tasks: number, args: readonly number[]) => {
      const kernel = kernels.get(name);
      assert.ok(kernel, `no kernel ${name}`);
      for (let piece = pieces - 1; piece >= 0; piece--) {
        const [begin, stop] = [piece, piece + 1].map((part) => Math.floor(tasks * part / pieces));
        if (pieces > 1) scratch.fill(0xff); // NaN, wherever a kernel reads what it has not written.
        if (begin < stop) kernel(begin, stop, ...args);
      }
    };
    return new TestDevice(memory, { run });
  }

  /** On the backend's own pool of threads: for benches. */
  static async pool(threads = navigator.hardwareConcurrency): Promise<TestDevice> {
    const { module } = await compileKernels("auto");
    const memory = new WasmMemory({ reserve: poolLayout(threads).end });
    return new TestDevice(memory, await ThreadPool.start({ threads, module, memory: memory.memory32 }));
  }

  /** New memory with the elements of `data`, or with garbage. */
  operand(shape: Shape, data?: ArrayLike<number>, dtype: DType = "f32"): Operand {
    const size = sizeOf(shape);
    const buffer = this.memory.alloc(bytesFor(dtype, size));
    const out = { buffer, offset: 0, shape, strides: contiguousStrides(shape), dtype };
    const host = hostArray(dtype, new ArrayBuffer(bytesFor(dtype, size)), 0, size);
    if (data) host.set(data);
    else new Uint8Array(host.buffer).fill(0xff);
    this.memory.write(buffer, 0, new Uint8Array(host.buffer));
    return out;
  }

  /** The elements in row-major order of the operand's own shape, strides followed. */
  values(x: Operand): HostArray {
    const all = this.memory.view(x.buffer, x.dtype);
    const size = sizeOf(x.shape);
    const out = hostArray(x.dtype, new ArrayBuffer(bytesFor(x.dtype, size)), 0, size);
    for (let i = 0; i < size; i++) {
      let rest = i;
      let at = x.offset;
      for (let axis = x.shape.length - 1; axis >= 0; axis--) {
        at += rest % x.shape[axis] * x.strides[axis];
        rest = Math.floor(rest / x.shape[axis]);
      }
      out[i] = all[at];
    }
    return out;
  }
}

/** The same memory under another shape. */
export function view(x: Operand, shape: Shape, strides: readonly number[], offset = 0): Operand {
  return { buffer: x.buffer, dtype: x.dtype, shape, strides, offset };
}

/**
 * Registers a test of `body` on both builds, with tasks in one, two and three pieces. `body` returns what it computed:
 * the bits must not depend on the pieces.
 */
export function testEverywhere(name: string, body: (device: TestDevice) => readonly HostArray[]): void {
  for (const choice of ["relaxed", "plain"] as const) {
    Deno.test(`${name} (${choice} SIMD)`, async () => {
      const whole = body(await TestDevice.start(choice, 1));
      for (const pieces of [2, 3]) {
        const split = body(await TestDevice.start(choice, pieces));
        whole.forEach((values, i) => assertSameBits(split[i], values, `${pieces} pieces, output ${i}`));
      }
    });
  }
}

/** @throws AssertionError unless all bits agree */
export function assertSameBits(actual: HostArray, expected: HostArray, what = ""): void {
  const [a, b] = [actual, expected].map((values) =>
    new Uint8Array(values.buffer, values.byteOffset, values.byteLength)
  );
  assert.equal(a.length, b.length, what);
  for (let i = 0; i < a.length; i++) {
    if (a[i] !== b[i]) {
      const at = Math.floor(i / actual.BYTES_PER_ELEMENT);
      assert.fail(`${what}: element ${at} is ${actual[at]}, expected the bits of ${expected[at]}`);
    }
  }
}

/** @throws AssertionError unless |actual - expected| <= atol + rtol |expected|, infinities equal and NaN where NaN is */
export function assertClose(
  actual: ArrayLike<number>,
  expected: ArrayLike<number>,
  { rtol = 2e-6, atol = 0, what = "" }: { rtol?: number; atol?: number; what?: string } = {},
): void {
  assert.equal(actual.length, expected.length, what);
  for (let i = 0; i < expected.length; i++) {
    const wanted = expected[i];
    const near = Math.abs(actual[i] - wanted) <= atol + rtol * Math.abs(wanted);
    if (near || Object.is(Math.fround(wanted), actual[i]) || (Number.isNaN(wanted) && Number.isNaN(actual[i]))) {
      continue;
    }
    if (!Number.isFinite(wanted) && actual[i] === wanted) continue;
    assert.fail(`${what}: element ${i} is ${actual[i]}, expected ${wanted} (rtol ${rtol}, atol ${atol})`);
  }
}
