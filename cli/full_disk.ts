/** A full disk costs a run what was to be written, not its steps: it goes on, or comes to its end, and says so. */
import { DiskFullError } from "./durable.ts";
import type { Output } from "./log.ts";

/** Writes one after the other, whatever there was room for, and gives the first error of a full disk. Others are thrown. */
export async function diskFullIn(...writes: readonly (() => Promise<void>)[]): Promise<DiskFullError | undefined> {
  let first: DiskFullError | undefined;
  for (const write of writes) {
    try {
      await write();
    } catch (error) {
      if (!(error instanceof DiskFullError)) throw error;
      first ??= error;
    }
  }
  return first;
}

/** Writes what a run can go on without. */
export async function writeOrWarn(write: () => Promise<void>, output: Pick<Output, "err">): Promise<void> {
  const full = await diskFullIn(write);
  if (full) output.err(`warning: ${full.message}; training goes on`);
}
