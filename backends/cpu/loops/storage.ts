/** Storage in plain ArrayBuffers: exact counts, memory given back at once, and an error for whoever comes too late. */
import type { BufferHandle, MemoryReport, Storage } from "../../../core/backend.ts";
import { bytesPerElement, type DType, type HostArray, hostArray } from "../../../core/dtype.ts";
import { OutOfMemoryError } from "../../../core/errors.ts";

/** One allocation. */
class HostBuffer {
  readonly views = new Map<DType, HostArray>();
  freed = false;
  constructor(readonly data: ArrayBuffer, readonly label: string) {}
}

/** Bytes in the JavaScript heap's array buffers. */
export class HostStorage implements Storage {
  readonly #buffers = new Set<HostBuffer>();
  #inUse = 0;
  #peak = 0;

  /** @param limit the most bytes that may be in use */
  constructor(readonly name: string, readonly limit: number) {}

  alloc(bytes: number, label = "a tensor"): BufferHandle {
    const size = Math.ceil(bytes / 4) * 4;
    if (!(this.#inUse + size <= this.limit)) throw new OutOfMemoryError(size, this.#inUse, this.limit, label);
    const buffer = new HostBuffer(newMemory(size, this.#inUse, label), label);
    this.#buffers.add(buffer);
    this.#inUse += size;
    this.#peak = Math.max(this.#peak, this.#inUse);
    return buffer;
  }

  free(buffer: BufferHandle): void {
    const own = this.#live(buffer, "free");
    this.#buffers.delete(own);
    this.#inUse -= own.data.byteLength;
    own.freed = true;
    own.views.clear();
    own.data.transfer(0); // Detaches: the bytes go back now, not when the collector finds them.
  }

  write(buffer: BufferHandle, byteOffset: number, data: Uint8Array): void {
    new Uint8Array(this.#live(buffer, "write").data).set(data, byteOffset);
  }

  read(buffer: BufferHandle, byteOffset: number, bytes: number): Promise<Uint8Array<ArrayBuffer>> {
    return Promise.resolve(this.copy(buffer, byteOffset, bytes));
  }

  /** A copy of some bytes, now. */
  copy(buffer: BufferHandle, byteOffset: number, bytes: number): Uint8Array<ArrayBuffer> {
    return new Uint8Array(this.#live(buffer, "read").data, byteOffset, bytes).slice();
  }

  /** All elements of a buffer. @throws Error after it was freed */
  view(buffer: BufferHandle, dtype: DType): HostArray {
    const own = this.#live(buffer, "use");
    let view = own.views.get(dtype);
    if (!view) {
      view = hostArray(dtype, own.data, 0, Math.floor(own.data.byteLength / bytesPerElement(dtype)));
      own.views.set(dtype, view);
    }
    return view;
  }

  memory(): MemoryReport {
    return {
      inUse: this.#inUse,
      reserved: this.#inUse,
      peak: this.#peak,
      live: this.#buffers.size,
      limit: this.limit,
    };
  }

  resetPeak(): void {
    this.#peak = this.#inUse;
  }

  /** Frees everything. */
  clear(): void {
    for (const buffer of this.#buffers) this.free(buffer);
  }

  #live(buffer: BufferHandle, verb: string): HostBuffer {
    if (buffer instanceof HostBuffer) {
      if (this.#buffers.has(buffer)) return buffer;
      if (buffer.freed) throw new Error(`Cannot ${verb} a buffer of ${this.name}: ${buffer.label} was freed before`);
    }
    throw new TypeError(`Cannot ${verb} a buffer on ${this.name}: it belongs to another backend`);
  }
}

function newMemory(bytes: number, inUse: number, label: string): ArrayBuffer {
  try {
    return new ArrayBuffer(bytes);
  } catch (error) {
    // The engine names no figure: what is in use is what it gave.
    if (error instanceof RangeError) throw new OutOfMemoryError(bytes, inUse, inUse, label);
    throw error;
  }
}
