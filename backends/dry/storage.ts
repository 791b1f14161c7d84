/** Storage that counts bytes and has none. */
import type { BufferHandle, MemoryReport, Storage } from "../../core/backend.ts";
import { OutOfMemoryError } from "../../core/errors.ts";

/** What kernels' checks and plans ask of storage that only counts. */
export interface Ledger {
  /** @throws RangeError when bytes lie outside the buffer @throws Error when it was freed */
  checkRange(buffer: BufferHandle, byteOffset: number, bytes: number, verb: string): void;
  /** The largest buffer that was ever asked for: what a device must be able to hold in one piece. */
  largest(): { readonly label: string; readonly bytes: number };
  /** Most bytes that buffers took at once in blocks of the backend's allocator, since `resetPeak`. */
  peakHeld(): number;
}

/** A buffer that could have been. */
class DryBuffer {
  freed = false;
  constructor(readonly bytes: number, readonly label: string) {}
}

/** Allocations as figures. Reads give zeros, writes are checked and forgotten. */
export class DryStorage implements Storage, Ledger {
  readonly name = "dry";
  #inUse = 0;
  #peak = 0;
  #held = 0;
  #peakHeld = 0;
  #largest = { label: "", bytes: 0 };
  readonly #live = new Set<DryBuffer>();

  /**
   * @param limit the most bytes that may be in use
   * @param blockBytes what the allocator takes for a buffer
   */
  constructor(readonly limit: number, readonly blockBytes: (bytes: number) => number = (bytes) => bytes) {}

  alloc(bytes: number, label = "a tensor"): BufferHandle {
    if (!(bytes >= 0)) throw new RangeError(`Cannot allocate ${bytes} bytes for ${label}`);
    const size = Math.ceil(bytes / 4) * 4;
    if (this.#inUse + size > this.limit) throw new OutOfMemoryError(size, this.#inUse, this.limit, label);
    this.#inUse += size;
    this.#peak = Math.max(this.#peak, this.#inUse);
    this.#held += this.blockBytes(size);
    this.#peakHeld = Math.max(this.#peakHeld, this.#held);
    if (size > this.#largest.bytes) this.#largest = { label, bytes: size };
    const buffer = new DryBuffer(size, label);
    this.#live.add(buffer);
    return buffer;
  }

  free(buffer: BufferHandle): void {
    const own = this.#own(buffer, "free");
    own.freed = true;
    this.#inUse -= own.bytes;
    this.#held -= this.blockBytes(own.bytes);
    this.#live.delete(own);
  }

  write(buffer: BufferHandle, byteOffset: number, data: Uint8Array): void {
    this.checkRange(buffer, byteOffset, data.byteLength, "write");
  }

  /** Bytes of a live buffer. */
  bytesOf(buffer: BufferHandle): number {
    return this.#own(buffer, "use").bytes;
  }

  checkRange(buffer: BufferHandle, byteOffset: number, bytes: number, verb: string): void {
    const own = this.#own(buffer, verb);
    if (byteOffset >= 0 && byteOffset + bytes <= own.bytes) return;
    throw new RangeError(
      `Cannot ${verb} ${own.label}: bytes ${byteOffset} to ${byteOffset + bytes} lie outside its ${own.bytes}`,
    );
  }

  read(buffer: BufferHandle, byteOffset: number, bytes: number): Promise<Uint8Array<ArrayBuffer>> {
    return Promise.resolve(this.readSync(buffer, byteOffset, bytes));
  }

  readSync(buffer: BufferHandle, byteOffset: number, bytes: number): Uint8Array<ArrayBuffer> {
    this.checkRange(buffer, byteOffset, bytes, "read");
    return new Uint8Array(bytes);
  }

  memory(): MemoryReport {
    return { inUse: this.#inUse, reserved: this.#held, peak: this.#peak, live: this.#live.size, limit: this.limit };
  }

  largest(): { readonly label: string; readonly bytes: number } {
    return this.#largest;
  }

  peakHeld(): number {
    return this.#peakHeld;
  }

  resetPeak(): void {
    this.#peak = this.#inUse;
    this.#peakHeld = this.#held;
  }

  /** Frees everything. */
  clear(): void {
    for (const buffer of this.#live) this.free(buffer);
  }

  #own(buffer: BufferHandle, verb: string): DryBuffer {
    if (!(buffer instanceof DryBuffer)) {
      throw new TypeError(`Cannot ${verb} a buffer on ${this.name}: it belongs to another backend`);
    }
    if (buffer.freed) throw new Error(`Cannot ${verb} a buffer of ${this.name}: ${buffer.label} was freed before`);
    return buffer;
  }
}
