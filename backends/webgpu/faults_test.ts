/** What the device does when it fails: one clear error each, no hang, and nothing trusted afterwards. */
import assert from "node:assert/strict";
import type { Operand } from "../../core/backend.ts";
import { DeviceError, OutOfMemoryError, UnsupportedError } from "../../core/errors.ts";
import { contiguousStrides, type Shape } from "../../core/shape.ts";
import { Faults } from "./faults.ts";
import { findAdapter, type WebgpuBackend, webgpuBackend } from "./mod.ts";
import { Pipelines } from "./pipelines.ts";
import { webgpuTest } from "./testing.ts";

function operand(backend: WebgpuBackend, shape: Shape): Operand {
  const size = shape.reduce((product, extent) => product * extent, 1);
  const buffer = backend.alloc(4 * size, "x");
  return { buffer, offset: 0, shape, strides: contiguousStrides(shape), dtype: "f32" };
}

/** Runs `body` with `navigator.gpu` replaced. */
async function withGpu(gpu: unknown, body: () => Promise<void>): Promise<void> {
  const own = Object.getOwnPropertyDescriptor(navigator, "gpu");
  Object.defineProperty(navigator, "gpu", { value: gpu, configurable: true });
  try {
    await body();
  } finally {
    if (own) Object.defineProperty(navigator, "gpu", own);
    else delete (navigator as { gpu?: unknown }).gpu;
  }
}

Deno.test("webgpuBackend() throws an UnsupportedError when the runtime has no WebGPU, or no adapter answers", async () => {
  await withGpu(undefined, async () => {
    assert.equal(await findAdapter(), undefined);
    await assert.rejects(
      webgpuBackend(),
      (error: Error) => error instanceof UnsupportedError && /this runtime has no WebGPU/.test(error.message),
    );
  });
  await withGpu({ requestAdapter: () => Promise.resolve(null) }, async () => {
    await assert.rejects(
      webgpuBackend(),
      (error: Error) => error instanceof UnsupportedError && /no adapter answers; install/.test(error.message),
    );
  });
  const info = { vendor: "v", architecture: "a", device: "", description: "" };
  const refusing = { info, features: new Set(), limits: {}, requestDevice: () => Promise.reject(new Error("gone")) };
  await withGpu({ requestAdapter: () => Promise.resolve(refusing) }, async () => {
    await assert.rejects(
      webgpuBackend(),
      (error: Error) => error instanceof UnsupportedError && /v a gives no device: gone/.test(error.message),
    );
  });
});

webgpuTest(
  "a device that is destroyed in the middle of work ends in one DeviceError, and every later call too",
  async () => {
    using backend = await webgpuBackend();
    const x = operand(backend, [64, 64]);
    const y = operand(backend, [64, 64]);
    backend.kernels.fill(1, x);
    backend.kernels.unary("neg", x, y);
    backend.device.destroy();
    backend.kernels.unary("neg", x, y);
    const failed = (error: Error) => {
      assert.ok(error instanceof DeviceError, String(error));
      assert.match(error.message, /was lost .*resume from the last checkpoint/);
      return true;
    };
    await assert.rejects(backend.read(y.buffer, 0, 16), failed);
    assert.throws(() => backend.alloc(4), failed);
    await assert.rejects(backend.read(y.buffer, 0, 16), failed);
  },
);

webgpuTest("alloc() refuses a tensor that no kernel could see, by name", async () => {
  using backend = await webgpuBackend();
  const { maxStorageBufferBindingSize: most, maxBufferSize } = backend.adapter.limits;
  const largest = Math.floor(Math.min(most, maxBufferSize) / 4) * 4;
  for (const bytes of [largest + 4, 2 ** 31, 2 ** 40].filter((size) => size > largest)) {
    assert.throws(() => backend.alloc(bytes, "f32[32000, 2048]"), (error: Error) => {
      assert.ok(error instanceof UnsupportedError);
      assert.match(error.message, /Cannot allocate .* for f32\[32000, 2048\]: this GPU lets a kernel see at most/);
      return true;
    });
  }
  assert.equal(backend.memory().live, 0);
  const x = operand(backend, [4]);
  backend.kernels.fill(2, x);
  assert.deepEqual(new Float32Array((await backend.read(x.buffer, 0, 16)).buffer), Float32Array.of(2, 2, 2, 2));
});

webgpuTest("alloc() holds to the memory limit and gives unused buffers back before it throws", async () => {
  using backend = await webgpuBackend({ memoryLimit: 1_000_000 });
  const first = backend.alloc(600_000, "first");
  assert.throws(() => backend.alloc(600_000, "second"), (error: unknown) => {
    assert.ok(error instanceof OutOfMemoryError);
    assert.equal(error.bytesAllowed, 1_000_000);
    return /second/.test(error.message);
  });
  backend.free(first);
  backend.free(backend.alloc(900_000, "third"));
  assert.ok(backend.memory().reserved <= 1_000_000);
});

webgpuTest("a kernel that does not compile is one DeviceError that names it", async () => {
  const adapter = await navigator.gpu.requestAdapter();
  const device = await adapter!.requestDevice();
  const faults = new Faults();
  const pipelines = new Pipelines(device, faults, undefined);
  pipelines.get(
    "broken",
    () => ({ bindings: [], params: {}, code: "@compute @workgroup_size(1) fn main() { let x = y; }" }),
  );
  await assert.rejects(faults.settled(), (error: Error) => {
    assert.ok(error instanceof DeviceError);
    assert.match(error.message, /Cannot compile kernel "broken": validation error: /);
    assert.ok(!error.message.includes("\n"));
    return true;
  });
  device.destroy();
});

webgpuTest("handles of another backend, freed ones and ranges outside are refused", async () => {
  using backend = await webgpuBackend();
  const x = operand(backend, [4]);
  assert.throws(() => backend.free({}), /belongs to another backend/);
  assert.throws(() => backend.write(x.buffer, 8, new Uint8Array(12)), RangeError);
  assert.throws(() => backend.write(x.buffer, 2, new Uint8Array(4)), RangeError);
  await assert.rejects(backend.read(x.buffer, 12, 8), RangeError);
  backend.free(x.buffer);
  assert.throws(() => backend.kernels.fill(0, x), /x was freed before/);
  assert.throws(() => backend.free(x.buffer), /freed before/);
});
