/**
 * The command line of Lowrank: `deno task VERB`. One clear line on stderr and exit code 1 for whatever goes wrong, 2 for
 * wrong usage, 130 where a signal ended what cannot be half done; a stack trace only with `--debug`.
 *
 * @module
 */
import { formatHelp, UsageError, type Verb, wantsHelp } from "./arguments.ts";
import { complete, completeVerb } from "./complete.ts";
import { doctor, doctorVerb } from "./doctor.ts";
import { evaluateVerb, evalVerb } from "./eval.ts";
import { finetune, finetuneVerb } from "./finetune.ts";
import { generate, generateVerb } from "./generate.ts";
import { consoleOutput, explainError, type Output } from "./log.ts";
import { plan, planVerb } from "./plan.ts";
import { prepare, prepareVerb } from "./prepare.ts";
import { EXIT_INTERRUPTED, InterruptedError } from "./signals.ts";
import { train, trainVerb } from "./train.ts";
import { findVerb, verbsHelp } from "./verbs.ts";
import { verify, verifyVerb } from "./verify.ts";

interface Command {
  readonly verb: Pick<Verb, "name" | "summary">;
  readonly help: () => string;
  readonly run: (argv: readonly string[], output: Output) => Promise<void>;
}

const COMMANDS: readonly Command[] = [
  { verb: trainVerb, help: () => formatHelp(trainVerb), run: train },
  { verb: finetuneVerb, help: () => formatHelp(finetuneVerb), run: finetune },
  { verb: prepareVerb, help: () => formatHelp(prepareVerb), run: prepare },
  { verb: evalVerb, help: () => formatHelp(evalVerb), run: evaluateVerb },
  { verb: generateVerb, help: () => formatHelp(generateVerb), run: generate },
  { verb: completeVerb, help: () => formatHelp(completeVerb), run: complete },
  { verb: planVerb, help: () => formatHelp(planVerb), run: plan },
  { verb: verifyVerb, help: () => formatHelp(verifyVerb), run: verify },
  { verb: doctorVerb, help: () => formatHelp(doctorVerb), run: doctor },
];

/** Runs a command line and gives the exit code. */
export async function main(argv: readonly string[], output: Output = consoleOutput()): Promise<number> {
  const debug = argv.includes("--debug");
  const [name, ...rest] = argv.filter((word) => word !== "--debug");
  try {
    const verbs = COMMANDS.map(({ verb }) => verb);
    if (name === undefined || name === "--help" || name === "-h" || name === "help") {
      output.out(verbsHelp(verbs));
      return 0;
    }
    const verb = findVerb(verbs, name);
    const command = COMMANDS.find((candidate) => candidate.verb === verb)!;
    if (wantsHelp(rest)) output.out(command.help());
    else await command.run(rest, output);
    return 0;
  } catch (error) {
    output.err(debug && error instanceof Error ? error.stack ?? error.message : explainError(error));
    return error instanceof UsageError ? 2 : error instanceof InterruptedError ? EXIT_INTERRUPTED : 1;
  }
}

if (import.meta.main) Deno.exit(await main(Deno.args));
