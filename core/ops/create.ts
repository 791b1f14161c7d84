/** Ops that make tensors from nothing: constants, ranges, random bits. Randomness takes a key; none is hidden. */
import type { Backend } from "../backend.ts";
import type { DType } from "../dtype.ts";
import type { Key } from "../random.ts";
import type { Shape } from "../shape.ts";
import { empty, type Tensor } from "../tensor.ts";

/** A tensor whose elements all equal `value`. */
export function fill(backend: Backend, value: number, shape: Shape, dtype: DType = "f32"): Tensor {
  const out = empty(backend, shape, dtype);
  backend.kernels.fill(value, out);
  return out;
}

/** Zeros. */
export function zeros(backend: Backend, shape: Shape, dtype: DType = "f32"): Tensor {
  return fill(backend, 0, shape, dtype);
}

/** Ones. */
export function ones(backend: Backend, shape: Shape, dtype: DType = "f32"): Tensor {
  return fill(backend, 1, shape, dtype);
}

/** start, start + step, ... : `size` elements. */
export function iota(backend: Backend, size: number, dtype: DType = "i32", start = 0, step = 1): Tensor {
  const out = empty(backend, [size], dtype);
  backend.kernels.iota(start, step, out);
  return out;
}

/** Uniform u32 words of threefry-2x32 under `key`: the same on every backend. */
export function randomBits(backend: Backend, key: Key, shape: Shape): Tensor {
  const out = empty(backend, shape, "u32");
  backend.kernels.randomBits(key, out);
  return out;
}
