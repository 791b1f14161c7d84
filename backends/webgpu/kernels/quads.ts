/**
 * Rows of a tensor by fours: how a kernel loads and stores four consecutive elements of any dtype as one vec4f.
 *
 * Element i of a row that begins at `start` belongs to quad floor(i / 4). What a row lacks in its last quad loads as 0 and
 * is not stored. A quad of a packed dtype is two words, which one invocation owns: such rows must have an even size and
 * begin at a word. Wide access (a quad is one load) needs sizes and starts that are multiples of 4: the caller checks.
 */
import type { Operand } from "../../../core/backend.ts";
import type { DType } from "../../../core/dtype.ts";
import type { Binding } from "../pipelines.ts";
import { arrayOf, loader, packExpression, perWord } from "../wgsl.ts";

/** A buffer whose rows move by fours. */
export interface Quads {
  readonly name: string;
  readonly dtype: DType;
  /** Elements of a row: known when the text is made, or an expression of type u32. */
  readonly size: number | string;
  readonly isWide: boolean;
}

/** Whether rows of `size` elements of all these operands allow wide access. */
export function areWide(size: number, operands: readonly Operand[]): boolean {
  return size % 4 === 0 && operands.every(({ offset }) => offset % 4 === 0);
}

/** The buffer as a binding. */
export function quadBinding({ name, dtype, isWide }: Quads, access: Binding["access"]): Binding {
  const wide = perWord(dtype) === 1 ? "array<vec4f>" : "array<vec2u>";
  return { name, type: isWide ? wide : arrayOf(dtype), access };
}

/** `fn load4_NAME(start: u32, quad: u32) -> vec4f` */
export function quadLoad({ name, dtype, size, isWide }: Quads): string {
  const signature = `fn load4_${name}(start: u32, quad: u32) -> vec4f`;
  if (isWide) {
    const at = `${name}[start / 4u + quad]`;
    if (perWord(dtype) === 1) return /* wgsl */ `${signature} { return ${at}; }`;
    const halves = ["words.x", "words.x >> 16u", "words.y", "words.y >> 16u"].map((word) => `from_${dtype}(${word})`);
    return /* wgsl */ `${signature} { let words = ${at}; return vec4f(${halves.join(", ")}); }`;
  }
  const elements = [0, 1, 2, 3].map((e) => {
    const there = isThere(size, e);
    if (there === "") return `load_${name}(i + ${e}u)`;
    return `select(0.0, load_${name}(select(i, i + ${e}u, ${there})), ${there})`;
  });
  return /* wgsl */ `${loader(name, dtype)}
${signature} {
  let i = start + 4u * quad;
  return vec4f(${elements.join(", ")});
}`;
}

/** `fn store4_NAME(start: u32, quad: u32, value: vec4f)` */
export function quadStore({ name, dtype, size, isWide }: Quads): string {
  const signature = `fn store4_${name}(start: u32, quad: u32, value: vec4f)`;
  const isPacked = perWord(dtype) > 1;
  const word = (low: string, high: string) =>
    `${packExpression(dtype, `value.${low}`)} | (${packExpression(dtype, `value.${high}`)} << 16u)`;
  if (isWide) {
    const value = isPacked ? `vec2u(${word("x", "y")}, ${word("z", "w")})` : "value";
    return /* wgsl */ `${signature} { ${name}[start / 4u + quad] = ${value}; }`;
  }
  const parts = isPacked
    ? [[0, `${name}[i / 2u] = ${word("x", "y")};`], [2, `${name}[i / 2u + 1u] = ${word("z", "w")};`]] as const
    : [0, 1, 2, 3].map((e) => [e, `${name}[i + ${e}u] = value[${e}];`] as const);
  const lines = parts.map(([e, store]) => {
    const there = isThere(size, e);
    return there === "" ? `  ${store}` : `  if (${there}) { ${store} }`;
  });
  return /* wgsl */ `${signature} {
  let i = start + 4u * quad;
${lines.join("\n")}
}`;
}

/** A test whether element e of `quad` lies in its row; empty where it always does. */
function isThere(size: number | string, e: number): string {
  if (typeof size === "string") return e === 0 ? "" : `4u * quad + ${e}u < ${size}`;
  return size % 4 === 0 || e < size % 4 ? "" : `quad < ${Math.floor(size / 4)}u`;
}
