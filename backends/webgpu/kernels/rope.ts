/**
 * Rotary positions, half-split (Su et al. 2021), over x [B, T, H, K] with cos and sin f32 [T, K/2]. With h = K/2:
 *
 *     out[i] = x[i] cos[i] - x[i + h] sin[i],  out[i + h] = x[i + h] cos[i] + x[i] sin[i]   for i < h
 *
 * x f32, bf16 or f16, contiguous; out as x. An invocation owns four elements of the first half of a head and their
 * partners, so that it reads and writes each once. The gradient is the rotation by the opposite angle: `turn` = -1.
 * Limits: 16-bit heads need an even K/2 (whole words in both halves); else the composed form runs. The spec is the
 * composed form in core/ops/attention.ts.
 */
import type { FusedKernel, Operand } from "../../../core/backend.ts";
import { type DType, isHalf } from "../../../core/dtype.ts";
import { UnsupportedError } from "../../../core/errors.ts";
import { sizeOf } from "../../../core/shape.ts";
import { flatGrid, type Gpu, GROUP_INDEX } from "../gpu.ts";
import type { KernelSource } from "../pipelines.ts";
import { conversions } from "../wgsl.ts";
import { checkWordStart } from "./map.ts";
import { areWide, quadBinding, quadLoad, quadStore } from "./quads.ts";

const GROUP_SIZE = 256;

/** The fused rotation over `gpu`. Its tables get no gradient. */
export function ropeEntry(gpu: Gpu): FusedKernel<Record<never, never>> {
  return {
    supports: ([x, cos, sin]) => {
      const K = x.shape[3];
      return x.shape.length === 4 && sizeOf(x.shape) > 0 && K % 2 === 0 &&
        (x.dtype === "f32" || (isHalf(x.dtype) && K % 4 === 0)) && cos.dtype === "f32" && sin.dtype === "f32";
    },
    forward: ([x, cos, sin], _, out) => rotate(gpu, [x, cos, sin], out, 1),
    vjp: {
      saves: { inputs: [1, 2], out: false },
      run: ({ inputs: [, cos, sin] }, gradient, _, [dx, dCos, dSin]) => {
        if (dCos || dSin) {
          throw new UnsupportedError("Cannot differentiate rope() by its tables: only x has a gradient");
        }
        if (dx) rotate(gpu, [gradient, cos!, sin!], dx, -1);
      },
    },
  };
}

function rotate(gpu: Gpu, inputs: readonly [Operand, Operand, Operand], out: Operand, turn: number): void {
  const [x, cos, sin] = inputs;
  const [B, T, H, K] = x.shape;
  checkWordStart(out);
  const isWide = areWide(K / 2, [...inputs, out]);
  const size = B * T * H * Math.ceil(K / 8);
  gpu.run({
    key: `rope ${x.dtype} ${K}${isWide ? " wide" : ""}`,
    build: () => source(x.dtype, K, isWide),
    operands: [...inputs, out],
    params: { size, T, H, at_x: x.offset, at_cos: cos.offset, at_sin: sin.offset, at_out: out.offset, turn },
    grid: flatGrid(Math.ceil(size / GROUP_SIZE)),
    flops: 3 * B * T * H * K,
  });
}

function source(dtype: DType, K: number, isWide: boolean): KernelSource {
  const half = K / 2;
  const quads = Math.ceil(half / 4);
  const row = { size: half, isWide };
  const [x, out] = [{ ...row, name: "x", dtype }, { ...row, name: "out", dtype }];
  const [cos, sin] = [{ ...row, name: "cos_of", dtype: "f32" }, { ...row, name: "sin_of", dtype: "f32" }] as const;
  return {
    bindings: [...[x, cos, sin].map((input) => quadBinding(input, "read")), quadBinding(out, "read_write")],
    params: {
      size: "u32",
      T: "u32",
      H: "u32",
      at_x: "u32",
      at_cos: "u32",
      at_sin: "u32",
      at_out: "u32",
      turn: "f32",
    },
    code: /* wgsl */ `${conversions([dtype])}
${[x, cos, sin].map(quadLoad).join("\n")}
${quadStore(out)}
@compute @workgroup_size(${GROUP_SIZE})
fn main(
  @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let index = ${GROUP_INDEX} * ${GROUP_SIZE}u + lane;
  if (index >= params.size) { return; }
  let quad = index % ${quads}u;
  let head = index / ${quads}u;
  let table = ((head / params.H) % params.T) * ${half}u;
  let c = load4_cos_of(params.at_cos + table, quad);
  let s = params.turn * load4_sin_of(params.at_sin + table, quad);
  let first = head * ${K}u;
  let a = load4_x(params.at_x + first, quad);
  let b = load4_x(params.at_x + first + ${half}u, quad);
  store4_out(params.at_out + first, quad, a * c - b * s);
  store4_out(params.at_out + first + ${half}u, quad, b * c + a * s);
}`,
  };
}
