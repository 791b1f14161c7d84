/**
 * The one memory of the CPU backend: every tensor lies in a shared 32-bit WebAssembly memory, so that kernels, worker
 * threads and a native BLAS see the same bytes. It grows on demand up to 4 GiB and never shrinks. Where in it a buffer
 * lies is the heap's choice (heap.ts); here are handles, limits and errors. It knows no kernels.
 */
import type { BufferHandle, MemoryReport, Operand, Storage } from "../../core/backend.ts";
import { bytesPerElement, type DType, type HostArray, hostArray } from "../../core/dtype.ts";
import { OutOfMemoryError } from "../../core/errors.ts";
import { type Block, Heap, UNIT } from "./heap.ts";
import type { Addresses } from "./runner.ts";

const PAGE = 65_536;
const MAX_PAGES = 65_536;
/** Least growth: a growth costs system calls and an interrupt in every thread. */
const GROWTH = 16 << 20;

/** What stands behind a BufferHandle of this backend. */
class WasmBuffer {
  readonly views = new Map<DType, HostArray>();
  /** Undefined once freed. */
  block: Block | undefined;
  constructor(block: Block, readonly bytes: number, readonly label: string, readonly owner: WasmMemory) {
    this.block = block;
  }
}

/** What `WasmMemory` can be told. */
export interface WasmMemoryOptions {
  /** Bytes at the start that are not for tensors (constants, control, scratch). */
  readonly reserve: number;
  /** The most bytes that may be in use; by default all that 4 GiB leave beside the reserve. */
  readonly limit?: number;
}

/** Storage in one shared WebAssembly memory. */
export class WasmMemory implements Storage, Addresses {
  readonly name = "cpu";
  readonly memory32: WebAssembly.Memory;
  readonly #heap: Heap;
  readonly #limit: number;
  #bytes: Uint8Array<ArrayBufferLike>;
  #inUse = 0;
  #peak = 0;
  #live = 0;

  constructor({ reserve, limit = Infinity }: WasmMemoryOptions) {
    const initial = Math.ceil((reserve + GROWTH) / PAGE);
    this.memory32 = new WebAssembly.Memory({ initial, maximum: MAX_PAGES, shared: true });
    this.#bytes = new Uint8Array(this.memory32.buffer);
    this.#limit = Math.min(limit, MAX_PAGES * PAGE - reserve);
    this.#heap = new Heap(Math.ceil(reserve / UNIT) * UNIT);
    this.#heap.extend(this.#bytes.length);
  }

  alloc(bytes: number, label = "a tensor"): BufferHandle {
    const size = Math.ceil(bytes / 4) * 4;
    if (!(this.#inUse + size <= this.#limit)) throw new OutOfMemoryError(size, this.#inUse, this.#limit, label);
    const units = Math.max(1, Math.ceil(size / UNIT));
    const block = this.#heap.take(units) ?? (this.#grow(units) ? this.#heap.take(units) : undefined);
    if (!block) throw new OutOfMemoryError(size, this.#inUse, this.#limit, label);
    this.#inUse += size;
    this.#peak = Math.max(this.#peak, this.#inUse);
    this.#live++;
    return new WasmBuffer(block, size, label, this);
  }

  free(buffer: BufferHandle): void {
    const own = this.#own(buffer, "free");
    this.#heap.release(own.block!);
    own.block = undefined;
    own.views.clear();
    this.#inUse -= own.bytes;
    this.#live--;
  }

  write(buffer: BufferHandle, byteOffset: number, data: Uint8Array): void {
    this.#bytes.set(data, this.#range(buffer, byteOffset, data.length, "write"));
  }

  read(buffer: BufferHandle, byteOffset: number, bytes: number): Promise<Uint8Array<ArrayBuffer>> {
    return Promise.resolve(this.readSync(buffer, byteOffset, bytes));
  }

  readSync(buffer: BufferHandle, byteOffset: number, bytes: number): Uint8Array<ArrayBuffer> {
    const start = this.#range(buffer, byteOffset, bytes, "read");
    const copy = new Uint8Array(bytes);
    copy.set(this.#bytes.subarray(start, start + bytes));
    return copy;
  }

  memory(): MemoryReport {
    const reserved = this.#bytes.length;
    return { inUse: this.#inUse, reserved, peak: this.#peak, live: this.#live, limit: this.#limit };
  }

  resetPeak(): void {
    this.#peak = this.#inUse;
  }

  /** Byte address of the operand's first element. @throws Error after its buffer was freed */
  address(operand: Operand): number {
    return this.#own(operand.buffer, "use").block!.start + operand.offset * bytesPerElement(operand.dtype);
  }

  /** All elements of a buffer, for the plain loops. Stays valid when the memory grows. */
  view(buffer: BufferHandle, dtype: DType): HostArray {
    const own = this.#own(buffer, "use");
    let view = own.views.get(dtype);
    if (!view) {
      const size = Math.floor(own.bytes / bytesPerElement(dtype));
      view = hostArray(dtype, this.#bytes.buffer, own.block!.start, size);
      own.views.set(dtype, view);
    }
    return view;
  }

  /** Holes in the heap, for tests of fragmentation. */
  numHoles(): number {
    return this.#heap.numHoles();
  }

  #own(buffer: BufferHandle, verb: string): WasmBuffer {
    if (!(buffer instanceof WasmBuffer) || buffer.owner !== this) {
      throw new TypeError(`Cannot ${verb} a buffer on ${this.name}: it belongs to another backend`);
    }
    if (!buffer.block) throw new Error(`Cannot ${verb} a buffer of ${this.name}: ${buffer.label} was freed before`);
    return buffer;
  }

  #range(buffer: BufferHandle, byteOffset: number, bytes: number, verb: string): number {
    const own = this.#own(buffer, verb);
    if (!(byteOffset >= 0 && bytes >= 0 && byteOffset + bytes <= own.bytes)) {
      throw new RangeError(
        `Cannot ${verb} ${bytes} bytes at ${byteOffset} of a buffer of ${this.name}: ${own.label} has ${own.bytes} bytes`,
      );
    }
    return own.block!.start + byteOffset;
  }

  /** Makes room for a block of `units`; false when the memory cannot grow that far. */
  #grow(units: number): boolean {
    const have = this.#bytes.length / PAGE;
    const needed = Math.ceil((units - this.#heap.tailUnits) * UNIT / PAGE);
    const wanted = Math.max(needed, GROWTH / PAGE, have >>> 3);
    for (const pages of [Math.min(wanted, MAX_PAGES - have), needed]) {
      if (pages < needed || have + pages > MAX_PAGES) continue;
      try {
        this.memory32.grow(pages);
      } catch (error) {
        if (error instanceof RangeError) continue; // The system gives no more than it has.
        throw error;
      }
      // A shared memory's old buffers stay valid over the same bytes; only the new part needs a new view.
      this.#bytes = new Uint8Array(this.memory32.buffer);
      this.#heap.extend(this.#bytes.length);
      return true;
    }
    return false;
  }
}
