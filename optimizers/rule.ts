/**
 * Rules: how one parameter moves, given its gradient. A rule is data (name, options, slots) as well as functions, so
 * that a fused kernel can recognise it. It never writes the parameter: it returns the change, and the driver adds it.
 *
 * After optax's `GradientTransformation` and Optimisers.jl's per-leaf rules.
 */
import type { Backend, Shape, SlotKind, Spec, Tensor } from "../core/mod.ts";

/** What is known of a parameter when its state is made. */
export interface LeafSpec extends Spec {
  readonly name: string;
  readonly backend: Backend;
  /** Position among the parameters that share this rule object, from 0. */
  readonly index: number;
  /** How many parameters share it. */
  readonly count: number;
}

/** A rule's memory of one parameter: tensors and plain values, nested. Saved and loaded as it is. */
export interface State {
  [key: string]: Tensor | number | string | boolean | null | State;
}

/** Which parameter, in which step. */
export interface StepContext {
  /** The parameter's name. Random numbers are keyed by it. */
  readonly name: string;
  /** 1 at the first optimizer step; counts optimizer steps, not micro-batches. */
  readonly step: number;
}

/** What a rule may know beside the gradient. The parameter itself is not part of it. */
export interface GradientContext extends StepContext {
  /** The parameter's, which a projected gradient has not. */
  readonly shape: Shape;
  /** What the chain's schedule gives at this step (1 where there is none). */
  readonly learningRate: number;
  /** Root mean square of the whole parameter, a scalar tensor. */
  paramRms(): Tensor;
  /**
   * The gradient must be multiplied by this device scalar first (clip factor, 1 / micro-batches). It is -1 in a step that
   * a guard keeps out, whose results the driver leaves out.
   */
  readonly factor?: Tensor;
  /** The driver gives the state away: a fused kernel may overwrite it. */
  readonly donated: boolean;
}

/** The context of a rule that also reads the parameter (weight decay). */
export interface RuleContext extends GradientContext {
  /** Of 16 bits where it is stored so: cast() it. */
  readonly param: Tensor;
}

interface RuleBase<S extends State, Context> {
  readonly name: string;
  readonly options: Readonly<Record<string, unknown>>;
  /** The tensors of the state that a codec may compress. */
  readonly slots: Readonly<Record<string, SlotKind>>;
  readonly init: (spec: LeafSpec) => S;
  /** Change to the parameter (full size, to be added) and the next state. Consumes neither input. */
  readonly update: (gradient: Tensor, state: S, context: Context) => [Tensor, S];
  /** `update` with its change multiplied by `factor`, where that is cheaper inside than on the full-size change. */
  readonly updateScaled?: (gradient: Tensor, state: S, context: Context, factor: number) => [Tensor, S];
  /** What the rule multiplies its input by, when it does nothing else. */
  readonly multiplier?: (step: number) => number;
  /** The rate that the rule applies at a step, if it has one. */
  readonly learningRate?: (step: number) => number;
  /**
   * What the driver holds of a gradient until `update`, linear in it: micro-batches are added up in this form. Left
   * out: the gradient itself.
   */
  readonly stage?: (gradient: Tensor, state: S, context: StepContext) => Tensor;
  /** True when `refresh` must run on what was staged before `update` at this step. */
  readonly refreshDue?: (state: S, step: number) => boolean;
  /** Makes the state ready (a new basis) and gives the staged gradient in its terms. Outside every scope. */
  readonly refresh?: (staged: Tensor, state: S, context: StepContext) => Promise<[Tensor, S]>;
  /** As `refresh`, at once; undefined where it would have to wait for numbers from the device. */
  readonly refreshNow?: (staged: Tensor, state: S, context: StepContext) => [Tensor, S] | undefined;
  /**
   * The state with `map` applied to every signed slot (first moments, linear in the gradient), which is freed by the
   * caller. Left out: the slots as `slots` names them.
   */
  readonly mapSigned?: (state: S, map: (moment: Tensor) => Tensor, context: StepContext) => S;
  /**
   * Does update and addition in one kernel, in place; undefined when the backend has none that fits. Must change nothing
   * when `factor` is negative. Not asked for 16-bit parameters.
   */
  readonly apply?: (gradient: Tensor, state: S, context: RuleContext) => S | undefined;
  /** As `apply`, for this rule together with the ones that follow it in a chain. */
  readonly fuseChain?: (rest: readonly Rule[], gradient: Tensor, state: S, context: RuleContext) => S | undefined;
}

/** A rule that may read the parameter. */
// deno-lint-ignore no-explicit-any -- a list of rules does not care what each keeps to itself
export type Rule<S extends State = any> = RuleBase<S, RuleContext>;

/** A rule of the gradient alone: what `galore` can wrap. */
// deno-lint-ignore no-explicit-any -- as above
export type GradientRule<S extends State = any> = RuleBase<S, GradientContext>;

