/**
 * Params: a model's weights, a flat map under Hugging Face's own names, with views by prefix.
 *
 * A model is a function over a view: `params.at("model.layers.0")` then `get("self_attn.q_proj.weight")`. Factorisations
 * and adapters decorate the view's `linear` (`decorated`). It refuses to know layers, classes or files.
 */
import type { Backend } from "./backend.ts";
import { asLeaf } from "./autograd.ts";
import { describe } from "./shape.ts";
import { own } from "./scope.ts";
import { bytesFor } from "./dtype.ts";
import { linear } from "./ops/matmul.ts";
import type { Tensor } from "./tensor.ts";

/** What a model function asks of its weights. */
export interface ParamsView {
  readonly backend: Backend;
  /** The weight `name` under this view's prefix. @throws TypeError when there is none. */
  get(name: string): Tensor;
  has(name: string): boolean;
  /** A view under `prefix`, as `cd` into a folder. */
  at(prefix: string | number): ParamsView;
  /** x @ weight^T (+ bias, if there is one) with the weights `name.weight`, `name.bias`. */
  linear(name: string, x: Tensor): Tensor;
}

/** What stands in place of a view's linear maps. */
export interface Decoration {
  /**
   * The map called `name`, in full from the decorated view on, of `x`. `plain` is the view underneath: its
   * `linear(name, x)` is the map without this decoration.
   */
  linear(name: string, x: Tensor, plain: ParamsView): Tensor;
}

/** A model's weights by name. Owns them: dispose it, or `using`. */
export class Params implements ParamsView, Disposable {
  readonly #tensors = new Map<string, Tensor>();
  readonly #frozen = new Set<string>();

  constructor(readonly backend: Backend) {}

  /** Adds a weight and takes ownership. It gets gradients under its name unless frozen. */
  set(name: string, tensor: Tensor): void {
    if (tensor.backend !== this.backend) {
      throw new TypeError(`Cannot hold "${name}": it lives on ${tensor.backend.name}, expected ${this.backend.name}`);
    }
    if (this.#tensors.has(name)) throw new TypeError(`Cannot add "${name}": the name is taken`);
    this.#tensors.set(name, asLeaf(own(tensor), name));
  }

  /**
   * Puts a tensor of the same kind in a weight's place, takes ownership of it and frees the one before. What was frozen
   * stays so. Not for weights that an optimizer holds: it would go on with the old one.
   *
   * @throws TypeError when there is no such weight, or for another shape, dtype or backend
   */
  replace(name: string, tensor: Tensor): void {
    const before = this.get(name);
    if (tensor.backend !== this.backend || describe(tensor) !== describe(before)) {
      const of = (one: Tensor) => `${describe(one)} on ${one.backend.name}`;
      throw new TypeError(`Cannot replace "${name}": expected ${of(before)}, got ${of(tensor)}`);
    }
    this.#tensors.set(name, asLeaf(own(tensor), name));
    if (this.#frozen.has(name)) tensor.node = undefined;
    before.dispose();
  }

  get(name: string): Tensor {
    const tensor = this.#tensors.get(name);
    if (!tensor) throw new TypeError(`Cannot find parameter "${name}": got ${this.#tensors.size} others`);
    return tensor;
  }

  has(name: string): boolean {
    return this.#tensors.has(name);
  }

  at(prefix: string | number): ParamsView {
    return new PrefixView(this, `${prefix}.`);
  }

  linear(name: string, x: Tensor): Tensor {
    return applyLinear(this, name, x);
  }

  /** A view of these weights whose linear maps are what `decoration` makes of them. */
  decorated(decoration: Decoration): ParamsView {
    return decorated(this, decoration);
  }

  /** Names in order of insertion. */
  names(): string[] {
    return [...this.#tensors.keys()];
  }

  entries(): IterableIterator<[string, Tensor]> {
    return this.#tensors.entries();
  }

  /** Stops gradients to these weights: they cost nothing in backward. */
  freeze(names: Iterable<string>): void {
    for (const name of names) {
      this.get(name).node = undefined;
      this.#frozen.add(name);
    }
  }

  isFrozen(name: string): boolean {
    return this.#frozen.has(name);
  }

  /** Number of weights in all tensors. */
  get size(): number {
    let size = 0;
    for (const tensor of this.#tensors.values()) size += tensor.size;
    return size;
  }

  get bytes(): number {
    let bytes = 0;
    for (const tensor of this.#tensors.values()) bytes += bytesFor(tensor.dtype, tensor.size);
    return bytes;
  }

  dispose(): void {
    for (const tensor of this.#tensors.values()) tensor.dispose();
    this.#tensors.clear();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  toString(): string {
    return [...this.#tensors].map(([name, tensor]) => `${name} ${describe(tensor)}`).join("\n");
  }
}

class PrefixView implements ParamsView {
  constructor(readonly root: ParamsView, readonly prefix: string) {}
  get backend(): Backend {
    return this.root.backend;
  }
  get(name: string): Tensor {
    return this.root.get(this.prefix + name);
  }
  has(name: string): boolean {
    return this.root.has(this.prefix + name);
  }
  at(prefix: string | number): ParamsView {
    return new PrefixView(this.root, `${this.prefix}${prefix}.`);
  }
  linear(name: string, x: Tensor): Tensor {
    return this.root.linear(this.prefix + name, x);
  }
}

/** A view like `plain` whose linear maps are the decoration's, under every prefix. Decorations stack. */
export function decorated(plain: ParamsView, decoration: Decoration): ParamsView {
  return new DecoratedView(plain, decoration);
}

class DecoratedView implements ParamsView {
  constructor(readonly plain: ParamsView, readonly decoration: Decoration) {}
  get backend(): Backend {
    return this.plain.backend;
  }
  get(name: string): Tensor {
    return this.plain.get(name);
  }
  has(name: string): boolean {
    return this.plain.has(name);
  }
  at(prefix: string | number): ParamsView {
    return new PrefixView(this, `${prefix}.`);
  }
  linear(name: string, x: Tensor): Tensor {
    return this.decoration.linear(name, x, this.plain);
  }
}

/** The undecorated `linear` of a view. */
export function applyLinear(params: ParamsView, name: string, x: Tensor): Tensor {
  const bias = `${name}.bias`;
  return linear(x, params.get(`${name}.weight`), params.has(bias) ? params.get(bias) : undefined);
}
