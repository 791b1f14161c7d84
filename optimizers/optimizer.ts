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
  noGrad,
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
  /** Sum of squares of the whole gradient, which `staged` may no longer be. */
  square?: Tensor;
  /** Micro-batches in `staged`. */
  count: number;
}

/** Norms of what is staged: of whole gradients, or of projected ones where micro-batches were added up projected. */
export interface GradientNorm {
  readonly norm: number;
  readonly kind: "exact" | "projected";
  /** Parameters whose gradient has a NaN or an infinity (or squares that overflow). */
  readonly nonFinite: readonly string[];
}

/** Applies rules to parameters. Owns their state: dispose it, or `using`. */
export class Optimizer implements Disposable {
  readonly #leaves = new Map<string, Leaf>();
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
    this.#microBatches = commonMicroBatches([...resolved.values()]);
    try {
      for (const [name, leafRule] of resolved) {
        if (leafRule === null) continue;
        const param = params.get(name);
        using _ = scope(`state of ${name}`);
        const spec = { name, backend: param.backend, shape: param.shape, dtype: param.dtype };
        this.#leaves.set(name, { name, param, rule: leafRule, state: ownState(leafRule.init(spec)), count: 0 });
      }
    } catch (error) {
      this.dispose();
      throw error;
    }
    params.freeze([...resolved].filter(([, leafRule]) => leafRule === null).map(([name]) => name));
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
      leaf.square?.dispose();
      leaf.square = own(inner.keep(sumOfSquares(gradient)));
    }
    const kept = leaf.rule.stage?.(gradient, leaf.state, this.#step + 1) ?? gradient;
    const before = leaf.staged;
    const total = before ? add(before, kept) : kept;
    leaf.staged = total === gradient ? total.retained() : own(total);
    before?.dispose();
    leaf.count++;
  };

  /** True when a staged gradient, with all its micro-batches, needs `refresh` before `commit`. */
  get refreshDue(): boolean {
    return this.#due().length > 0;
  }

  #due(): Leaf[] {
    return [...this.#leaves.values()].filter(({ rule, state, count }) =>
      count >= this.#microBatches && rule.refreshDue?.(state, this.#step + 1)
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
    const isExact = leaves.every(({ square, rule }) => square || !rule.stage);
    return { norm: Math.sqrt(total) / this.#microBatches, kind: isExact ? "exact" : "projected", nonFinite };
  }

  /** [leaves] sums of squares, owned by the caller. */
  #packSquares(leaves: readonly Leaf[]): Tensor {
    using inner = scope("gradient norm");
    const parts = leaves.map(({ square, staged }) => square ?? sumOfSquares(staged!));
    return own(inner.keep(stack(parts.map((part) => reshape(part, [])), 0)));
  }

  /**
   * Updates every parameter that has a staged gradient, and frees the gradients.
   *
   * @throws RangeError when nothing is staged, a micro-batch is missing, or a basis is due
   */
  commit(): void {
    const leaves = [...this.#leaves.values()].filter(({ staged }) => staged);
    if (leaves.length === 0) throw new RangeError("Cannot commit(): no gradient is staged; run backward() first");
    const odd = leaves.find(({ count }) => count !== this.#microBatches);
    if (odd) {
      throw new RangeError(`Cannot commit(): "${odd.name}" has ${odd.count} of ${this.#microBatches} micro-batches`);
    }
    const pending = leaves.find(({ rule, state }) => rule.refreshDue?.(state, this.#step + 1));
    if (pending) throw new RangeError(`Cannot commit(): the basis of "${pending.name}" is due; await refresh() first`);
    using _ = scope("commit");
    this.#step++;
    // parameters are leaves of the tape: recorded, every product with one would live until the scope ends
    noGrad(() => {
      const factor = this.#factor(leaves);
      for (const leaf of leaves) {
        this.#update(leaf, factor);
        dropStaged(leaf);
      }
    });
  }

  /** Drops what was staged, without a step: parameters and state stay as they are. */
  discard(): void {
    for (const leaf of this.#leaves.values()) dropStaged(leaf);
  }

  /** 1 / micro-batches times min(1, clip / (norm + 1e-6)), on the device; undefined when that is 1. */
  #factor(leaves: readonly Leaf[]): Tensor | undefined {
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

  /**
   * State, staged gradients and counters of every parameter, by name: what a checkpoint holds. The tensors stay the
   * optimizer's, and the next commit may overwrite them: read them before.
   */
  snapshot(): OptimizerSnapshot {
    const leaves = new Map<string, LeafSnapshot>();
    for (const { name, state, staged, square, count } of this.#leaves.values()) {
      leaves.set(name, { state, staged, square, count });
    }
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
      const { state, staged, square, count } = leaves.get(leaf.name)!;
      disposeReplaced(leaf.state, ownState(state));
      if (leaf.staged !== staged) leaf.staged?.dispose();
      if (leaf.square !== square) leaf.square?.dispose();
      Object.assign(leaf, { state, staged: staged && own(staged), square: square && own(square), count });
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

/** The number of micro-batches that all rules agree on. @throws RangeError when they do not */
function commonMicroBatches(rules: readonly (Rule | null)[]): number {
  const counts = new Set<number>();
  for (const rule of rules) if (rule) counts.add((rule as Partial<Accumulated>).microBatches ?? 1);
  if (counts.size > 1) {
    throw new RangeError(`Cannot mix rules that accumulate ${[...counts].join(" and ")} micro-batches`);
  }
  return [...counts][0] ?? 1;
}

function dropStaged(leaf: Leaf): void {
  leaf.staged?.dispose();
  leaf.square?.dispose();
  Object.assign(leaf, { staged: undefined, square: undefined, count: 0 });
}

/** One parameter's part of a snapshot. */
export interface LeafSnapshot {
  readonly state: State;
  readonly staged?: Tensor;
  /** Sum of squares of the whole gradient, where `staged` may be a projection of it. */
  readonly square?: Tensor;
  readonly count: number;
}

/** Everything an optimizer remembers. */
export interface OptimizerSnapshot {
  readonly step: number;
  readonly leaves: ReadonlyMap<string, LeafSnapshot>;
}
