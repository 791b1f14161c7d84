/**
 * One worker that reads batches, in the order it was asked. The worker module is the caller's: it takes `{ open }` once and
 * then `{ index }`, and answers `{ batch }` or `{ error }`.
 */
import { type PackedError, unpackError } from "./errors.ts";

/** What a reading thread is told. */
export type ReadRequest<Options> = { readonly open: Options } | { readonly index: number };

/** What it says. */
export type ReadAnswer<Batch> = { readonly batch: Batch } | { readonly error: PackedError };

interface Waiting<Batch> {
  readonly resolve: (batch: Batch) => void;
  readonly reject: (error: unknown) => void;
}

/** A worker and who waits for it. */
export class ThreadReader<Options, Batch> {
  readonly #waiting: Waiting<Batch>[] = [];
  #broken: Error | undefined;

  /** @param what is read, in the plural, for messages */
  constructor(readonly worker: Worker, options: Options, readonly what: string) {
    worker.onmessage = ({ data }: MessageEvent<ReadAnswer<Batch>>) => {
      const waiting = this.#waiting.shift()!;
      if ("batch" in data) waiting.resolve(data.batch);
      else waiting.reject(unpackError(data.error));
    };
    worker.onerror = (event) => {
      event.preventDefault();
      this.#fail(new Error(`Cannot read ${what}: a reader stopped: ${event.message}`));
    };
    this.#send({ open: options });
  }

  read(index: number): Promise<Batch> {
    if (this.#broken) return Promise.reject(this.#broken);
    return new Promise((resolve, reject) => {
      this.#waiting.push({ resolve, reject });
      this.#send({ index });
    });
  }

  close(): void {
    this.worker.terminate();
    this.#fail(closedError(this.what));
  }

  #send(request: ReadRequest<Options>): void {
    this.worker.postMessage(request);
  }

  #fail(error: Error): void {
    this.#broken = error;
    for (const { reject } of this.#waiting.splice(0)) reject(error);
  }
}

/** What whoever waits is told when batches are closed. */
export function closedError(what: string): Error {
  return new Error(`Cannot read ${what}: they were closed`);
}
