/** Walking a rule's state: ownership, disposal, sizes, and the flat form that checkpoints store. */
import { bytesFor, own, Tensor } from "../core/mod.ts";
import type { State } from "./rule.ts";

/** A value that is not a tensor. */
export type Plain = number | string | boolean | null;

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

/** The inverse of `flattenState`. Objects without entries are made again from `shape`. */
export function unflattenState(
  shape: State,
  tensors: ReadonlyMap<string, Tensor>,
  values: Readonly<Record<string, Plain>>,
): State {
  const state: State = structure(shape);
  const put = (path: string, value: Tensor | Plain) => {
    const keys = path.split("/");
    const last = keys.pop()!;
    let at = state;
    for (const key of keys) at = (at[key] ??= {}) as State;
    at[last] = value;
  };
  for (const [path, value] of Object.entries(values)) put(path, value);
  for (const [path, tensor] of tensors) put(path, tensor);
  return state;
}

/** The nesting of a state, without its contents. */
function structure(state: State): State {
  const out: State = {};
  for (const [key, value] of Object.entries(state)) {
    if (value !== null && typeof value === "object" && !(value instanceof Tensor)) out[key] = structure(value);
  }
  return out;
}
