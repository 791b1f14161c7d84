/**
 * GaLore: optimizer states in a low-rank subspace of the gradient (Zhao et al., ICML 2024, algorithm 2).
 *
 *     R = P G (or G P^T)      the projected gradient
 *     N = inner(R)            any rule of the gradient alone
 *     change = scale P^T N (or scale N P)
 *
 * The basis P is renewed every `updateProjGap` steps, first at step 1, from the gradient of that step; the inner state
 * is kept as it is. `staggered` parts the renewals of the parameters in time. `std` compresses the smaller side (ties: the
 * right one), as the released code. The side is stored in the state: the released code derives it again in project-back
 * and takes the wrong one for `reverse_std` with rows < columns and rank >= rows. Weight decay and learning rate sit
 * outside, in full space; `scale` applies to the projected-back change alone.
 */
import { describe, foldIn, type Key, keyOf, matmul, mul, type Tensor } from "../core/mod.ts";
import type { BasisStrategy, Side } from "./basis.ts";
import { detached } from "./orthonormal.ts";
import { subspaceBasis } from "./subspace_basis.ts";
import type { GradientContext, GradientRule, LeafSpec, State } from "./rule.ts";

/** Which side a basis compresses. The released code's names. */
export type ProjType = "std" | "reverse_std" | "left" | "right" | "full";

/** When the parameters of one rule renew their bases: all in the same step, or spread over the steps of a gap. */
export type RefreshMode = "together" | "staggered";

/** Options of `galore`. The released defaults are gap 200, scale 1 (the paper's pre-training: 0.25), std. */
export interface GaloreOptions {
  /** Vectors in the basis; cut to the projected side's size. */
  readonly rank: number;
  /** Optimizer steps between two bases. Default 200. `Infinity` keeps the first. */
  readonly updateProjGap?: number;
  /** Multiplies the projected-back change: alpha of the paper. Default 1. */
  readonly scale?: number;
  readonly projType?: ProjType;
  /**
   * `together` (default): every parameter in steps 1, 1 + gap, 1 + 2 gap, ..., as the released code. `staggered`: all in
   * step 1, and then parameter i of the L under this rule in steps 1 + phase, 1 + phase + gap, ... with phase =
   * floor(i gap / L), so that no step after the first bears more than its share; the first of them is left out where
   * it comes within half a gap, so that first intervals last half a gap to one and a half.
   */
  readonly refresh?: RefreshMode;
  /** Default `subspaceBasis()`. */
  readonly basis?: BasisStrategy;
  /** Seeds the strategies that draw. Default 0. */
  readonly seed?: number;
}

/** State: the inner rule's, and the basis of each side in use. */
export interface GaloreState extends State {
  inner: State;
  /** [rank, rows] where the left side is projected, else null. */
  left: Tensor | null;
  /** [rank, columns] where the right side is projected, else null. */
  right: Tensor | null;
  side: string;
  /** Step of the last renewal; 0 before the first. */
  renewedAt: number;
  /** How many steps behind step 1 the gaps are counted from: 0 unless staggered. A checkpoint without it means 0. */
  phase: number;
}

/** The sides that a projection type compresses for a [rows, columns] matrix. */
export function sidesOf(projType: ProjType, rows: number, columns: number): readonly Side[] {
  switch (projType) {
    case "std":
      return [rows >= columns ? "right" : "left"];
    case "reverse_std":
      return [rows >= columns ? "left" : "right"];
    case "full":
      return ["left", "right"];
    default:
      return [projType];
  }
}

/** Shape of the projected gradient and of each basis for a matrix: what memory planning needs. */
export function galoreShapes(
  [rows, columns]: readonly number[],
  rank: number,
  projType: ProjType,
): { readonly rank: number; readonly projected: number[]; readonly bases: { side: Side; shape: number[] }[] } {
  const sides = sidesOf(projType, rows, columns);
  // the thin SVD of the released code has min(rows, columns) vectors on either side
  const kept = Math.min(rank, rows, columns);
  const projected = [sides.includes("left") ? kept : rows, sides.includes("right") ? kept : columns];
  return {
    rank: kept,
    projected,
    bases: sides.map((side) => ({ side, shape: [kept, side === "left" ? rows : columns] })),
  };
}