/** Runs rules one after the other, each on what the one before gave. Staging and refreshing belong to the first. */
export function chain(...rules: readonly Rule[]): Rule {
  if (rules.length === 0) throw new RangeError("Cannot chain() no rules: give at least one");
  const late = rules.slice(1).find((rule) => rule.stage);
  if (late) throw new TypeError(`Cannot chain ${late.name} behind another rule: it must see the gradient first`);
  if (rules.some((rule) => "microBatches" in rule)) {
    throw new TypeError("Cannot chain a rule that accumulates: wrap the whole chain in accumulate()");
  }
  const [head] = rules;
  const stateOf = (state: State, index: number) => state[index] as State;
  return {
    name: "chain",
    options: { rules },
    slots: {},
    init: (spec) => Object.fromEntries(rules.map((rule, index) => [index, rule.init(spec)])),
    learningRate: (step) => rules.map((rule) => rule.learningRate?.(step)).find((rate) => rate !== undefined) ?? 1,
    update: (gradient, state, context) => {
      const factor = head.updateScaled && rules[1]?.multiplier?.(context.step);
      const next: State = { ...state };
      let change: Tensor;
      [change, next[0]] = factor === undefined
        ? head.update(gradient, stateOf(state, 0), context)
        : head.updateScaled!(gradient, stateOf(state, 0), context, factor);
      // only the first rule of a chain scales the gradient
      const later: RuleContext = { ...context, factor: undefined };
      for (let index = factor === undefined ? 1 : 2; index < rules.length; index++) {
        [change, next[index]] = rules[index].update(change, stateOf(state, index), later);
      }
      return [change, next];
    },
    stage: head.stage && ((gradient, state, context) => head.stage!(gradient, stateOf(state, 0), context)),
    refreshDue: head.refreshDue && ((state, step) => head.refreshDue!(stateOf(state, 0), step)),
    refresh: head.refresh && (async (staged, state, context) => {
      const [projected, next] = await head.refresh!(staged, stateOf(state, 0), context);
      return [projected, { ...state, 0: next }];
    }),
    refreshNow: head.refreshNow && ((staged, state, context) => {
      const done = head.refreshNow!(staged, stateOf(state, 0), context);
      return done && [done[0], { ...state, 0: done[1] }];
    }),
    apply: (gradient, state, context) => applyChain(rules, gradient, state, context),
  };
}

/** Lets the first rule fuse the whole chain, if it knows how. */
function applyChain(rules: readonly Rule[], gradient: Tensor, state: State, context: RuleContext) {
  const fuse = rules[0].fuseChain;
  const next = fuse?.(rules.slice(1), gradient, state[0] as State, context);
  return next && { ...state, 0: next };
}

/** Adds up `microBatches` gradients before each step, and divides by their number. */
export function accumulate(microBatches: number, rule: Rule): Accumulated {
  if (!Number.isInteger(microBatches) || microBatches < 1) {
    throw new RangeError(`Cannot accumulate() ${microBatches} micro-batches: expected a whole number from 1`);
  }
  return { ...rule, microBatches };
}

/** A rule with a number of micro-batches, which the driver counts. */
export interface Accumulated extends Rule {
  readonly microBatches: number;
}

/** A rule per parameter name. */
export interface Routing {
  readonly routes: readonly (readonly [RegExp, Rule | null])[];
}

/** Sends parameters to rules by name: the first match wins, `null` freezes. The driver refuses gaps. */
export function route(routes: readonly (readonly [RegExp, Rule | null])[]): Routing {
  return { routes };
}

/**
 * The rule of each name under a routing.
 *
 * @throws RangeError listing names that no pattern matches, and patterns that match nothing
 */
export function resolveRoutes(names: readonly string[], routing: Routing): Map<string, Rule | null> {
  const used = new Set<RegExp>();
  const resolved = new Map<string, Rule | null>();
  const unmatched: string[] = [];
  for (const name of names) {
    // not test(), which starts where the last match of a global pattern ended
    const hit = routing.routes.find(([pattern]) => name.search(pattern) >= 0);
    if (!hit) unmatched.push(name);
    else {
      used.add(hit[0]);
      resolved.set(name, hit[1]);
    }
  }
  if (unmatched.length > 0) {
    throw new RangeError(
      `Cannot route ${unmatched.length} parameters: no pattern matches ${
        listed(unmatched)
      }; add a rule, or null to freeze`,
    );
  }
  const idle = routing.routes.filter(([pattern]) => !used.has(pattern)).map(([pattern]) => String(pattern));
  if (idle.length > 0) throw new RangeError(`Cannot route: ${listed(idle)} match no parameter; remove them`);
  return resolved;
}

function listed(names: readonly string[]): string {
  const shown = names.slice(0, 8).map((name) => name.startsWith("/") ? name : `"${name}"`).join(", ");
  return names.length > 8 ? `${shown} and ${names.length - 8} more` : shown;
}
