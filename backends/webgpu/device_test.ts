/** The device layer: order of writes, pooled buffers, one wait for many reads, cached groups. */
import assert from "node:assert/strict";
import type { Operand } from "../../core/backend.ts";
import { contiguousStrides, type Shape } from "../../core/shape.ts";
import { type WebgpuBackend, webgpuBackend } from "./mod.ts";
import { sizeClass } from "./pool.ts";
import { webgpuTest } from "./testing.ts";

function operand(backend: WebgpuBackend, shape: Shape): Operand {
  const size = shape.reduce((product, extent) => product * extent, 1);
  const buffer = backend.alloc(4 * size, "x");
  return { buffer, offset: 0, shape, strides: contiguousStrides(shape), dtype: "f32" };
}

function bytesOf(...values: number[]): Uint8Array<ArrayBuffer> {
  return new Uint8Array(Float32Array.from(values).buffer);
}

function repeated(size: number, value: number): Uint8Array<ArrayBuffer> {
  return new Uint8Array(new Float32Array(size).fill(value).buffer);
}

async function numbers(backend: WebgpuBackend, x: Operand, count: number): Promise<number[]> {
  return [...new Float32Array((await backend.read(x.buffer, 0, 4 * count)).buffer)];
}

Deno.test("sizeClass() loses at most a sixteenth and is a multiple of 256", () => {
  for (const bytes of [0, 1, 256, 257, 1000, 4097, 123_457, 2 ** 20 + 4, 99_999_999]) {
    const size = sizeClass(bytes);
    assert.ok(size >= bytes && size % 256 === 0, `${bytes}: ${size}`);
    assert.ok(size <= Math.max(256, bytes * 17 / 16 + 256), `${bytes}: ${size}`);
    assert.equal(sizeClass(size), size);
  }
});

webgpuTest("write() keeps its place among recorded kernels, small or large", async () => {
  using backend = await webgpuBackend();
  for (const size of [4, 400_000]) {
    const x = operand(backend, [size]);
    const [before, after] = [operand(backend, [size]), operand(backend, [size])];
    backend.write(x.buffer, 0, repeated(size, 1));
    backend.kernels.unary("neg", x, before);
    backend.write(x.buffer, 0, repeated(size, 5));
    backend.kernels.unary("neg", x, after);
    assert.deepEqual(await numbers(backend, before, 2), [-1, -1]);
    assert.deepEqual(await numbers(backend, after, 2), [-5, -5]);
    for (const { buffer } of [x, before, after]) backend.free(buffer);
  }
});

webgpuTest("a buffer that is reused within one recording keeps what earlier kernels read from it", async () => {
  using backend = await webgpuBackend();
  const results: Operand[] = [];
  for (let i = 0; i < 20; i++) {
    const x = operand(backend, [4]);
    backend.write(x.buffer, 0, bytesOf(i, i, i, i));
    const y = operand(backend, [4]);
    backend.kernels.unary("neg", x, y);
    backend.free(x.buffer);
    results.push(y);
  }
  const read = await Promise.all(results.map((y) => numbers(backend, y, 1)));
  assert.deepEqual(read.flat(), results.map((_, i) => -i));
});

webgpuTest("read() gives the bytes as of its call, and reads of one moment wait once", async () => {
  using backend = await webgpuBackend();
  const x = operand(backend, [3]);
  backend.kernels.fill(1, x);
  const early = backend.read(x.buffer, 4, 8);
  backend.kernels.fill(2, x);
  const late = backend.read(x.buffer, 4, 8);
  backend.free(x.buffer);
  const values = await Promise.all([early, late].map(async (bytes) => [...new Float32Array((await bytes).buffer)]));
  assert.deepEqual(values, [[1, 1], [2, 2]]);
  assert.equal(backend.counters().readbacks, 1);
});

webgpuTest("the steady state creates no buffer and no bind group", async () => {
  using backend = await webgpuBackend();
  const step = () => {
    const x = operand(backend, [1000]);
    const y = operand(backend, [1000]);
    backend.kernels.fill(3, x);
    backend.kernels.unary("exp", x, y);
    backend.kernels.binary("add", x, y, y.buffer === x.buffer ? x : operandLike(backend, y));
    backend.free(x.buffer);
    backend.free(y.buffer);
  };
  const extra: Operand[] = [];
  function operandLike(from: WebgpuBackend, like: Operand): Operand {
    const made = operand(from, like.shape);
    extra.push(made);
    return made;
  }
  const settle = () => extra.splice(0).forEach(({ buffer }) => backend.free(buffer));
  for (let i = 0; i < 3; i++) step(), settle();
  const before = backend.counters();
  for (let i = 0; i < 50; i++) step(), settle();
  const after = backend.counters();
  assert.equal(after.buffersCreated, before.buffersCreated);
  assert.equal(after.groupsCreated, before.groupsCreated);
  assert.equal(after.dispatches - before.dispatches, 150);
  assert.equal(backend.memory().live, 0);
});

webgpuTest("an input in the output's own buffer is read before it is overwritten", async () => {
  using backend = await webgpuBackend();
  const whole = operand(backend, [8]);
  backend.write(whole.buffer, 0, bytesOf(1, 2, 3, 4, 0, 0, 0, 0));
  backend.kernels.unary("neg", { ...whole, shape: [4], strides: [1] }, {
    ...whole,
    shape: [4],
    strides: [1],
    offset: 4,
  });
  assert.deepEqual(await numbers(backend, whole, 8), [1, 2, 3, 4, -1, -2, -3, -4]);
});

webgpuTest("a backend that is made and disposed many times leaves nothing behind", async () => {
  for (let i = 0; i < 10; i++) {
    using backend = await webgpuBackend();
    const x = operand(backend, [1 << 18]);
    backend.kernels.fill(i, x);
    assert.deepEqual(await numbers(backend, x, 1), [i]);
  }
});
