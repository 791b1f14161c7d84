/** How the driver works: clipping, guarding, rounding, and when updates happen. */

/**
 * How a change reaches a 16-bit parameter: to the nearest value, where small changes are lost; up or down at random, right
 * on average; or through an f32 copy that keeps every bit and costs four bytes a weight.
 */
export type Rounding = "nearest" | "stochastic" | "master";

/** Options of `Optimizer`. */
export interface OptimizerOptions {
  /** Scales gradients down to this global norm. Default: no clipping. */
  readonly clip?: number;
  /**
   * Keeps gradients (and losses given to `commit`) that are not finite out on the device, without a read: from such a step
   * on nothing changes until `discard()` or `resetGuard()`. Default: the caller checks `gradientNorm()`.
   */
  readonly guard?: boolean;
  /** Of 16-bit parameters; others never round. Default `stochastic`. */
  readonly rounding?: Rounding;
  /** Seeds stochastic rounding: a function of seed, name and step. Default 0. */
  readonly seed?: number;
  /**
   * Settles each parameter as soon as backward has finished its gradient: its basis is renewed, if due, and, without
   * clipping, its update is done and the gradient gone (the paper's per-layer updates). The same bits as without. With
   * clipping, what is held until the norm is known is what the rule needs: of a GaLore matrix the projected gradient. Steps
   * that are not finite must then be kept out by `guard`, which lets nothing of that kind in, but may have let in other
   * parameters' updates of the same step. Default false.
   */
  readonly perLayer?: boolean;
  /**
   * Adds up micro-batches of whole gradients, so that their norm, and clipping by it, is exact. Default false: what is added up
   * is what the rule needs, of a GaLore matrix the projected gradient, and the norm is that of the projected sums.
   */
  readonly clipExact?: boolean;
}
