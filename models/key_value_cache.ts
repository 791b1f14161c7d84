/**
 * Keys and values of the positions already seen, so that generating a token costs one position, not all of them.
 *
 * The rows of a batch end together and may begin apart: a row that is shorter than the longest is padded in front, so
 * that the next token of all of them stands in the same place. What is padding nobody sees, and a row's first token has
 * position 0 wherever it stands: `llama` reads `padding` for that.
 */
import { type Backend, type DType, empty, noGrad, own, type Tensor } from "../core/mod.ts";

/** For whom a cache is. */
export interface CacheShape {
  readonly batch: number;
  /** Key/value heads G. */
  readonly groups: number;
  /** Head size K. */
  readonly headSize: number;
  /** How many of the first places of each row hold no token, [batch]. Default: none. */
  readonly padding?: readonly number[];
}

/**
 * Room for `capacity` positions in every layer. A layer's memory comes with its first keys, in their dtype. The cache owns
 * it: dispose it, or `using`.
 */
export class KeyValueCache implements Disposable {
  readonly #keys: (Tensor | undefined)[];
  readonly #values: (Tensor | undefined)[];
  readonly #backend: Backend;
  #shape: CacheShape;
  #length = 0;

  /** @throws RangeError for a padding that is not one number a row */
  constructor(backend: Backend, layers: number, readonly capacity: number, shape: CacheShape) {
    const { batch, padding } = shape;
    if (padding && (padding.length !== batch || !padding.every((places) => places >= 0))) {
      throw new RangeError(`Cannot pad a cache: each of ${batch} rows must have a number from 0: got [${padding}]`);
    }
    this.#backend = backend;
    this.#shape = shape;
    this.#keys = new Array(layers).fill(undefined);
    this.#values = new Array(layers).fill(undefined);
  }

  /** Rows of the batch. */
  get batch(): number {
    return this.#shape.batch;
  }

  /** Places held in each row, padding included. */
  get length(): number {
    return this.#length;
  }

  /** How many of the first places of each row are padding; undefined where none is. */
  get padding(): readonly number[] | undefined {
    const { padding } = this.#shape;
    return padding?.some((places) => places > 0) ? padding : undefined;
  }

  /**
   * Writes a layer's new keys and values [B, T, G, K] behind the old ones and gives views of all, [B, S, G, K]. The
   * length moves on with `advance`, after the last layer.
   *
   * @throws RangeError when the capacity is exceeded
   */
  extend(layer: number, k: Tensor, v: Tensor): { k: Tensor; v: Tensor } {
    const end = this.#length + k.shape[1];
    if (end > this.capacity) throw new RangeError(`Cannot extend a cache of ${this.capacity} positions to ${end}`);
    const keys = this.#keys[layer] ??= this.#make(k.dtype);
    const values = this.#values[layer] ??= this.#make(v.dtype);
    return noGrad(() => ({ k: this.#write(keys, k), v: this.#write(values, v) }));
  }

  #write(store: Tensor, part: Tensor): Tensor {
    const [batch, length, groups, size] = part.shape;
    const stride = store.strides[1];
    using target = store.view(part.shape, store.strides, this.#length * stride);
    store.backend.kernels.copyStrided(part, target);
    return store.view([batch, this.#length + length, groups, size], store.strides, 0);
  }

  /** Counts `positions` as held. */
  advance(positions: number): void {
    this.#length += positions;
  }

  /** Keeps these rows of the batch, in this order, and forgets the others. Call outside every scope. */
  keep(rows: readonly number[]): void {
    const { padding } = this.#shape;
    this.#shape = { ...this.#shape, batch: rows.length, padding: padding && rows.map((row) => padding[row]) };
    for (const stores of [this.#keys, this.#values]) {
      for (const [layer, store] of stores.entries()) {
        if (!store) continue;
        stores[layer] = this.#select(store, rows);
        store.dispose();
      }
    }
  }

  #make(dtype: DType): Tensor {
    const { batch, groups, headSize } = this.#shape;
    return own(empty(this.#backend, [batch, this.capacity, groups, headSize], dtype, "key/value cache"));
  }

  #select(store: Tensor, rows: readonly number[]): Tensor {
    const kept = this.#make(store.dtype);
    const shape = [1, this.#length, ...store.shape.slice(2)];
    for (const [place, row] of rows.entries()) {
      using from = store.view(shape, store.strides, row * store.strides[0]);
      using to = kept.view(shape, kept.strides, place * kept.strides[0]);
      store.backend.kernels.copyStrided(from, to);
    }
    return kept;
  }

  dispose(): void {
    for (const tensor of [...this.#keys, ...this.#values]) tensor?.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}
