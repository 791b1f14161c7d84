/**
 * What went wrong on the device. WebGPU reports late and elsewhere: through error scopes, events and a promise for the
 * lost device. Everything lands here; the first report is the one that counts, and the next call that could trust the
 * device throws it.
 */
import { DeviceError } from "../../core/errors.ts";

/** Collects reports from a device. */
export class Faults {
  #first: Error | undefined;
  readonly #pending = new Set<Promise<void>>();
  readonly #waiting = new Set<(error: Error) => void>();

  /** Records a report; only the first is kept. */
  report(error: Error): void {
    if (this.#first) return;
    this.#first = error;
    for (const reject of this.#waiting) reject(error);
    this.#waiting.clear();
  }

  /** @throws the first report */
  check(): void {
    if (this.#first) throw this.#first;
  }

  /** Runs `make` in error scopes; what they catch is reported under `what`. */
  scoped<T>(device: GPUDevice, what: string, make: () => T): T {
    const filters = ["validation", "out-of-memory"] as const;
    for (const filter of filters) device.pushErrorScope(filter);
    try {
      return make();
    } finally {
      for (const filter of filters.toReversed()) this.#watch(device.popErrorScope(), filter, what);
    }
  }

  #watch(scope: Promise<GPUError | null>, filter: string, what: string): void {
    const done = scope.then(
      (error) => {
        if (error) this.report(new DeviceError(`Cannot ${what}: ${filter} error: ${oneLine(error.message)}`));
      },
      () => {}, // a lost device answers no scope; it is reported by itself
    ).finally(() => this.#pending.delete(done));
    this.#pending.add(done);
  }

  /** Resolves when every open scope has answered. @throws the first report */
  async settled(): Promise<void> {
    await Promise.all(this.#pending);
    this.check();
  }

  /** `work`, or the first report if it comes sooner: a lost device may leave a promise hanging. */
  async unlessFaulty<T>(work: Promise<T>): Promise<T> {
    this.check();
    let reject!: (error: Error) => void;
    const failed = new Promise<never>((_, no) => reject = no);
    this.#waiting.add(reject);
    try {
      return await Promise.race([work, failed]);
    } finally {
      this.#waiting.delete(reject);
    }
  }
}

/** A driver's message without its line breaks. */
export function oneLine(message: string): string {
  return message.replace(/\s+/g, " ").trim();
}
