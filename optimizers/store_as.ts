/**
 * Optimizer state in another storage: fewer bits for moments, the same arithmetic. `storeAs(codec, inner)` decodes, runs
 * `inner`, encodes; a codec may know one kernel that does all of it for a rule that it recognises.
 *
 * Slots of fewer than `minSize` elements stay as they are (bitsandbytes: 4,096), and so does everything that a rule does
 * not name as a slot.
 */
import { type Backend, foldIn, type Key, keyOf, type Shape, type SlotKind, Tensor } from "../core/mod.ts";
import type { GradientContext, GradientRule, LeafSpec, Rule, RuleContext, State, StepContext } from "./rule.ts";

/** A way to store tensors: f32 values to a few tensors of fewer bytes, and back. */
export interface Codec {
  readonly name: string;
  readonly options: Readonly<Record<string, unknown>>;
  /** What zeros of a shape are stored as. */
  readonly zeros: (backend: Backend, shape: Shape, kind: SlotKind) => State;
  /** f32 values of what is stored. */
  readonly decode: (stored: State, kind: SlotKind) => Tensor;
  /** @param key of the random numbers of a codec that rounds at random */
  readonly encode: (values: Tensor, kind: SlotKind, key: Key) => State;
  /**
   * Does decoding, `inner`'s update and encoding in one kernel, in place; undefined where there is none that fits. With
   * `rest`, also what the rules behind `inner` do, and the addition to the parameter: the change is undefined then.
   */
  readonly fuse?: (
    inner: GradientRule,
    gradient: Tensor,
    state: State,
    context: GradientContext & Partial<RuleContext>,
    rest?: readonly Rule[],
  ) => { readonly change: Tensor | undefined; readonly state: State } | undefined;
}

/** Options of `storeAs`. */
export interface StoreOptions {
  /** Slots of fewer elements stay f32. Default 4096, as bitsandbytes. */
  readonly minSize?: number;
  /** Seeds codecs that round at random. Default 0. */
  readonly seed?: number;
}

/** Runs `inner` on state that is stored by `codec`. */
export function storeAs(codec: Codec, inner: GradientRule, options: StoreOptions = {}): GradientRule {
  const { minSize = 4096, seed = 0 } = options;
  if (inner.stage) throw new TypeError(`Cannot store ${inner.name} in storeAs(): wrap the rule inside it instead`);
  const kinds = Object.entries(inner.slots);
  /** The inner state with every stored slot decoded. */
  const decoded = (state: State): State => {
    const out: State = { ...state };
    for (const [slot, kind] of kinds) {
      const stored = state[slot];
      if (isStored(stored)) out[slot] = codec.decode(stored, kind);
    }
    return out;
  };
  const encoded = (next: State, before: State, { name, step }: StepContext, only?: SlotKind): State => {
    const out: State = { ...next };
    for (const [slot, kind] of kinds) {
      if (!isStored(before[slot]) || (only && kind !== only)) continue;
      out[slot] = codec.encode(next[slot] as Tensor, kind, foldIn(keyOf(seed), name, slot, step));
    }
    return out;
  };
  return {
    name: `storeAs(${codec.name}, ${inner.name})`,
    options: { codec, inner, minSize },
    slots: {},
    init: (spec: LeafSpec) => {
      const state = inner.init(spec);
      for (const [slot, kind] of kinds) {
        const plain = state[slot];
        if (!(plain instanceof Tensor) || plain.dtype !== "f32" || plain.size < minSize) continue;
        plain.dispose();
        state[slot] = codec.zeros(spec.backend, plain.shape, kind);
      }
      return state;
    },
    learningRate: inner.learningRate,
    update: (gradient, state, context) => {
      const fused = context.donated && codec.fuse?.(inner, gradient, state, context);
      if (fused) return [fused.change!, fused.state];
      const [change, next] = inner.update(gradient, decoded(state), context);
      return [change, encoded(next, state, context)];
    },
    fuseChain: (rest, gradient, state, context) => {
      const isPlain = kinds.every(([slot]) => !isStored(state[slot]));
      if (isPlain) return inner.fuseChain?.(rest, gradient, state, context);
      return context.donated ? codec.fuse?.(inner, gradient, state, context, rest)?.state : undefined;
    },
    mapSigned: (state, map, context) => {
      const next: State = { ...state };
      for (const [slot, kind] of kinds) {
        const stored = state[slot];
        if (kind !== "signed" || stored === undefined) continue;
        next[slot] = map(isStored(stored) ? codec.decode(stored, kind) : stored as Tensor);
      }
      return encoded(next, state, context, "signed");
    },
  };
}

/** Whether a slot is in a codec's hands. */
export function isStored(value: State[string]): value is State {
  return value !== null && typeof value === "object" && !(value instanceof Tensor);
}
