/** Kernels that hold their operands to the contract of `core/backend.ts` and compute nothing. */
import type {
  AddIntoOptions,
  BinaryOp,
  Kernels,
  MatmulOptions,
  Operand,
  ReduceOp,
  UnaryOp,
} from "../../core/backend.ts";
import { type DType, isFloat, isHalf } from "../../core/dtype.ts";
import { sameShape, sizeOf } from "../../core/shape.ts";
import { checkContiguous, checkOperands, demand } from "./check.ts";
import type { Ledger } from "./storage.ts";

/** All kernels over storage that is not there. @throws TypeError where an operand breaks the contract */
export function dryKernels(storage: Ledger): Kernels {
  const check = (op: string, inputs: readonly Operand[], out: Operand) => checkOperands(storage, op, inputs, out);
  return {
    unary: (op, x, out) => (check("unary", [x], out), unary(op, x, out)),
    binary: (op, a, b, out) => (check("binary", [a, b], out), binary(op, a, b, out)),
    where: (mask, a, b, out) => (check("where", [mask, a, b], out), where(mask, a, b, out)),
    cast: (x, out) => {
      check("cast", [x], out);
      checkContiguous("cast", x, out);
      demand(sameShape(x.shape, out.shape), "cast", "shapes must match", x, out);
    },
    fill: (_value, out) => (check("fill", [], out), checkContiguous("fill", out)),
    iota: (_start, _step, out) => (check("iota", [], out), checkContiguous("iota", out)),
    reduce: (op, x, axes, out) => (check("reduce", [x], out), reduce(op, x, axes, out)),
    matmul: (a, b, out, options) => (check("matmul", [a, b], out), matmul(a, b, out, options)),
    copyStrided: (x, out) => {
      check("copyStrided", [x], out);
      demand(alike(x, out), "copyStrided", "shapes and dtypes must match", x, out);
    },
    takeRows: (table, indices, out) => (check("takeRows", [table, indices], out), takeRows(table, indices, out)),
    scatterAddRows: (rows, indices, out) => {
      check("scatterAddRows", [rows, indices], out);
      scatterAddRows(rows, indices, out);
    },
    randomBits: (key, out) => {
      check("randomBits", [], out);
      checkContiguous("randomBits", out);
      demand(out.dtype === "u32", "randomBits", "the output must be u32", out);
      checkKey("randomBits", key);
    },
    addInto: (param, delta, options) => {
      const { master } = options;
      if (master) check("addInto", [delta], master);
      check("addInto", master ? [delta, master] : [delta], param);
      addInto(param, delta, options);
    },
  };
}

function alike(...operands: readonly Operand[]): boolean {
  const [first] = operands;
  return operands.every((x) => x.dtype === first.dtype && sameShape(x.shape, first.shape));
}

function isIndex(dtype: DType): boolean {
  return dtype === "i32" || dtype === "u32";
}

function unary(op: UnaryOp, x: Operand, out: Operand): void {
  checkContiguous("unary", x, out);
  demand(alike(x, out), "unary", "shapes and dtypes must match", x, out);
  const whole = op === "neg" || op === "abs" || op === "sign";
  demand(isFloat(x.dtype) || (whole && x.dtype === "i32"), "unary", `${op} takes no such dtype`, x);
}

function binary(op: BinaryOp, a: Operand, b: Operand, out: Operand): void {
  checkContiguous("binary", out);
  demand(alike(a, b), "binary", "shapes and dtypes must match", a, b);
  demand(sameShape(a.shape, out.shape), "binary", "operands must have the output's shape", a, out);
  demand(isFloat(a.dtype) || isIndex(a.dtype), "binary", `${op} takes no such dtype`, a);
  const result = op === "less" || op === "equal" ? "u32" : a.dtype;
  demand(out.dtype === result, "binary", `${op} writes ${result}`, a, out);
}

function where(mask: Operand, a: Operand, b: Operand, out: Operand): void {
  checkContiguous("where", mask, a, b, out);
  demand(mask.dtype === "u32" && sameShape(mask.shape, out.shape), "where", "the mask must be u32", mask, out);
  demand(alike(a, b, out), "where", "shapes and dtypes must match", a, b, out);
}

function reduce(op: ReduceOp, x: Operand, axes: number, out: Operand): void {
  checkContiguous("reduce", out);
  const kept = x.shape.length - axes;
  const valid = Number.isInteger(axes) && axes >= 0 && kept >= 0 && (op !== "argmax" || axes === 1);
  demand(valid, "reduce", `${op} cannot take the last ${axes} axes`, x);
  demand(sameShape(x.shape.slice(0, kept), out.shape), "reduce", "the output must have the remaining axes", x, out);
  const result = op === "argmax" ? "u32" : x.dtype;
  demand(out.dtype === result, "reduce", `${op} writes ${result}`, x, out);
}

