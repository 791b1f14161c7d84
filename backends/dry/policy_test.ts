/** Policies of the dry backend: it counts what another backend would allocate. */
import assert from "node:assert/strict";
import type { Backend, Operand } from "../../core/backend.ts";
import { bytesFor, type DType } from "../../core/dtype.ts";
import { OutOfMemoryError } from "../../core/errors.ts";
import { contiguousStrides, type Shape, sizeOf } from "../../core/shape.ts";
import { sizeClass } from "../webgpu/pool.ts";
import { dryBackend } from "./mod.ts";

function operand(backend: Backend, shape: Shape, dtype: DType = "f32"): Operand {
  const buffer = backend.alloc(bytesFor(dtype, sizeOf(shape)), "x");
  return { buffer, offset: 0, shape, strides: contiguousStrides(shape), dtype };
}

/** Bytes that `run` takes at most beside what was there. */
function scratch(backend: Backend, run: () => void): number {
  const before = backend.memory().inUse;
  backend.resetPeak();
  run();
  assert.equal(backend.memory().inUse, before);
  return backend.memory().peak - before;
}

const PLAIN = { transposeA: false, transposeB: false };

Deno.test.each(["exact", "cpu", "webgpu"] as const)(
  "dryBackend() counts tensors alike under the policy %s",
  (policy) => {
    using backend = dryBackend({ policy });
    const held = { exact: 1004, cpu: 1024, webgpu: sizeClass(1004) }[policy];
    const buffer = backend.alloc(1001, "x");
    assert.deepEqual([backend.memory().inUse, backend.memory().peak, backend.peakHeld()], [1004, 1004, held]);
    backend.free(buffer);
    assert.deepEqual([backend.memory().inUse, backend.peakHeld()], [0, held]);
    backend.resetPeak();
    assert.deepEqual([backend.memory().peak, backend.peakHeld()], [0, 0]);
    assert.deepEqual(backend.largest(), { label: "x", bytes: 1004 });
    assert.equal(backend.readSync === undefined, policy === "webgpu");
  },
);

Deno.test("dryBackend() takes the work space of the CPU's kernels", () => {
  using backend = dryBackend({ policy: "cpu" });
  const [x, out] = [operand(backend, [1000, 8]), operand(backend, [8])];
  const columns = { ...x, shape: [8, 1000], strides: [1, 8] };
  // partial sums in f64: a row of them for 256 rows of x
  assert.equal(scratch(backend, () => backend.kernels.reduce("sum", columns, 1, out)), 8 * 4 * 8);
  assert.equal(scratch(backend, () => backend.kernels.fill(1, x)), 0);
});

Deno.test("dryBackend() takes partial sums of WebGPU's products on a card, and none in software", () => {
  for (const isSoftware of [false, true]) {
    using backend = dryBackend({ policy: "webgpu", gpu: { isSoftware } });
    const [a, b, out] = [operand(backend, [64, 8192]), operand(backend, [8192, 64]), operand(backend, [64, 64])];
    const bytes = scratch(backend, () => backend.kernels.matmul(a, b, out, PLAIN));
    if (isSoftware) assert.equal(bytes, 0);
    else assert.ok(bytes >= 2 * 4 * 64 * 64 && bytes % (4 * 64 * 64) === 0, `${bytes}`);
  }
});

Deno.test("dryBackend() takes f32 beside odd widths of 16 bits on WebGPU", () => {
  using backend = dryBackend({ policy: "webgpu", gpu: { isSoftware: true } });
  const widths: readonly (readonly [number, number])[] = [[8, 0], [7, 4 * 5 * 7]];
  for (const [width, bytes] of widths) {
    const [a, b] = [operand(backend, [5, 6], "bf16"), operand(backend, [6, width], "bf16")];
    const out = operand(backend, [5, width], "bf16");
    assert.equal(scratch(backend, () => backend.kernels.matmul(a, b, out, PLAIN)), bytes);
  }
});

Deno.test("dryBackend() has the entries of the backend that it plans for", () => {
  using cpu = dryBackend({ policy: "cpu" });
  using webgpu = dryBackend({ policy: "webgpu" });
  assert.deepEqual([cpu.fused.sumOfSquares === undefined, webgpu.fused.sumOfSquares === undefined], [true, false]);
  const halves = [{ shape: [2, 4], dtype: "bf16" as const }, { shape: [2, 4], dtype: "bf16" as const }];
  assert.deepEqual([cpu, webgpu].map(({ fused }) => fused.swiglu!.supports(halves, {})), [false, true]);
});

Deno.test("dryBackend() throws when a policy's limit is passed or an operand breaks the contract", () => {
  for (const policy of ["cpu", "webgpu"] as const) {
    using backend = dryBackend({ policy, limit: 4096 });
    const x = operand(backend, [4]);
    assert.throws(() => backend.alloc(8192, "logits"), OutOfMemoryError);
    assert.throws(() => backend.kernels.unary("exp", x, x), /must not alias/);
    assert.throws(() => backend.write(x.buffer, 12, new Uint8Array(8)), RangeError);
    backend.free(x.buffer);
    assert.throws(() => backend.kernels.fill(0, x), /freed before/);
  }
});
