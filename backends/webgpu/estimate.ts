/**
 * How long work will take: seconds a byte, a flop and a dispatch, learnt from the time between two waits. What is measured
 * includes the host's part, so that the estimate errs on the long side, and portions on the short one.
 */

/** An amount of work. */
export interface Work {
  readonly bytes: number;
  readonly flops: number;
  readonly dispatches: number;
}

/** Before the first measurement: slower than any GPU, so that not even the first portion is long. */
const FIRST: Readonly<Record<keyof Work, number>> = { bytes: 1 / 2e9, flops: 1 / 1e10, dispatches: 1e-4 };
const KINDS = ["bytes", "flops", "dispatches"] as const;
/** Below that, the wait itself is what was measured: a readback alone takes ten milliseconds. */
const SHORTEST_SECONDS = 0.03;

/** An estimate that follows what is measured. */
export class Estimate {
  readonly #rates = { ...FIRST };

  /** Seconds that this work is expected to take. */
  seconds(work: Work): number {
    return KINDS.reduce((sum, kind) => sum + work[kind] * this.#rates[kind], 0);
  }

  /** Takes in that `work` took `seconds`. Each rate is corrected by its share of what was expected. */
  learn(work: Work, seconds: number): void {
    const expected = this.seconds(work);
    if (seconds < SHORTEST_SECONDS || expected === 0) return;
    const ratio = seconds / expected;
    // slower than thought is believed at once, faster by halves: a kernel's compilation may have been in it
    const power = ratio > 1 ? 1 : 0.5;
    const shares = KINDS.map((kind) => work[kind] * this.#rates[kind] / expected);
    KINDS.forEach((kind, i) => this.#rates[kind] *= ratio ** (power * shares[i]));
  }
}