function matmul(a: Operand, b: Operand, out: Operand, { transposeA, transposeB }: MatmulOptions): void {
  checkContiguous("matmul", out);
  const rank = out.shape.length;
  const ranks = rank >= 2 && a.shape.length === rank && b.shape.length === rank;
  demand(ranks, "matmul", "operands must have the output's axes, two or more", a, b, out);
  demand(isFloat(a.dtype) && a.dtype === b.dtype, "matmul", "dtypes must match", a, b);
  const result = out.dtype === a.dtype || (isHalf(a.dtype) && out.dtype === "f32");
  demand(result, "matmul", "the output must be of the operands' dtype, or f32 for 16-bit ones", a, b, out);
  for (const x of [a, b]) {
    const [rows, columns] = x.shape.slice(-2);
    const [down, right] = x.strides.slice(-2);
    demand(right === 1 || columns <= 1, "matmul", "the innermost stride must be 1", x);
    demand(down >= columns || rows <= 1, "matmul", "rows must not overlap", x);
  }
  const [m, inner] = transposeA ? a.shape.slice(-2).reverse() : a.shape.slice(-2);
  const [k, n] = transposeB ? b.shape.slice(-2).reverse() : b.shape.slice(-2);
  demand(inner === k, "matmul", `inner sizes must match (${inner} and ${k})`, a, b);
  const batch = out.shape.slice(0, -2);
  const fits = [a, b].every((x) => sameShape(x.shape.slice(0, -2), batch)) && sameShape(out.shape.slice(-2), [m, n]);
  demand(fits, "matmul", "the output must be [.., M, N]", a, b, out);
}

function takeRows(table: Operand, indices: Operand, out: Operand): void {
  checkContiguous("takeRows", table, indices, out);
  demand(isIndex(indices.dtype) && indices.shape.length === 1, "takeRows", "indices must be a list", indices);
  demand(table.shape.length === 2 && table.dtype === out.dtype, "takeRows", "dtypes must match", table, out);
  const shape = [indices.shape[0], table.shape[1]];
  demand(sameShape(out.shape, shape), "takeRows", "the output must have a row for each index", table, indices, out);
}

function scatterAddRows(rows: Operand, indices: Operand, out: Operand): void {
  checkContiguous("scatterAddRows", rows, indices, out);
  demand(isIndex(indices.dtype) && indices.shape.length === 1, "scatterAddRows", "indices must be a list", indices);
  const dtypes = isFloat(rows.dtype) && rows.dtype === out.dtype && out.shape.length === 2;
  demand(dtypes, "scatterAddRows", "rows must be of the output's float type", rows, out);
  const shape = [indices.shape[0], out.shape[1]];
  demand(sameShape(rows.shape, shape), "scatterAddRows", "there must be a row for each index", rows, indices, out);
}

function addInto(param: Operand, delta: Operand, { rounding, key, master, gate }: AddIntoOptions): void {
  checkContiguous("addInto", param, delta);
  demand(isFloat(param.dtype), "addInto", "the parameter must be of a float type", param);
  const step = param.dtype === "f64" ? "f64" : "f32";
  const fits = delta.dtype === step && sameShape(param.shape, delta.shape);
  demand(fits, "addInto", `the step must be ${step} of the parameter's shape`, param, delta);
  if (master) {
    checkContiguous("addInto", master);
    const exact = master.dtype === "f32" && sameShape(master.shape, param.shape);
    demand(exact, "addInto", "the master must be f32 of the parameter's shape", param, master);
    demand(
      isHalf(param.dtype) && rounding === "nearest",
      "addInto",
      "a master rounds to nearest 16 bits",
      param,
      master,
    );
  }
  if (gate) demand(gate.dtype === "u32" && sizeOf(gate.shape) === 1, "addInto", "the gate must be a u32 scalar", gate);
  if (rounding !== "stochastic") return;
  demand(param.dtype !== "f16", "addInto", "f16 is not rounded stochastically", param);
  if (param.dtype === "bf16") checkKey("addInto", key);
}

function checkKey(op: string, key: readonly [number, number] | undefined): void {
  if (key && key.length === 2 && key.every((word) => word === word >>> 0)) return;
  throw new TypeError(`Cannot run ${op}(): the key must be two u32 words, got ${key ? `[${key}]` : "none"}`);
}
