/**
 * Fused optimizer updates on WebGPU: Adam on f32 leaves, and those of `blockwise.ts`. Formula and conventions:
 * `optimizers/adam.ts`.
 */
import type { Operand, UpdateKernels } from "../../core/backend.ts";
import { sizeOf } from "../../core/shape.ts";
import { ADAM_PARAMS, adamParams } from "./adam_params.ts";
import { webgpuBlockwise } from "./blockwise.ts";
import { flatGrid, type Gpu, GROUP_INDEX } from "./gpu.ts";
import type { KernelSource } from "./pipelines.ts";

/** What a call has beside gradient and moments; part of the kernel's key. */
interface Variant {
  readonly hasFactor: boolean;
  readonly hasParam: boolean;
  readonly hasOut: boolean;
  readonly isVector: boolean;
}

const GROUP_SIZE = 256;

/** All fused updates over `gpu`. */
export function webgpuUpdates(gpu: Gpu): UpdateKernels {
  return {
    ...webgpuBlockwise(gpu),
    adam({ grad, mu, nu, factor, param, out }, update, parameter) {
      const size = sizeOf(grad.shape);
      if (size === 0) return;
      if (param && !parameter) {
        throw new TypeError("Cannot update in adam(): a param needs its learning rate and decay");
      }
      const moved = [grad, mu, nu, ...(param ? [param] : []), ...(out ? [out] : [])];
      const isVector = size % 4 === 0 && moved.every(({ offset }) => offset % 4 === 0);
      const variant = { hasFactor: !!factor, hasParam: !!param, hasOut: !!out, isVector };
      const at = (operand: Operand | undefined) => operand?.offset ?? 0;
      gpu.run({
        key: `adam${variant.hasFactor ? " factor" : ""}${param ? " param" : ""}${out ? " out" : ""}${
          isVector ? " vec4" : ""
        }`,
        build: () => adamSource(variant),
        operands: [grad, mu, nu, ...(factor ? [factor] : []), ...(param ? [param] : []), ...(out ? [out] : [])],
        params: {
          size: isVector ? size / 4 : size,
          at_grad: at(grad),
          at_mu: at(mu),
          at_nu: at(nu),
          at_factor: at(factor),
          at_param: at(param),
          at_out: at(out),
          ...adamParams(update, parameter),
        },
        grid: flatGrid(Math.ceil(size / (isVector ? 4 : 1) / GROUP_SIZE)),
        bytes: 4 * size * (5 + (param ? 2 : 0) + (out ? 1 : 0)),
      });
    },
  };
}

/**
 * Reads the gradient, both moments and the parameter once, writes the last three: seven words an element. A negative
 * factor is the closed gate: nothing moves, and `out` is 0.
 */
function adamSource({ hasFactor, hasParam, hasOut, isVector }: Variant): KernelSource {
  const type = isVector ? "vec4f" : "f32";
  const at = (name: string) => isVector ? `params.at_${name} / 4u + i` : `params.at_${name} + i`;
  const array = `array<${type}>`;
  const gate = /* wgsl */ `
  let factor = factor_of[params.at_factor];
  if (factor < 0.0) { ${hasOut ? `out[${at("out")}] = ${type}(0.0);` : ""} return; }`;
  return {
    bindings: [
      { name: "grad", type: array, access: "read" },
      { name: "mu", type: array, access: "read_write" },
      { name: "nu", type: array, access: "read_write" },
      ...(hasFactor ? [{ name: "factor_of", type: "array<f32>", access: "read" } as const] : []),
      ...(hasParam ? [{ name: "param", type: array, access: "read_write" } as const] : []),
      ...(hasOut ? [{ name: "out", type: array, access: "read_write" } as const] : []),
    ],
    params: {
      size: "u32",
      at_grad: "u32",
      at_mu: "u32",
      at_nu: "u32",
      at_factor: "u32",
      at_param: "u32",
      at_out: "u32",
      ...ADAM_PARAMS,
    },
    code: /* wgsl */ `
@compute @workgroup_size(${GROUP_SIZE})
fn main(
  @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let i = ${GROUP_INDEX} * ${GROUP_SIZE}u + lane;
  if (i >= params.size) { return; }
  ${hasFactor ? gate : "let factor = 1.0;"}
  let g = factor * grad[${at("grad")}];
  let m = params.beta1 * mu[${at("mu")}] + params.gain1 * g;
  let v = params.beta2 * nu[${at("nu")}] + params.gain2 * (g * g);
  mu[${at("mu")}] = m;
  nu[${at("nu")}] = v;
  let u = (m * params.scale1) / (sqrt(v) * params.scale2 + params.eps);
  ${hasOut ? `out[${at("out")}] = u;` : ""}
  ${
      hasParam
        ? `let p = param[${at("param")}];
  param[${at("param")}] = (p - params.rate * u - params.before * p) * params.after;`
        : ""
    }
}`,
  };
}
