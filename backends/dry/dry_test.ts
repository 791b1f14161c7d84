/** The dry backend: what it counts, what it refuses, and what its fused entries declare. */
import assert from "node:assert/strict";
import type { Backend, Operand } from "../../core/backend.ts";
import { bytesFor, type DType } from "../../core/dtype.ts";
import { OutOfMemoryError } from "../../core/errors.ts";
import { contiguousStrides, type Shape, sizeOf } from "../../core/shape.ts";
import { dryBackend, dryFused } from "./mod.ts";

function operand(backend: Backend, shape: Shape, dtype: DType = "f32"): Operand {
  const buffer = backend.alloc(bytesFor(dtype, sizeOf(shape)), "x");
  return { buffer, offset: 0, shape, strides: contiguousStrides(shape), dtype };
}

Deno.test("dryBackend() counts bytes in use, the peak and live buffers", () => {
  using backend = dryBackend();
  const a = backend.alloc(10);
  backend.alloc(4e9);
  assert.deepEqual(backend.memory(), {
    inUse: 4e9 + 12,
    reserved: 4e9 + 12,
    peak: 4e9 + 12,
    live: 2,
    limit: Infinity,
  });
  backend.free(a);
  assert.deepEqual([backend.memory().inUse, backend.memory().peak, backend.memory().live], [4e9, 4e9 + 12, 1]);
  backend.resetPeak();
  assert.equal(backend.memory().peak, 4e9);
});

Deno.test("dryBackend() throws OutOfMemoryError when the limit is passed", () => {
  using backend = dryBackend({ limit: 100 });
  backend.alloc(60);
  assert.throws(() => backend.alloc(41, "logits"), (error: unknown) => {
    assert.ok(error instanceof OutOfMemoryError);
    assert.deepEqual([error.bytesAsked, error.bytesInUse, error.bytesAllowed], [44, 60, 100]);
    return /logits/.test(error.message);
  });
  backend.alloc(40);
});

Deno.test("dryBackend() throws when a freed buffer is used, or one of another backend", () => {
  using backend = dryBackend();
  const x = operand(backend, [3]);
  backend.free(x.buffer);
  assert.throws(() => backend.kernels.fill(0, x), /x was freed before/);
  assert.throws(() => backend.free(x.buffer), /freed before/);
  assert.throws(() => backend.kernels.fill(0, { ...x, buffer: {} }), TypeError);
});

Deno.test("read() gives zeros and checks the range", async () => {
  using backend = dryBackend();
  const buffer = backend.alloc(8);
  backend.write(buffer, 4, Uint8Array.of(1, 2, 3, 4));
  assert.deepEqual(await backend.read(buffer, 0, 8), new Uint8Array(8));
  assert.deepEqual(backend.readSync?.(buffer, 4, 4), new Uint8Array(4));
  assert.equal(dryBackend({ readSync: false }).readSync, undefined);
  assert.throws(() => backend.write(buffer, 5, new Uint8Array(4)), RangeError);
});

Deno.test("dryBackend() takes operands that keep to the contract", () => {
  using backend = dryBackend();
  const { kernels } = backend;
  const of = (shape: Shape, dtype?: DType) => operand(backend, shape, dtype);
  const plain = { transposeA: false, transposeB: false };
  kernels.unary("neg", of([3], "i32"), of([3], "i32"));
  kernels.binary("less", { ...of([3]), shape: [2, 3], strides: [0, 1] }, of([2, 3]), of([2, 3], "u32"));
  kernels.where(of([3], "u32"), of([3], "bf16"), of([3], "bf16"), of([3], "bf16"));
  kernels.cast(of([3]), of([3], "u8"));
  kernels.iota(0, 1, of([0], "i32"));
  kernels.unary("exp", { ...of([0, 7]), offset: 3 }, of([0, 7]));
  kernels.reduce("sum", { ...of([3, 4]), shape: [4, 3], strides: [1, 4] }, 1, of([4]));
  kernels.reduce("argmax", of([3, 4]), 1, of([3], "u32"));
  kernels.reduce("sum", of([]), 0, of([]));
  kernels.matmul(of([5, 2, 3]), { ...of([4, 3]), shape: [5, 4, 3], strides: [0, 3, 1] }, of([5, 2, 4]), {
    transposeA: false,
    transposeB: true,
  });
  kernels.matmul(of([2, 0]), of([0, 4]), of([2, 4]), plain);
  kernels.copyStrided(of([2, 3], "u8"), { ...of([2, 8], "u8"), shape: [2, 3], strides: [8, 1], offset: 5 });
  kernels.takeRows(of([9, 4]), of([2], "i32"), of([2, 4]));
  kernels.scatterAddRows(of([2, 4]), of([2], "u32"), of([9, 4]));
  kernels.randomBits([1, 0xffffffff], of([7], "u32"));
  kernels.matmul(of([2, 3], "f16"), of([3, 4], "f16"), of([2, 4]), plain);
  kernels.addInto(of([3], "bf16"), of([3]), { rounding: "stochastic", key: [1, 2] });
  kernels.addInto(of([3], "f16"), of([3]), { rounding: "nearest", master: of([3]) });
});

