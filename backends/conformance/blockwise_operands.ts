/**
 * Operands of the block-wise tests: floats between guards that must not change, at an odd offset where their number is
 * odd, and codes at the start of their buffer. All that one body places is freed when it ends.
 */
import assert from "node:assert/strict";
import type { Backend, Blockwise, BufferHandle, Operand } from "../../core/backend.ts";
import { bytesFor } from "../../core/dtype.ts";
import type { HostBlockwise } from "./blockwise_reference.ts";

/** A backend, and the buffers that are on it for one body. */
export interface Own {
  readonly backend: Backend;
  readonly buffers: BufferHandle[];
}

/** Elements of poison (NaN) behind the floats; before them as many, or one more. */
const GUARD = 4;

/** Runs `body`, then frees what it has placed. */
export async function onBackend<T>(backend: Backend, body: (own: Own) => T | Promise<T>): Promise<T> {
  const own: Own = { backend, buffers: [] };
  try {
    return await body(own);
  } finally {
    for (const buffer of own.buffers) backend.free(buffer);
  }
}

/** f32 [n] with these values. */
export function placed(own: Own, values: Float32Array): Operand {
  const offset = GUARD + values.length % 2;
  const words = new Uint32Array(offset + values.length + GUARD).fill(0xffffffff);
  new Float32Array(words.buffer).set(values, offset);
  const buffer = upload(own, new Uint8Array(words.buffer));
  return { buffer, offset, shape: [values.length], strides: [1], dtype: "f32" };
}

/** The values of what was placed, after a look at the guards. */
export async function readFloats({ backend }: Own, { buffer, offset, shape: [size] }: Operand) {
  const bytes = await backend.read(buffer, 0, 4 * (offset + size + GUARD));
  const words = new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
  const guards = [...words.subarray(0, offset), ...words.subarray(offset + size)];
  assert.ok(guards.every((word) => word === 0xffffffff), "elements around the operand changed");
  return new Float32Array(bytes.buffer, bytes.byteOffset + 4 * offset, size).slice();
}

/** `size` elements in blocks; bytes of ones unless a state is given. */
export function placedBlockwise(own: Own, size: number, blockSize: number, state?: HostBlockwise): Blockwise {
  const codes = new Uint8Array(Math.max(4, bytesFor("u8", size))).fill(0xff);
  if (state) codes.set(state.codes);
  const absmax = state?.absmax ?? new Float32Array(Math.ceil(size / blockSize)).fill(NaN);
  return {
    codes: { buffer: upload(own, codes), offset: 0, shape: [size], strides: [1], dtype: "u8" },
    absmax: placed(own, absmax),
  };
}

/** Codes and largest magnitudes on the host. */
export async function readBlockwise(own: Own, { codes, absmax }: Blockwise): Promise<HostBlockwise> {
  const [size] = codes.shape;
  const [bytes, largest] = await Promise.all([
    own.backend.read(codes.buffer, 0, Math.max(4, bytesFor("u8", size))),
    readFloats(own, absmax),
  ]);
  return { codes: bytes.slice(0, size), absmax: largest };
}

function upload({ backend, buffers }: Own, bytes: Uint8Array): BufferHandle {
  const buffer = backend.alloc(bytes.length, "a block-wise case");
  buffers.push(buffer);
  backend.write(buffer, 0, bytes);
  return buffer;
}
