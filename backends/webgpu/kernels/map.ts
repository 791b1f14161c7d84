/**
 * out[i] = f(x0[i], x1[i], ..): the one shape of kernel behind every elementwise operation over contiguous operands.
 *
 * An invocation owns four consecutive elements, which are whole words of every dtype, so that nothing is shared. Where
 * all operands are 32 bits wide and aligned, they move as vec4; else element by element. An input may be a scalar.
 */
import type { Operand } from "../../../core/backend.ts";
import { sizeOf } from "../../../core/shape.ts";
import { UnsupportedError } from "../../../core/errors.ts";
import type { DType } from "../../../core/dtype.ts";
import { flatGrid, type Gpu, GROUP_INDEX } from "../gpu.ts";
import type { KernelSource, ParamType } from "../pipelines.ts";
import { arrayOf, conversions, loader, packExpression, perWord, type Scalar, scalarOf } from "../wgsl.ts";

/** An elementwise function. */
export interface MapFunction {
  /** Names the text below, with everything that it depends on beside dtypes. */
  readonly key: string;
  /** Module scope: must define `fn apply(..)` of the inputs, then `i: u32`, giving one value an output. */
  readonly code: string;
  /** Type in which an operand is handled; by default its dtype's own. `bits` moves words of 32-bit types untouched. */
  readonly bits?: boolean;
  /** Further scalars, which the code sees as `params.name`. */
  readonly params?: Readonly<Record<string, ParamType>>;
}

/** Operands of a map. */
export interface MapOperands {
  readonly inputs: readonly Operand[];
  readonly out: Operand;
  /** `out` is read too, as the last input. */
  readonly update?: boolean;
  readonly values?: Readonly<Record<string, number>>;
  readonly flops?: number;
}

const GROUP_SIZE = 256;

/** Runs a map over all elements of `out`. Inputs are contiguous and of its size, or all their strides are 0. */
export function runMap(
  gpu: Gpu,
  fn: MapFunction,
  { inputs, out, update = false, values = {}, flops }: MapOperands,
): void {
  const size = sizeOf(out.shape);
  if (size === 0) return;
  checkWordStart(out);
  const repeated = inputs.map((x) =>
    size > 1 && x.strides.every((stride, axis) => stride === 0 || x.shape[axis] === 1)
  );
  const dtypes = [...inputs, out].map(({ dtype }) => dtype);
  const isVector = size % 4 === 0 && out.offset % 4 === 0 && dtypes.every((dtype) => perWord(dtype) === 1) &&
    inputs.every((x, i) => repeated[i] || x.offset % 4 === 0);
  const layout = dtypes.map((dtype, i) => dtype + (repeated[i] ? "0" : "")).join(",");
  const offsets = Object.fromEntries(inputs.map(({ offset }, i) => [`at${i}`, offset]));
  gpu.run({
    key: `map ${fn.key} ${layout}${isVector ? " vec4" : ""}${update ? " update" : ""}`,
    build: () => mapSource(fn, { dtypes: dtypes.slice(0, -1), out: out.dtype, repeated, isVector, update }),
    operands: [...inputs, out],
    params: { size, at_out: out.offset, ...offsets, ...values },
    grid: flatGrid(Math.ceil(size / (4 * GROUP_SIZE))),
    flops,
  });
}

/** @throws UnsupportedError for a packed output that begins inside a word */
export function checkWordStart(out: Operand): void {
  if (out.offset % perWord(out.dtype) === 0) return;
  throw new UnsupportedError(
    `Cannot write ${out.dtype} on webgpu from element ${out.offset} on: it lies inside a word`,
  );
}

interface Arrangement {
  readonly dtypes: readonly DType[];
  readonly out: DType;
  readonly repeated: readonly boolean[];
  readonly isVector: boolean;
  readonly update: boolean;
}

