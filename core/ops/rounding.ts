/** Rounding to 16 bits with the choice of neighbour left to a key. */
import type { Half } from "../dtype.ts";
import type { Key } from "../random.ts";
import type { Tensor } from "../tensor.ts";
import { zeros } from "./create.ts";
import { contiguous } from "./layout.ts";

/**
 * x (f32) in 16 bits, each element to the neighbour above or below at random, so that it is right on average. f16 rounds to
 * nearest (see `addInto`). Off the tape.
 */
export function roundStochastically(x: Tensor, dtype: Half, key: Key): Tensor {
  const out = zeros(x.backend, x.shape, dtype);
  x.backend.kernels.addInto(out, contiguous(x), { rounding: "stochastic", key });
  return out;
}
