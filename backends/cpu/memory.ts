/**
 * The one memory of the CPU backend: every tensor lies in a shared 32-bit WebAssembly memory, so that kernels, worker
 * threads and a native BLAS see the same bytes. It grows on demand up to 4 GiB and never shrinks.
 *
 * `Heap` hands out address ranges: best fit among free blocks, binned by size (16 bins an octave), neighbours joined at
 * once. A training step asks for the same sizes in the same order, finds the holes that the last step left, and so
 * neither grows nor fragments. `WasmMemory` adds handles, limits and errors. Neither knows kernels.
 */
import type { BufferHandle, MemoryReport, Operand, Storage } from "../../core/backend.ts";
import { bytesPerElement, type DType, type HostArray, hostArray } from "../../core/dtype.ts";
import { OutOfMemoryError } from "../../core/errors.ts";
import type { Addresses } from "./runner.ts";

const PAGE = 65_536;
const MAX_PAGES = 65_536;
/** Alignment of every buffer: a cache line. */
const UNIT = 64;
/** Least growth: a growth costs system calls and an interrupt in every thread. */
const GROWTH = 16 << 20;
/** Entries of one bin that are compared for the best fit. */
const SCAN = 64;
/** 2^26 units of 64 bytes: (26 - 4 + 2) octaves of 16 bins. */
const BINS = 384;

/** A range of addresses, free or handed out, between its neighbours; free ones are also linked in their bin. */
class Block {
  free = false;
  previous: Block | undefined;
  next: Block | undefined;
  previousFree: Block | undefined;
  nextFree: Block | undefined;
  constructor(public start: number, public units: number) {}
}

/** Hands out ranges of [start, end), in units of 64 bytes. `end` moves when the memory grows. */
export class Heap {
  readonly #bins = new Array<Block | undefined>(BINS).fill(undefined);
  /** Bit i % 32 of word i / 32: bin i has a block. */
  readonly #occupied = new Uint32Array(BINS / 32);
  #last: Block | undefined;
  #end: number;

  constructor(start: number) {
    this.#end = start;
  }

  /** Free units at the very end: what a growth need not add. */
  get tailUnits(): number {
    return this.#last?.free ? this.#last.units : 0;
  }

  /** Adds the addresses up to `end`. */
  extend(end: number): void {
    const block = new Block(this.#end, Math.floor((end - this.#end) / UNIT));
    if (block.units <= 0) return;
    this.#end += block.units * UNIT;
    block.previous = this.#last;
    if (this.#last) this.#last.next = block;
    this.#last = block;
    this.release(block);
  }

  /** A block of `units`, or undefined when no hole is large enough. */
  take(units: number): Block | undefined {
    const block = this.#find(units);
    if (!block) return undefined;
    this.#unlink(block);
    block.free = false;
    if (block.units > units) this.#split(block, units);
    return block;
  }

  /** Gives a block back; it joins free neighbours. */
  release(block: Block): void {
    let whole = block;
    if (whole.next?.free) this.#join(whole, whole.next);
    if (whole.previous?.free) {
      const before = whole.previous;
      this.#unlink(before);
      before.free = false;
      before.units += whole.units;
      this.#forget(before, whole);
      whole = before;
    }
    whole.free = true;
    this.#link(whole);
  }

  /** Free blocks, for tests. */
  numHoles(): number {
    let holes = 0;
    for (let block = this.#last; block; block = block.previous) holes += block.free ? 1 : 0;
    return holes;
  }

  #find(units: number): Block | undefined {
    const own = binOf(units);
    let best: Block | undefined;
    let left = SCAN;
    for (let block = this.#bins[own]; block && left > 0; block = block.nextFree, left--) {
      if (block.units >= units && (!best || block.units < best.units)) best = block;
    }
    if (best) return best;
    const bin = this.#nextOccupied(own + 1);
    if (bin < 0) return undefined;
    left = SCAN;
    for (let block = this.#bins[bin]; block && left > 0; block = block.nextFree, left--) {
      if (!best || block.units < best.units) best = block;
    }
    return best;
  }

  #nextOccupied(from: number): number {
    let word = from >>> 5;
    let bits = word < this.#occupied.length ? this.#occupied[word] & (-1 << (from & 31)) : 0;
    while (bits === 0) {
      if (++word >= this.#occupied.length) return -1;
      bits = this.#occupied[word];
    }
    return word * 32 + 31 - Math.clz32(bits & -bits);
  }

  #split(block: Block, units: number): void {
    const rest = new Block(block.start + units * UNIT, block.units - units);
    block.units = units;
    rest.previous = block;
    rest.next = block.next;
    if (block.next) block.next.previous = rest;
    else this.#last = rest;
    block.next = rest;
    rest.free = true;
    this.#link(rest);
  }

  /** `block` swallows its free successor. */
  #join(block: Block, successor: Block): void {
    this.#unlink(successor);
    block.units += successor.units;
    this.#forget(block, successor);
  }

  #forget(block: Block, successor: Block): void {
    block.next = successor.next;
    if (successor.next) successor.next.previous = block;
    else this.#last = block;
  }

  #link(block: Block): void {
    const bin = binOf(block.units);
    const head = this.#bins[bin];
    block.previousFree = undefined;
    block.nextFree = head;
    if (head) head.previousFree = block;
    this.#bins[bin] = block;
    this.#occupied[bin >>> 5] |= 1 << (bin & 31);
  }

  #unlink(block: Block): void {
    const { previousFree, nextFree } = block;
    if (nextFree) nextFree.previousFree = previousFree;
    if (previousFree) previousFree.nextFree = nextFree;
    else {
      const bin = binOf(block.units);
      this.#bins[bin] = nextFree;
      if (!nextFree) this.#occupied[bin >>> 5] &= ~(1 << (bin & 31));
    }
  }
}

/** Bins grow with size: below 16 units one each, then 16 an octave. */
function binOf(units: number): number {
  if (units < 16) return units;
  const octave = 31 - Math.clz32(units);
  return (octave - 3) * 16 + ((units >>> (octave - 4)) & 15);
}

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
