/** Flags that only some ways to run a verb have a use for: what was given in vain is refused rather than ignored. */
import { kebab } from "./verbs.ts";

/** By flag: what it is for, in words of which some say what is run. A flag that is not here is for everything. */
export type FlagUses = Readonly<Partial<Record<string, readonly string[]>>>;

/**
 * Refuses the first flag that has no use in what is run.
 *
 * @param given names of the flags that the user gave
 * @param isNow whether one of the table's words says what is run
 * @param where says it in the message: "with --method full"
 * @throws RangeError with what the flag is for
 */
export function checkUses(
  given: Iterable<string>,
  uses: FlagUses,
  isNow: (use: string) => boolean,
  where: string,
): void {
  for (const key of given) {
    const known = uses[key];
    if (known === undefined || known.some(isNow)) continue;
    throw new RangeError(`Cannot use --${kebab(key)} ${where}: it is for ${known.join(", ")}`);
  }
}
