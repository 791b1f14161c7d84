/** Large and odd matmuls: right against the plain loops, and bit-equal for any number of threads, on every path. */
import assert from "node:assert/strict";
import type { Backend, Operand } from "../../core/backend.ts";
import { contiguousStrides, sizeOf } from "../../core/shape.ts";
import { cpuBackend, type CpuOptions, loopsBackend } from "./mod.ts";

interface Case {
  readonly a: readonly number[];
  readonly b: readonly number[];
  readonly transposeA?: boolean;
  readonly transposeB?: boolean;
  /** Strides of the batch axes, where the operand repeats or lies apart. */
  readonly batchA?: readonly number[];
  readonly batchB?: readonly number[];
}

const CASES: readonly Case[] = [
  ...[1, 7, 31, 65, 257].flatMap((size) =>
    [false, true].flatMap((transposeA) =>
      [false, true].map((transposeB) => ({ a: [size, size], b: [size, size], transposeA, transposeB }))
    )
  ),
  // Tiled: sizes that fill no tile, several K blocks, several parts of B by columns and by depth.
  { a: [101, 300], b: [300, 203] },
  { a: [300, 101], b: [203, 300], transposeA: true, transposeB: true },
  { a: [50, 520], b: [4500, 520], transposeB: true },
  { a: [20, 6000], b: [6000, 520] },
  { a: [6000, 20], b: [390, 6000], transposeA: true, transposeB: true },
  // Tall and skinny, as GaLore projects.
  { a: [512, 344], b: [344, 32] },
  { a: [512, 32], b: [512, 344], transposeA: true },
  { a: [2048, 9], b: [9, 11] },
  // Few rows and single vectors.
  { a: [1, 300], b: [300, 1000] },
  { a: [1, 300], b: [1000, 300], transposeB: true },
  { a: [5, 300], b: [300, 1000] },
  { a: [8, 300], b: [1000, 300], transposeB: true },
  { a: [300, 1], b: [300, 70], transposeA: true },
  { a: [1000, 300], b: [300, 1] },
  { a: [300, 1000], b: [1, 300], transposeA: true, transposeB: true },
  // Batches: small matrices, large ones, vectors, shared operands, several axes.
  { a: [40, 17, 33], b: [40, 33, 9] },
  { a: [12, 64, 128], b: [12, 64, 128], transposeB: true },
  { a: [3, 200, 130], b: [3, 130, 220] },
  { a: [30, 1, 64], b: [30, 90, 64], transposeB: true },
  { a: [4, 50, 60], b: [4, 60, 70], batchB: [0] },
  { a: [4, 50, 60], b: [4, 60, 70], batchA: [0] },
  { a: [6, 1, 60], b: [6, 60, 70], batchB: [0] },
  { a: [6, 1, 60], b: [6, 60, 70], batchA: [0], batchB: [0] },
  { a: [2, 3, 40, 30], b: [2, 3, 30, 50], batchB: [0, 1500] },
  { a: [2, 3, 40, 30], b: [2, 3, 30, 50], batchA: [1200, 2400], batchB: [4500, 1500] },
];

function nameOf({ a, b, transposeA, transposeB, batchA, batchB }: Case): string {
  const side = (shape: readonly number[], transposed = false, batch?: readonly number[]) =>
    `[${shape.join(", ")}]${transposed ? "^T" : ""}${batch ? ` (batch strides ${batch.join(", ")})` : ""}`;
  return `${side(a, transposeA, batchA)} @ ${side(b, transposeB, batchB)}`;
}

function values(size: number, seed: number): Float32Array<ArrayBuffer> {
  let state = seed;
  return Float32Array.from({ length: size }, () => (state = (Math.imul(state, 1664525) + 1013904223) | 0) / 2 ** 31);
}

function operand(backend: Backend, shape: readonly number[], data: Float32Array<ArrayBuffer>): Operand {
  const buffer = backend.alloc(data.byteLength);
  backend.write(buffer, 0, new Uint8Array(data.buffer));
  return { buffer, offset: 0, shape, strides: contiguousStrides(shape), dtype: "f32" };
}

/** The product's elements. The output begins as NaN. */
function product(backend: Backend, entry: Case): Float32Array {
  const { a, b, transposeA = false, transposeB = false, batchA = [], batchB = [] } = entry;
  const rank = a.length;
  const x = operand(backend, a, values(sizeOf(a), 1));
  const y = operand(backend, b, values(sizeOf(b), 2));
  const [m, n] = [a[transposeA ? rank - 1 : rank - 2], b[transposeB ? rank - 2 : rank - 1]];
  const shape = [...a.slice(0, -2), m, n];
  const out = operand(backend, shape, new Float32Array(sizeOf(shape)).fill(NaN));
  const left = { ...x, strides: [...batchA, ...x.strides.slice(batchA.length)] };
  const right = { ...y, strides: [...batchB, ...y.strides.slice(batchB.length)] };
  backend.kernels.matmul(left, right, out, { transposeA, transposeB });
  const result = new Float32Array(backend.readSync!(out.buffer, 0, 4 * sizeOf(shape)).buffer);
  for (const { buffer } of [x, y, out]) backend.free(buffer);
  return result;
}

