/**
 * Computations that now and then need numbers from the device, written once and run in two ways: waiting for reads, or at
 * once where the host sees the memory. A generator yields the tensor whose numbers it wants and is handed them.
 */
import type { Tensor } from "../core/mod.ts";

/** Yields tensors to be read, whose ownership goes with them, and returns a result. */
export type Reading<T> = Generator<Tensor, T, ArrayLike<number>>;

/** Runs a computation to its end, waiting for each read. Call outside every scope. */
export async function finishReading<T>(reading: Reading<T>): Promise<T> {
  let next = reading.next();
  while (!next.done) {
    const tensor = next.value;
    let values: ArrayLike<number>;
    try {
      values = await tensor.read() as ArrayLike<number>;
    } catch (error) {
      next = reading.throw(error);
      continue;
    } finally {
      tensor.dispose();
    }
    next = reading.next(values);
  }
  return next.value;
}

/** Runs a computation to its end at once. @throws UnsupportedError where a read is wanted that must be waited for */
export function finishNow<T>(reading: Reading<T>): T {
  let next = reading.next();
  while (!next.done) {
    const tensor = next.value;
    let values: ArrayLike<number>;
    try {
      values = tensor.readSync() as ArrayLike<number>;
    } catch (error) {
      next = reading.throw(error);
      continue;
    } finally {
      tensor.dispose();
    }
    next = reading.next(values);
  }
  return next.value;
}
