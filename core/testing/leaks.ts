/** Memory that must come back: a backend's own count before and after. */
import assert from "node:assert/strict";
import type { Backend } from "../backend.ts";

/** Asserts that `run` leaves as many bytes and buffers on `backend` as it found. Returns what `run` returns. */
export async function assertNoLeak<T>(what: string, backend: Backend, run: () => T | Promise<T>): Promise<T> {
  const before = backend.memory();
  const result = await run();
  const after = backend.memory();
  assert.equal(after.live, before.live, `${what}: buffers left over (${after.inUse - before.inUse} bytes)`);
  assert.equal(after.inUse, before.inUse, `${what}: bytes left over`);
  return result;
}

/** The most bytes in use while `run` runs, beyond those in use before. */
export function peakBytes(backend: Backend, run: () => void): number {
  backend.resetPeak();
  const before = backend.memory().inUse;
  run();
  return backend.memory().peak - before;
}
