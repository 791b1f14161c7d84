/** Moments in bfloat16: two bytes an element, by stochastic rounding, so that small changes are kept on average. */
import { cast, contiguous, roundStochastically, type Tensor, zeros } from "../core/mod.ts";
import type { State } from "./rule.ts";
import type { Codec } from "./store_as.ts";

interface Bfloat16State extends State {
  values: Tensor;
}

/**
 * The codec `storeAs` takes. `stochastic` (default) draws with keys of (seed, parameter, slot, step); under `nearest` a
 * second moment whose decay is less than half a unit in the last place (beta2 above 0.998) stands still.
 */
export function bfloat16({ rounding = "stochastic" }: { readonly rounding?: "stochastic" | "nearest" } = {}): Codec {
  return {
    name: "bfloat16",
    options: { rounding },
    zeros: (backend, shape) => ({ values: zeros(backend, shape, "bf16") }),
    decode: (stored) => cast((stored as Bfloat16State).values, "f32"),
    encode: (values, _kind, key) => ({
      values: rounding === "stochastic" ? roundStochastically(values, "bf16", key) : cast(contiguous(values), "bf16"),
    }),
  };
}

/** State as it is: what `storeAs` over nothing must equal. */
export function plain(): Codec {
  return {
    name: "plain",
    options: {},
    zeros: (backend, shape) => ({ values: zeros(backend, shape) }),
    decode: (stored) => (stored as Bfloat16State).values,
    encode: (values) => ({ values }),
  };
}
