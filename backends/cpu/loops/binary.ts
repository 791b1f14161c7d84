/**
 * out = op(a, b), with any strides: one loop an op over the innermost axis, in f64, rounded once when it is stored.
 *
 * Integers wrap; their quotients and powers truncate toward zero, and a quotient by zero is 0.
 */
import type { BinaryOp, Operand } from "../../../core/backend.ts";
import { contiguousStrides } from "../../../core/shape.ts";
import { isFloat } from "../../../core/dtype.ts";
import { forEachRow, nest, type Numbers, source, store, type View } from "./operands.ts";

/** out[to + i] = op(a[at + i * da], b[bt + i * db]) for i < size. */
type Loop = (
  a: Numbers,
  at: number,
  da: number,
  b: Numbers,
  bt: number,
  db: number,
  out: Numbers,
  to: number,
  size: number,
) => void;

/** A loop an op, so that none pays for a call an element. */
const LOOPS: Record<BinaryOp, Loop> = {
  add: (a, at, da, b, bt, db, out, to, size) => {
    for (let i = 0; i < size; i++, at += da, bt += db) out[to + i] = a[at] + b[bt];
  },
  sub: (a, at, da, b, bt, db, out, to, size) => {
    for (let i = 0; i < size; i++, at += da, bt += db) out[to + i] = a[at] - b[bt];
  },
  mul: (a, at, da, b, bt, db, out, to, size) => {
    for (let i = 0; i < size; i++, at += da, bt += db) out[to + i] = a[at] * b[bt];
  },
  div: (a, at, da, b, bt, db, out, to, size) => {
    for (let i = 0; i < size; i++, at += da, bt += db) out[to + i] = a[at] / b[bt];
  },
  max: (a, at, da, b, bt, db, out, to, size) => {
    for (let i = 0; i < size; i++, at += da, bt += db) out[to + i] = Math.max(a[at], b[bt]);
  },
  min: (a, at, da, b, bt, db, out, to, size) => {
    for (let i = 0; i < size; i++, at += da, bt += db) out[to + i] = Math.min(a[at], b[bt]);
  },
  pow: (a, at, da, b, bt, db, out, to, size) => {
    for (let i = 0; i < size; i++, at += da, bt += db) out[to + i] = a[at] ** b[bt];
  },
  less: (a, at, da, b, bt, db, out, to, size) => {
    for (let i = 0; i < size; i++, at += da, bt += db) out[to + i] = a[at] < b[bt] ? 1 : 0;
  },
  equal: (a, at, da, b, bt, db, out, to, size) => {
    for (let i = 0; i < size; i++, at += da, bt += db) out[to + i] = a[at] === b[bt] ? 1 : 0;
  },
};

/** `mul` of integers: the low 32 bits of the product, which f64 would lose. */
const imulLoop: Loop = (a, at, da, b, bt, db, out, to, size) => {
  for (let i = 0; i < size; i++, at += da, bt += db) out[to + i] = Math.imul(a[at], b[bt]);
};

/** See `Kernels.binary`. */
export function binary(view: View, op: BinaryOp, a: Operand, b: Operand, out: Operand): void {
  const left = source(view, a);
  const right = source(view, b);
  const loop = op === "mul" && !isFloat(a.dtype) ? imulLoop : LOOPS[op];
  const loops = nest(out.shape, a.strides, b.strides, contiguousStrides(out.shape));
  const inner = loops.extents.length - 1;
  const size = loops.extents[inner];
  const da = loops.strides[0][inner];
  const db = loops.strides[1][inner];
  store(view, out, (data, offset) =>
    forEachRow(
      loops,
      [left.offset, right.offset, offset],
      ([at, bt, to]) => loop(left.data, at, da, right.data, bt, db, data, to, size),
    ));
}
