/**
 * Fira and APOLLO as their head comments write them, for one matrix in f64 with plain loops, over Adam: what the rules are
 * held to. Test support.
 */
import type { Side } from "../mod.ts";
import { type HostMatrix, product, transposed } from "./given_basis.ts";

/** Keeps ratios of channels without a gradient finite. */
const TINY = 1e-8;

/** mHat / (sqrt(vHat) + 1e-8) with betas 0.9 and 0.999. */
export class ReferenceAdam {
  readonly #mu: Float64Array;
  readonly #nu: Float64Array;
  #step = 0;

  constructor(size: number) {
    this.#mu = new Float64Array(size);
    this.#nu = new Float64Array(size);
  }

  direction({ shape, data }: HostMatrix): HostMatrix {
    const step = ++this.#step;
    const out = Float64Array.from(data, (g, i) => {
      this.#mu[i] = 0.9 * this.#mu[i] + 0.1 * g;
      this.#nu[i] = 0.999 * this.#nu[i] + 0.001 * g * g;
      return this.#mu[i] / (1 - 0.9 ** step) / (Math.sqrt(this.#nu[i] / (1 - 0.999 ** step)) + 1e-8);
    });
    return { shape, data: out };
  }
}

/** Scales updates whose norm grows by more than `limit` from one to the next. */
export class ReferenceLimiter {
  norm = 0;
  /** How many updates were scaled. */
  count = 0;

  constructor(readonly limit: number) {}

  limited({ shape, data }: HostMatrix): HostMatrix {
    const norm = lengthOf(data);
    const isOver = this.norm > 0 && norm > this.limit * this.norm;
    const factor = isOver ? this.limit * this.norm / norm : 1;
    if (isOver) this.count++;
    this.norm = norm * factor;
    return { shape, data: Float64Array.from(data, (x) => x * factor) };
  }
}

export function lengthOf(data: ArrayLike<number>): number {
  return Math.sqrt(Array.from(data).reduce((total, x) => total + x * x, 0));
}

export function project(gradient: HostMatrix, basis: HostMatrix, side: Side): HostMatrix {
  return side === "left" ? product(basis, gradient) : product(gradient, transposed(basis));
}

export function projectBack(direction: HostMatrix, basis: HostMatrix, side: Side): HostMatrix {
  return side === "left" ? product(transposed(basis), direction) : product(direction, basis);
}

/** Every element times its channel's |N_j| / |R_j|: of its column where the left side is projected, else of its row. */
export function byChannel(x: HostMatrix, direction: HostMatrix, projected: HostMatrix, side: Side): HostMatrix {
  const channel = ({ shape: [rows, columns], data }: HostMatrix, j: number) =>
    side === "left"
      ? Float64Array.from({ length: rows }, (_, i) => data[i * columns + j])
      : Float64Array.from({ length: columns }, (_, i) => data[j * columns + i]);
  const columns = x.shape[1];
  const ratios = Array.from(
    { length: x.shape[side === "left" ? 1 : 0] },
    (_, j) => lengthOf(channel(direction, j)) / (lengthOf(channel(projected, j)) + TINY),
  );
  const data = Float64Array.from(x.data, (value, i) => value * ratios[side === "left" ? i % columns : i / columns | 0]);
  return { shape: x.shape, data };
}

/** Every element times |N| / |R|. */
export function byTensor(x: HostMatrix, direction: HostMatrix, projected: HostMatrix): HostMatrix {
  const ratio = lengthOf(direction.data) / (lengthOf(projected.data) + TINY);
  return { shape: x.shape, data: Float64Array.from(x.data, (value) => value * ratio) };
}

/** a + factor b. */
export function plus(a: HostMatrix, factor: number, b: HostMatrix): HostMatrix & { readonly data: Float64Array } {
  return { shape: a.shape, data: Float64Array.from(a.data, (x, i) => x + factor * b.data[i]) };
}
