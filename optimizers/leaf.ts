/** What the driver holds of one parameter, the part of it that a checkpoint keeps, and what all rules agree on. */
import type { Tensor } from "../core/mod.ts";
import type { Accumulated, Rule, State } from "./rule.ts";

/** One parameter under a rule. */
export interface Leaf {
  readonly name: string;
  readonly param: Tensor;
  readonly rule: Rule;
  state: State;
  /** f32 (f64 for f64), whatever the parameter is stored in. */
  staged?: Tensor;
  /** Sum of squares of the whole gradient, which `staged` may no longer be; or of `staged`, once that is gone. */
  square?: Tensor;
  /** The update of this step is done; `square` is still wanted. */
  settled: boolean;
  /** The parameter in f32, where rounding keeps one. */
  master?: Tensor;
  /** Micro-batches in `staged`. */
  count: number;
}

/** Frees what was staged. */
export function dropStaged(leaf: Leaf): void {
  leaf.staged?.dispose();
  leaf.square?.dispose();
  Object.assign(leaf, { staged: undefined, square: undefined, count: 0, settled: false });
}

/** One parameter's part of a snapshot. */
export interface LeafSnapshot {
  readonly state: State;
  readonly staged?: Tensor;
  /** Sum of squares of the whole gradient, where `staged` may be a projection of it. */
  readonly square?: Tensor;
  /** The f32 copy of a 16-bit parameter under `rounding: "master"`, from the first commit on. */
  readonly master?: Tensor;
  readonly count: number;
}

/** Everything an optimizer remembers. */
export interface OptimizerSnapshot {
  readonly step: number;
  readonly leaves: ReadonlyMap<string, LeafSnapshot>;
}

/** The number of micro-batches that all rules agree on. @throws RangeError when they do not */
export function commonMicroBatches(rules: readonly (Rule | null)[]): number {
  const counts = new Set<number>();
  for (const rule of rules) if (rule) counts.add((rule as Partial<Accumulated>).microBatches ?? 1);
  if (counts.size > 1) {
    throw new RangeError(`Cannot mix rules that accumulate ${[...counts].join(" and ")} micro-batches`);
  }
  return [...counts][0] ?? 1;
}
