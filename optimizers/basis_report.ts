/** What bases went through, read from the counters that projections keep in their states. */
import type { State } from "./rule.ts";
import { walkState } from "./state.ts";

/** What became of an optimizer's bases, over all parameters. */
export interface BasisReport {
  /** Renewals that found no basis and kept the one before. */
  readonly skipped: number;
  /** Mean overlap of lazy projections at their last renewals; undefined where none was measured. */
  readonly overlap?: number;
}

/** Reads the counters that projections keep in their states. */
export function reportBases(states: Iterable<State>): BasisReport {
  let skipped = 0;
  const overlaps: number[] = [];
  for (const state of states) {
    walkState(state, (path, value) => {
      if (typeof value !== "number") return;
      if (/(^|\/)skipped$/.test(path)) skipped += value;
      if (/(^|\/)overlap$/.test(path) && value > 0) overlaps.push(value);
    });
  }
  const mean = overlaps.reduce((sum, overlap) => sum + overlap, 0) / overlaps.length;
  return overlaps.length === 0 ? { skipped } : { skipped, overlap: mean };
}
