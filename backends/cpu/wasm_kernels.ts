/**
 * The kernels of the seam on compiled SIMD code: each entry checks dtypes and strides, counts tasks from shapes, and runs
 * an export of wasm/assembly. What no export takes (other dtypes, rare strides, sin, cos, pow, matmul) goes to `fallback`.
 *
 * It computes nothing itself. Numbers that both sides must agree on (elements of a task) are named here as there.
 */
import type { BinaryOp, Kernels, Operand, ReduceOp, Storage, UnaryOp } from "../../core/backend.ts";
import type { DType } from "../../core/dtype.ts";
import { contiguousStrides, isContiguous, sizeOf } from "../../core/shape.ts";
import { nest, type View } from "./loops/operands.ts";
import type { Addresses, Runner } from "./runner.ts";

/** What the wrappers need of the backend. */
export interface WasmDevice {
  readonly runner: Runner;
  /** `view` is for checking indices on the host; alloc and free for work space that lives during one call. */
  readonly memory: Addresses & Pick<Storage, "alloc" | "free"> & { readonly view: View };
}

/** Elements of one task: CHUNK in assembly/elementwise.ts. */
const CHUNK = 8192;
/** Elements of one partial result: SPAN in assembly/reduce.ts. */
const SPAN = 32_768;
/** Rows of one partial result of a reduction over columns. */
const ROWS_PER_BLOCK = 256;
/** Most tasks of scatterAddRows: each looks through all indices. */
const SCATTER_TASKS = 64;

const UNARY: Partial<Record<UnaryOp, number>> = {
  neg: 0,
  abs: 1,
  exp: 2,
  log: 3,
  sqrt: 4,
  rsqrt: 5,
  recip: 6,
  tanh: 7,
  erf: 8,
  floor: 9,
  sign: 10,
};

type Codes = Partial<Record<BinaryOp, number>>;
const BINARY: Partial<Record<DType, Codes>> = {
  f32: { add: 0, sub: 1, mul: 2, div: 3, max: 4, min: 5, less: 6, equal: 7 },
  i32: { add: 8, sub: 9, mul: 10, less: 11, equal: 13 },
  u32: { add: 8, sub: 9, mul: 10, less: 12, equal: 13 },
};

/** By source and target; 4 copies bits. */
const CAST: Partial<Record<DType, Partial<Record<DType, number>>>> = {
  f32: { f32: 4, i32: 0, u32: 1 },
  i32: { f32: 2, i32: 4, u32: 4 },
  u32: { f32: 3, i32: 4, u32: 4 },
};

/** The table of compiled kernels over `device`; whatever they do not take runs on `fallback`. */
export function wasmKernels(device: WasmDevice, fallback: Kernels): Kernels {
  return {
    ...fallback,
    unary: (op, x, out) => unary(device, op, x, out) || fallback.unary(op, x, out),
    binary: (op, a, b, out) => binary(device, op, a, b, out) || fallback.binary(op, a, b, out),
    where: (mask, a, b, out) => where(device, mask, a, b, out) || fallback.where(mask, a, b, out),
    cast: (x, out) => cast(device, x, out) || fallback.cast(x, out),
    fill: (value, out) => fill(device, value, out) || fallback.fill(value, out),
    iota: (start, step, out) => iota(device, start, step, out) || fallback.iota(start, step, out),
    reduce: (op, x, axes, out) => reduce(device, op, x, axes, out) || fallback.reduce(op, x, axes, out),
    copyStrided: (x, out) => copyStrided(device, x, out) || fallback.copyStrided(x, out),
    takeRows: (table, indices, out) => takeRows(device, table, indices, out) || fallback.takeRows(table, indices, out),
    scatterAddRows: (rows, indices, out) =>
      scatterAddRows(device, rows, indices, out) || fallback.scatterAddRows(rows, indices, out),
    randomBits: ([k0, k1], out) => {
      const size = sizeOf(out.shape);
      device.runner.run("randomBits", chunks(size), [k0, k1, device.memory.address(out), size]);
    },
    addInto: (param, delta, options) => {
      const isShut = options.gate && device.memory.view(options.gate.buffer, "u32")[options.gate.offset] === 0;
      if (isShut || !options.master && addInto(device, param, delta)) return;
      fallback.addInto(param, delta, options);
    },
  };
}