Deno.test("dryBackend() throws a TypeError when an operand breaks the contract", () => {
  using backend = dryBackend();
  const { kernels } = backend;
  const of = (shape: Shape, dtype?: DType) => operand(backend, shape, dtype);
  const plain = { transposeA: false, transposeB: false };
  const transposed = { ...of([3, 3]), strides: [1, 3] };
  const x = of([3, 3]);
  const wrong: (() => void)[] = [
    () => kernels.unary("exp", of([3], "i32"), of([3], "i32")),
    () => kernels.unary("exp", transposed, of([3, 3])),
    () => kernels.unary("exp", x, x),
    () => kernels.unary("exp", of([3]), of([4])),
    () => kernels.unary("exp", { ...of([3, 3]), strides: [1] }, of([3, 3])),
    () => kernels.binary("add", of([3]), of([3], "bf16"), of([3])),
    () => kernels.binary("add", of([1]), of([3]), of([3])),
    () => kernels.binary("equal", of([3]), of([3]), of([3])),
    () => kernels.binary("add", of([3], "u8"), of([3], "u8"), of([3], "u8")),
    () => kernels.where(of([3]), of([3]), of([3]), of([3])),
    () => kernels.cast(of([3]), of([1, 3], "u8")),
    () => kernels.fill(0, transposed),
    () => kernels.reduce("sum", of([3, 4]), 1, of([4])),
    () => kernels.reduce("argmax", of([3, 4]), 2, of([], "u32")),
    () => kernels.reduce("argmax", of([3, 4]), 1, of([3])),
    () => kernels.matmul(of([2, 3]), of([4, 3]), of([2, 3]), plain),
    () => kernels.matmul(transposed, of([3, 3]), of([3, 3]), plain),
    () => kernels.matmul(of([2, 3]), of([5, 3, 4]), of([5, 2, 4]), plain),
    () => kernels.matmul(of([2, 3], "bf16"), of([3, 4]), of([2, 4]), plain),
    () => kernels.matmul(of([2, 3]), of([3, 4]), of([2, 4], "bf16"), plain),
    () => kernels.matmul(of([2, 3], "bf16"), of([3, 4], "bf16"), of([2, 4], "f16"), plain),
    () => kernels.matmul(of([2, 3], "f64"), of([3, 4], "f64"), of([2, 4]), plain),
    () => kernels.copyStrided(of([3]), of([3], "u32")),
    () => kernels.takeRows(of([9, 4]), of([2]), of([2, 4])),
    () => kernels.takeRows(of([9, 4]), of([2], "i32"), of([3, 4])),
    () => kernels.scatterAddRows(of([3, 4]), of([2], "u32"), of([9, 4])),
    () => kernels.randomBits([1, 2], of([7])),
    () => kernels.randomBits([-1, 2], of([7], "u32")),
    () => kernels.addInto(of([3]), of([3], "bf16"), { rounding: "nearest" }),
    () => kernels.addInto(of([3], "bf16"), of([3]), { rounding: "stochastic" }),
    () => kernels.addInto(of([3]), of([3]), { rounding: "nearest", master: of([3]) }),
    () => kernels.addInto(of([3], "bf16"), of([3]), { rounding: "nearest", master: of([4]) }),
    () => kernels.addInto(of([3], "bf16"), of([3]), { rounding: "nearest", master: of([3], "f64") }),
    () => kernels.addInto(of([3], "bf16"), of([3]), { rounding: "stochastic", key: [1, 2], master: of([3]) }),
    () => {
      const delta = of([3]);
      kernels.addInto(of([3], "bf16"), delta, { rounding: "nearest", master: delta });
    },
  ];
  wrong.forEach((call, i) => assert.throws(call, TypeError, `call ${i}`));
  assert.throws(() => kernels.fill(0, { ...of([3]), shape: [4], strides: [1] }), RangeError);
  assert.throws(
    () => kernels.matmul(of([2, 3]), of([4, 5]), of([2, 5]), plain),
    /Cannot run matmul\(\): inner sizes must match \(3 and 4\): got f32\[2, 3\] and f32\[4, 5\]/,
  );
});

Deno.test("dryFused() gives the residuals of real entries", () => {
  const fused = dryFused();
  const x = { shape: [2, 5, 8], dtype: "bf16" } as const;
  assert.equal(Object.keys(fused).length, 10);
  assert.deepEqual(fused.rmsNorm?.residuals?.([x], { eps: 1e-5 }), [{ shape: [10], dtype: "f32" }]);
  assert.equal(fused.layerNorm?.residuals?.([{ ...x, dtype: "f64" }], { eps: 1e-5 })[1].dtype, "f64");
  assert.deepEqual(fused.crossEntropy?.residuals?.([{ shape: [6, 9], dtype: "f32" }], { ignoreIndex: -1 }), [
    { shape: [6], dtype: "f32" },
  ]);
  const q = { shape: [2, 5, 3, 4], dtype: "f32" } as const;
  assert.deepEqual(fused.attention?.residuals?.([q, q, q], { causal: true, scale: 1 })[0].shape, [2, 3, 5]);
  assert.deepEqual(fused.silu?.residuals?.([x], {}), []);
});

Deno.test("dryFused() says what each vjp keeps", () => {
  const fused = dryFused(["softmax", "rope"]);
  assert.deepEqual(fused.softmax?.vjp?.saves, { inputs: [], out: true });
  assert.deepEqual(fused.rope?.vjp?.saves, { inputs: [1, 2], out: false });
  assert.equal(fused.gelu, undefined);
});

Deno.test("dryBackend() remembers the largest buffer that was asked for", () => {
  using backend = dryBackend();
  backend.free(backend.alloc(10, "small"));
  backend.free(backend.alloc(4e9, "logits"));
  backend.alloc(4e9, "another");
  assert.deepEqual(backend.largest(), { label: "logits", bytes: 4e9 });
});
