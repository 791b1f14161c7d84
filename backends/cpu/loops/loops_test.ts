/** The reference backend: conformance of its kernels, and its storage. */
import assert from "node:assert/strict";
import type { Operand } from "../../../core/backend.ts";
import { OutOfMemoryError, UnsupportedError } from "../../../core/errors.ts";
import { conformance } from "../../conformance.ts";
import { loopsBackend } from "./mod.ts";

await conformance("loops", () => loopsBackend());

Deno.test("loopsBackend() throws OutOfMemoryError when the limit is passed", () => {
  using backend = loopsBackend({ limit: 100 });
  backend.alloc(60);
  assert.throws(() => backend.alloc(41, "logits"), (error: unknown) => {
    assert.ok(error instanceof OutOfMemoryError);
    assert.deepEqual([error.bytesAsked, error.bytesInUse, error.bytesAllowed], [44, 60, 100]);
    return /logits/.test(error.message);
  });
  backend.alloc(40);
});

Deno.test("loopsBackend() throws OutOfMemoryError when the engine has no such array", () => {
  using backend = loopsBackend();
  assert.throws(() => backend.alloc(2 ** 52), OutOfMemoryError);
  assert.equal(backend.memory().live, 0);
});

Deno.test("loopsBackend() names the buffer when it is used after it was freed", () => {
  using backend = loopsBackend();
  const buffer = backend.alloc(8, "a gradient");
  const x: Operand = { buffer, offset: 0, shape: [2], strides: [1], dtype: "f32" };
  backend.kernels.fill(1, x);
  backend.free(buffer);
  assert.throws(() => backend.kernels.fill(1, x), /a gradient was freed before/);
  assert.throws(() => backend.free(buffer), /a gradient was freed before/);
  assert.throws(() => backend.write({}, 0, new Uint8Array(1)), TypeError);
});

Deno.test("memory() counts bytes in use, the peak and live buffers", () => {
  using backend = loopsBackend();
  const a = backend.alloc(10);
  backend.alloc(20);
  backend.free(a);
  assert.deepEqual(backend.memory(), { inUse: 20, reserved: 20, peak: 32, live: 1, limit: Infinity });
  backend.resetPeak();
  assert.equal(backend.memory().peak, 20);
});

Deno.test("readSync() gives a copy, and is hidden when asked", async () => {
  using backend = loopsBackend();
  const buffer = backend.alloc(4);
  backend.write(buffer, 1, Uint8Array.of(7, 8));
  const copy = backend.readSync!(buffer, 1, 2);
  backend.write(buffer, 1, Uint8Array.of(9));
  assert.deepEqual(copy, Uint8Array.of(7, 8));
  assert.deepEqual(await backend.read(buffer, 1, 2), Uint8Array.of(9, 8));
  assert.equal(loopsBackend({ readSync: false }).readSync, undefined);
});

Deno.test("addInto() refuses stochastic rounding when the parameter is f16 or the key is missing", () => {
  using backend = loopsBackend();
  const of = (dtype: "f16" | "bf16" | "f32"): Operand => {
    return { buffer: backend.alloc(4), offset: 0, shape: [1], strides: [1], dtype };
  };
  const { addInto } = backend.kernels;
  const delta = of("f32");
  assert.throws(() => addInto(of("f16"), delta, { rounding: "stochastic", key: [0, 0] }), UnsupportedError);
  assert.throws(() => addInto(of("bf16"), delta, { rounding: "stochastic" }), TypeError);
});

Deno.test("cast() goes to the nearest end of the range when a float lies beyond it", () => {
  using backend = loopsBackend();
  const x: Operand = { buffer: backend.alloc(16), offset: 0, shape: [4], strides: [1], dtype: "f32" };
  backend.write(x.buffer, 0, new Uint8Array(Float32Array.of(-1e10, 1e10, NaN, -3.9).buffer));
  const out: Operand = { ...x, buffer: backend.alloc(16), dtype: "i32" };
  backend.kernels.cast(x, out);
  const values = new Int32Array(backend.readSync!(out.buffer, 0, 16).buffer);
  assert.deepEqual([...values], [-(2 ** 31), 2 ** 31 - 1, 0, -3]);
});
