/**
 * gelu, silu, swiglu and their gradients, elementwise, over f32, bf16 and f16 (computed in f32):
 *
 *     silu(x) = x s(x), s = 1 / (1 + e^-x)           silu'(x) = s (1 + x (1 - s))
 *     gelu(x) = x Phi(x) ("none")                    gelu'(x) = Phi + x e^(-x^2 / 2) / sqrt(2 pi)
 *     gelu(x) = x s(2 u) ("tanh"), u = c (x + 0.044715 x^3), c = sqrt(2 / pi): 1/2 (1 + tanh u) is s(2 u)
 *     swiglu(gate, up) = silu(gate) up
 *
 * What an invocation owns: see map.ts; where swiglu has two gradients to write, four elements of each. Numerics: s and 1 - s
 * come from e^-|x|, which cannot overflow; Phi from erfc, so that it keeps its relative accuracy where 1 + erf would
 * cancel. The specs are the composed forms in core/ops/elementwise.ts.
 */
import type { FusedAttributes, FusedKernel, Operand, Spec } from "../../../core/backend.ts";
import { type DType, isHalf } from "../../../core/dtype.ts";
import { sizeOf } from "../../../core/shape.ts";
import { flatGrid, type Gpu, GROUP_INDEX } from "../gpu.ts";
import type { KernelSource } from "../pipelines.ts";
import { conversions } from "../wgsl.ts";
import { ERFC } from "./elementwise.ts";
import { checkWordStart, type MapFunction, runMap } from "./map.ts";
import { areWide, quadBinding, quadLoad, quadStore } from "./quads.ts";

const GROUP_SIZE = 256;

/** s(x) and 1 - s(x). */
const SIGMOID = /* wgsl */ `
fn sigmoids(x: f32) -> vec2f {
  let e = exp(-abs(x));
  let large = 1.0 / (1.0 + e);
  return select(vec2f(large, e * large), vec2f(e * large, large), x < 0.0);
}`;

const SILU = /* wgsl */ `${SIGMOID}
fn value(x: f32) -> f32 { return x * sigmoids(x).x; }
fn slope(x: f32) -> f32 { let s = sigmoids(x); return s.x * (1.0 + x * s.y); }`;

/** Phi(x) = erfc(-x / sqrt(2)) / 2. */
const GELU = /* wgsl */ `${ERFC}
fn phi(x: f32) -> f32 {
  let tail = 0.5 * erfc(abs(x) * 0.7071067811865476);
  return select(1.0 - tail, tail, x < 0.0);
}
fn value(x: f32) -> f32 { return x * phi(x); }
fn slope(x: f32) -> f32 { return phi(x) + x * exp(-0.5 * x * x) * 0.3989422804014327; }`;

/** 2 u = x (a + b x^2). From |x| = 100 on s is 0 or 1: the bound keeps infinities out of the products. */
const GELU_TANH = /* wgsl */ `${SIGMOID}
fn value(x: f32) -> f32 {
  let square = min(x * x, 1e4);
  return x * sigmoids(x * (1.5957691216057308 + 0.07135481627159119 * square)).x;
}
fn slope(x: f32) -> f32 {
  let square = min(x * x, 1e4);
  let s = sigmoids(x * (1.5957691216057308 + 0.07135481627159119 * square));
  return s.x * (1.0 + x * (1.5957691216057308 + 0.21406444881477357 * square) * s.y);
}`;

/** The fused gelu over `gpu`. */
export function geluEntry(gpu: Gpu): FusedKernel<FusedAttributes["gelu"]> {
  return activation(gpu, ({ approximate }) => approximate === "none" ? ["gelu", GELU] : ["gelu tanh", GELU_TANH]);
}

/** The fused silu over `gpu`. */
export function siluEntry(gpu: Gpu): FusedKernel<FusedAttributes["silu"]> {
  return activation(gpu, () => ["silu", SILU]);
}

/** The fused swiglu over `gpu`. */
export function swigluEntry(gpu: Gpu): FusedKernel<FusedAttributes["swiglu"]> {
  const forward = map("swiglu", `${SILU}\nfn apply(gate: f32, up: f32, i: u32) -> f32 { return value(gate) * up; }`);
  const gateOnly = map(
    "swiglu gradient of gate",
    `${SILU}\nfn apply(gate: f32, up: f32, g: f32, i: u32) -> f32 { return g * up * slope(gate); }`,
  );
  const upOnly = map(
    "swiglu gradient of up",
    `${SILU}\nfn apply(gate: f32, g: f32, i: u32) -> f32 { return g * value(gate); }`,
  );
  return {
    supports: ([gate, up]) => areAlike([gate, up]) && sizeOf(gate.shape) === sizeOf(up.shape),
    forward: ([gate, up], _, out) => runMap(gpu, forward, { inputs: [gate, up], out, flops: 4 * sizeOf(out.shape) }),
    vjp: {
      saves: { inputs: [0, 1], out: false },
      run: ({ inputs: [gate, up] }, gradient, _, [dGate, dUp]) => {
        if (dGate && dUp) bothGradients(gpu, [gate!, up!, gradient], [dGate, dUp]);
        else if (dGate) runMap(gpu, gateOnly, { inputs: [gate!, up!, gradient], out: dGate });
        else if (dUp) runMap(gpu, upOnly, { inputs: [gate!, gradient], out: dUp });
      },
    },
  };
}

