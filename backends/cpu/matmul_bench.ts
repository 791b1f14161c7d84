/**
 * Times matmul on the shapes of training: `deno bench -A backends/cpu/matmul_bench.ts`. WASM alone, and with a native BLAS
 * where there is one. GFLOP/s = 2 m n k / time.
 *
 * Measured 2026-11-23 on a shared virtual machine with 2 cores (AMD EPYC, AVX-512), Deno 2.9.6, f32, GFLOP/s of
 * processor time on one thread: 512^3 WASM 62, OpenBLAS 0.3.21 118; [2048, 512] @ [1376, 512]^T WASM 62, OpenBLAS 116.
 */
import type { Operand } from "../../core/backend.ts";
import { contiguousStrides, sizeOf } from "../../core/shape.ts";
import { cpuBackend } from "./mod.ts";

interface Shapes {
  readonly a: readonly number[];
  readonly b: readonly number[];
  readonly transposeA?: boolean;
  readonly transposeB?: boolean;
}

const SHAPES: Readonly<Record<string, Shapes>> = {
  "64^3": { a: [64, 64], b: [64, 64] },
  "256^3": { a: [256, 256], b: [256, 256] },
  "512^3": { a: [512, 512], b: [512, 512] },
  "1024^3": { a: [1024, 1024], b: [1024, 1024] },
  "linear [2048, 512] @ [1376, 512]^T": { a: [2048, 512], b: [1376, 512], transposeB: true },
  "gradient of x [2048, 1376] @ [1376, 512]": { a: [2048, 1376], b: [1376, 512] },
  "gradient of W [2048, 1376]^T @ [2048, 512]": { a: [2048, 1376], b: [2048, 512], transposeA: true },
  "logits [2048, 512] @ [32000, 512]^T": { a: [2048, 512], b: [32000, 512], transposeB: true },
  "GaLore [512, 1376] @ [1376, 128]": { a: [512, 1376], b: [1376, 128] },
  "GaLore [512, 512] @ [512, 128]": { a: [512, 512], b: [512, 128] },
  "batch 64 x [256, 64] @ [256, 64]^T": { a: [64, 256, 64], b: [64, 256, 64], transposeB: true },
  "batch 64 x [256, 256] @ [256, 64]": { a: [64, 256, 256], b: [64, 256, 64] },
  "one token [1, 512] @ [32000, 512]^T": { a: [1, 512], b: [32000, 512], transposeB: true },
};

const wasm = await cpuBackend({ blas: "off" });
const native = await cpuBackend();

for (const [group, { a, b, transposeA = false, transposeB = false }] of Object.entries(SHAPES)) {
  for (const backend of native.blas.found ? [wasm, native] : [wasm]) {
    const operand = (shape: readonly number[]): Operand => {
      const data = Float32Array.from({ length: sizeOf(shape) }, (_, i) => (i * 7919 % 1000) / 1000);
      const buffer = backend.alloc(data.byteLength);
      backend.write(buffer, 0, new Uint8Array(data.buffer));
      return { buffer, offset: 0, shape, strides: contiguousStrides(shape), dtype: "f32" };
    };
    const [m, n] = [a[a.length - (transposeA ? 1 : 2)], b[b.length - (transposeB ? 2 : 1)]];
    const name = `${backend.kernelPath}, ${backend.threads} threads`;
    let operands: Operand[] | undefined;
    Deno.bench({ name, group, baseline: backend === wasm }, () => {
      const [x, y, out] = operands ??= [operand(a), operand(b), operand([...a.slice(0, -2), m, n])];
      backend.kernels.matmul(x, y, out, { transposeA, transposeB });
    });
  }
}
