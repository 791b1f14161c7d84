/** Ops that pick by index: embedding, gather, and dropout's random mask. Index tensors are i32 or u32. */
import { record } from "../autograd.ts";
import { composed, widened } from "../define.ts";
import type { Key } from "../random.ts";
import { describe, sizeOf } from "../shape.ts";
import { empty, type Tensor } from "../tensor.ts";
import { fill, iota, randomBits } from "./create.ts";
import { add, less, mul, stopGradient, where } from "./elementwise.ts";
import { contiguous, reshape } from "./layout.ts";

/**
 * table[indices]: rows of a table. The gradient adds up the rows of repeated indices in a fixed order.
 *
 * @param table [V, D]
 * @param indices i32 or u32, any shape
 * @returns [.., D]
 * @throws RangeError for an index outside [0, V), where the backend's memory is the host's
 */
export function embedding(table: Tensor, indices: Tensor): Tensor {
  if (table.shape.length !== 2 || (indices.dtype !== "i32" && indices.dtype !== "u32")) {
    throw new TypeError(`Cannot look up in embedding(): got table ${describe(table)} and indices ${describe(indices)}`);
  }
  const source = contiguous(table);
  const picks = reshape(contiguous(indices), [indices.size]);
  const dim = table.shape[1];
  const out = empty(table.backend, [...indices.shape, dim], table.dtype);
  using flat = out.view([indices.size, dim], [dim, 1], 0);
  table.backend.kernels.takeRows(source, picks, flat);
  return record("embedding", out, [table], [picks], (g, [index]) => [() => {
    const rows = reshape(contiguous(g), [index.size, dim]);
    const gradient = empty(g.backend, table.shape, g.dtype);
    g.backend.kernels.scatterAddRows(rows, index, gradient);
    return gradient;
  }]);
}

/**
 * Elements of the last axis by index: out[.., j] = x[.., indices[.., j]].
 *
 * @param x [.., D]
 * @param indices i32 or u32 [.., J], leading axes as x
 * @throws as `embedding`
 */
export function gather(x: Tensor, indices: Tensor): Tensor {
  return composed("gather", () => {
    const dim = x.shape[x.shape.length - 1];
    const rows = sizeOf(x.shape.slice(0, -1));
    const starts = reshape(iota(x.backend, rows, indices.dtype, 0, dim), [...x.shape.slice(0, -1), 1]);
    // an index outside its row must not reach into the next one
    const above = less(indices, dim);
    const inside = indices.dtype === "u32" ? above : mul(above, less(-1, indices));
    const flat = embedding(reshape(x, [x.size, 1]), where(inside, add(indices, starts), x.size));
    return reshape(flat, indices.shape);
  });
}

/**
 * Zeroes elements with probability `rate` and scales the rest by 1 / (1 - rate). The mask is a function of the key,
 * drawn again in backward rather than kept. Srivastava et al. 2014.
 */
export function dropout(x: Tensor, rate: number, key: Key): Tensor {
  if (!(rate >= 0 && rate < 1)) throw new RangeError(`Cannot drop in dropout(): rate must be in [0, 1), got ${rate}`);
  if (rate === 0) return x;
  const apply = (value: Tensor) =>
    composed("dropout", () => {
      const limit = fill(value.backend, Math.round(rate * 2 ** 32), [], "u32");
      const dropped = less(randomBits(value.backend, key, value.shape), limit);
      return widened(value.dtype, (wide) => where(dropped, 0, mul(wide, 1 / (1 - rate))))(value);
    });
  const out = apply(stopGradient(x));
  return record("dropout", out, [x], [], (g) => [() => apply(g)]);
}
