/**
 * A low-rank view of a matrix's gradient: which side is projected, by which basis, and when the basis is renewed. What
 * `galore`, `fira` and `apollo` share; what they do with the projected gradient is theirs.
 *
 *     R = P G (left), G P^T (right), or both; back: P^T N, N P, or both
 *
 * A basis is renewed in step 1, and then every `updateProjGap` steps, from that step's gradient. The side is stored in the
 * state: the released code derives it again in project-back and takes the wrong one for `reverse_std` with rows < columns
 * and rank >= rows.
 */
import {
  type Backend,
  currentScope,
  describe,
  foldIn,
  type Key,
  keyOf,
  matmul,
  mul,
  own,
  scope,
  sumOfSquares,
  Tensor,
} from "../core/mod.ts";
import type { BasisStrategy, Side } from "./basis.ts";
import type { Reading } from "./reading.ts";
import type { GradientRule, LeafSpec, State, StepContext } from "./rule.ts";
import { type Bases, galoreShapes, project, type ProjType, sidesOf } from "./sides.ts";
import { disposeState, ownState } from "./state.ts";
import { type Codec, isStored } from "./store_as.ts";
import { subspaceBasis } from "./subspace_basis.ts";

/** When the parameters of one rule renew their bases: all in the same step, or spread over the steps of a gap. */
export type RefreshMode = "together" | "staggered";

/** Renewing less often what hardly changes. */
export interface LazyOptions {
  /**
   * A renewal that finds the subspace this much as it was doubles the gap; another one brings it back. 0 is what two random
   * subspaces share, 1 the same subspace. Default 0.4 (Q-GaLore's threshold, there a cosine of first vectors).
   */
  readonly overlap?: number;
  /** The gap grows up to this many times `updateProjGap`. Default 8. */
  readonly most?: number;
}

/** Options of every projecting rule. The released defaults are gap 200, std. */
export interface ProjectionOptions {
  /** Vectors in the basis; cut to the projected side's size. */
  readonly rank: number;
  /** Optimizer steps between two bases. Default 200. `Infinity` keeps the first. */
  readonly updateProjGap?: number;
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
  /** How a basis is stored: `affine({ bits: 4 })` as Q-GaLore, `bfloat16({ rounding: "nearest" })`. Default: as found. */
  readonly projector?: Codec;
  /** Renews less often where the subspace stays. Default: every gap. */
  readonly lazy?: LazyOptions;
  /**
   * What a renewal does to first moments: `keep` them as numbers, as the paper, or `transport` them to the new basis, mu' =
   * P' P^T mu (Robert et al. 2025, LDAdam, section 3), which is exact for what lies in both subspaces. Default `keep`.
   */
  readonly moments?: "keep" | "transport";
}

/** State of a projection with its inner rule's. */
export interface ProjectionState extends State {
  inner: State;
  /** [rank, rows] where the left side is projected, else null; null also before the first renewal; or as stored. */
  left: Tensor | State | null;
  /** [rank, columns], likewise. */
  right: Tensor | State | null;
  side: string;
  /** Step of the last renewal; 0 before the first. */
  renewedAt: number;
  /** How many steps behind step 1 the gaps are counted from: 0 unless staggered. */
  phase: number;
  /** Steps between renewals as a lazy projection has lengthened them; 0: as asked for. */
  gap: number;
  /** What the last renewal of a lazy projection kept of the subspace before, 0 to 1. */
  overlap: number;
  /** Renewals that found no basis and kept the one before. */
  skipped: number;
}

/** The bookkeeping of bases for one rule. */
export class Projection {
  readonly #rank: number;
  readonly #gap: number;
  readonly #projType: ProjType;
  readonly #refresh: RefreshMode;
  readonly #basis: BasisStrategy;
  readonly #seed: number;
  readonly #projector: Codec | undefined;
  readonly #lazy: Required<LazyOptions> | undefined;
  readonly #moments: "keep" | "transport";
  /** Everything that was asked for, defaults filled in. */
  readonly options: Readonly<Record<string, unknown>>;

