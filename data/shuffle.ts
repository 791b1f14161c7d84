/**
 * The order of rows, as a pure function of (seed, epoch, position, layout): no state, no list of permuted numbers, so
 * that any position can be resumed at once, and readers in any number agree.
 *
 * The scheme: the split's chunks are permuted; consecutive chunks of that order form windows of at most 8 MiB (and at most
 * 256 chunks); the rows of a window are permuted. So an epoch visits every row exactly once, a row's place ranges over the whole
 * split, and a reader holds one window to read each chunk once. A split that fits one window is permuted freely.
 * Each permutation is a Feistel network of eight rounds on the smallest sufficient power of four (at least 256), walked
 * along its cycle until it lands inside. Source: Black & Rogaway, "Ciphers with arbitrary finite domains" (2002).
 */

const ROUNDS = 8;
/** Part of the promise of the order: another size is another order. Twice as much costs a reader 15 MB more at its peak. */
const WINDOW_BYTES = 8 * 1024 * 1024;
const MAX_WINDOW_CHUNKS = 256;

/** The part of a split that its order depends on. */
export interface OrderLayout {
  readonly rows: number;
  readonly rowsPerChunk: number;
  readonly chunks: number;
  /** Bytes of a decoded chunk. */
  readonly chunkBytes: number;
}

/** murmur3's finaliser: every input bit moves every output bit. */
function mix(x: number): number {
  x = Math.imul(x ^ (x >>> 16), 0x85ebca6b);
  x = Math.imul(x ^ (x >>> 13), 0xc2b2ae35);
  return (x ^ (x >>> 16)) >>> 0;
}

/** One 32-bit key from several whole numbers, each below 2^53. */
export function foldKey(...parts: readonly number[]): number {
  let key = 0x9e3779b9;
  for (const part of parts) {
    key = mix(key ^ (part >>> 0)) + 0x9e3779b9;
    key = mix(key ^ Math.floor(part / 2 ** 32));
  }
  return key >>> 0;
}

/** A permutation of the whole numbers below `size` (up to 2^52), chosen by `key`. */
export class Permutation {
  readonly size: number;
  readonly #keys: Uint32Array;
  /** Two to the half width: numbers are `left * base + right`. */
  readonly #base: number;

  constructor(size: number, key: number) {
    this.size = size;
    this.#keys = Uint32Array.from({ length: ROUNDS }, (_, round) => foldKey(key, round));
    let halfBits = 4;
    while (4 ** halfBits < size) halfBits++;
    this.#base = 2 ** halfBits;
  }

  /** Where `value` goes. */
  at(value: number): number {
    let x = value;
    do x = this.#forward(x); while (x >= this.size);
    return x;
  }

  /** What goes to `value`. */
  indexOf(value: number): number {
    let x = value;
    do x = this.#backward(x); while (x >= this.size);
    return x;
  }

  #forward(x: number): number {
    let left = Math.floor(x / this.#base);
    let right = x % this.#base;
    for (let round = 0; round < ROUNDS; round++) {
      const next = (left ^ mix(right ^ this.#keys[round])) & (this.#base - 1);
      left = right;
      right = next;
    }
    return left * this.#base + right;
  }

  #backward(x: number): number {
    let left = Math.floor(x / this.#base);
    let right = x % this.#base;
    for (let round = ROUNDS - 1; round >= 0; round--) {
      const before = (right ^ mix(left ^ this.#keys[round])) & (this.#base - 1);
      right = left;
      left = before;
    }
    return left * this.#base + right;
  }
}

/** Chunks that are shuffled together: see the head. */
export function windowChunks({ chunks, chunkBytes }: OrderLayout): number {
  return Math.min(chunks, Math.max(1, Math.min(MAX_WINDOW_CHUNKS, Math.floor(WINDOW_BYTES / chunkBytes))));
}

/** The rows of a split in the order of training, epoch after epoch. */
export class RowOrder {
  readonly #layout: OrderLayout;
  readonly #seed: number;
  readonly #shuffle: boolean;
  readonly #window: number;
  #epoch = -1;
  #chunkOrder!: Permutation;
  /** Where the last chunk, which may be short, comes in the order of chunks. */
  #shortPlace = 0;
  #rowOrder: { readonly window: number; readonly permutation: Permutation } | undefined;

  /** `seed` is any whole number below 2^53; without `shuffle` rows come as they are stored. */
  constructor(layout: OrderLayout, seed: number, shuffle: boolean) {
    this.#layout = layout;
    this.#seed = seed;
    this.#shuffle = shuffle;
    this.#window = windowChunks(layout);
  }

  /** The row at a global index: index / rows is the epoch, the rest the position in it. */
  rowAt(index: number): number {
    const { rows, rowsPerChunk } = this.#layout;
    const epoch = Math.floor(index / rows);
    const position = index - epoch * rows;
    if (!this.#shuffle) return position;
    this.#enterEpoch(epoch);
    const window = this.#windowOf(position);
    const start = this.#windowStart(window);
    const size = this.#windowStart(window + 1) - start;
    if (this.#rowOrder?.window !== window) {
      this.#rowOrder = { window, permutation: new Permutation(size, foldKey(this.#seed, epoch, 2, window)) };
    }
    let place = this.#rowOrder.permutation.at(position - start);
    // The rows of a window lie chunk by chunk; the short chunk shifts those after it.
    const first = window * this.#window;
    const shortEnd = (this.#shortPlace - first + 1) * rowsPerChunk - this.#missing();
    if (this.#shortPlace >= first && place >= shortEnd) place += this.#missing();
    const chunk = this.#chunkOrder.at(first + Math.floor(place / rowsPerChunk));
    return chunk * rowsPerChunk + place % rowsPerChunk;
  }

  #enterEpoch(epoch: number): void {
    if (epoch === this.#epoch) return;
    this.#epoch = epoch;
    this.#chunkOrder = new Permutation(this.#layout.chunks, foldKey(this.#seed, epoch, 1));
    this.#shortPlace = this.#chunkOrder.indexOf(this.#layout.chunks - 1);
    this.#rowOrder = undefined;
  }

  /** Rows that the last chunk lacks. */
  #missing(): number {
    const { rows, rowsPerChunk, chunks } = this.#layout;
    return chunks * rowsPerChunk - rows;
  }

  /** Rows in the windows before this one. */
  #windowStart(window: number): number {
    const { rows, rowsPerChunk, chunks } = this.#layout;
    const before = Math.min(window * this.#window, chunks);
    return before === chunks ? rows : before * rowsPerChunk - (this.#shortPlace < before ? this.#missing() : 0);
  }

  #windowOf(position: number): number {
    const full = this.#window * this.#layout.rowsPerChunk;
    const guess = Math.floor(position / full);
    return position < this.#windowStart(guess + 1) ? guess : guess + 1;
  }
}