/** Wraps a gradient-only rule so that it works, and keeps its state, in the subspace. For matrices. */
export function galore(inner: GradientRule, options: GaloreOptions): GradientRule<GaloreState> {
  const { rank, updateProjGap = 200, scale = 1, projType = "std", basis = subspaceBasis(), seed = 0 } = options;
  const { refresh = "together" } = options;
  if (inner.stage) throw new TypeError(`Cannot project ${inner.name} in galore(): it projects the gradient itself`);
  if (!Number.isInteger(rank) || rank < 1) throw new RangeError(`Cannot project to rank ${rank}: expected at least 1`);
  if (!(updateProjGap >= 1)) {
    throw new RangeError(`Cannot renew a basis every ${updateProjGap} steps: expected at least 1`);
  }
  const isDue = ({ renewedAt, phase }: GaloreState, step: number) =>
    renewedAt === 0 || (step - 1 - phase) % updateProjGap === 0 && renewedAt !== step &&
      // not again soon after step 1: intervals are a gap long on average, as they are together
      2 * (step - renewedAt) >= updateProjGap;
  // scaled in the subspace, where it is cheap
  const updateScaled = (projected: Tensor, state: GaloreState, context: GradientContext, factor: number) => {
    const [direction, innerState] = inner.update(projected, state.inner, context);
    const change = projectBack(mul(direction, scale * factor), state);
    return [change, { ...state, inner: innerState }] as [Tensor, GaloreState];
  };
  return {
    name: "galore",
    options: { inner, rank, updateProjGap, scale, projType, refresh, basis },
    slots: inner.slots,
    init: (spec) => {
      const state = initialState(inner, spec, projType, rank);
      return refresh === "staggered" ? { ...state, phase: phaseOf(spec, updateProjGap) } : state;
    },
    stage: (gradient, state, step) => isDue(state, step) ? gradient : project(gradient, state),
    refreshDue: isDue,
    refresh: async (gradient, state, { name, step }) => {
      const next: GaloreState = { ...state, left: null, right: null, renewedAt: step };
      try {
        for (const { side, shape } of galoreShapes(gradient.shape, rank, projType).bases) {
          const key: Key = foldIn(keyOf(seed), name, step, side);
          next[side] = await basis.compute(gradient, { side, rank: shape[0], key, previous: state[side] ?? undefined });
        }
        return [detached("project", () => project(gradient, next)), next];
      } catch (error) {
        next.left?.dispose();
        next.right?.dispose();
        if (!(error instanceof RangeError)) throw error;
        throw new RangeError(`Cannot renew the basis of "${name}": ${error.message}`, { cause: error });
      }
    },
    update: (projected, state, context) => updateScaled(projected, state, context, 1),
    updateScaled,
  };
}

/** Spreads parameters evenly over a gap. */
function phaseOf({ index, count }: LeafSpec, gap: number): number {
  return Number.isFinite(gap) ? Math.floor(index * gap / count) : 0;
}

function initialState(inner: GradientRule, spec: LeafSpec, projType: ProjType, rank: number): GaloreState {
  if (spec.shape.length !== 2) {
    throw new TypeError(`Cannot project "${spec.name}": expected a matrix, got ${describe(spec)}`);
  }
  const { projected } = galoreShapes(spec.shape, rank, projType);
  return {
    inner: inner.init({ ...spec, shape: projected }),
    left: null,
    right: null,
    side: sidesOf(projType, spec.shape[0], spec.shape[1]).join("+"),
    renewedAt: 0,
    phase: 0,
  };
}

/** P G, G P^T, or both. */
export function project(gradient: Tensor, { left, right }: Pick<GaloreState, "left" | "right">): Tensor {
  const rows = left ? matmul(left, gradient) : gradient;
  return right ? matmul(rows, right, { transposeB: true }) : rows;
}

/** P^T N, N P, or both. */
export function projectBack(direction: Tensor, { left, right }: Pick<GaloreState, "left" | "right">): Tensor {
  const rows = left ? matmul(left, direction, { transposeA: true }) : direction;
  return right ? matmul(rows, right) : rows;
}
