/** Recipes: typed modules whose default export is a part of a Run. Flags override them; they override the defaults. */
import { pathToFileURL } from "node:url";
import { givenOptions, parseVerb } from "./arguments.ts";
import { exists } from "./files.ts";
import { dataFlags, deviceFlags, modelFlags, optimizerFlags, runFlags, scheduleFlags } from "./flags.ts";
import { DEFAULTS, type Run } from "./options.ts";
import { kebab } from "./verbs.ts";

/**
 * The run that flags, recipe, an earlier start and defaults make together.
 *
 * @param flags only what was given on the command line
 * @param saved what a resumed run was started with
 * @throws SyntaxError when the recipe has no object as its default export, or a field that a Run does not have
 */
export async function resolveRun(flags: Partial<Run>, recipePath?: string, saved: Partial<Run> = {}): Promise<Run> {
  const recipe = recipePath ? await loadRecipe(recipePath) : {};
  const asked = { ...saved, ...recipe, ...flags };
  const optimizer = asked.method === "lowrank" ? "adamw" : DEFAULTS.optimizer; // factors need no projection
  return { ...DEFAULTS, optimizer, ...asked };
}

async function loadRecipe(path: string): Promise<Partial<Run>> {
  const { default: recipe } = await importRecipe(path);
  if (typeof recipe !== "object" || recipe === null) {
    throw new SyntaxError(`Cannot use recipe ${path}: expected an object as its default export`);
  }
  const unknown = Object.keys(recipe).filter((key) => !(key in FIELDS));
  if (unknown.length > 0) throw new SyntaxError(`Cannot use recipe ${path}: a run has no ${unknown.join(", ")}`);
  return readFields(recipe, `recipe ${path}`);
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
};

/** Fields as flags would set them: a recipe may say what a flag may, and no more. */
function readFields(fields: object, what: string): Partial<Run> {
  const words = Object.entries(fields).filter(([, value]) => value !== undefined).flatMap(([key, value]) =>
    [value].flat().map((one) => `--${kebab(key)}=${one}`)
  );
  return givenOptions(parseVerb({ name: what, summary: "", example: "", flags: FIELDS }, words));
}
