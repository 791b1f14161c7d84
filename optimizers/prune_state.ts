/**
 * Forgetting moments: what ReLoRA does to the optimizer's state of factors that begin again (Lialin et al. 2023, arXiv
 * 2307.05695, section 3). Moments that led somewhere in the old factors mislead in new ones.
 *
 * An element keeps all its moments or none. The released code prunes each moment by itself: where a first one outlives its
 * second, and the gradient is 0 (that of A is, while B is 0), the next step is divided by eps alone. By magnitude, the
 * first moment decides; where there is none, the second.
 *
 * What is a moment, rules say: their slots, in the subspace where they live in one, decoded and encoded by their codec where
 * they are stored in fewer bits. Adafactor's means of rows and columns stand for many elements each: they are multiplied by
 * the share that is kept, which is what pruning squares at random leaves of a mean. Everything else stays: the step that
 * bias corrections count, the bases of GaLore and the like until they are due, the norm that Fira and APOLLO grow from.
 *
 * It works on the host and waits for reads: for what happens a few times in a run.
 */
import {
  contiguous,
  foldIn,
  fromArray,
  type HostArray,
  type Key,
  keyOf,
  mul,
  own,
  scope,
  Tensor,
  uniform,
} from "../core/mod.ts";
import type { Leaf } from "./leaf.ts";
import type { Rule, State, StepContext } from "./rule.ts";
import { disposeReplaced, ownState } from "./state.ts";
import { type Codec, isStored } from "./store_as.ts";

/** Which moments stay. */
export interface PruneOptions {
  /**
   * `zero`: none. `magnitude`: those of the largest elements (the paper's way). `random`: those of elements drawn from `key`
   * (the released code's way of a reset).
   */
  readonly reset: "zero" | "magnitude" | "random";
  /** The share of elements that is set to 0, from 0 to 1. `zero` has no use for it. Default 0.9. */
  readonly share?: number;
  /** What `random` draws from, folded with each parameter's name. Default: of seed 0. */
  readonly key?: Key;
}

/**
 * Prunes one parameter's state, and drops its f32 copy, if it has one, so that the parameter may be written anew. Call
 * outside every scope.
 *
 * @throws RangeError where there is no such parameter, for a share outside [0, 1], or amid a step
 */
export async function pruneLeaf(
  leaf: Leaf | undefined,
  { name, step }: StepContext,
  { reset, share: asked = 0.9, key = keyOf(0) }: PruneOptions,
): Promise<void> {
  if (!leaf) throw new RangeError(`Cannot prune the moments of "${name}": it is not trained`);
  if (leaf.count > 0) throw new RangeError(`Cannot prune the moments of "${name}" amid a step: commit() first`);
  const share = reset === "zero" ? 1 : asked;
  if (!(share >= 0 && share <= 1)) {
    throw new RangeError(`Cannot prune moments: expected a share in [0, 1], got ${share}`);
  }
  const before = leaf.state;
  const keys = { draw: foldIn(key, name), round: foldIn(keyOf(0), "prune", name, step) };
  leaf.state = await prunedState(leaf.rule, before, { reset, share, keys });
  disposeReplaced(before, leaf.state);
  leaf.master?.dispose();
  leaf.master = undefined;
}

interface Pruning {
  readonly reset: PruneOptions["reset"];
  readonly share: number;
  readonly keys: {
    /** Which elements stay. */
    readonly draw: Key;
    /** For codecs that round at random. */
    readonly round: Key;
  };
}

/** A rule's state without most of its moments. What has not changed is the same tensors; the others are the caller's. */
async function prunedState(rule: Rule, state: State, pruning: Pruning): Promise<State> {
  const { rules, inner, codec } = rule.options as Partial<{ rules: readonly Rule[]; inner: Rule; codec: Codec }>;
  const next: State = { ...state };
  if (rules) {
    for (const [index, part] of rules.entries()) next[index] = await prunedState(part, state[index] as State, pruning);
    return next;
  }
  if (codec) return { ...next, ...await prunedMoments(inner!, state, pruning, codec) };
  if (inner) return { ...next, inner: await prunedState(inner, state.inner as State, pruning) };
  return { ...next, ...await prunedMoments(rule, state, pruning) };
}

/** Second moments that speak for many elements each: Adafactor's. */
const FACTORED = ["row", "column"];

/** The moments of a rule that wraps no other, pruned. */
async function prunedMoments(rule: Rule, state: State, pruning: Pruning, codec?: Codec): Promise<State> {
  const next: State = {};
  const slots = Object.entries(rule.slots).filter(([slot]) => state[slot] !== undefined);
  // the first moment first: it decides
  slots.sort(([, a], [, b]) => Number(b === "signed") - Number(a === "signed"));
  let isKept: Uint8Array | undefined;
  for (const [slot, kind] of slots) {
    const stored = state[slot] as Tensor | State;
    using moment = isStored(stored) ? detached(() => codec!.decode(stored, kind)) : stored.retained();
    const values = await moment.read();
    isKept ??= keptElements(values, pruning);
    for (let i = 0; i < values.length; i++) if (!isKept[i]) values[i] = 0;
    using _ = scope("pruned moment");
    const fresh = fromArray(moment.backend, values, moment.shape);
    next[slot] = isStored(stored) ? ownState(codec!.encode(fresh, kind, foldIn(pruning.keys.round, slot))) : own(fresh);
  }
  for (const slot of FACTORED) {
    const means = state[slot];
    if (means instanceof Tensor) next[slot] = detached(() => contiguous(mul(means, 1 - pruning.share)));
  }
  return next;
}

/** Runs `make` in a scope of its own; the result belongs to the caller. */
function detached(make: () => Tensor): Tensor {
  using inner = scope("prune");
  return own(inner.keep(make()));
}

/** 1 for each element that stays. Of equal magnitudes the first ones do, so that the number is exact. */
function keptElements(values: HostArray, { reset, share, keys }: Pruning): Uint8Array {
  const kept = new Uint8Array(values.length);
  if (reset === "random") {
    const drawn = uniform(keys.draw, values.length);
    for (let i = 0; i < drawn.length; i++) kept[i] = drawn[i] < share ? 0 : 1;
    return kept;
  }
  const dropped = Math.round(share * values.length);
  if (dropped === values.length) return kept;
  const magnitudes = Float64Array.from(values, Math.abs).sort();
  const threshold = magnitudes[dropped];
  let ties = 0;
  for (let i = dropped; i < magnitudes.length && magnitudes[i] === threshold; i++) ties++;
  for (let i = 0; i < values.length; i++) {
    const magnitude = Math.abs(values[i]);
    if (magnitude > threshold || (magnitude === threshold && ties-- > 0)) kept[i] = 1;
  }
  return kept;
}
