/** Keys and values of the positions already seen, so that generating a token costs one position, not all of them. */
import { type Backend, empty, noGrad, own, type Tensor } from "../core/mod.ts";

/**
 * Room for `capacity` positions in every layer. A layer's memory comes with its first keys, in their dtype. The cache owns
 * it: dispose it, or `using`.
 */
export class KeyValueCache implements Disposable {
  readonly #keys: (Tensor | undefined)[];
  readonly #values: (Tensor | undefined)[];
  readonly #make: (like: Tensor) => Tensor;
  #length = 0;

  /** @param shape batch, key/value heads G and head size K of the model */
  constructor(
    backend: Backend,
    layers: number,
    readonly capacity: number,
    { batch, groups, headSize }: { batch: number; groups: number; headSize: number },
  ) {
    const shape = [batch, capacity, groups, headSize];
    this.#make = ({ dtype }) => own(empty(backend, shape, dtype, "key/value cache"));
    this.#keys = new Array(layers).fill(undefined);
    this.#values = new Array(layers).fill(undefined);
  }

  /** Positions held. */
  get length(): number {
    return this.#length;
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
    const keys = this.#keys[layer] ??= this.#make(k);
    const values = this.#values[layer] ??= this.#make(v);
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

  dispose(): void {
    for (const tensor of [...this.#keys, ...this.#values]) tensor?.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}
