/**
 * Rows in units of one, two or four elements: how kernels that walk rows load and store them.
 *
 * | unit | where | loads | stores |
 * |---|---|---|---|
 * | 4 | rows and offsets are multiples of four | one vector | one vector |
 * | 2 | 16-bit types with rows of even length | by element, from any offset | one word |
 * | 1 | else | by element | by element; 32-bit types only |
 *
 * A kernel sees `get_NAME(i)`, `put_NAME(i, value)` for unit i after `params.at_NAME`, and helpers over a unit.
 */
import type { Operand } from "../../../core/backend.ts";
import { type DType, isHalf } from "../../../core/dtype.ts";
import type { Binding } from "../pipelines.ts";
import { arrayOf, loader, packExpression } from "../wgsl.ts";

/** Elements that are handled together, as an f32 or a vector of them. */
export interface Unit {
  readonly width: 1 | 2 | 4;
  /** WGSL types of the values, and of their bits. */
  readonly type: "f32" | "vec2f" | "vec4f";
  readonly bits: "u32" | "vec2u" | "vec4u";
}

const UNITS: Readonly<Record<1 | 2 | 4, Unit>> = {
  1: { width: 1, type: "f32", bits: "u32" },
  2: { width: 2, type: "vec2f", bits: "vec2u" },
  4: { width: 4, type: "vec4f", bits: "vec4u" },
};

/** The widest unit for rows of `columns` elements in these operands. */
export function unitOf(columns: number, operands: readonly Operand[]): Unit {
  if (columns % 4 === 0 && operands.every(({ offset }) => offset % 4 === 0)) return UNITS[4];
  return UNITS[columns % 2 === 0 && operands.some(({ dtype }) => isHalf(dtype)) ? 2 : 1];
}

/** True where rows of `columns` elements can be stored in units: 16-bit ones must not share a word. */
export function areStorable(dtype: DType, columns: number): boolean {
  return dtype === "f32" || (isHalf(dtype) && columns % 2 === 0);
}

/** A float operand as a binding. */
export function unitBinding(name: string, dtype: DType, access: Binding["access"], { width }: Unit): Binding {
  const wide = isHalf(dtype) ? "array<vec2u>" : "array<vec4f>";
  return { name, type: width === 4 ? wide : arrayOf(dtype), access };
}

/** `fn get_NAME(i: u32)`. */
export function unitLoad(name: string, dtype: DType, { width, type }: Unit): string {
  const head = `fn get_${name}(i: u32) -> ${type}`;
  if (width < 4) {
    const at = `params.at_${name} + ${width}u * i`;
    const body = width === 1 ? `load_${name}(${at})` : `vec2f(load_${name}(${at}), load_${name}(${at} + 1u))`;
    return `${loader(name, dtype)}\n${head} { return ${body}; }`;
  }
  if (!isHalf(dtype)) return `${head} { return ${name}[params.at_${name} / 4u + i]; }`;
  return /* wgsl */ `${head} {
  let words = ${name}[params.at_${name} / 4u + i];
  return vec4f(from_${dtype}(words.x), from_${dtype}(words.x >> 16u), from_${dtype}(words.y), from_${dtype}(words.y >> 16u));
}`;
}

/** `fn put_NAME(i: u32, value)`. */
export function unitStore(name: string, dtype: DType, { width, type }: Unit): string {
  const head = `fn put_${name}(i: u32, value: ${type})`;
  const pack = (low: string, high: string) =>
    `${packExpression(dtype, `value.${low}`)} | (${packExpression(dtype, `value.${high}`)} << 16u)`;
  if (isHalf(dtype)) {
    const words = width === 4 ? `vec2u(${pack("x", "y")}, ${pack("z", "w")})` : pack("x", "y");
    return `${head} { ${name}[params.at_${name} / ${width}u + i] = ${words}; }`;
  }
  if (width !== 2) return `${head} { ${name}[params.at_${name} / ${width}u + i] = value; }`;
  return /* wgsl */ `${head} {
  ${name}[params.at_${name} + 2u * i] = value.x;
  ${name}[params.at_${name} + 2u * i + 1u] = value.y;
}`;
}

/** `fn pick_NAME(e: u32) -> f32`: element e, of an operand that has `unitLoad`. */
export function unitPick(name: string, dtype: DType, { width }: Unit): string {
  const head = `fn pick_${name}(e: u32) -> f32`;
  if (width < 4) return `${head} { return load_${name}(params.at_${name} + e); }`;
  if (!isHalf(dtype)) return `${head} { return ${name}[(params.at_${name} + e) / 4u][e % 4u]; }`;
  return `${head} { return from_${dtype}(${name}[(params.at_${name} + e) / 4u][(e / 2u) % 2u] >> ((e % 2u) * 16u)); }`;
}

/** `across_sum`, `across_max` of a unit's elements. */
export function acrossUnit({ width, type }: Unit): string {
  const sum = ["value", "value.x + value.y", "", "(value.x + value.y) + (value.z + value.w)"][width - 1];
  const top = ["value", "max(value.x, value.y)", "", "max(max(value.x, value.y), max(value.z, value.w))"][width - 1];
  return /* wgsl */ `
fn across_sum(value: ${type}) -> f32 { return ${sum}; }
fn across_max(value: ${type}) -> f32 { return ${top}; }`;
}
