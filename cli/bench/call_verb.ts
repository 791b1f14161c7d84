/** A verb of the command line, run in this process by a study, which reads what it printed. */
import { memoryOutput, type Output } from "../log.ts";
import { main } from "../main.ts";

/**
 * Runs a verb; what it printed.
 *
 * @param argv its words, or a line of words without spaces inside
 * @param shown also told what it says while it runs
 * @throws Error with what it complained of
 */
export async function callVerb(argv: string | readonly string[], shown?: Output): Promise<string> {
  const words = typeof argv === "string" ? argv.split(" ") : argv;
  const kept = memoryOutput();
  const code = await main(words, {
    ...kept,
    out: (text) => kept.out(text),
    err: (text) => {
      kept.err(text);
      shown?.err(text);
    },
  });
  if (code !== 0) throw new Error(`Cannot run ${words.join(" ")}: ${kept.errText.trim().split("\n").at(-1)}`);
  return kept.outText;
}
