/**
 * Device memory: buffers in size classes, kept for reuse. The one place that creates a buffer.
 *
 * WebGPU says neither how much memory there is nor, at once, that an allocation failed: a limit is enforced here, the
 * largest binding is checked here, and error scopes report the rest. Buffers are destroyed by hand, because nothing else
 * gives their memory back in time, and only when no recorded command uses them.
 */
import type { BufferHandle, MemoryReport } from "../../core/backend.ts";
import { formatBytes, OutOfMemoryError, UnsupportedError } from "../../core/errors.ts";
import { COPY_DST, COPY_SRC, STORAGE } from "./constants.ts";
import type { Faults } from "./faults.ts";

/** A buffer of the device. */
export interface Block {
  readonly buffer: GPUBuffer;
  readonly id: number;
  readonly capacity: number;
  /** The recording that used it last. */
  epoch: number;
}

/** A block while somebody holds it. */
export class Allocation {
  freed = false;
  /** Bits of a lone element that is still to be written: see `Gpu.hold`. */
  constant: number | undefined;
  constructor(readonly block: Block, readonly bytes: number, readonly label: string) {}
}

/** What a pool is told. */
export interface PoolOptions {
  readonly device: GPUDevice;
  readonly faults: Faults;
  readonly limit: number;
  /** The largest buffer that a kernel can see. */
  readonly largest: number;
  /** Called before a block is destroyed. */
  readonly onDestroy: (block: Block) => void;
}

/** Free blocks are kept up to the most that was ever in use, and at least up to this. */
const KEPT_AT_LEAST = 2 ** 28;

/** Blocks by size class. */
export class BufferPool {
  readonly #options: PoolOptions;
  readonly #free = new Map<number, Block[]>();
  readonly #live = new Set<Allocation>();
  readonly #permanent: Block[] = [];
  #nextId = 1;
  #inUse = 0;
  #peak = 0;
  #held = 0;
  #heldPeak = 0;
  #reserved = 0;
  /** Buffers created so far. */
  created = 0;

  constructor(options: PoolOptions) {
    this.#options = options;
  }

  /** Memory of at least `bytes`. @throws OutOfMemoryError beyond the limit @throws UnsupportedError beyond a binding */
  alloc(bytes: number, label = "a tensor"): Allocation {
    if (!(bytes >= 0)) throw new RangeError(`Cannot allocate ${bytes} bytes for ${label}`);
    this.#options.faults.check();
    const { largest } = this.#options;
    const size = Math.ceil(bytes / 4) * 4;
    if (size > largest) {
      throw new UnsupportedError(
        `Cannot allocate ${formatBytes(size)} for ${label}: this GPU lets a kernel see at most ${
          formatBytes(largest)
        } ` +
          `of one tensor; use a smaller batch, sequence or vocabulary, or the CPU`,
      );
    }
    const capacity = Math.min(sizeClass(size), largest);
    const block = this.#free.get(capacity)?.pop() ?? this.#create(capacity, size, label);
    const allocation = new Allocation(block, size, label);
    this.#live.add(allocation);
    this.#inUse += size;
    this.#held += capacity;
    this.#peak = Math.max(this.#peak, this.#inUse);
    this.#heldPeak = Math.max(this.#heldPeak, this.#held);
    return allocation;
  }

  /** Memory that lives as long as the device, for tables of the kernels: reserved, but neither in use nor live. */
  permanent(bytes: number, label: string): Allocation {
    this.#options.faults.check();
    const block = this.#create(sizeClass(bytes), bytes, label);
    this.#permanent.push(block);
    return new Allocation(block, bytes, label);
  }

  free(handle: BufferHandle): void {
    const allocation = this.own(handle, "free");
    allocation.freed = true;
    this.#live.delete(allocation);
    const { block } = allocation;
    this.#inUse -= allocation.bytes;
    this.#held -= block.capacity;
    const list = this.#free.get(block.capacity);
    if (list) insert(list, block);
    else this.#free.set(block.capacity, [block]);
    this.#trim(Math.max(KEPT_AT_LEAST, this.#heldPeak) + this.#held);
  }

  /** The allocation behind a handle. @throws TypeError for a foreign one @throws Error for a freed one */
  own(handle: BufferHandle, verb: string): Allocation {
    if (!(handle instanceof Allocation)) {
      throw new TypeError(`Cannot ${verb} a buffer on webgpu: it belongs to another backend`);
    }
    if (handle.freed) throw new Error(`Cannot ${verb} a buffer of webgpu: ${handle.label} was freed before`);
    return handle;
  }

  #create(capacity: number, size: number, label: string): Block {
    const { device, faults, limit } = this.#options;
    if (this.#reserved + capacity > limit) this.#trim(limit - capacity);
    if (this.#reserved + capacity > limit) throw new OutOfMemoryError(size, this.#reserved, limit, label);
    const usage = STORAGE | COPY_SRC | COPY_DST;
    const what = `allocate ${formatBytes(size)} for ${label}`;
    const buffer = faults.scoped(device, what, () => device.createBuffer({ size: capacity, usage, label }));
    this.#reserved += capacity;
    this.created++;
    return { buffer, id: this.#nextId++, capacity, epoch: -1 };
  }

  /** Destroys free blocks, the largest first, until no more than `target` bytes are held from the device. */
  #trim(target: number): void {
    if (this.#reserved <= target) return;
    for (const capacity of [...this.#free.keys()].sort((a, b) => b - a)) {
      const list = this.#free.get(capacity)!;
      while (list.length > 0 && this.#reserved > target) {
        const block = list.pop()!;
        this.#options.onDestroy(block);
        this.#reserved -= block.capacity;
      }
      if (list.length === 0) this.#free.delete(capacity);
    }
  }

  memory(): MemoryReport {
    const { limit } = this.#options;
    return { inUse: this.#inUse, reserved: this.#reserved, peak: this.#peak, live: this.#live.size, limit };
  }

  resetPeak(): void {
    this.#peak = this.#inUse;
  }

  /** Destroys everything. */
  clear(): void {
    for (const list of this.#free.values()) for (const { buffer } of list) buffer.destroy();
    for (const { block } of this.#live) block.buffer.destroy();
    for (const { buffer } of this.#permanent.splice(0)) buffer.destroy();
    this.#free.clear();
    this.#live.clear();
    this.#inUse = this.#held = this.#reserved = 0;
  }
}

/**
 * Puts a block into a list that ends with the lowest id, which is taken next. Which block a step gets then depends on what
 * is free alone, not on the order in which it became so: steps that allocate alike bind alike, and find their groups.
 */
function insert(list: Block[], block: Block): void {
  let [low, high] = [0, list.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (list[middle].id > block.id) low = middle + 1;
    else high = middle;
  }
  list.splice(low, 0, block);
}

/** The capacity that `bytes` get: sixteen classes between two powers of two, so that at most 6 % is lost. */
export function sizeClass(bytes: number): number {
  if (bytes <= 256) return 256;
  const step = 2 ** Math.max(8, Math.floor(Math.log2(bytes)) - 4);
  return Math.ceil(bytes / step) * step;
}
