/**
 * Tensor: a typed, strided view of reference-counted device memory.
 *
 * It refuses to be a calculator: operations are functions in `ops/`, so that this file never grows with them. A tensor
 * belongs to the scope that was open when it was made (or to its maker); views share memory, and memory goes back to
 * the backend with the last view.
 */
import type { Backend, BufferHandle, Operand, Spec } from "./backend.ts";
import { bytesFor, bytesPerElement, type DType, type HostArray, hostArray, isHostArray } from "./dtype.ts";
import type { Node } from "./autograd.ts";
import { currentScope, type Owned, type Scope } from "./scope.ts";
import { contiguousStrides, describe, isContiguous, type Shape, sizeOf } from "./shape.ts";

/** Device memory shared by the views of one allocation. */
class Memory {
  #references = 0;
  constructor(readonly backend: Backend, readonly handle: BufferHandle) {}
  retain(): this {
    this.#references++;
    return this;
  }
  release(): void {
    if (--this.#references === 0) this.backend.free(this.handle);
  }
  get isShared(): boolean {
    return this.#references > 1;
  }
}

/** A typed, strided view of device memory. */
export class Tensor implements Owned, Operand, Disposable {
  /** The scope that frees it; bookkeeping of `scope.ts`. */
  owner?: Scope;
  /** Where it stands on the gradient tape, if something before it needs a gradient. */
  node?: Node;
  readonly #memory: Memory;
  #disposed = false;

  /** Made by `empty`, `fromArray` and the ops; not meant for users. */
  constructor(
    memory: unknown,
    readonly shape: Shape,
    readonly strides: readonly number[],
    readonly offset: number,
    readonly dtype: DType,
    tracked: boolean,
  ) {
    this.#memory = (memory as Memory).retain();
    if (tracked) currentScope()?.own(this);
  }

  get backend(): Backend {
    return this.#memory.backend;
  }

  /** The device handle. @throws Error after disposal. */
  get buffer(): BufferHandle {
    if (this.#disposed) throw new Error(`Cannot use ${describe(this)}: it has been disposed`);
    return this.#memory.handle;
  }

  get size(): number {
    return sizeOf(this.shape);
  }

  get isContiguous(): boolean {
    return isContiguous(this.shape, this.strides);
  }

  /** True when another view holds the same memory. */
  get isShared(): boolean {
    return this.#memory.isShared;
  }

  get isDisposed(): boolean {
    return this.#disposed;
  }

  /** Another view of the same memory. Off the gradient tape. */
  view(shape: Shape, strides: readonly number[], offset: number): Tensor {
    void this.buffer;
    return new Tensor(this.#memory, shape, strides, offset, this.dtype, true);
  }

  /** A view of its own that no scope frees, off the tape: what tapes, sinks and optimizers hold. */
  retained(): Tensor {
    void this.buffer;
    return new Tensor(this.#memory, this.shape, this.strides, this.offset, this.dtype, false);
  }

  /** Gives this view's share of the memory back. Safe to call twice. */
  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.owner?.forget(this);
    this.#memory.release();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  /** Elements in row-major order, as a new host array. Contiguous tensors only (`contiguous(x)` makes one). */
  async read(): Promise<HostArray> {
    const { begin, bytes } = this.#span();
    const data = await this.backend.read(this.buffer, begin, bytes);
    return hostArray(this.dtype, data.buffer, data.byteOffset, this.size);
  }

  /** As `read`, at once. @throws TypeError where the backend's memory cannot be seen by the host. */
  readSync(): HostArray {
    if (!this.backend.readSync) throw new TypeError(`Cannot read in readSync(): ${this.backend.name} only reads async`);
    const { begin, bytes } = this.#span();
    const data = this.backend.readSync(this.buffer, begin, bytes);
    return hostArray(this.dtype, data.buffer, data.byteOffset, this.size);
  }

  /** Overwrites the elements with host data of the same dtype and size. @throws TypeError for another */
  write(data: HostArray): void {
    if (data.length !== this.size) {
      throw new TypeError(`Cannot write to ${describe(this)}: expected ${this.size} elements, got ${data.length}`);
    }
    const given = data.constructor.name;
    if (!isHostArray(this.dtype, data)) throw new TypeError(`Cannot write to ${describe(this)}: got ${given}`);
    const { begin } = this.#span();
    this.backend.write(this.buffer, begin, new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
  }

  #span(): { begin: number; bytes: number } {
    if (!this.isContiguous) throw new TypeError(`Cannot transfer ${describe(this)}: it is not contiguous`);
    const width = bytesPerElement(this.dtype);
    // a view of nothing may begin beyond the memory's end
    return { begin: this.size === 0 ? 0 : this.offset * width, bytes: this.size * width };
  }

  toString(): string {
    return describe(this);
  }
}

/** A new tensor with undefined contents. */
export function empty(backend: Backend, shape: Shape, dtype: DType = "f32", label?: string): Tensor {
  const handle = backend.alloc(bytesFor(dtype, sizeOf(shape)), label ?? describe({ shape, dtype }));
  return new Tensor(new Memory(backend, handle), shape, contiguousStrides(shape), 0, dtype, true);
}

/** A new tensor like a spec. */
export function emptyLike(backend: Backend, spec: Spec): Tensor {
  return empty(backend, spec.shape, spec.dtype);
}

/**
 * A new tensor with host data, row-major. `number[]` becomes f32 unless a dtype is given; bf16 and f16 take their bits.
 *
 * @throws TypeError when the number of elements differs from the shape's, or bf16 and f16 get anything but bits
 */
export function fromArray(
  backend: Backend,
  data: HostArray | readonly number[],
  shape: Shape,
  dtype: DType = dtypeOf(data),
): Tensor {
  const size = sizeOf(shape);
  if (data.length !== size) {
    throw new TypeError(`Cannot make ${describe({ shape, dtype })}: expected ${size} elements, got ${data.length}`);
  }
  if (!isHostArray(dtype, data) && (dtype === "bf16" || dtype === "f16")) {
    throw new TypeError(
      `Cannot make ${describe({ shape, dtype })}: expected its bits in a Uint16Array; cast() an f32 tensor instead`,
    );
  }
  let host = data;
  if (!isHostArray(dtype, host)) {
    host = hostArray(dtype, new ArrayBuffer(bytesFor(dtype, size)), 0, size);
    host.set(data);
  }
  const tensor = empty(backend, shape, dtype);
  tensor.write(host);
  return tensor;
}

function dtypeOf(data: HostArray | readonly number[]): DType {
  if (data instanceof Float64Array) return "f64";
  if (data instanceof Int32Array) return "i32";
  if (data instanceof Uint32Array) return "u32";
  if (data instanceof Uint8Array) return "u8";
  if (data instanceof Uint16Array) return "bf16";
  return "f32";
}
