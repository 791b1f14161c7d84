/** Results that a study which was stopped goes on from: a file for each run, written once it is over. */
import { writeFileDurably } from "../durable.ts";
import { exists, join } from "../files.ts";

/**
 * What an earlier call found under this name, or what `measure` finds now. The run's folder, new to `measure`, goes when
 * the result is kept.
 *
 * @param folder the study's
 * @param name of the run: every choice that the result depends on
 */
export async function keptResult<T>(
  { folder, name }: { readonly folder: string; readonly name: string },
  measure: (run: string) => Promise<T>,
): Promise<T> {
  const run = join(folder, name);
  const file = `${run}.json`;
  if (await exists(file)) return JSON.parse(await Deno.readTextFile(file));
  if (await exists(run)) await Deno.remove(run, { recursive: true });
  const result = await measure(run);
  await writeFileDurably(file, JSON.stringify(result) + "\n");
  await Deno.remove(run, { recursive: true });
  return result;
}

/** The mean of at least one value. */
export function meanOf(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

/** A share as a percentage with a decimal; nothing for none. */
export function percent(part: number | undefined): string {
  return part === undefined ? "" : `${(100 * part).toFixed(1)}%`;
}