/** Tasks of an elementwise kernel. */
export function chunks(size: number): number {
  return Math.ceil(size / CHUNK);
}

/** Tasks of a kernel over rows: groups of about CHUNK elements. */
export function rowTasks(rows: number, columns: number): number {
  return Math.ceil(rows / Math.max(1, Math.floor(CHUNK / Math.max(1, columns))));
}

/** Runs `body` with the address of `bytes` of work space, and frees it. */
export function withWorkspace<T>({ memory }: WasmDevice, bytes: number, body: (address: number) => T): T {
  const buffer = memory.alloc(bytes, "partial results");
  try {
    return body(memory.address({ buffer, offset: 0, shape: [1], strides: [1], dtype: "f64" }));
  } finally {
    memory.free(buffer);
  }
}

function isWord(dtype: DType): boolean {
  return dtype === "f32" || dtype === "i32" || dtype === "u32";
}

function unary({ runner, memory }: WasmDevice, op: UnaryOp, x: Operand, out: Operand): boolean {
  const code = UNARY[op];
  if (code === undefined || x.dtype !== "f32") return false;
  const size = sizeOf(out.shape);
  runner.run("unary", chunks(size), [code, memory.address(x), memory.address(out), size]);
  return true;
}

/** Extents and strides of the loops around rows, as three; `undefined` when there are more. */
function outerLoops(extents: readonly number[], ...strides: readonly (readonly number[])[]) {
  const outer = extents.length - 1;
  if (outer > 3) return undefined;
  const pad = (values: readonly number[], with_: number) => [
    ...new Array<number>(3 - outer).fill(with_),
    ...values.slice(0, outer),
  ];
  const [extent0, extent1, extent2] = pad(extents, 1);
  return { rows: extent0 * extent1 * extent2, extent1, extent2, strides: strides.map((own) => pad(own, 0)) };
}

/** Tasks of a kernel over rows that splits long rows: `binary` and `copyRows`. */
function splitRowTasks(rows: number, columns: number): number {
  return Math.ceil(columns / CHUNK) * rowTasks(rows, columns);
}

function binary(device: WasmDevice, op: BinaryOp, a: Operand, b: Operand, out: Operand): boolean {
  const code = BINARY[a.dtype]?.[op];
  if (code === undefined || sizeOf(out.shape) === 0) return false;
  const { extents, strides: [stepsA, stepsB] } = nest(out.shape, a.strides, b.strides, contiguousStrides(out.shape));
  const columns = extents[extents.length - 1];
  const [stepA, stepB] = [stepsA, stepsB].map((steps) => columns === 1 ? 1 : steps[extents.length - 1]);
  const loops = outerLoops(extents, stepsA, stepsB);
  // An operand that no row loop reads is made contiguous first.
  if (!loops || stepA > 1 || stepA < 0) return withCopy(device, a, (copy) => binary(device, op, copy, b, out));
  if (stepB > 1 || stepB < 0 || stepA + stepB === 0) {
    return withCopy(device, b, (copy) => binary(device, op, a, copy, out));
  }
  const repeats = stepA === 0 ? 1 : stepB === 0 ? 2 : 0;
  const { runner, memory } = device;
  const { rows, extent1, extent2, strides: [outerA, outerB] } = loops;
  const addresses = [a, b, out].map((operand) => memory.address(operand));
  const args = [code, repeats, ...addresses, rows, columns, extent1, extent2, ...outerA, ...outerB];
  runner.run("binary", splitRowTasks(rows, columns), args);
  return true;
}

/** Runs `body` on a contiguous copy of x; false when x cannot be copied here, or is contiguous already. */
function withCopy(device: WasmDevice, x: Operand, body: (copy: Operand) => boolean): boolean {
  if (isContiguous(x.shape, x.strides)) return false;
  const buffer = device.memory.alloc(4 * sizeOf(x.shape), "a contiguous copy");
  try {
    const copy = { buffer, offset: 0, shape: x.shape, strides: contiguousStrides(x.shape), dtype: x.dtype };
    return copyStrided(device, x, copy) && body(copy);
  } finally {
    device.memory.free(buffer);
  }
}

