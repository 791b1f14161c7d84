/** The table of WGSL kernels: every kernel of the seam, on a device or on none. */
import type { Kernels } from "../../../core/backend.ts";
import type { Gpu } from "../gpu.ts";
import { copyStrided } from "./copy.ts";
import { binary, cast, fill, iota, unary, where } from "./elementwise.ts";
import { matmul } from "./matmul.ts";
import { addInto, randomBits } from "./random.ts";
import { reduce } from "./reduce.ts";
import { scatterAddRows, takeRows } from "./rows.ts";

/** All kernels. Calls only record. */
export function webgpuKernels(gpu: Gpu): Kernels {
  return {
    unary: (op, x, out) => unary(gpu, op, x, out),
    binary: (op, a, b, out) => binary(gpu, op, a, b, out),
    where: (mask, a, b, out) => where(gpu, mask, a, b, out),
    cast: (x, out) => cast(gpu, x, out),
    fill: (value, out) => fill(gpu, value, out),
    iota: (start, step, out) => iota(gpu, start, step, out),
    reduce: (op, x, axes, out) => reduce(gpu, op, x, axes, out),
    matmul: (a, b, out, options) => matmul(gpu, a, b, out, options),
    copyStrided: (x, out) => copyStrided(gpu, x, out),
    takeRows: (table, indices, out) => takeRows(gpu, table, indices, out),
    scatterAddRows: (rows, indices, out) => scatterAddRows(gpu, rows, indices, out),
    randomBits: (key, out) => randomBits(gpu, key, out),
    addInto: (param, delta, options) => addInto(gpu, param, delta, options),
  };
}
