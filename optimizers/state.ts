/** Walking a rule's state: ownership, disposal, sizes, and the flat form that checkpoints store. */
import { bytesFor, describe, own, Tensor } from "../core/mod.ts";
import type { State } from "./rule.ts";

/** A value that is not a tensor. */
export type Plain = number | string | boolean | null;

/** Entries that older checkpoints lack, with what they mean there: GaLore renewed all bases in the same step, every gap. */
const ABSENT: ReadonlyMap<string, Plain> = new Map([["phase", 0], ["gap", 0], ["overlap", 0], ["skipped", 0]]);

/** Calls `visit` for every tensor and plain value, with its path. */
export function walkState(state: State, visit: (path: string, value: Tensor | Plain) => void, prefix = ""): void {
  for (const [key, value] of Object.entries(state)) {
    if (value instanceof Tensor || value === null || typeof value !== "object") visit(prefix + key, value);
    else walkState(value, visit, `${prefix}${key}/`);
  }
}

/** Takes every tensor of a state out of the scope that owns it. */
export function ownState(state: State): State {
  walkState(state, (_, value) => value instanceof Tensor && own(value));
  return state;
}

/** Frees every tensor of a state. */
export function disposeState(state: State): void {
  walkState(state, (_, value) => value instanceof Tensor && value.dispose());
}

/** Frees the tensors of `before` that `after` no longer holds. */
export function disposeReplaced(before: State, after: State): void {
  const kept = new Set<unknown>();
  walkState(after, (_, value) => kept.add(value));
  walkState(before, (_, value) => value instanceof Tensor && !kept.has(value) && value.dispose());
}

/** Bytes of a state's tensors. */
export function stateBytes(state: State): number {
  let bytes = 0;
  walkState(state, (_, value) => {
    if (value instanceof Tensor) bytes += bytesFor(value.dtype, value.size);
  });
  return bytes;
}

/** Splits a state into tensors and plain values by path. */
export function flattenState(state: State): { tensors: Map<string, Tensor>; values: Record<string, Plain> } {
  const tensors = new Map<string, Tensor>();
  const values: Record<string, Plain> = {};
  walkState(state, (path, value) => {
    if (value instanceof Tensor) tensors.set(path, value);
    else values[path] = value;
  });
  return { tensors, values };
}

/**
 * The inverse of `flattenState`. `shape` is a state of the same rule: it says which entries there must be, and of which
 * shape. Where it has null (a basis before the first renewal) a tensor fits as well.
 *
 * @throws RangeError for an entry too many or too few, TypeError for one of another kind, shape or dtype
 */
export function unflattenState(
  shape: State,
  tensors: ReadonlyMap<string, Tensor>,
  values: Readonly<Record<string, Plain>>,
): State {
  const given = new Map<string, Tensor | Plain>([...Object.entries(values), ...tensors]);
  const state = filled(shape, given, "");
  for (const path of given.keys()) throw new RangeError(`Cannot restore a state: it has no "${path}"`);
  return state;
}

/** A state like `shape` with the entries of `given`, which it takes out of there. */
function filled(shape: State, given: Map<string, Tensor | Plain>, prefix: string): State {
  const out: State = {};
  for (const [key, expected] of Object.entries(shape)) {
    const path = prefix + key;
    if (expected !== null && typeof expected === "object" && !(expected instanceof Tensor)) {
      out[key] = filled(expected, given, `${path}/`);
      continue;
    }
    const value = given.has(path) ? given.get(path) : ABSENT.get(key);
    if (value === undefined) throw new RangeError(`Cannot restore a state: "${path}" is missing`);
    checkKind(path, expected, value);
    given.delete(path);
    out[key] = value;
  }
  return out;
}

function checkKind(path: string, expected: Tensor | Plain, value: Tensor | Plain): void {
  const kind = (item: Tensor | Plain) => item instanceof Tensor ? describe(item) : item === null ? "null" : typeof item;
  if (kind(expected) === kind(value) || expected === null && value instanceof Tensor) return;
  throw new TypeError(`Cannot restore a state: expected ${kind(expected)} for "${path}", got ${kind(value)}`);
}
