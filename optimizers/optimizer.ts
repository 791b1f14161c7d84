/**
 * The driver: the only code that changes a parameter in place.
 *
 * A step has three parts. `backward(loss, optimizer.stage)` hands each finished gradient to its rule, which keeps what
 * it needs of it (a projected gradient, or the whole one) and adds up micro-batches in that form. `await refresh()`,
 * only when `refreshDue`, finds new bases outside every scope. `commit()` updates every parameter and frees what was
 * staged. State belongs to the optimizer, not to a scope; the step is counted once a commit.
 */
import {
  abs,
  add,
  cast,
  contiguous,
  div,
  fill,
  foldIn,
  isHalf,
  keyOf,
  less,
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
import { type GradientNorm, type GradientSquares, normFrom } from "./gradient_norm.ts";
import { Gate, Guard } from "./guard.ts";
import { commonMicroBatches, dropStaged, type Leaf, type LeafSnapshot, type OptimizerSnapshot } from "./leaf.ts";
import { resolveRoutes, type Routing, type Rule, type RuleContext, type State } from "./rule.ts";
import type { OptimizerOptions, Rounding } from "./optimizer_options.ts";
import { pruneLeaf, type PruneOptions } from "./prune_state.ts";
import { disposeReplaced, disposeState, ownState } from "./state.ts";

export type { GradientNorm, GradientSquares } from "./gradient_norm.ts";
export type { LeafSnapshot, OptimizerSnapshot } from "./leaf.ts";
export type { OptimizerOptions, Rounding } from "./optimizer_options.ts";
export type { PruneOptions } from "./prune_state.ts";

/** Applies rules to parameters. Owns their state: dispose it, or `using`. */
export class Optimizer implements Disposable {
  readonly #leaves = new Map<string, Leaf>();
  readonly #clip: number | undefined;
  readonly #microBatches: number;
  readonly #guard: Guard | undefined;
  readonly #rounding: Rounding;
  readonly #seed: number;
  readonly #perLayer: boolean;
  readonly #clipExact: boolean;
  /** Packed squares of what is staged, once somebody asked for them. */
  #squares: Tensor | undefined;
  #step = 0;

  /**
   * @param rule one rule for every parameter, or a routing by name (`null` freezes)
   * @throws RangeError when the routing leaves gaps
   */
  constructor(readonly params: Params, rule: Rule | Routing, options: OptimizerOptions = {}) {
    const { clip, guard = false, rounding = "stochastic", seed = 0, perLayer = false, clipExact = false } = options;
    if (clip !== undefined && !(clip > 0)) throw new RangeError(`Cannot clip to norm ${clip}: expected more than 0`);
    this.#clip = clip;
    this.#guard = guard ? new Guard() : undefined;
    this.#rounding = rounding;
    this.#seed = seed;
    this.#perLayer = perLayer;
    this.#clipExact = clipExact;
    const routing = "routes" in rule ? rule : { routes: [[/(?:)/, rule] as const] };
    const resolved = resolveRoutes(params.names(), routing);
    this.#microBatches = commonMicroBatches([...resolved.values()]);
    try {
      for (const [name, leafRule] of resolved) {
        if (leafRule === null) continue;
        const param = params.get(name);
        using _ = scope(`state of ${name}`);
        // states, like staged gradients, are f32 where weights have 16 bits
        const dtype = isHalf(param.dtype) ? "f32" : param.dtype;
        const sharing = [...resolved.keys()].filter((other) => resolved.get(other) === leafRule);
        const place = { index: sharing.indexOf(name), count: sharing.length };
        const spec = { name, backend: param.backend, shape: param.shape, dtype, ...place };
        const state = ownState(leafRule.init(spec));
        this.#leaves.set(name, { name, param, rule: leafRule, state, count: 0, settled: false });
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

  /** Whether commits keep what is not finite out by themselves. */
  get isGuarded(): boolean {
    return this.#guard !== undefined;
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
    if (leaf.settled) throw new RangeError(`Cannot stage "${name}": its update of this step is done; commit() first`);
    using inner = scope(`stage ${name}`);
    this.#forgetSquares();
    leaf.count++;
    const isLast = leaf.count === this.#microBatches;
    const whole = isHalf(gradient.dtype) ? cast(gradient, "f32") : gradient;
    const prepared = (total: Tensor) => leaf.rule.stage?.(total, leaf.state, { name, step: this.#step + 1 }) ?? total;
    const before = leaf.staged;
    let total: Tensor;
    if (this.#microBatches === 1 || this.#clipExact) {
      const sum = before ? add(before, whole) : whole;
      if (isLast) {
        leaf.square?.dispose();
        leaf.square = own(inner.keep(sumOfSquares(sum)));
      }
      total = isLast ? prepared(sum) : sum;
    } else total = before ? add(before, prepared(whole)) : prepared(whole);
    leaf.staged = total === gradient ? total.retained() : own(total);
    before?.dispose();
    if (this.#perLayer && isLast) noGrad(() => this.#settle(leaf));
  };

  /** Renews the basis of a leaf with all its gradients, where it need not wait, and updates it unless a norm is to come. */
  #settle(leaf: Leaf): void {
    const context = { name: leaf.name, step: this.#step + 1 };
    if (leaf.rule.refreshDue?.(leaf.state, context.step)) {
      const renewed = leaf.rule.refreshNow?.(leaf.staged!, leaf.state, context);
      if (!renewed) return;
      this.#takeRenewed(leaf, ...renewed);
    }
    if (this.#clip !== undefined) return;
    leaf.square ??= own(sumOfSquares(leaf.staged!));
    using gate = this.#guard?.next([leaf.square]);
    this.#update(leaf, this.#factor([leaf], gate), gate, context.step);
    leaf.staged!.dispose();
    Object.assign(leaf, { staged: undefined, settled: true });
  }

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
    this.#forgetSquares();
    for (const leaf of this.#due()) {
      const context = { name: leaf.name, step: this.#step + 1 };
      this.#takeRenewed(leaf, ...await leaf.rule.refresh!(leaf.staged!, leaf.state, context));
    }
  }

  /** Takes over what a refresh gave. A guarded optimizer keeps the old basis where the gradient was not finite. */
  #takeRenewed(leaf: Leaf, projected: Tensor, renewed: State): void {
    let state = renewed;
    if (this.#guard) {
      using _ = scope(`renewed state of ${leaf.name}`);
      using gate = new Gate(less(abs(leaf.square ?? sumOfSquares(leaf.staged!)), Infinity));
      state = ownState(gate.selectState(renewed, leaf.state));
      disposeReplaced(renewed, state);
    }
    if (projected !== leaf.staged) leaf.staged!.dispose();
    leaf.staged = projected;
    disposeReplaced(leaf.state, state);
    leaf.state = state;
  }

  /** Norms of the staged gradients, before clipping. The one readback of a step; call outside every scope. */
  async gradientNorm(): Promise<GradientNorm> {
    const leaves = this.#stagedLeaves();
    if (leaves.length === 0) return { norm: 0, kind: "exact", nonFinite: [] };
    const { squares, toNorm } = this.stepSquares();
    using packed = squares;
    return toNorm(await packed.read());
  }

  /**
   * Sums of squares of the staged gradients, before clipping: what `gradientNorm` reads, left on the device. The commit
   * that follows works with the same.
   *
   * @throws RangeError when nothing is staged
   */
  stepSquares(): GradientSquares {
    const leaves = this.#stagedLeaves();
    if (leaves.length === 0) throw new RangeError("Cannot take squares: no gradient is staged; run backward() first");
    const microBatches = this.#microBatches;
    const names = leaves.map(({ name }) => name);
    const isExact = microBatches === 1 || this.#clipExact || leaves.every(({ rule }) => !rule.stage);
    const kind = isExact ? "exact" : "projected";
    const toNorm = (values: ArrayLike<number>) => normFrom(values, { names, microBatches, kind });
    return { squares: this.#packSquares(leaves).retained(), toNorm };
  }

  #stagedLeaves(): Leaf[] {
    return [...this.#leaves.values()].filter(({ staged, settled }) => staged || settled);
  }

  /** [leaves] sums of squares, packed once and kept until something else is staged. */
  #packSquares(leaves: readonly Leaf[]): Tensor {
    if (this.#squares) return this.#squares;
    using inner = scope("gradient norm");
    const parts = leaves.map(({ square, staged }) => square ?? sumOfSquares(staged!));
    return this.#squares = own(inner.keep(stack(parts.map((part) => reshape(part, [])), 0)));
  }

  #forgetSquares(): void {
    this.#squares?.dispose();
    this.#squares = undefined;
  }

  /**
   * Updates every parameter that has a staged gradient, and frees the gradients.
   *
   * @param watched scalars that a guard demands to be finite beside the gradients: the step's losses
   * @throws RangeError when nothing is staged, a micro-batch is missing, or a basis is due
   */
  commit(watched: readonly Tensor[] = []): void {
    const leaves = this.#stagedLeaves();
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
      using gate = this.#guard?.next([sum(this.#packSquares(leaves)), ...watched]);
      const factor = leaves.some(({ staged }) => staged) ? this.#factor(leaves, gate) : undefined;
      for (const leaf of leaves) {
        if (leaf.staged) this.#update(leaf, factor, gate, this.#step);
        dropStaged(leaf);
      }
    });
    this.#forgetSquares();
  }

  /**
   * Drops what was staged, without a step: parameters and state stay as they are, save for those that per-layer updates have
   * moved already. Opens the guard again.
   */
  discard(): void {
    for (const leaf of this.#leaves.values()) dropStaged(leaf);
    this.#forgetSquares();
    this.resetGuard();
  }

  /** Lets a guarded optimizer go on after a step that was not finite. */
  resetGuard(): void {
    this.#guard?.reset();
  }

  /**
   * 1 / micro-batches times min(1, clip / (norm + 1e-6)), on the device; undefined when that is 1. Behind a gate that is
   * shut, -1, for the kernels that branch on it; the results of rules that do not are left out by selection.
   */
  #factor(leaves: readonly Leaf[], gate: Gate | undefined): Tensor | undefined {
    const { backend, dtype } = leaves.find(({ staged }) => staged)!.staged!;
    const mean = 1 / this.#microBatches;
    if (this.#clip === undefined) {
      if (gate) return gate.factor(fill(backend, mean, [], dtype));
      return mean === 1 ? undefined : fill(backend, mean, [], dtype);
    }
    const norm = mul(sqrt(sum(this.#packSquares(leaves))), mean);
    const factor = mul(minimum(div(fill(backend, this.#clip, [], dtype), add(norm, 1e-6)), 1), mean);
    return gate ? gate.factor(factor) : factor;
  }

  #update(leaf: Leaf, factor: Tensor | undefined, gate: Gate | undefined, step: number): void {
    using _ = scope(`update ${leaf.name}`);
    const { param, rule } = leaf;
    const halved = isHalf(param.dtype);
    if (halved && this.#rounding === "master") leaf.master ??= own(cast(param, "f32"));
    const read = leaf.master ?? param;
    const context: RuleContext = {
      name: leaf.name,
      shape: param.shape,
      step,
      learningRate: rule.learningRate?.(step) ?? 1,
      paramRms: () => sqrt(mul(sumOfSquares(cast(read, leaf.staged!.dtype)), 1 / param.size)),
      param: read,
      factor,
      donated: true,
    };
    const applied = halved ? undefined : rule.apply?.(leaf.staged!, leaf.state, context);
    if (applied) {
      leaf.state = applied;
      return;
    }
    const [change, state] = rule.update(leaf.staged!, leaf.state, context);
    this.#add(leaf, contiguous(change), gate?.latch, step);
    const next = gate ? gate.selectState(state, leaf.state) : state;
    disposeReplaced(leaf.state, ownState(next));
    leaf.state = next;
  }

  #add({ name, param, master }: Leaf, change: Tensor, gate: Tensor | undefined, step: number): void {
    const { kernels } = param.backend;
    if (!isHalf(param.dtype) || master || this.#rounding === "nearest") {
      return kernels.addInto(param, change, { rounding: "nearest", master, gate });
    }
    const key = foldIn(keyOf(this.#seed), name, step);
    kernels.addInto(param, change, { rounding: "stochastic", key, gate });
  }

  /**
   * Forgets moments of the named parameters, whose values begin anew. Call outside every scope.
   *
   * @throws RangeError for a name that is not trained, a share outside [0, 1], or amid a step
   */
  async pruneMoments(names: Iterable<string>, options: PruneOptions): Promise<void> {
    for (const name of names) await pruneLeaf(this.#leaves.get(name), { name, step: this.#step }, options);
  }

  /**
   * State, staged gradients and counters of every parameter, by name: what a checkpoint holds. The tensors stay the
   * optimizer's, and the next commit may overwrite them: read them before.
   *
   * @throws RangeError in the middle of a step of per-layer updates
   */
  snapshot(): OptimizerSnapshot {
    const done = [...this.#leaves.values()].find(({ settled }) => settled);
    if (done) throw new RangeError(`Cannot take a snapshot: the update of "${done.name}" is done, commit() is not`);
    const leaves = new Map<string, LeafSnapshot>();
    for (const { name, state, staged, square, master, count } of this.#leaves.values()) {
      leaves.set(name, { state, staged, square, master, count });
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
    this.#forgetSquares();
    this.resetGuard();
    for (const leaf of this.#leaves.values()) {
      const { state, count, ...held } = leaves.get(leaf.name)!;
      disposeReplaced(leaf.state, ownState(state));
      for (const key of ["staged", "square", "master"] as const) {
        if (leaf[key] !== held[key]) leaf[key]?.dispose();
        leaf[key] = held[key] && own(held[key]);
      }
      Object.assign(leaf, { state, count, settled: false });
    }
  }

  dispose(): void {
    this.discard();
    for (const { state, master } of this.#leaves.values()) {
      disposeState(state);
      master?.dispose();
    }
    this.#leaves.clear();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}
