/** Axes of strided operands made few: what a kernel that walks views gets as parameters. */
import { contiguousStrides, type Shape } from "../../core/shape.ts";

/** A walk over all elements in row-major order, with one list of strides an operand. */
export interface Walk {
  readonly extents: readonly number[];
  readonly strides: readonly (readonly number[])[];
}

/** Drops axes of size 1 and joins neighbours that lie one after the other in every operand. */
export function collapse(shape: Shape, ...strides: readonly (readonly number[])[]): Walk {
  const extents: number[] = [];
  const kept: number[][] = strides.map(() => []);
  for (let axis = 0; axis < shape.length; axis++) {
    if (shape[axis] === 1) continue;
    const last = extents.length - 1;
    const joins = last >= 0 && strides.every((list, i) => kept[i][last] === list[axis] * shape[axis]);
    if (joins) extents[last] *= shape[axis];
    else extents.push(shape[axis]);
    strides.forEach((list, i) => {
      if (joins) kept[i][last] = list[axis];
      else kept[i].push(list[axis]);
    });
  }
  return { extents, strides: kept };
}

/** Parameters of a walk: `n0..` sizes, and for operand p strides `p0..`; names as the kernel declares them. */
export function walkParams({ extents, strides }: Walk, names: readonly string[]): Record<string, number> {
  const params: Record<string, number> = {};
  extents.forEach((extent, axis) => params[`n${axis}`] = extent);
  names.forEach((name, i) => strides[i].forEach((stride, axis) => params[`${name}${axis}`] = stride));
  return params;
}

/** Types of `walkParams` for a rank. */
export function walkTypes(rank: number, names: readonly string[]): Record<string, "u32"> {
  const types: Record<string, "u32"> = {};
  for (let axis = 0; axis < rank; axis++) types[`n${axis}`] = "u32";
  for (const name of names) for (let axis = 0; axis < rank; axis++) types[`${name}${axis}`] = "u32";
  return types;
}

/** Statements that turn the element number `index` into one offset an operand, in variables `name_at`. */
export function walkCode(rank: number, names: readonly string[], index: string): string {
  const lines = [`  var rest = ${index};`];
  for (const name of names) lines.push(`  var ${name}_at = params.at_${name};`);
  for (let axis = rank - 1; axis >= 0; axis--) {
    const place = axis === 0 ? "rest" : `rest % params.n${axis}`;
    lines.push("  {", `    let place = ${place};`);
    for (const name of names) lines.push(`    ${name}_at += place * params.${name}${axis};`);
    if (axis > 0) lines.push(`    rest = rest / params.n${axis};`);
    lines.push("  }");
  }
  return lines.join("\n");
}

/** True when the strides are those of a contiguous layout, axes of size 1 aside. */
export function isRowMajor(shape: Shape, strides: readonly number[]): boolean {
  const expected = contiguousStrides(shape);
  return shape.every((extent, axis) => extent === 1 || strides[axis] === expected[axis]);
}
