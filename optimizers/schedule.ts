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

function warm(step: number, warmup: number): number {
  return warmup > 0 ? Math.min(1, step / warmup) : 1;
}

function progress(step: number, from: number, to: number): number {
  return Math.min(1, Math.max(0, (step - from) / Math.max(1, to - from)));
}
