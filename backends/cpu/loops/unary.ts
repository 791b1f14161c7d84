/** out[i] = op(x[i]): one loop an op, in f64, rounded once when it is stored. */
import type { Operand, UnaryOp } from "../../../core/backend.ts";
import { sizeOf } from "../../../core/shape.ts";
import { erf } from "./erf.ts";
import { type Numbers, source, store, type View } from "./operands.ts";

type Loop = (x: Numbers, at: number, out: Numbers, to: number, size: number) => void;

const LOOPS: Record<UnaryOp, Loop> = {
  neg: negLoop,
  abs: absLoop,
  exp: each(Math.exp),
  log: each(Math.log),
  sqrt: sqrtLoop,
  rsqrt: rsqrtLoop,
  recip: recipLoop,
  tanh: each(Math.tanh),
  erf: each(erf),
  sin: each(Math.sin),
  cos: each(Math.cos),
  floor: each(Math.floor),
  sign: each(Math.sign),
};

/** See `Kernels.unary`. */
export function unary(view: View, op: UnaryOp, x: Operand, out: Operand): void {
  const from = source(view, x);
  store(view, out, (data, offset) => LOOPS[op](from.data, from.offset, data, offset, sizeOf(out.shape)));
}

/** For functions that cost more than a call. The cheap ones have loops of their own below. */
function each(op: (value: number) => number): Loop {
  return (x, at, out, to, size) => {
    for (let i = 0; i < size; i++) out[to + i] = op(x[at + i]);
  };
}

function negLoop(x: Numbers, at: number, out: Numbers, to: number, size: number): void {
  for (let i = 0; i < size; i++) out[to + i] = -x[at + i];
}

function absLoop(x: Numbers, at: number, out: Numbers, to: number, size: number): void {
  for (let i = 0; i < size; i++) out[to + i] = Math.abs(x[at + i]);
}

function sqrtLoop(x: Numbers, at: number, out: Numbers, to: number, size: number): void {
  for (let i = 0; i < size; i++) out[to + i] = Math.sqrt(x[at + i]);
}

function rsqrtLoop(x: Numbers, at: number, out: Numbers, to: number, size: number): void {
  for (let i = 0; i < size; i++) out[to + i] = 1 / Math.sqrt(x[at + i]);
}

function recipLoop(x: Numbers, at: number, out: Numbers, to: number, size: number): void {
  for (let i = 0; i < size; i++) out[to + i] = 1 / x[at + i];
}
