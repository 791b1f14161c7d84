/**
 * The driver: the only code that changes a parameter in place.
 *
 * A step has three parts. `backward(loss, optimizer.stage)` hands each finished gradient to its rule, which keeps what
 * it needs of it (a projected gradient, or the whole one) and adds up micro-batches in that form. `await refresh()`,
 * only when `refreshDue`, finds new bases outside every scope. `commit()` updates every parameter and frees what was
 * staged. State belongs to the optimizer, not to a scope; the step is counted once a commit.
 */
import {
  add,
  contiguous,
  div,
  fill,
  minimum,
  mul,
  own,
  type Params,
  reshape,
  scope,
  sqrt,
  stack,
  sum,
  sumOfSquares,
  type Tensor,
} from "../core/mod.ts";
import { type Accumulated, resolveRoutes, type Routing, type Rule, type RuleContext, type State } from "./rule.ts";
import { disposeReplaced, disposeState, ownState } from "./state.ts";

/** Options of `Optimizer`. */
export interface OptimizerOptions {
  /** Scales gradients down to this global norm. Default: no clipping. */
  readonly clip?: number;
}

/** One parameter under a rule. */
interface Leaf {
  readonly name: string;
  readonly param: Tensor;
  readonly rule: Rule;
  state: State;
  staged?: Tensor;
  /** Micro-batches in `staged`. */
  count: number;
}

/** Norms of what is staged: of whole gradients, or of projected ones where micro-batches were added up projected. */
export interface GradientNorm {
  readonly norm: number;
  readonly kind: "exact" | "projected";
  /** Parameters whose gradient has a NaN or an infinity. */
  readonly nonFinite: readonly string[];
}

/** Applies rules to parameters. Owns their state: dispose it, or `using`. */
export class Optimizer implements Disposable {
  readonly #leaves = new Map<string, Leaf>();
  readonly #squares = new Map<string, Tensor>();
  readonly #clip: number | undefined;
  readonly #microBatches: number;
  #step = 0;

  /**
   * @param rule one rule for every parameter, or a routing by name (`null` freezes)
   * @throws RangeError when the routing leaves gaps
   */
  constructor(readonly params: Params, rule: Rule | Routing, { clip }: OptimizerOptions = {}) {
    if (clip !== undefined && !(clip > 0)) throw new RangeError(`Cannot clip to norm ${clip}: expected more than 0`);
    this.#clip = clip;
    const routing = "routes" in rule ? rule : { routes: [[/(?:)/, rule] as const] };
    const resolved = resolveRoutes(params.names(), routing);
    const counts = new Set<number>();
    for (const [name, leafRule] of resolved) {
      if (leafRule === null) {
        params.freeze([name]);
        continue;
      }
      const param = params.get(name);
      counts.add((leafRule as Partial<Accumulated>).microBatches ?? 1);
      using _ = scope(`state of ${name}`);
      const spec = { name, backend: param.backend, shape: param.shape, dtype: param.dtype };
      this.#leaves.set(name, { name, param, rule: leafRule, state: ownState(leafRule.init(spec)), count: 0 });
    }
    if (counts.size > 1) {
      throw new RangeError(`Cannot mix rules that accumulate ${[...counts].join(" and ")} micro-batches`);
    }
    this.#microBatches = [...counts][0] ?? 1;
  }

  /** Optimizer steps done. */
  get step(): number {
    return this.#step;
  }

  /** Gradients to stage before each commit. */
  get microBatches(): number {
    return this.#microBatches;
  }

