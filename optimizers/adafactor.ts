/**
 * Adafactor (Shazeer & Stern 2018): second moments of matrices kept as one number a row and one a column. A whole
 * optimizer by itself: it applies its rate inside and returns the change.
 *
 *     beta2 = 1 - t^-0.8                                      running means from step 1, without bias correction
 *     row = beta2 row + (1 - beta2) (mean over columns of g^2 + eps1), column likewise
 *     u = g sqrt(mean(row) / row) / sqrt(column)              vectors: u = g / sqrt(nu)
 *     u = rate u / max(1, RMS(u) / clipThreshold)
 *     mu = beta1 mu + (1 - beta1) u                           with `beta1`; the change is -mu, else -u
 *
 * As in fairseq, Transformers and the released GaLore code, momentum holds updates with the rate in them. The rate is
 * `learningRate`, or the relative step min(1e-2, 1 / sqrt(t)); `scaleParameter` multiplies either by max(eps2, RMS(p)).
 * Under `galore` all of it happens in the subspace, save that RMS(p) is the whole weight's.
 */
import { add, div, maximum, mean, mul, neg, reshape, rsqrt, sqrt, square, sub } from "../core/mod.ts";
import { cast, sumOfSquares, type Tensor, zeros } from "../core/mod.ts";
import { chain, type GradientContext, type GradientRule, type LeafSpec, type Rule, type State } from "./rule.ts";
import type { Schedule } from "./schedule.ts";
import { scaled } from "./sgd.ts";

/** Options of `adafactor`. */
export interface AdafactorOptions {
  /** Left out: the relative step. */
  readonly learningRate?: number | Schedule;
  /** Added to squared gradients. Default 1e-30. */
  readonly eps1?: number;
  /** The least that `scaleParameter` multiplies by. Default 1e-3. */
  readonly eps2?: number;
  /** The largest RMS of an update before the rate. Default 1. */
  readonly clipThreshold?: number;
  /** beta2 at step t is 1 - t^-decayRate. Default 0.8. The released code writes -0.8. */
  readonly decayRate?: number;
  /** Momentum of the update. Left out: none, and no memory for it. */
  readonly beta1?: number;
  /** Default: true where there is no `learningRate`. The released code refuses both. */
  readonly relativeStep?: boolean;
  /** Default true. The GaLore paper's runs have it off. */
  readonly scaleParameter?: boolean;
  /** The relative step starts at 1e-6 and grows by as much a step, up to 1 / sqrt(t). Default false. */
  readonly warmupInit?: boolean;
}

/** Per matrix `row` and `column`, per vector `nu`, and `mu` where there is momentum. */
export interface AdafactorState extends State {
  [key: string]: Tensor;
}

/** Adafactor as a rule of the gradient alone, so that `galore` can wrap it. Moments in f32. */
export function adafactor(options: AdafactorOptions = {}): GradientRule<AdafactorState> {
  const { eps1 = 1e-30, clipThreshold = 1, decayRate = 0.8, beta1 } = options;
  const { learningRate, effectiveRate } = rateOf(options);
  if (!(decayRate > 0)) {
    throw new RangeError(`Cannot decay moments at t^${-decayRate}: expected a decayRate above 0, got ${decayRate}`);
  }
  if (!(clipThreshold > 0)) throw new RangeError(`Cannot clip to an RMS of ${clipThreshold}: expected more than 0`);
  return {
    name: "adafactor",
    options: { ...options, eps1, clipThreshold, decayRate },
    slots: beta1 === undefined ? { nu: "nonnegative" } : { mu: "signed", nu: "nonnegative" },
    init: (spec) => initialState(spec, beta1 !== undefined),
    learningRate,
    update: (gradient, state, context) => {
      const g = scaled(gradient, context.factor);
      const beta2 = 1 - context.step ** -decayRate;
      const [direction, moments] = state.nu ? byElement(g, state, beta2, eps1) : byFactors(g, state, beta2, eps1);
      const rms = sqrt(mul(sumOfSquares(direction), 1 / direction.size));
      const factor = div(effectiveRate(context), maximum(mul(rms, 1 / clipThreshold), 1));
      const update = mul(direction, factor);
      if (beta1 === undefined) return [neg(update), moments];
      const mu = add(mul(state.mu, beta1), mul(update, 1 - beta1));
      return [neg(mu), { ...moments, mu }];
    },
  };
}

