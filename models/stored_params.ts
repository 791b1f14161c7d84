/** Between parameters and the tensors of files: entries to write, and tensors from values that were read. No I/O. */
import { type Backend, fromArray, isHalf, own, type Params, type Shape, type Tensor } from "../core/mod.ts";
import { fromFloat32 } from "./safetensors_convert.ts";
import type { TensorEntry } from "./safetensors_write.ts";

/** What parameters of models and tasks are stored in. */
export type StoredDType = "f32" | "bf16" | "f16";

/** What the types are called in files. */
const IN_FILES = { f32: "F32", bf16: "BF16", f16: "F16" } as const;

/** The tensors of `params` under their names, in their own dtypes. @throws TypeError for another than a stored dtype */
export function paramEntries(params: Params): TensorEntry[] {
  return [...params.entries()].map(([name, tensor]) => {
    const { dtype, shape } = tensor;
    if (!Object.hasOwn(IN_FILES, dtype)) {
      throw new TypeError(`Cannot write "${name}": weights are stored as f32, bf16 or f16: got ${dtype}`);
    }
    const bytes = async () => {
      const { buffer, byteOffset, byteLength } = await tensor.read();
      return new Uint8Array(buffer, byteOffset, byteLength);
    };
    return { name, dtype: IN_FILES[dtype as StoredDType], shape, bytes };
  });
}

/** A tensor that no scope owns, of values rounded to nearest in a 16-bit dtype. */
export function storedTensor(backend: Backend, values: Float32Array, shape: Shape, dtype: StoredDType): Tensor {
  const host = isHalf(dtype)
    ? new Uint16Array(fromFloat32(values, IN_FILES[dtype]).buffer)
    : values as Float32Array<ArrayBuffer>;
  return own(fromArray(backend, host, shape, dtype));
}
