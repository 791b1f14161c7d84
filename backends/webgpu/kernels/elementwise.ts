/**
 * unary, binary, where, cast, fill and iota. Spec: `backends/cpu/loops`.
 *
 * Comparisons, max and min work on bits: a WGSL compiler may assume that there is no NaN. Functions that the language
 * leaves loose are our own: erf by a fit of erfc, tanh clamped, pow with signed bases.
 */
import type { BinaryOp, Operand, UnaryOp } from "../../../core/backend.ts";
import { isFloat } from "../../../core/dtype.ts";
import { sizeOf } from "../../../core/shape.ts";
import { flatGrid, type Gpu, GROUP_INDEX } from "../gpu.ts";
import { collapse, walkCode, walkParams, walkTypes } from "../layout.ts";
import type { KernelSource } from "../pipelines.ts";
import { arrayOf, conversions, IS_NAN, loader, packExpression, perWord, scalarOf } from "../wgsl.ts";
import { checkWordStart, runMap } from "./map.ts";

/**
 * erfc(z), z >= 0, as t e^(Q(t) - z^2) with t = 2 / (2 + z). Q interpolates log(erfc(z) e^(z^2) / t) at the twelve Chebyshev
 * nodes of [0, 1], computed in f64: a relative error of 1.5e-8 before f32 rounds.
 */
export const ERFC = /* wgsl */ `
fn erfc(z: f32) -> f32 {
  let t = 2.0 / (2.0 + z);
  let q = -1.26551212 + t * (0.999998553 + t * (0.375074485 + t * (0.081756792 + t * (-0.0681377042 + t * (-0.264095878
    + t * (0.42285965 + t * (-1.38666665 + t * (2.59012918 + t * (-2.34627238 + t * (1.05023352
    - t * 0.189367455))))))))));
  return t * exp(q - z * z);
}`;

/** erf(x): the Maclaurin series near 0, where it is short, else from erfc, which cannot cancel there. */
const ERF = /* wgsl */ `${ERFC}
fn erf(x: f32) -> f32 {
  let a = abs(x);
  if (a < 0.5) {
    let s = x * x;
    return x * (1.1283791670955126 + s * (-0.37612638903183754 + s * (0.11283791670955126 + s * (-0.026866170645131252
      + s * (0.005223977625442187 + s * (-0.0008548327023450852 + s * 0.00012055332981789664))))));
  }
  let y = 1.0 - erfc(min(a, 9.0));
  return select(y, -y, x < 0.0);
}`;

/** tanh, whose argument must stay small: beyond 10 the result is 1 to the last bit. */
const TANH = /* wgsl */ `
fn tanh_clamped(x: f32) -> f32 {
  let a = abs(x);
  if (a < 0.1) { let s = x * x; return x * (1.0 + s * (-0.3333333333 + s * (0.1333333333 - s * 0.0539682540))); }
  return tanh(clamp(x, -10.0, 10.0));
}`;

const UNARY: Readonly<Record<UnaryOp, string>> = {
  neg: "-x",
  abs: "abs(x)",
  exp: "exp(x)",
  log: "log(x)",
  sqrt: "sqrt(x)",
  rsqrt: "inverseSqrt(x)",
  recip: "1.0 / x",
  tanh: "tanh_clamped(x)",
  erf: "erf(x)",
  sin: "sin(x)",
  cos: "cos(x)",
  floor: "floor(x)",
  sign: "sign(x)",
};

/** See `Kernels.unary`. */
export function unary(gpu: Gpu, op: UnaryOp, x: Operand, out: Operand): void {
  const type = scalarOf(x.dtype);
  const helpers = op === "erf" ? ERF : op === "tanh" ? TANH : "";
  const code = /* wgsl */ `${helpers}
fn apply(x: ${type}, i: u32) -> ${type} { return ${UNARY[op]}; }`;
  runMap(gpu, { key: op, code }, { inputs: [x], out });
}

/** An order of f32 values as integers: -0 and 0 meet, NaN is tested apart. */
const ORDER = /* wgsl */ `${IS_NAN}
fn order(x: f32) -> i32 {
  let bits = bitcast<i32>(x);
  return select(bits, -(bits & 0x7fffffff), bits < 0);
}`;

