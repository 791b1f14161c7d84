/** Tensors: shared memory, transfers of every dtype, and use after disposal. */
import assert from "node:assert/strict";
import { loopsBackend } from "../backends/cpu/loops/mod.ts";
import type { DType, HostArray } from "./dtype.ts";
import { OutOfMemoryError } from "./errors.ts";
import { contiguous, slice, transpose } from "./ops/layout.ts";
import { add, exp } from "./ops/elementwise.ts";
import { scope } from "./scope.ts";
import { empty, fromArray } from "./tensor.ts";

Deno.test("fromArray() and read() carry host data of every dtype", async () => {
  using backend = loopsBackend();
  const arrays: [HostArray, DType][] = [
    [Float32Array.of(1.5, -2, NaN), "f32"],
    [Float64Array.of(1e-300, 0.1, -Infinity), "f64"],
    [Int32Array.of(-(2 ** 31), 0, 2 ** 31 - 1), "i32"],
    [Uint32Array.of(2 ** 32 - 1, 0, 1), "u32"],
    [Uint16Array.of(0x3f80, 0xc000, 0), "bf16"],
    [Uint8Array.of(255, 0, 7), "u8"],
  ];
  for (const [data, dtype] of arrays) {
    using tensor = fromArray(backend, data, [3]);
    assert.equal(tensor.dtype, dtype);
    assert.deepEqual(await tensor.read(), data);
    assert.deepEqual(tensor.readSync(), data);
  }
  using halves = fromArray(backend, Uint16Array.of(0x3c00), [1], "f16");
  assert.deepEqual(halves.readSync(), Uint16Array.of(0x3c00));
  using numbers = fromArray(backend, [1, 2], [2]);
  assert.equal(numbers.toString(), "f32[2]");
  using integers = fromArray(backend, [1, 2], [2], "i32");
  assert.deepEqual(integers.readSync(), Int32Array.of(1, 2));
});

Deno.test("fromArray() refuses data of another size, and numbers where it takes bits", () => {
  using backend = loopsBackend();
  assert.throws(() => fromArray(backend, [1, 2, 3], [2, 2]), {
    name: "TypeError",
    message: "Cannot make f32[2, 2]: expected 4 elements, got 3",
  });
  assert.throws(() => fromArray(backend, [1.5, 2], [2], "bf16"), {
    name: "TypeError",
    message: "Cannot make bf16[2]: expected its bits in a Uint16Array; cast() an f32 tensor instead",
  });
  assert.throws(() => fromArray(backend, Float32Array.of(1.5), [1], "f16"), TypeError);
  assert.equal(backend.memory().live, 0);
});

Deno.test("read() gives a part of shared memory, and refuses strides", async () => {
  using backend = loopsBackend();
  using x = fromArray(backend, [1, 2, 3, 4, 5, 6], [3, 2]);
  using rows = slice(x, [{ start: 1 }]);
  assert.deepEqual([...await rows.read()], [3, 4, 5, 6]);
  using nothing = slice(x, [{ start: 3 }]);
  assert.deepEqual([...nothing.readSync()], []);
  using turned = transpose(x);
  assert.throws(() => turned.readSync(), {
    name: "TypeError",
    message: "Cannot transfer f32[2, 3]: it is not contiguous",
  });
  using copied = contiguous(turned);
  assert.deepEqual([...copied.readSync()], [1, 3, 5, 2, 4, 6]);
});

Deno.test("write() overwrites through a view, and refuses another size", () => {
  using backend = loopsBackend();
  using x = fromArray(backend, [1, 2, 3, 4], [2, 2]);
  using row = slice(x, [{ start: 1 }]);
  row.write(Float32Array.of(7, 8));
  assert.deepEqual([...x.readSync()], [1, 2, 7, 8]);
  assert.throws(() => x.write(Float32Array.of(1)), /Cannot write to f32\[2, 2\]: expected 4 elements, got 1/);
});

Deno.test("write() refuses data of another dtype", () => {
  using backend = loopsBackend();
  using x = fromArray(backend, [1, 2], [2]);
  assert.throws(() => x.write(Int32Array.of(1, 2)), {
    name: "TypeError",
    message: "Cannot write to f32[2]: got Int32Array",
  });
});

Deno.test("readSync() refuses a backend whose memory the host cannot see", async () => {
  using backend = loopsBackend({ readSync: false });
  using x = fromArray(backend, [1], [1]);
  assert.throws(() => x.readSync(), {
    name: "TypeError",
    message: "Cannot read in readSync(): loops only reads async",
  });
  assert.deepEqual([...await x.read()], [1]);
});

Deno.test("dispose() gives memory back with the last view, once", () => {
  using backend = loopsBackend();
  const x = fromArray(backend, [1, 2], [2]);
  const view = x.view([1], [1], 1);
  const held = view.retained();
  x.dispose();
  x.dispose();
  assert.ok(x.isDisposed);
  view.dispose();
  assert.equal(backend.memory().live, 1);
  assert.deepEqual([...held.readSync()], [2]);
  held.dispose();
  assert.equal(backend.memory().live, 0);
});

Deno.test("a disposed tensor refuses every use, by its shape", () => {
  using backend = loopsBackend();
  using _ = scope("test");
  const x = fromArray(backend, [1, 2], [2]);
  x.dispose();
  const error = { name: "Error", message: "Cannot use f32[2]: it has been disposed" };
  assert.throws(() => exp(x), error);
  assert.throws(() => x.view([2], [1], 0), error);
  assert.throws(() => x.retained(), error);
  assert.throws(() => x.readSync(), error);
  assert.throws(() => add(x, 1), error);
});

Deno.test("empty() names the bytes when memory is short", () => {
  using backend = loopsBackend({ limit: 1000 });
  using _ = empty(backend, [100]);
  assert.throws(() => empty(backend, [200]), (error) => {
    assert.ok(error instanceof OutOfMemoryError);
    assert.deepEqual([error.bytesAsked, error.bytesInUse, error.bytesAllowed], [800, 400, 1000]);
    assert.match(error.message, /^Cannot allocate 800 B for f32\[200\]: 400 B of 1 KB are in use/);
    return true;
  });
});