function where({ runner, memory }: WasmDevice, mask: Operand, a: Operand, b: Operand, out: Operand): boolean {
  if (!isWord(out.dtype)) return false;
  const size = sizeOf(out.shape);
  runner.run("where", chunks(size), [...[mask, a, b, out].map((operand) => memory.address(operand)), size]);
  return true;
}

function cast({ runner, memory }: WasmDevice, x: Operand, out: Operand): boolean {
  const code = CAST[x.dtype]?.[out.dtype];
  if (code === undefined) return false;
  const size = sizeOf(out.shape);
  runner.run("cast", chunks(size), [code, memory.address(x), memory.address(out), size]);
  return true;
}

function fill({ runner, memory }: WasmDevice, value: number, out: Operand): boolean {
  if (!isWord(out.dtype)) return false;
  const size = sizeOf(out.shape);
  const word = out.dtype === "f32" ? new Float32Array([value]) : new Int32Array([value]);
  runner.run("fill", chunks(size), [new Int32Array(word.buffer)[0], memory.address(out), size]);
  return true;
}

function iota({ runner, memory }: WasmDevice, start: number, step: number, out: Operand): boolean {
  if (!isWord(out.dtype)) return false;
  const size = sizeOf(out.shape);
  runner.run("iota", chunks(size), [out.dtype === "f32" ? 1 : 0, start, step, memory.address(out), size]);
  return true;
}

function addInto({ runner, memory }: WasmDevice, param: Operand, delta: Operand): boolean {
  if (param.dtype !== "f32") return false;
  const size = sizeOf(param.shape);
  runner.run("addInto", chunks(size), [memory.address(param), memory.address(delta), size]);
  return true;
}

function reduce(device: WasmDevice, op: ReduceOp, x: Operand, axes: number, out: Operand): boolean {
  if (x.dtype !== "f32" || sizeOf(x.shape) === 0) return false;
  const kept = x.shape.length - axes;
  const rows = nest(x.shape.slice(0, kept), x.strides.slice(0, kept));
  const columns = nest(x.shape.slice(kept), x.strides.slice(kept));
  if (rows.extents.length === 1 && columns.extents.length === 1) {
    const sizes = { rows: rows.extents[0], columns: columns.extents[0] };
    const [stepRow, stepColumn] = [rows.strides[0][0], columns.strides[0][0]];
    if (stepColumn === 1 || sizes.columns === 1) return reduceRows(device, op, x, out, { ...sizes, stride: stepRow });
    if (op !== "argmax" && (stepRow === 1 || sizes.rows === 1)) {
      return reduceColumns(device, op, x, out, { rows: sizes.columns, columns: sizes.rows, stride: stepColumn });
    }
  }
  return withCopy(device, x, (copy) => reduce(device, op, copy, axes, out));
}

interface Matrix {
  readonly rows: number;
  readonly columns: number;
  readonly stride: number;
}

function reduceRows(device: WasmDevice, op: ReduceOp, x: Operand, out: Operand, { rows, columns, stride }: Matrix) {
  const { runner, memory } = device;
  const [from, to] = [memory.address(x), memory.address(out)];
  if (op === "argmax") {
    runner.run("argmaxRows", rowTasks(rows, columns), [from, to, rows, columns, stride]);
    return true;
  }
  const isMax = op === "max" ? 1 : 0;
  const spans = Math.ceil(columns / SPAN);
  if (spans === 1 || rows >= 64) {
    runner.run("reduceRows", rowTasks(rows, columns), [isMax, from, to, rows, columns, stride]);
    return true;
  }
  return withWorkspace(device, 8 * rows * spans, (partial) => {
    runner.run("reduceSpans", rows * spans, [isMax, from, partial, columns, stride]);
    runner.run("joinSpans", rows, [isMax, partial, to, spans]);
    return true;
  });
}

function reduceColumns(device: WasmDevice, op: ReduceOp, x: Operand, out: Operand, { rows, columns, stride }: Matrix) {
  const isMax = op === "max" ? 1 : 0;
  const blocks = Math.ceil(rows / ROWS_PER_BLOCK);
  return withWorkspace(device, 8 * blocks * columns, (partial) => {
    const tasks = blocks * Math.ceil(columns / 64);
    const from = device.memory.address(x);
    device.runner.run("reduceColumns", tasks, [isMax, from, partial, rows, columns, stride, ROWS_PER_BLOCK]);
    joinBlocks(device, partial, device.memory.address(out), { blocks, columns, isMax });
    return true;
  });
}