const FLOAT: Readonly<Record<BinaryOp, string>> = {
  add: "return a + b;",
  sub: "return a - b;",
  mul: "return a * b;",
  div: "return a / b;",
  max: "if (is_nan(a) || is_nan(b)) { return a + b; } return select(b, a, order(a) > order(b));",
  min: "if (is_nan(a) || is_nan(b)) { return a + b; } return select(b, a, order(a) < order(b));",
  pow: "return power(a, b);",
  less: "return select(0u, 1u, !is_nan(a) && !is_nan(b) && order(a) < order(b));",
  equal: "return select(0u, 1u, !is_nan(a) && !is_nan(b) && order(a) == order(b));",
};

/** Of integers: quotients and powers truncate toward zero, a quotient by zero is 0. `one` and `zero` are of their type. */
const WHOLE: Readonly<Record<BinaryOp, string>> = {
  ...FLOAT,
  div: "if (b == zero) { return zero; } return a / b;",
  max: "return max(a, b);",
  min: "return min(a, b);",
  less: "return select(0u, 1u, a < b);",
  equal: "return select(0u, 1u, a == b);",
  pow: "if (b < zero) { return select(zero, select(a, one, (b & one) == zero), a * a == one); }" +
    " var power = one; for (var n = b; n > zero; n -= one) { power *= a; } return power;",
};

/** a^b; whole powers of a negative base keep their sign. WGSL's pow is undefined there. */
const POWER = /* wgsl */ `
fn power(a: f32, b: f32) -> f32 {
  if (b == 0.0) { return 1.0; }
  let size = pow(abs(a), b);
  let isOdd = abs(b) < 16777216.0 && (i32(b) & 1) == 1;
  return select(size, -size, a < 0.0 && isOdd && floor(b) == b);
}`;

function binaryFunction(op: BinaryOp, x: Operand, out: Operand) {
  const type = scalarOf(x.dtype);
  const body = (type === "f32" ? FLOAT : WHOLE)[op];
  const helpers = type !== "f32"
    ? `const zero = ${type}(0);\nconst one = ${type}(1);`
    : op === "pow"
    ? POWER
    : /is_nan/.test(body)
    ? ORDER
    : "";
  return /* wgsl */ `${helpers}
fn apply(a: ${type}, b: ${type}, i: u32) -> ${scalarOf(out.dtype)} { ${body} }`;
}

/** See `Kernels.binary`. */
export function binary(gpu: Gpu, op: BinaryOp, a: Operand, b: Operand, out: Operand): void {
  const size = sizeOf(out.shape);
  if (size === 0) return;
  const walk = collapse(out.shape, a.strides, b.strides);
  const rank = walk.extents.length;
  if (rank === 0 || (rank === 1 && walk.strides.every(([stride]) => stride === 1 || stride === 0))) {
    const scalar = binaryWithConstant(gpu, op, a, b, out);
    return scalar ? undefined : runMap(gpu, { key: op, code: binaryFunction(op, a, out) }, { inputs: [a, b], out });
  }
  checkWordStart(out);
  gpu.run({
    key: `binary ${op} ${a.dtype} ${out.dtype} rank ${rank}`,
    build: () => stridedBinary(op, a, out, rank),
    operands: [a, b, out],
    params: { size, at_a: a.offset, at_b: b.offset, at_out: out.offset, ...walkParams(walk, ["a", "b"]) },
    grid: flatGrid(Math.ceil(size / (256 * perWord(out.dtype)))),
  });
}

/** One operand is a held constant, which travels as a parameter. */
function binaryWithConstant(gpu: Gpu, op: BinaryOp, a: Operand, b: Operand, out: Operand): boolean {
  const isSecond = gpu.heldBits(b) !== undefined;
  const bits = gpu.heldBits(b) ?? gpu.heldBits(a);
  if (bits === undefined) return false;
  const type = scalarOf(a.dtype);
  const constant = type === "u32" ? "params.bits" : `bitcast<${type}>(params.bits)`;
  const [first, second] = isSecond ? ["x", constant] : [constant, "x"];
  const code = /* wgsl */ `${binaryFunction(op, a, out).replace("fn apply(", "fn operate(")}
fn apply(x: ${type}, i: u32) -> ${scalarOf(out.dtype)} { return operate(${first}, ${second}, i); }`;
  const key = `${op} ${isSecond ? "by" : "from"} constant`;
  runMap(gpu, { key, code, params: { bits: "u32" } }, { inputs: [isSecond ? a : b], out, values: { bits } });
  return true;
}

