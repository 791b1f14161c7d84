/** Learning rates as functions of the step (1 at the first). The driver asks once a step. */

/** Learning rate at a step. */
export type Schedule = (step: number) => number;

/** Shape of a warmed-up schedule. Steps; rates are absolute. */
export interface ScheduleOptions {
  readonly peak: number;
  /** Linear from 0 over this many steps. Default 0. */
  readonly warmup?: number;
  /** Steps in all. */
  readonly total: number;
  /** Where it ends. Default 0. */
  readonly minimum?: number;
}

/** Always `rate`, after a linear warm-up. */
export function constant(rate: number, warmup = 0): Schedule {
  return (step) => rate * warm(step, warmup);
}

/** Half a cosine from the peak to the minimum (Loshchilov & Hutter 2017), after a linear warm-up. */
export function cosine({ peak, warmup = 0, total, minimum = 0 }: ScheduleOptions): Schedule {
  return (step) => {
    if (step < warmup) return peak * warm(step, warmup);
    return minimum + (peak - minimum) * 0.5 * (1 + Math.cos(Math.PI * progress(step, warmup, total)));
  };
}

/** A straight line from the peak to the minimum, after a linear warm-up. */
export function linearDecay({ peak, warmup = 0, total, minimum = 0 }: ScheduleOptions): Schedule {
  return (step) => {
    if (step < warmup) return peak * warm(step, warmup);
    return peak + (minimum - peak) * progress(step, warmup, total);
  };
}

/** Warm-up, stable, decay: constant until the last `decay` steps, then a line to the minimum (Hu et al. 2024). */
export function warmupStableDecay(options: ScheduleOptions & { readonly decay: number }): Schedule {
  const { peak, warmup = 0, total, minimum = 0, decay } = options;
  return (step) => {
    if (step < warmup) return peak * warm(step, warmup);
    return peak + (minimum - peak) * progress(step, Math.max(warmup, total - decay), total);
  };
}

/** Shape of a schedule with restarts. Steps. */
export interface JaggedOptions extends ScheduleOptions {
  /** Steps between two restarts. */
  readonly restartEvery: number;
  /** Linear from 0 to the envelope over this many steps after each restart. Default 0: no warm-up. */
  readonly restartWarmup?: number;
  /** Where the envelope reaches the minimum: `total`, or a step behind it. Default: `total`. */
  readonly end?: number;
}

/**
 * ReLoRA's jagged cosine (Lialin et al. 2023, arXiv 2307.05695, section 3): a warmed-up cosine to the minimum, the envelope,
 * which at each multiple of `restartEvery` falls to 0 and rises in a line to where it will be when that warm-up is over.
 *
 * The step that ends a cycle is the one at rate 0, as in the released code: factors are merged behind it. The last step
 * of all ends the run and restarts nothing.
 *
 * @throws RangeError when `restartEvery` does not divide `total`, or a warm-up is as long as a cycle
 */
export function jaggedCosine(options: JaggedOptions): Schedule {
  const { restartEvery, restartWarmup = 0, warmup = 0, total, end = total } = options;
  if (!Number.isInteger(restartEvery) || restartEvery < 1 || total % restartEvery !== 0) {
    throw new RangeError(
      `Cannot restart every ${restartEvery} steps: expected a whole number that divides the ${total} steps`,
    );
  }
  if (!(restartWarmup >= 0 && restartWarmup < restartEvery) || warmup > restartEvery) {
    throw new RangeError(
      `Cannot warm up for ${warmup} steps and for ${restartWarmup} after each restart: expected less than the ` +
        `${restartEvery} between restarts`,
    );
  }
  const envelope = cosine({ ...options, total: end });
  return (step) => {
    const since = step % restartEvery;
    if (step < restartEvery || step >= total || since >= restartWarmup) return envelope(step);
    return since / restartWarmup * envelope(step - since + restartWarmup);
  };
}

function warm(step: number, warmup: number): number {
  return warmup > 0 ? Math.min(1, step / warmup) : 1;
}

function progress(step: number, from: number, to: number): number {
  return Math.min(1, Math.max(0, (step - from) / Math.max(1, to - from)));
}
