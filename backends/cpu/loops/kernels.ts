/** The table of loops: every kernel of the seam over host arrays. What each entry means is what its loop does. */
import type { Kernels } from "../../../core/backend.ts";
import { randomBits } from "../../../core/random.ts";
import { sizeOf } from "../../../core/shape.ts";
import { addInto } from "./add_into.ts";
import { binary } from "./binary.ts";
import { cast, copyStrided, fill, iota, where } from "./copy.ts";
import { matmul } from "./matmul.ts";
import type { View } from "./operands.ts";
import { reduce } from "./reduce.ts";
import { scatterAddRows, takeRows } from "./rows.ts";
import { unary } from "./unary.ts";

/** All kernels over whatever memory `view` shows. They run when called and keep nothing. */
export function loopKernels(view: View): Kernels {
  return {
    unary: (op, x, out) => unary(view, op, x, out),
    binary: (op, a, b, out) => binary(view, op, a, b, out),
    where: (mask, a, b, out) => where(view, mask, a, b, out),
    cast: (x, out) => cast(view, x, out),
    fill: (value, out) => fill(view, value, out),
    iota: (start, step, out) => iota(view, start, step, out),
    reduce: (op, x, axes, out) => reduce(view, op, x, axes, out),
    matmul: (a, b, out, options) => matmul(view, a, b, out, options),
    copyStrided: (x, out) => copyStrided(view, x, out),
    takeRows: (table, indices, out) => takeRows(view, table, indices, out),
    scatterAddRows: (rows, indices, out) => scatterAddRows(view, rows, indices, out),
    randomBits: (key, out) => {
      const words = view(out.buffer, "u32") as Uint32Array;
      randomBits(key, sizeOf(out.shape), words.subarray(out.offset));
    },
    addInto: (param, delta, options) => addInto(view, param, delta, options),
  };
}
