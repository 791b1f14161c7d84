/**
 * Element types: their sizes, names in messages, and host array classes.
 *
 * `bf16` and `f16` are storage types, packed 16 bits wide and computed in f32; `f64` exists on the CPU loops alone, for
 * gradient checks; `u32` doubles as the type of masks (0 or 1).
 */

/** The element types a tensor can have. */
export type DType = "f32" | "bf16" | "f16" | "i32" | "u32" | "u8" | "f64";

/** Host arrays that hold elements. bf16 and f16 travel as their bits in a `Uint16Array`. */
export type HostArray =
  | Float32Array<ArrayBufferLike>
  | Float64Array<ArrayBufferLike>
  | Int32Array<ArrayBufferLike>
  | Uint32Array<ArrayBufferLike>
  | Uint16Array<ArrayBufferLike>
  | Uint8Array<ArrayBufferLike>;

const BYTES: Record<DType, number> = { f32: 4, bf16: 2, f16: 2, i32: 4, u32: 4, u8: 1, f64: 8 };

/** Bytes of one element. */
export function bytesPerElement(dtype: DType): number {
  return BYTES[dtype];
}

/** Bytes that `size` elements take in a buffer of their own: padded to 4, as packed types must be on a GPU. */
export function bytesFor(dtype: DType, size: number): number {
  return Math.ceil((size * BYTES[dtype]) / 4) * 4;
}

/** The float types that are stored in 16 bits and computed in f32. */
export type Half = "bf16" | "f16";

/** True for the types that are stored in 16 bits and computed in f32. */
export function isHalf(dtype: DType): dtype is Half {
  return dtype === "bf16" || dtype === "f16";
}

/** True for the types that carry gradients. */
export function isFloat(dtype: DType): boolean {
  return dtype === "f32" || dtype === "f64" || dtype === "bf16" || dtype === "f16";
}

/** True for a host array of the class that holds `dtype`. */
export function isHostArray(dtype: DType, data: unknown): data is HostArray {
  return data instanceof hostArray(dtype, new ArrayBuffer(0), 0, 0).constructor;
}

/** A host array of `size` elements over `buffer`, or over new memory. The type follows the dtype (bits for bf16, f16). */
export function hostArray(dtype: DType, buffer: ArrayBufferLike, byteOffset: number, size: number): HostArray {
  switch (dtype) {
    case "f32":
      return new Float32Array(buffer, byteOffset, size);
    case "f64":
      return new Float64Array(buffer, byteOffset, size);
    case "i32":
      return new Int32Array(buffer, byteOffset, size);
    case "u32":
      return new Uint32Array(buffer, byteOffset, size);
    case "u8":
      return new Uint8Array(buffer, byteOffset, size);
    case "bf16":
    case "f16":
      return new Uint16Array(buffer, byteOffset, size);
    default:
      dtype satisfies never;
      throw new TypeError(`Cannot make a host array: unknown dtype ${dtype}`);
  }
}
