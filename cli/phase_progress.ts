/** Progress of a job with several phases whose totals are known only when each begins. */
import type { Output } from "./log.ts";
import { type Progress, showProgress } from "./progress.ts";

/** A bar a phase; disposing takes the last one off the screen. */
export class PhaseProgress implements Disposable {
  #phase: string | undefined;
  #progress: Progress | undefined;

  constructor(readonly output: Output) {}

  /** Shows how far a phase is; a new phase starts a new bar. */
  update(phase: string, done: number, total: number): void {
    if (phase !== this.#phase) {
      this.#progress?.[Symbol.dispose]();
      this.#phase = phase;
      this.#progress = showProgress(this.output, { label: phase, total });
    }
    this.#progress!.update(done);
  }

  [Symbol.dispose](): void {
    this.#progress?.[Symbol.dispose]();
    this.#progress = undefined;
  }
}
