/** Recipes: typed modules whose default export is a part of a Run. Flags override them; they override the defaults. */
import { pathToFileURL } from "node:url";
import { type Flags, givenOptions, type Options, parseVerb } from "./arguments.ts";
import { exists } from "./files.ts";
import { dataFlags, deviceFlags, modelFlags, optimizerFlags, runFlags, scheduleFlags } from "./flags.ts";
import { DEFAULTS, type Run } from "./options.ts";
import { kebab } from "./verbs.ts";
import { imageFlags } from "./vision_options.ts";

/**
 * The run that flags, recipe, an earlier start and defaults make together.
 *
 * @param flags only what was given on the command line
 * @param saved what a resumed run was started with
 * @throws SyntaxError when the recipe has no object as its default export, or a field that a Run does not have
 */
export async function resolveRun(flags: Partial<Run>, recipePath?: string, saved: Partial<Run> = {}): Promise<Run> {
  const recipe: Partial<Run> = recipePath ? await loadRecipe(recipePath, FIELDS, flags) : {};
  const asked = { ...saved, ...recipe, ...flags };
  const { method = DEFAULTS.method } = asked;
  const optimizer = method === "full" ? DEFAULTS.optimizer : "adamw"; // factors need no projection
  return { ...DEFAULTS, optimizer, ...asked };
}

/**
 * What a recipe says: its default export, or what that makes of the flags where it is a function.
 *
 * @param fields what it may say, as flags
 * @throws SyntaxError as `resolveRun`
 */
export async function loadRecipe<F extends Flags>(
  path: string,
  fields: F,
  given: object,
): Promise<Partial<Options<F>>> {
  const { default: exported } = await importRecipe(path);
  const recipe: unknown = typeof exported === "function" ? await exported(given) : exported;
  if (typeof recipe !== "object" || recipe === null) {
    throw new SyntaxError(`Cannot use recipe ${path}: expected an object as its default export`);
  }
  const unknown = Object.keys(recipe).filter((key) => !(key in fields));
  if (unknown.length > 0) throw new SyntaxError(`Cannot use recipe ${path}: a run has no ${unknown.join(", ")}`);
  return readFields(recipe, `recipe ${path}`, fields);
}

/** What is wrong inside a recipe is told with its path, in one line. */
async function importRecipe(path: string): Promise<{ default?: unknown }> {
  const isUrl = /^[a-z]+:\/\//.test(path);
  if (!isUrl && !await exists(path)) throw new RangeError(`Cannot use recipe ${path}: there is no such file`);
  try {
    return await import(isUrl ? path : pathToFileURL(path).href);
  } catch (cause) {
    if (cause instanceof Deno.errors.NotCapable) throw cause;
    throw new SyntaxError(`Cannot use recipe ${path}: ${(cause as Error).message}`, { cause });
  }
}

const { config: _config, resume: _resume, dryRun: _dryRun, ...outcomeFlags } = runFlags;
const FIELDS = {
  ...modelFlags,
  ...dataFlags,
  ...optimizerFlags,
  ...scheduleFlags,
  ...deviceFlags,
  ...outcomeFlags,
  ...imageFlags,
};

/** Fields as flags would set them: a recipe may say what a flag may, and no more. */
function readFields<F extends Flags>(recipe: object, what: string, flags: F): Partial<Options<F>> {
  const words = Object.entries(recipe).filter(([, value]) => value !== undefined).flatMap(([key, value]) =>
    [value].flat().map((one) => `--${kebab(key)}=${one}`)
  );
  return givenOptions(parseVerb({ name: what, summary: "", example: "", flags }, words));
}