const probe = await cpuBackend({ threads: 1 });
const native = probe.blas;
probe[Symbol.dispose]();

const PATHS: readonly { name: string; options: CpuOptions; missing?: string }[] = [
  { name: "WASM", options: { blas: "off" } },
  { name: "WASM without relaxed SIMD", options: { blas: "off", wasm: "plain" } },
  { name: "a native BLAS", options: {}, ...(native.found ? {} : { missing: native.reason }) },
];

for (const { name, options, missing } of PATHS) {
  Deno.test({
    name: `matmul() is right, and bit-equal on 1 to 4 threads, on ${name}${missing ? ` (ignored: ${missing})` : ""}`,
    ignore: missing !== undefined,
    async fn(t) {
      using loops = loopsBackend();
      using one = await cpuBackend({ ...options, threads: 1 });
      using two = await cpuBackend({ ...options, threads: 2 });
      using three = await cpuBackend({ ...options, threads: 3 });
      using four = await cpuBackend({ ...options, threads: 4 });
      for (const entry of CASES) {
        await t.step(nameOf(entry), () => {
          const actual = product(one, entry);
          const expected = product(loops, entry);
          const depth = entry.a[entry.a.length - (entry.transposeA ? 2 : 1)];
          // Terms below 1, sums of f32: far above what rounding leaves, far below what a wrong term does.
          const allowed = 4 * 2 ** -24 * (depth + 16);
          for (let i = 0; i < expected.length; i++) {
            if (!(Math.abs(actual[i] - expected[i]) <= allowed)) {
              assert.fail(`element ${i} is ${actual[i]}, not ${expected[i]} (+- ${allowed})`);
            }
          }
          for (const backend of [two, three, four]) {
            for (let repeat = 0; repeat < 3; repeat++) {
              assert.ok(sameBits(product(backend, entry), actual), `other bits on ${backend.threads} threads`);
            }
          }
        });
      }
    },
  });
}

function sameBits(a: Float32Array, b: Float32Array): boolean {
  const [x, y] = [a, b].map(({ buffer, byteOffset, length }) => new Uint32Array(buffer, byteOffset, length));
  return x.every((bits, i) => bits === y[i]);
}

Deno.test("matmul() of 16-bit operands that writes f32 gives the loops' bits", async () => {
  using backend = await cpuBackend({ threads: 2, blas: "off" });
  using loops = loopsBackend();
  const options = { transposeA: true, transposeB: false };
  for (const dtype of ["bf16", "f16"] as const) {
    const results = [backend, loops].map((on: Backend) => {
      const [x, y] = [1, 2].map((seed) => {
        const bits = new Uint8Array(values(33 * 64, seed).map((value) => Math.floor(32 * value)).buffer);
        // the upper halves of f32 are bf16; as f16 they are other finite numbers
        const halves = new Uint16Array(bits.buffer).filter((_, i) => i % 2 === 1);
        const buffer = on.alloc(halves.byteLength);
        on.write(buffer, 0, new Uint8Array(halves.buffer));
        return { buffer, offset: 0, shape: [33, 64], strides: [64, 1], dtype };
      });
      const out = operand(on, [64, 64], new Float32Array(64 * 64).fill(NaN));
      on.kernels.matmul(x, y, out, options);
      return new Float32Array(on.readSync!(out.buffer, 0, 4 * 64 * 64).buffer);
    });
    assert.ok(results[1].every(Number.isFinite) && results[1].some((value) => value !== 0));
    assert.ok(sameBits(results[0], results[1]), dtype);
  }
});

Deno.test("matmul() leaves other dtypes and empty sums to the loops", async () => {
  using backend = await cpuBackend({ threads: 2, blas: "off" });
  const [x, y] = [operand(backend, [3, 0], values(0, 1)), operand(backend, [0, 4], values(0, 1))];
  const out = operand(backend, [3, 4], values(12, 1));
  backend.kernels.matmul(x, y, out, { transposeA: false, transposeB: false });
  assert.deepEqual(new Float32Array(backend.readSync!(out.buffer, 0, 48).buffer), new Float32Array(12));
  const wide = { ...operand(backend, [4], values(4, 1)), shape: [1, 2], strides: [2, 1], dtype: "f64" as const };
  backend.write(wide.buffer, 0, new Uint8Array(new Float64Array([3, 4]).buffer));
  const one = { ...out, shape: [1, 1], strides: [1, 1], dtype: "f64" as const };
  backend.kernels.matmul(wide, wide, one, { transposeA: false, transposeB: true });
  assert.equal(new Float64Array(backend.readSync!(out.buffer, 0, 8).buffer)[0], 25);
});