/** g / sqrt(nu), and the next `nu`. */
function byElement(g: Tensor, { nu }: AdafactorState, beta2: number, eps: number): [Tensor, AdafactorState] {
  const next = blend(nu, add(square(g), eps), beta2);
  return [mul(g, rsqrt(next)), { nu: next }];
}

/** The direction from factored moments, and the moments. The last two axes are rows and columns. */
function byFactors(g: Tensor, state: AdafactorState, beta2: number, eps: number): [Tensor, AdafactorState] {
  const squares = square(g);
  const row = blend(state.row, add(mean(squares, -1), eps), beta2);
  const column = blend(state.column, add(mean(squares, -2), eps), beta2);
  // neither row / mean(row), which underflows, nor the outer product of the factors, which overflows, is ever formed
  const rowFactor = mul(rsqrt(row), sqrt(mean(row, -1, true)));
  const byRow = mul(g, reshape(rowFactor, [...row.shape, 1]));
  const columnFactor = reshape(rsqrt(column), [...column.shape.slice(0, -1), 1, g.shape[g.shape.length - 1]]);
  return [mul(byRow, columnFactor), { row, column }];
}

function blend(old: Tensor, fresh: Tensor, beta: number): Tensor {
  return add(mul(old, beta), mul(fresh, 1 - beta));
}

function initialState({ backend, shape, dtype }: LeafSpec, hasMomentum: boolean): AdafactorState {
  const moments = (size: readonly number[]) => zeros(backend, size, dtype === "f64" ? "f64" : "f32");
  const state: AdafactorState = shape.length < 2
    ? { nu: moments(shape) }
    : { row: moments(shape.slice(0, -1)), column: moments([...shape.slice(0, -2), shape[shape.length - 1]]) };
  return hasMomentum ? { ...state, mu: moments(shape) } : state;
}

/** The rate by step, and with the parameter's size in it. */
function rateOf(options: AdafactorOptions): {
  readonly learningRate: Schedule;
  readonly effectiveRate: (context: GradientContext) => Tensor | number;
} {
  const { learningRate, relativeStep = learningRate === undefined, warmupInit = false } = options;
  const { scaleParameter = true, eps2 = 1e-3 } = options;
  if (relativeStep !== (learningRate === undefined)) {
    throw new RangeError(
      "Cannot set a rate in adafactor(): expected either learningRate or relativeStep, got " +
        (relativeStep ? "both" : "neither"),
    );
  }
  if (warmupInit && !relativeStep) throw new RangeError("Cannot use warmupInit in adafactor(): it needs relativeStep");
  const schedule: Schedule = learningRate === undefined
    ? (step) => Math.min(warmupInit ? 1e-6 * step : 1e-2, 1 / Math.sqrt(step))
    : typeof learningRate === "number"
    ? () => learningRate
    : learningRate;
  return {
    learningRate: schedule,
    effectiveRate: ({ step, paramRms }) =>
      scaleParameter ? mul(maximum(paramRms(), eps2), schedule(step)) : schedule(step),
  };
}

/**
 * Decoupled weight decay before Adafactor's step: p' = p (1 - rate decay) + change, with the rate that `adafactor` has
 * under the same options, parameter scaling included. Stands behind it, or behind `galore` around it.
 */
export function decayAtAdafactorRate(decay: number, options: AdafactorOptions): Rule<Record<never, never>> {
  const { effectiveRate } = rateOf(options);
  return {
    name: "decayAtAdafactorRate",
    options: { decay },
    slots: {},
    init: () => ({}),
    update: (change, state, context) => {
      if (decay === 0) return [change, state];
      return [sub(change, mul(mul(cast(context.param, change.dtype), decay), effectiveRate(context))), state];
    },
  };
}

/** Options of `adafactorW`. */
export interface AdafactorWOptions extends AdafactorOptions {
  /** Default 0: no decay. */
  readonly weightDecay?: number;
}

/** Puts Adafactor's weight decay behind a rule that steps at its rate. */
export function finishAdafactor(step: Rule, { weightDecay = 0, ...options }: AdafactorWOptions): Rule {
  return weightDecay === 0 ? step : chain(step, decayAtAdafactorRate(weightDecay, options));
}

/** Adafactor with decoupled weight decay, as Transformers' `Adafactor`. */
export function adafactorW(options: AdafactorWOptions = {}): Rule {
  const { weightDecay: _, ...rest } = options;
  return finishAdafactor(adafactor(rest), options);
}