/** out[c] = the sum (or maximum) over the blocks of partial [blocks, columns] (f64). */
export function joinBlocks(
  { runner }: WasmDevice,
  partial: number,
  out: number,
  { blocks, columns, isMax = 0 }: { blocks: number; columns: number; isMax?: number },
): void {
  runner.run("joinBlocks", Math.ceil(columns / 1024), [isMax, partial, out, blocks, columns]);
}

function copyStrided({ runner, memory }: WasmDevice, x: Operand, out: Operand): boolean {
  if (!isWord(x.dtype) || sizeOf(out.shape) === 0) return false;
  const { extents, strides: [stepsX, stepsOut] } = nest(out.shape, x.strides, out.strides);
  const loops = outerLoops(extents, stepsX, stepsOut);
  if (!loops) return false;
  const [from, to] = [memory.address(x), memory.address(out)];
  const last = extents.length - 1;
  const [stepX, stepOut] = extents[last] === 1 ? [1, 1] : [stepsX[last], stepsOut[last]];
  const along = stepX !== 1 && stepOut === 1 ? stepsX.indexOf(1) : -1;
  if (along >= 0) {
    const others = extents.map((_, axis) => axis).filter((axis) => axis !== along && axis !== last);
    const [extents2, x2, out2] = [extents, stepsX, stepsOut].map((own, i) => {
      const values = others.map((axis) => own[axis]);
      return [...new Array<number>(2 - values.length).fill(i === 0 ? 1 : 0), ...values];
    });
    const tasks = extents2[0] * extents2[1] * Math.ceil(extents[along] / 64);
    const sizes = [extents[along], extents[last], stepX, stepsOut[along], extents2[1]];
    runner.run("copyTransposed", tasks, [from, to, ...sizes, ...x2, ...out2]);
    return true;
  }
  const { rows, extent1, extent2, strides: [outerX, outerOut] } = loops;
  const sizes = [rows, extents[last], extent1, extent2];
  const tasks = splitRowTasks(rows, extents[last]);
  runner.run("copyRows", tasks, [from, to, ...sizes, ...outerX, stepX, ...outerOut, stepOut]);
  return true;
}

/** @throws RangeError for an index outside [0, rows) */
function checkIndices({ memory }: WasmDevice, op: string, indices: Operand, rows: number): void {
  const count = sizeOf(indices.shape);
  const picks = memory.view(indices.buffer, indices.dtype);
  const end = indices.offset + count;
  for (let n = indices.offset; n < end; n++) {
    if (picks[n] < 0 || picks[n] >= rows) {
      const at = `got ${picks[n]} at position ${n - indices.offset}`;
      throw new RangeError(`Cannot run ${op}(): indices must be in [0, ${rows}), ${at}`);
    }
  }
}

function takeRows(device: WasmDevice, table: Operand, indices: Operand, out: Operand): boolean {
  if (!isWord(table.dtype)) return false;
  const { runner, memory } = device;
  const [rows, dim] = table.shape;
  const count = sizeOf(indices.shape);
  checkIndices(device, "takeRows", indices, rows);
  const addresses = [table, indices, out].map((operand) => memory.address(operand));
  runner.run("takeRows", rowTasks(count, dim), [...addresses, count, rows, dim]);
  return true;
}

function scatterAddRows(device: WasmDevice, rows: Operand, indices: Operand, out: Operand): boolean {
  if (rows.dtype !== "f32") return false;
  const { runner, memory } = device;
  const [outRows, dim] = out.shape;
  checkIndices(device, "scatterAddRows", indices, outRows);
  const perTask = Math.max(1, Math.ceil(outRows / SCATTER_TASKS));
  const addresses = [rows, indices, out].map((operand) => memory.address(operand));
  const sizes = [sizeOf(indices.shape), outRows, dim, perTask];
  runner.run("scatterAddRows", Math.ceil(outRows / perTask), [...addresses, ...sizes]);
  return true;
}
