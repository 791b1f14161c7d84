/**
 * The finite-gate on the device: once a step's gradients or losses were not finite, no later commit changes anything,
 * and no value is read to know it. For devices where a readback a step is too dear.
 *
 * It selects and never multiplies: 0 times NaN is NaN. Parameters are gated where they are added to. `where` takes its
 * mask in full, so that a large tensor of state is selected in pieces under one short mask.
 */
import {
  abs,
  broadcastTo,
  contiguous,
  emptyLike,
  fill,
  less,
  mul,
  own,
  reshape,
  scope,
  Tensor,
  where,
  zeros,
} from "../core/mod.ts";
import type { State } from "./rule.ts";

/** Elements of a piece: its mask takes 4 MiB. Even, so that 16-bit pieces begin at whole words. */
const PIECE = 1 << 20;

/** The latch: 1 until something was not finite. */
export class Guard implements Disposable {
  #latch: Tensor | undefined;

  /** Closes the latch unless every scalar is finite. The gate of a commit, which must end before the next. */
  next(scalars: readonly Tensor[]): Gate {
    using inner = scope("guard");
    let open = this.#latch ?? fill(scalars[0].backend, 1, [], "u32");
    for (const scalar of scalars) open = mul(open, less(abs(reshape(scalar, [])), Infinity));
    this.reset();
    this.#latch = own(inner.keep(open));
    return new Gate(this.#latch);
  }

  /** Opens the latch again. */
  reset(): void {
    this.#latch?.dispose();
    this.#latch = undefined;
  }

  [Symbol.dispose](): void {
    this.reset();
  }
}

/** What one commit lets through. */
export class Gate implements Disposable {
  #mask: Tensor | undefined;

  constructor(readonly latch: Tensor) {}

  /** A clip factor where the latch is open, else -1: fused updates leave everything as it is then. */
  factor(factor: Tensor): Tensor {
    return where(this.latch, factor, -1);
  }

  /** `fresh` where the latch is open, else `old`. */
  select(fresh: Tensor, old: Tensor): Tensor {
    using inner = scope("gate");
    const size = Math.min(PIECE, fresh.size);
    const [mask, chosen, instead] = [this.#maskOf(size), contiguous(fresh), contiguous(old)];
    const out = emptyLike(fresh.backend, fresh);
    for (let begin = 0; begin < fresh.size; begin += size) {
      const count = Math.min(size, fresh.size - begin);
      const piece = (x: Tensor, at = begin) => x.view([count], [1], x.offset + at);
      fresh.backend.kernels.where(piece(mask, 0), piece(chosen), piece(instead), piece(out));
    }
    return inner.keep(out);
  }

  /**
   * The next state where the latch is open, else the one before. Tensors that are in both stay as they are. One that was
   * not there before (a first basis) is zeros behind a shut latch, which move nothing until there is a better.
   */
  selectState(next: State, before: State): State {
    const out: State = {};
    for (const [key, value] of Object.entries(next)) {
      const old = before[key];
      if (value instanceof Tensor) {
        out[key] = old === value ? value : this.select(value, old instanceof Tensor ? old : this.#nothing(value));
      } else if (value !== null && typeof value === "object") {
        out[key] = this.selectState(value, old as State);
      } else out[key] = value;
    }
    return out;
  }

  #nothing({ backend, shape, dtype }: Tensor): Tensor {
    return zeros(backend, shape, dtype);
  }

  #maskOf(size: number): Tensor {
    if (this.#mask && this.#mask.size >= size) return this.#mask;
    this.#mask?.dispose();
    return this.#mask = own(contiguous(broadcastTo(reshape(this.latch, [1]), [size])));
  }

  [Symbol.dispose](): void {
    this.#mask?.dispose();
  }
}
