/** Rules that kernels demand of their operands, as checks that throw. */
import type { Operand } from "../../core/backend.ts";
import { bytesPerElement } from "../../core/dtype.ts";
import { describe, isContiguous, sizeOf } from "../../core/shape.ts";
import type { Ledger } from "./storage.ts";

/** Throws a TypeError that names the op, the rule and the operands, unless `holds`. */
export function demand(holds: boolean, op: string, rule: string, ...operands: readonly Operand[]): void {
  if (holds) return;
  throw new TypeError(`Cannot run ${op}(): ${rule}: got ${operands.map(describeLayout).join(" and ")}`);
}

function describeLayout(x: Operand): string {
  const layout = isContiguous(x.shape, x.strides) ? "" : ` with strides [${x.strides.join(", ")}]`;
  return `${describe(x)}${layout}`;
}

/** Elements that the operand reaches, relative to its buffer: from the first to one beyond the last. */
function reach(x: Operand): [number, number] {
  if (sizeOf(x.shape) === 0) return [x.offset, x.offset];
  let [first, last] = [x.offset, x.offset];
  x.shape.forEach((extent, axis) => {
    const step = (extent - 1) * x.strides[axis];
    if (step < 0) first += step;
    else last += step;
  });
  return [first, last + 1];
}

/** Every operand has one stride an axis and lies in a live buffer, and none of the inputs shares bytes with `out`. */
export function checkOperands(storage: Ledger, op: string, inputs: readonly Operand[], out: Operand): void {
  for (const x of [...inputs, out]) {
    const whole = [...x.shape, x.offset].every((value) => Number.isInteger(value) && value >= 0);
    demand(whole && x.strides.length === x.shape.length, op, "every axis must have a size and a stride", x);
    const [begin, end] = reach(x);
    const width = bytesPerElement(x.dtype);
    // An empty view may start anywhere: slices of nothing do.
    storage.checkRange(x.buffer, begin === end ? 0 : begin * width, (end - begin) * width, `use in ${op}()`);
  }
  const [begin, end] = reach(out).map((element) => element * bytesPerElement(out.dtype));
  for (const x of inputs) {
    const [from, to] = reach(x).map((element) => element * bytesPerElement(x.dtype));
    demand(x.buffer !== out.buffer || to <= begin || end <= from, op, "the output must not alias an input", x, out);
  }
}

/** All operands are row-major without gaps. */
export function checkContiguous(op: string, ...operands: readonly Operand[]): void {
  for (const x of operands) demand(isContiguous(x.shape, x.strides), op, "operands must be contiguous", x);
}
