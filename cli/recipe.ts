/** Recipes: typed modules whose default export is a part of a Run. Flags override them; they override the defaults. */
import { DEFAULTS, type Run } from "./options.ts";

/**
 * The run that flags, recipe and defaults make together.
 *
 * @param flags only what was given on the command line
 * @throws SyntaxError when the recipe has no object as its default export, or a field that a Run does not have
 */
export async function resolveRun(flags: Partial<Run>, recipePath?: string): Promise<Run> {
  const recipe = recipePath ? await loadRecipe(recipePath) : {};
  return { ...DEFAULTS, ...recipe, ...flags };
}

async function loadRecipe(path: string): Promise<Partial<Run>> {
  const url = /^[a-z]+:\/\//.test(path) ? path : new URL(path, `file://${Deno.cwd()}/`).href;
  const module = await import(url);
  const recipe = module.default;
  if (typeof recipe !== "object" || recipe === null) {
    throw new SyntaxError(`Cannot use recipe ${path}: expected an object as its default export`);
  }
  const known = new Set([...Object.keys(DEFAULTS), ...OPTIONAL]);
  const unknown = Object.keys(recipe).filter((key) => !known.has(key));
  if (unknown.length > 0) throw new SyntaxError(`Cannot use recipe ${path}: a run has no ${unknown.join(", ")}`);
  return recipe;
}

/** Fields of a Run that have no default. */
const OPTIONAL: readonly (keyof Run)[] = [
  "rank",
  "lr",
  "eps",
  "convention",
  "warmup",
  "tokenizer",
  "vocab",
  "threads",
  "memoryLimit",
  "out",
  "prompt",
];
