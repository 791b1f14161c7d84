/**
 * Trying again, with full-jitter backoff: a random wait up to a bound that doubles, so that many readers do not return
 * together. Only a `ReadFault` that says so is tried again. Source: AWS Architecture Blog, "Exponential backoff and jitter" (2015).
 */

import { ReadFault } from "./source.ts";

/** How often, and how long to wait between. */
export interface RetryOptions {
  /** Attempts in all. Default 5. */
  readonly tries?: number;
  /** Bound of the first wait, in milliseconds. Default 500. */
  readonly baseMs?: number;
  /** Bound of any wait, a server's `Retry-After` included, in milliseconds. Default 30,000. */
  readonly capMs?: number;
  /** Waits; tests replace it. */
  readonly sleep?: (ms: number) => Promise<void>;
}

/** Runs `attempt` until it succeeds, fails for good, or was tried often enough; the last error tells how often. */
export async function withRetries<T>(attempt: () => Promise<T>, options: RetryOptions = {}): Promise<T> {
  const { tries = 5, baseMs = 500, capMs = 30_000, sleep = wait } = options;
  for (let tried = 1;; tried++) {
    try {
      return await attempt();
    } catch (error) {
      if (!(error instanceof ReadFault) || !error.retryable) throw error;
      if (tried >= tries) {
        throw tries === 1 ? error : new ReadFault(`${error.message} (tried ${tries} times)`, { cause: error });
      }
      const jittered = Math.random() * Math.min(capMs, baseMs * 2 ** (tried - 1));
      await sleep(Math.min(capMs, Math.max(jittered, error.retryAfterMs)));
    }
  }
}

function wait(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