function areAlike(inputs: readonly Spec[]): boolean {
  return inputs.every(({ dtype, shape }) =>
    dtype === inputs[0].dtype && (dtype === "f32" || isHalf(dtype)) && sizeOf(shape) > 0
  );
}

function map(key: string, code: string): MapFunction {
  return { key, code };
}

function activation<Attributes>(
  gpu: Gpu,
  kindOf: (attributes: Attributes) => readonly [key: string, code: string],
): FusedKernel<Attributes> {
  return {
    supports: areAlike,
    forward: ([x], attributes, out) => {
      const [key, code] = kindOf(attributes);
      const forward = map(key, `${code}\nfn apply(x: f32, i: u32) -> f32 { return value(x); }`);
      runMap(gpu, forward, { inputs: [x], out, flops: 8 * sizeOf(out.shape) });
    },
    vjp: {
      saves: { inputs: [0], out: false },
      run: ({ inputs: [x] }, gradient, attributes, [dx]) => {
        if (!dx) return;
        const [key, code] = kindOf(attributes);
        const gradientOf = map(
          `${key} gradient`,
          `${code}\nfn apply(x: f32, g: f32, i: u32) -> f32 { return g * slope(x); }`,
        );
        runMap(gpu, gradientOf, { inputs: [x!, gradient], out: dx, flops: 12 * sizeOf(dx.shape) });
      },
    },
  };
}

/** dGate = g up silu'(gate) and dUp = g silu(gate) in one pass: five words an element instead of seven. */
function bothGradients(
  gpu: Gpu,
  inputs: readonly [gate: Operand, up: Operand, gradient: Operand],
  outs: readonly [dGate: Operand, dUp: Operand],
): void {
  const [gate, up, gradient] = inputs;
  const [dGate, dUp] = outs;
  outs.forEach(checkWordStart);
  const size = sizeOf(gate.shape);
  const isWide = areWide(size, [...inputs, ...outs]);
  gpu.run({
    key: `swiglu gradients ${gate.dtype}${isWide ? " wide" : ""}`,
    build: () => gradientsSource(gate.dtype, isWide),
    operands: [...inputs, ...outs],
    params: {
      size,
      at_gate: gate.offset,
      at_up: up.offset,
      at_gradient: gradient.offset,
      at_gate_out: dGate.offset,
      at_up_out: dUp.offset,
    },
    grid: flatGrid(Math.ceil(size / (4 * GROUP_SIZE))),
    flops: 16 * size,
  });
}

function gradientsSource(dtype: DType, isWide: boolean): KernelSource {
  const quads = (name: string) => ({ name, dtype, size: "params.size", isWide });
  const inputs = ["gate", "up", "gradient"].map(quads);
  const outs = ["gate_out", "up_out"].map(quads);
  return {
    bindings: [
      ...inputs.map((input) => quadBinding(input, "read")),
      ...outs.map((out) => quadBinding(out, "read_write")),
    ],
    params: { size: "u32", at_gate: "u32", at_up: "u32", at_gradient: "u32", at_gate_out: "u32", at_up_out: "u32" },
    code: /* wgsl */ `${conversions([dtype])}
${SILU}
${inputs.map(quadLoad).join("\n")}
${outs.map(quadStore).join("\n")}
@compute @workgroup_size(${GROUP_SIZE})
fn main(
  @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let quad = ${GROUP_INDEX} * ${GROUP_SIZE}u + lane;
  if (4u * quad >= params.size) { return; }
  let x = load4_gate(params.at_gate, quad);
  let g = load4_gradient(params.at_gradient, quad);
  let rises = vec4f(slope(x.x), slope(x.y), slope(x.z), slope(x.w));
  let values = vec4f(value(x.x), value(x.y), value(x.z), value(x.w));
  store4_gate_out(params.at_gate_out, quad, g * load4_up(params.at_up, quad) * rises);
  store4_up_out(params.at_up_out, quad, g * values);
}`,
  };
}