/** One invocation a word of the output. */
function stridedBinary(op: BinaryOp, a: Operand, out: Operand, rank: number): KernelSource {
  const width = perWord(out.dtype);
  const element = /* wgsl */ `
fn element(index: u32) -> ${scalarOf(out.dtype)} {
${walkCode(rank, ["a", "b"], "index")}
  return apply(load_a(a_at), load_b(b_at), index);
}`;
  const store = width === 1 ? "out[params.at_out + word] = element(word);" : /* wgsl */ `
  var bits = ${packExpression(out.dtype, "element(2u * word)")};
  if (2u * word + 1u < params.size) { bits |= ${packExpression(out.dtype, "element(2u * word + 1u)")} << 16u; }
  out[params.at_out / 2u + word] = bits;`;
  return {
    bindings: [
      { name: "a", type: arrayOf(a.dtype), access: "read" },
      { name: "b", type: arrayOf(a.dtype), access: "read" },
      { name: "out", type: arrayOf(out.dtype), access: "read_write" },
    ],
    params: { size: "u32", at_a: "u32", at_b: "u32", at_out: "u32", ...walkTypes(rank, ["a", "b"]) },
    code: /* wgsl */ `${conversions([a.dtype, out.dtype])}
${loader("a", a.dtype)}
${loader("b", a.dtype)}
${binaryFunction(op, a, out)}
${element}
@compute @workgroup_size(256)
fn main(
  @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let word = ${GROUP_INDEX} * 256u + lane;
  if (${width}u * word >= params.size) { return; }
  ${store}
}`,
  };
}

/** See `Kernels.where`. Bits travel unchanged. */
export function where(gpu: Gpu, mask: Operand, a: Operand, b: Operand, out: Operand): void {
  const type = perWord(a.dtype) === 1 ? "u32" : scalarOf(a.dtype);
  const code = /* wgsl */ `
fn apply(m: u32, a: ${type}, b: ${type}, i: u32) -> ${type} { return select(b, a, m != 0u); }`;
  runMap(gpu, { key: "where", code, bits: true }, { inputs: [mask, a, b], out });
}

/** See `Kernels.cast`. */
export function cast(gpu: Gpu, x: Operand, out: Operand): void {
  const [from, to] = [scalarOf(x.dtype), scalarOf(out.dtype)];
  const value = from === to ? "x" : `${to}(x)`;
  const code = /* wgsl */ `fn apply(x: ${from}, i: u32) -> ${to} { return ${value}; }`;
  runMap(gpu, { key: "cast", code }, { inputs: [x], out });
}

/** See `Kernels.fill`. The value travels as bits, so that it may be NaN or infinite. */
export function fill(gpu: Gpu, value: number, out: Operand): void {
  const isNumber = isFloat(out.dtype);
  const bits = isNumber ? new Uint32Array(Float32Array.of(value).buffer)[0] : value;
  if (sizeOf(out.shape) === 1 && gpu.hold(out, bits)) return;
  const type = scalarOf(out.dtype);
  // 32-bit outputs take the bits as they are
  const asBits = perWord(out.dtype) === 1;
  const read = asBits || type === "u32" ? "params.bits" : "bitcast<f32>(params.bits)";
  const code = /* wgsl */ `fn apply(i: u32) -> ${asBits ? "u32" : type} { return ${read}; }`;
  runMap(gpu, { key: "fill", code, bits: true, params: { bits: "u32" } }, { inputs: [], out, values: { bits } });
}

/** See `Kernels.iota`. */
export function iota(gpu: Gpu, start: number, step: number, out: Operand): void {
  const type = scalarOf(out.dtype);
  const code = /* wgsl */ `fn apply(i: u32) -> ${type} { return params.start + ${type}(i) * params.step; }`;
  const params = { start: type, step: type };
  runMap(gpu, { key: "iota", code, params }, { inputs: [], out, values: { start, step } });
}
