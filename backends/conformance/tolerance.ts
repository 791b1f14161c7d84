/**
 * How far a backend's values may lie from the f64 reference, by op and device.
 *
 * `ulps` count units in the last place of the computing type; `relative` and `absolute` are for f32 computation and
 * replaced by tight ones in f64. Storing in 16 bits adds one rounding. WebGPU's figures follow its specification of
 * accuracy; subnormal results may be flushed there.
 */
import type { DType } from "../../core/dtype.ts";
import type { Device } from "./samples.ts";

/** An error bound for one op. */
export type Bound = { readonly ulps: number } | { readonly relative: number; readonly absolute: number };

/** A bound on each device. */
export type Bounds = Readonly<Record<Device, Bound>>;

/** Nothing is rounded, or rounded once and exactly. */
export const EXACT: Bounds = { cpu: { ulps: 0 }, webgpu: { ulps: 0 } };
/** Either neighbour of the true value. */
export const ONE_ULP: Bounds = { cpu: { ulps: 1 }, webgpu: { ulps: 1 } };
/** Division: 2.5 units by WebGPU's specification. */
export const QUOTIENT: Bounds = { cpu: { ulps: 1 }, webgpu: { ulps: 3 } };

/** Half the distance between neighbours, relative to the value: of the type that the op computes in. */
export function unit(dtype: DType): number {
  return dtype === "f64" ? 2 ** -53 : 2 ** -24;
}

/** The rounding of a value when it is stored: 0 but for the 16-bit types, whose bound has a little slack. */
export function storing(dtype: DType, value: number): number {
  if (dtype === "bf16") return 1.001 * 2 ** -8 * Math.abs(value) + 2 ** -134;
  return dtype === "f16" ? 1.001 * 2 ** -11 * Math.abs(value) + 2 ** -25 : 0;
}

/** The error allowed at the reference's `value`. */
export function allowance(bounds: Bounds, dtype: DType, device: Device, value: number): number {
  const bound = bounds[device];
  if ("ulps" in bound) {
    if (bound.ulps === 0) return 0;
    const smallest = device === "webgpu" ? 2 ** -126 : 2 ** -149;
    return bound.ulps * 2 * unit(dtype) * Math.abs(value) + smallest + storing(dtype, value);
  }
  if (dtype === "f64") return 1e-14 * Math.abs(value) + 1e-16;
  return bound.relative * Math.abs(value) + bound.absolute + storing(dtype, value);
}
