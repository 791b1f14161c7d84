/**
 * Ctrl-C and SIGTERM as a flag: the loop finishes its step, writes a checkpoint and leaves. A second signal exits at
 * once, which still cannot tear a checkpoint (see `durable.ts`).
 */

/** How a watch reacts; replaced in tests. */
export interface SignalOptions {
  /** Told once, at the first signal. */
  readonly onStop?: (signal: Deno.Signal) => void;
  /** Ends the process. */
  readonly exit?: (code: number) => void;
  /** Adds and removes listeners. */
  readonly source?: SignalSource;
}

/** Where signals come from. */
export interface SignalSource {
  add(signal: Deno.Signal, listener: () => void): void;
  remove(signal: Deno.Signal, listener: () => void): void;
}

const PROCESS: SignalSource = {
  add: (signal, listener) => Deno.addSignalListener(signal, listener),
  remove: (signal, listener) => Deno.removeSignalListener(signal, listener),
};

/** Exit code after the second signal, or where the first leaves nothing: 128 + SIGINT, as shells give it. */
export const EXIT_INTERRUPTED = 130;

/** Work that a signal has ended, with nothing left of it. */
export class InterruptedError extends Error {
  override readonly name = "InterruptedError";
}

/**
 * Does work that the first signal ends, for verbs that cannot keep half of it.
 *
 * @param what is done, for messages: `prepare a.zarr`
 * @throws InterruptedError where `work` obeyed the signal; whatever it throws otherwise
 */
export async function untilStopped<T>(
  what: string,
  work: (signal: AbortSignal) => Promise<T>,
  { onStop, ...options }: SignalOptions = {},
): Promise<T> {
  const abort = new AbortController();
  using _stop = new StopWatch({
    ...options,
    onStop: (signal) => {
      onStop?.(signal);
      abort.abort(new InterruptedError(`Cannot ${what}: stopped by ${signal}, and what was written is removed`));
    },
  });
  return await work(abort.signal);
}

/** Listens until disposed. Signals arrive only between macrotasks, so the loop must yield one a step. */
export class StopWatch implements Disposable {
  #signal: Deno.Signal | undefined;
  readonly #listeners: [Deno.Signal, () => void][] = [];
  readonly #source: SignalSource;

  constructor({ onStop, exit = Deno.exit, source = PROCESS }: SignalOptions = {}) {
    this.#source = source;
    // Windows knows SIGINT and SIGBREAK; asking for SIGTERM there throws.
    const signals: Deno.Signal[] = Deno.build.os === "windows" ? ["SIGINT", "SIGBREAK"] : ["SIGINT", "SIGTERM"];
    for (const signal of signals) {
      const listener = () => {
        if (this.#signal !== undefined) return exit(EXIT_INTERRUPTED);
        this.#signal = signal;
        onStop?.(signal);
      };
      source.add(signal, listener);
      this.#listeners.push([signal, listener]);
    }
  }

  /** Whether a signal has come. */
  get stopRequested(): boolean {
    return this.#signal !== undefined;
  }

  /** The first signal that came. */
  get signal(): Deno.Signal | undefined {
    return this.#signal;
  }

  /** Removes the listeners: the next signal ends the process as usual. */
  [Symbol.dispose](): void {
    for (const [signal, listener] of this.#listeners.splice(0)) this.#source.remove(signal, listener);
  }
}
