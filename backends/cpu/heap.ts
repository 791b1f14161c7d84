/**
 * Hands out address ranges: best fit among free blocks, binned by size, neighbours joined at once.
 *
 * A training step asks for the same sizes in the same order and finds the holes that the last step left, so that memory
 * neither grows nor splinters. Pure bookkeeping: it touches no memory.
 */

/** What ranges are counted in and aligned to: a cache line of bytes. */
export const UNIT = 64;

/** Entries of one bin that are compared for the best fit. */
const SCAN = 64;
/** Below 16 units one bin each, then 16 bins an octave, up to 2^26 units (4 GiB). */
const BINS = 384;

/** A range of addresses, free or handed out, between its neighbours; free ones are also linked in their bin. */
export class Block {
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