  /** @throws RangeError for a rank below 1, a gap below 1, and options that a random basis cannot serve */
  constructor(options: ProjectionOptions) {
    const { rank, updateProjGap = 200, projType = "std", refresh = "together", basis = subspaceBasis() } = options;
    const { seed = 0, projector, lazy, moments = "keep" } = options;
    if (!Number.isInteger(rank) || rank < 1) {
      throw new RangeError(`Cannot project to rank ${rank}: expected at least 1`);
    }
    if (!(updateProjGap >= 1)) {
      throw new RangeError(`Cannot renew a basis every ${updateProjGap} steps: expected at least 1`);
    }
    if (basis.generate && (projector || lazy || moments === "transport")) {
      throw new RangeError(`Cannot store, renew lazily or transport to ${basis.name} bases: they are drawn when used`);
    }
    [this.#rank, this.#gap, this.#projType, this.#refresh] = [rank, updateProjGap, projType, refresh];
    [this.#basis, this.#seed, this.#projector, this.#moments] = [basis, seed, projector, moments];
    this.#lazy = lazy && { overlap: lazy.overlap ?? 0.4, most: lazy.most ?? 8 };
    this.options = { rank, updateProjGap, projType, refresh, basis, projector, lazy: this.#lazy, moments };
  }

  /** Whether `renew` would wait for nothing: the host sees the memory, or need not. */
  canRenewNow({ backend }: Tensor, { renewedAt }: ProjectionState): boolean {
    if (backend.readSync) return true;
    return this.#basis.deviceOnly === true && !(this.#lazy && renewedAt > 0);
  }

  /** @throws TypeError for a parameter that is no matrix */
  init(inner: GradientRule, spec: LeafSpec): ProjectionState {
    if (spec.shape.length !== 2) {
      throw new TypeError(`Cannot project "${spec.name}": expected a matrix, got ${describe(spec)}`);
    }
    const { projected, bases } = galoreShapes(spec.shape, this.#rank, this.#projType);
    const empty = (side: Side) => {
      // f64 is for checking: states are not stored in fewer bits either
      if (!this.#projector || spec.dtype === "f64" || !bases.some((basis) => basis.side === side)) return null;
      return this.#unset(this.#projector, spec.backend);
    };
    return {
      inner: inner.init({ ...spec, shape: projected }),
      left: empty("left"),
      right: empty("right"),
      side: sidesOf(this.#projType, spec.shape[0], spec.shape[1]).join("+"),
      renewedAt: 0,
      phase: this.#refresh === "staggered" ? phaseOf(spec, this.#gap) : 0,
      gap: 0,
      overlap: 0,
      skipped: 0,
    };
  }

  /** What a codec's state looks like before there is a basis: its entries, all null. */
  #unset(projector: Codec, backend: Backend): State {
    using _ = scope("projector");
    const form = projector.zeros(backend, [1, 1], "signed");
    return Object.fromEntries(
      Object.entries(form).map(([key, value]) => [key, value instanceof Tensor ? null : value]),
    );
  }

  isDue({ renewedAt, phase, gap }: ProjectionState, step: number): boolean {
    if (this.#basis.generate) return false;
    if (renewedAt === 0) return true;
    const longer = gap || this.#gap;
    return (step - 1 - phase) % this.#gap === 0 && renewedAt !== step &&
      // not again soon after step 1: intervals are a gap long on average, as they are together
      step - renewedAt >= longer - this.#gap / 2;
  }

  /** The bases as tensors, decoded or drawn where they are not stored as such. */
  bases(state: ProjectionState, like: Tensor, shape: readonly number[], context: StepContext): Bases {
    if (this.#basis.generate) return this.#drawn(state, like, shape, context);
    const open = (basis: Tensor | State | null) =>
      isStored(basis) ? this.#projector!.decode(basis, "signed") : basis ?? undefined;
    return { left: open(state.left), right: open(state.right) };
  }

  /** Random bases of the gap that a step lies in. */
  #drawn({ side, phase }: ProjectionState, like: Tensor, shape: readonly number[], { name, step }: StepContext): Bases {
    const epoch = Number.isFinite(this.#gap) ? 1 + Math.floor((step - 1 - phase) / this.#gap) : 0;
    const dtype = like.dtype === "f64" ? "f64" : "f32";
    const drawn: { left?: Tensor; right?: Tensor } = {};
    for (const part of side.split("+") as Side[]) {
      const size = shape[part === "left" ? 0 : 1];
      const key: Key = foldIn(keyOf(this.#seed), name, epoch, part);
      const rank = Math.min(this.#rank, ...shape);
      const basis = this.#basis.generate!(like.backend, { side: part, rank, size, key, dtype });
      currentScope()?.own(basis); // as a decoded one: it dies with what uses it
      drawn[part] = basis;
    }
    return drawn;
  }

  /**
   * New bases from a gradient, with the inner state carried over. Where none is found the old ones stay, and that is
   * counted.
   *
   * @throws RangeError where none is found and there is no old one
   */
  *renew(
    gradient: Tensor,
    state: ProjectionState,
    inner: GradientRule,
    context: StepContext,
  ): Reading<ProjectionState> {
    let found: State;
    try {
      found = yield* this.#find(gradient, state, context);
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      if (state.renewedAt > 0) return { ...state, renewedAt: context.step, skipped: state.skipped + 1 };
      throw new RangeError(`Cannot renew the basis of "${context.name}": ${error.message}`, { cause: error });
    }
    const next: ProjectionState = { ...state, ...found, renewedAt: context.step };
    if (state.renewedAt === 0) return next;
    try {
      if (this.#lazy) yield* this.#measure(next, state, gradient, context);
      if (this.#moments === "transport") this.#transport(next, state, gradient, inner, context);
    } catch (error) {
      disposeState(found);
      throw error;
    }
    return next;
  }

  /** The bases of all sides, stored. */
  *#find(gradient: Tensor, state: ProjectionState, { name, step }: StepContext): Reading<State> {
    const found: State = {};
    try {
      for (const { side, shape } of galoreShapes(gradient.shape, this.#rank, this.#projType).bases) {
        const key: Key = foldIn(keyOf(this.#seed), name, step, side);
        found[side] = yield* this.#findOne(gradient, state, { side, rank: shape[0], key });
      }
      return found;
    } catch (error) {
      disposeState(found);
      throw error;
    }
  }

  *#findOne(
    gradient: Tensor,
    state: ProjectionState,
    request: { side: Side; rank: number; key: Key },
  ): Reading<Tensor | State> {
    const stored = state[request.side] as Tensor | State | null;
    const projector = this.#projector;
    if (!projector || !isStored(stored)) {
      return yield* this.#basis.compute(gradient, { ...request, previous: (stored as Tensor | null) ?? undefined });
    }
    using previous = state.renewedAt === 0 ? undefined : detachedTensor(() => projector.decode(stored, "signed"));
    using basis = yield* this.#basis.compute(gradient, { ...request, previous });
    using _ = scope("projector");
    return ownState(projector.encode(basis, "signed", request.key));
  }

  /** Measures what was kept of the subspace, and sets the next gap by it. */
  *#measure(next: ProjectionState, before: ProjectionState, gradient: Tensor, context: StepContext): Reading<void> {
    const shared: number[] = [];
    for (const side of next.side.split("+") as Side[]) {
      const measured = detachedTensor(() => {
        const [fresh, old] = [next, before].map((state) => this.bases(state, gradient, gradient.shape, context)[side]!);
        return mul(sumOfSquares(matmul(fresh, old, { transposeB: true })), 1 / fresh.shape[0]);
      });
      const [value] = Array.from(yield measured);
      const chance = Math.min(this.#rank, ...gradient.shape) / gradient.shape[side === "left" ? 0 : 1];
      shared.push(chance < 1 ? (value - chance) / (1 - chance) : 1);
    }
    const { overlap, most } = this.#lazy!;
    next.overlap = Math.min(1, Math.max(0, Math.min(...shared)));
    next.gap = next.overlap >= overlap ? Math.min(2 * (before.gap || this.#gap), most * this.#gap) : 0;
  }

  /** Takes first moments to the new basis. */
  #transport(
    next: ProjectionState,
    before: ProjectionState,
    gradient: Tensor,
    inner: GradientRule,
    context: StepContext,
  ): void {
    using _ = scope("moment transport");
    const fresh = this.bases(next, gradient, gradient.shape, context);
    const old = this.bases(before, gradient, gradient.shape, context);
    const turns: Bases = {
      left: fresh.left && matmul(fresh.left, old.left!, { transposeB: true }),
      right: fresh.right && matmul(fresh.right, old.right!, { transposeB: true }),
    };
    // only moments of the projected gradient's shape lie in the subspace
    const move = (moment: Tensor) => moment.shape.length === 2 ? project(moment, turns) : moment;
    next.inner = ownState(mapSigned(inner, before.inner, move, context));
  }
}

/** Applies `map` to the first moments of a rule's state. */
function mapSigned(
  rule: GradientRule,
  state: State,
  map: (moment: Tensor) => Tensor,
  context: StepContext,
): State {
  if (rule.mapSigned) return rule.mapSigned(state, map, context);
  const next: State = { ...state };
  for (const [slot, kind] of Object.entries(rule.slots)) {
    const value = state[slot];
    if (kind === "signed" && value instanceof Tensor) next[slot] = map(value);
  }
  return next;
}

/** Runs `make` in a scope; the result belongs to the caller. */
function detachedTensor(make: () => Tensor): Tensor {
  using inner = scope("basis");
  return own(inner.keep(make()));
}

/** Spreads parameters evenly over a gap. */
function phaseOf({ index, count }: LeafSpec, gap: number): number {
  return Number.isFinite(gap) ? Math.floor(index * gap / count) : 0;
}