function mapSource(fn: MapFunction, arrangement: Arrangement): KernelSource {
  const { dtypes, out, update } = arrangement;
  const handled = (dtype: DType): Scalar => fn.bits && perWord(dtype) === 1 ? "u32" : scalarOf(dtype);
  const element = (dtype: DType) => fn.bits && perWord(dtype) === 1 ? "array<u32>" : arrayOf(dtype);
  const vector = (dtype: DType, isWide: boolean) => isWide ? `array<vec4<${handled(dtype)}>>` : element(dtype);
  const wide = dtypes.map((_, i) => arrangement.isVector && !arrangement.repeated[i]);
  const body = arrangement.isVector ? vectorBody(arrangement) : scalarBody(arrangement);
  const load = (name: string, dtype: DType) =>
    fn.bits && perWord(dtype) === 1
      ? /* wgsl */ `fn load_${name}(i: u32) -> u32 { return ${name}[i]; }`
      : loader(name, dtype);
  return {
    bindings: [
      ...dtypes.map((dtype, i) => ({ name: `x${i}`, type: vector(dtype, wide[i]), access: "read" as const })),
      { name: "out", type: vector(out, arrangement.isVector), access: "read_write" },
    ],
    params: {
      size: "u32",
      at_out: "u32",
      ...Object.fromEntries(dtypes.map((_, i) => [`at${i}`, "u32" as const])),
      ...fn.params,
    },
    code: [
      conversions([...dtypes, out]),
      ...dtypes.flatMap((dtype, i) => wide[i] ? [] : [load(`x${i}`, dtype)]),
      ...(update && !arrangement.isVector ? [load("out", out)] : []),
      fn.code,
      /* wgsl */ `@compute @workgroup_size(${GROUP_SIZE})
fn main(
  @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let first = 4u * (${GROUP_INDEX} * ${GROUP_SIZE}u + lane);
  if (first >= params.size) { return; }
${body}
}`,
    ].join("\n"),
  };
}

/** Whole vectors: size and offsets are multiples of four. */
function vectorBody({ dtypes, repeated, update }: Arrangement): string {
  const lines = dtypes.map((_, i) =>
    repeated[i] ? `  let v${i} = load_x${i}(params.at${i});` : `  let v${i} = x${i}[(params.at${i} + first) / 4u];`
  );
  if (update) lines.push("  let old = out[(params.at_out + first) / 4u];");
  const call = (lane: number) => {
    const values = dtypes.map((_, i) => repeated[i] ? `v${i}` : `v${i}[${lane}]`);
    return `apply(${[...values, ...(update ? [`old[${lane}]`] : []), `first + ${lane}u`].join(", ")})`;
  };
  const type = "vec4(" + [0, 1, 2, 3].map(call).join(", ") + ")";
  return [...lines, `  out[(params.at_out + first) / 4u] = ${type};`].join("\n");
}

/** Element by element; packed outputs word by word. */
function scalarBody({ dtypes, out, repeated, update }: Arrangement): string {
  const place = (i: number, e: number) => repeated[i] ? `params.at${i}` : `params.at${i} + first + ${e}u`;
  const value = (e: number) => {
    const values = dtypes.map((_, i) => `load_x${i}(${place(i, e)})`);
    const old = update ? [`load_out(params.at_out + first + ${e}u)`] : [];
    return `apply(${[...values, ...old, `first + ${e}u`].join(", ")})`;
  };
  const width = perWord(out);
  const bits = 32 / width;
  const lines: string[] = [];
  for (let e = 0; e < 4; e++) {
    if (width === 1) {
      lines.push(`  if (first + ${e}u < params.size) { out[params.at_out + first + ${e}u] = ${value(e)}; }`);
      continue;
    }
    if (e % width === 0) lines.push(`  var word${e / width} = 0u;`);
    const word = Math.floor(e / width);
    const packed = packExpression(out, value(e));
    lines.push(`  if (first + ${e}u < params.size) { word${word} |= ${packed} << ${(e % width) * bits}u; }`);
    if ((e + 1) % width === 0) {
      const at = `(params.at_out + first) / ${width}u + ${word}u`;
      lines.push(`  if (first + ${e + 1 - width}u < params.size) { out[${at}] = word${word}; }`);
    }
  }
  return lines.join("\n");
}