  /** The learning rate of the coming commit. */
  get learningRate(): number {
    for (const { rule } of this.#leaves.values()) {
      const rate = rule.learningRate?.(this.#step + 1);
      if (rate !== undefined) return rate;
    }
    return 1;
  }

  /** The sink of `backward`: keeps what the parameter's rule needs of its gradient. */
  readonly stage = (name: string, gradient: Tensor): void => {
    const leaf = this.#leaves.get(name);
    if (!leaf) return;
    using inner = scope(`stage ${name}`);
    if (this.#microBatches === 1) {
      this.#squares.get(name)?.dispose();
      this.#squares.set(name, own(inner.keep(sumOfSquares(gradient))));
    }
    const kept = leaf.rule.stage?.(gradient, leaf.state, this.#step + 1) ?? gradient;
    const before = leaf.staged;
    const total = before ? add(before, kept) : kept;
    leaf.staged = total === gradient ? total.retained() : own(total);
    before?.dispose();
    leaf.count++;
  };

  /** True when a staged gradient needs `refresh` before `commit`. */
  get refreshDue(): boolean {
    return this.#due().length > 0;
  }

  #due(): Leaf[] {
    return [...this.#leaves.values()].filter(({ rule, state, staged }) =>
      staged && rule.refreshDue?.(state, this.#step + 1)
    );
  }

  /** Renews the bases that are due from the staged gradients. Call outside every scope. */
  async refresh(): Promise<void> {
    for (const leaf of this.#due()) {
      const staged = leaf.staged!;
      const [projected, state] = await leaf.rule.refresh!(staged, leaf.state, {
        name: leaf.name,
        step: this.#step + 1,
      });
      if (projected !== staged) staged.dispose();
      leaf.staged = projected;
      disposeReplaced(leaf.state, state);
      leaf.state = state;
    }
  }

  /** Norms of the staged gradients, before clipping. The one readback of a step; call outside every scope. */
  async gradientNorm(): Promise<GradientNorm> {
    const leaves = [...this.#leaves.values()].filter(({ staged }) => staged);
    if (leaves.length === 0) return { norm: 0, kind: "exact", nonFinite: [] };
    const packed = this.#packSquares(leaves);
    const squares = await packed.read();
    packed.dispose();
    let total = 0;
    for (const square of squares) total += square;
    const nonFinite = leaves.filter((_, index) => !Number.isFinite(squares[index])).map(({ name }) => name);
    return {
      norm: Math.sqrt(total) / this.#microBatches,
      kind: this.#microBatches === 1 ? "exact" : "projected",
      nonFinite,
    };
  }

  /** [leaves] sums of squares, owned by the caller. */
  #packSquares(leaves: readonly Leaf[]): Tensor {
    using inner = scope("gradient norm");
    const parts = leaves.map(({ name, staged }) => this.#squares.get(name) ?? sumOfSquares(staged!));
    return own(inner.keep(stack(parts.map((part) => reshape(part, [])), 0)));
  }

  /** Updates every parameter that has a staged gradient, and frees the gradients. */
  commit(): void {
    const leaves = [...this.#leaves.values()].filter(({ staged }) => staged);
    const odd = leaves.find(({ count }) => count !== this.#microBatches);
    if (odd) {
      throw new RangeError(`Cannot commit(): "${odd.name}" has ${odd.count} of ${this.#microBatches} micro-batches`);
    }
    const pending = leaves.find(({ rule, state }) => rule.refreshDue?.(state, this.#step + 1));
    if (pending) throw new RangeError(`Cannot commit(): the basis of "${pending.name}" is due; await refresh() first`);
    using _ = scope("commit");
    this.#step++;
    const factor = this.#factor(leaves);
    for (const leaf of leaves) {
      this.#update(leaf, factor);
      leaf.staged!.dispose();
      leaf.staged = undefined;
      leaf.count = 0;
    }
    this.#clearSquares();
  }

  /** Drops what was staged, without a step: parameters and state stay as they are. */
  discard(): void {
    for (const leaf of this.#leaves.values()) {
      leaf.staged?.dispose();
      leaf.staged = undefined;
      leaf.count = 0;
    }
    this.#clearSquares();
  }

  #clearSquares(): void {
    for (const square of this.#squares.values()) square.dispose();
    this.#squares.clear();
  }

  /** 1 / micro-batches times min(1, clip / (norm + 1e-6)), on the device; undefined when that is 1. */
  #factor(leaves: readonly Leaf[]): Tensor | undefined {
    if (leaves.length === 0) return undefined;
    const { backend, dtype } = leaves[0].staged!;
    const mean = 1 / this.#microBatches;
    if (this.#clip === undefined) return mean === 1 ? undefined : fill(backend, mean, [], dtype);
    const packed = this.#packSquares(leaves);
    const norm = mul(sqrt(sum(packed)), mean);
    packed.dispose();
    return mul(minimum(div(fill(backend, this.#clip, [], dtype), add(norm, 1e-6)), 1), mean);
  }

  #update(leaf: Leaf, factor: Tensor | undefined): void {
    using _ = scope(`update ${leaf.name}`);
    const { param, rule } = leaf;
    const context: RuleContext = {
      step: this.#step,
      learningRate: rule.learningRate?.(this.#step) ?? 1,
      paramRms: () => sqrt(mul(sumOfSquares(param), 1 / param.size)),
      param,
      factor,
      donated: true,
    };
    const applied = rule.apply?.(leaf.staged!, leaf.state, context);
    if (applied) {
      leaf.state = applied;
      return;
    }
    const [change, state] = rule.update(leaf.staged!, leaf.state, context);
    param.backend.kernels.addInto(param, contiguous(change), { rounding: "nearest" });
    disposeReplaced(leaf.state, ownState(state));
    leaf.state = state;
  }

  /** State, staged gradients and counters of every parameter, by name: what a checkpoint holds. */
  snapshot(): OptimizerSnapshot {
    const leaves = new Map<string, LeafSnapshot>();
    for (const { name, state, staged, count } of this.#leaves.values()) leaves.set(name, { state, staged, count });
    return { step: this.#step, leaves };
  }

  /** Takes over a snapshot's contents (and their ownership), in place of what was there. */
  restore({ step, leaves }: OptimizerSnapshot): void {
    const missing = [...this.#leaves.keys()].filter((name) => !leaves.has(name));
    const extra = [...leaves.keys()].filter((name) => !this.#leaves.has(name));
    if (missing.length + extra.length > 0) {
      throw new RangeError(
        `Cannot restore an optimizer: ${missing.length} parameters missing, ${extra.length} unknown: ` +
          [...missing, ...extra].slice(0, 4).join(", "),
      );
    }
    this.#step = step;
    for (const leaf of this.#leaves.values()) {
      const { state, staged, count } = leaves.get(leaf.name)!;
      disposeState(leaf.state);
      leaf.staged?.dispose();
      Object.assign(leaf, { state: ownState(state), staged: staged && own(staged), count });
    }
  }

  dispose(): void {
    this.discard();
    for (const leaf of this.#leaves.values()) disposeState(leaf.state);
    this.#leaves.clear();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** One parameter's part of a snapshot. */
export interface LeafSnapshot {
  readonly state: State;
  readonly staged?: Tensor;
  readonly count: number;
}

/** Everything an optimizer remembers. */
export interface OptimizerSnapshot {
  readonly step: number;
  readonly leaves: ReadonlyMap<string, LeafSnapshot>;
}
