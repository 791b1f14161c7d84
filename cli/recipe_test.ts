/** Recipes: the ones that come with Lowrank, and what is refused. */
import assert from "node:assert/strict";
import { DEFAULTS } from "./options.ts";
import { resolveRun } from "./recipe.ts";

/** Runs with a recipe of this source in a fresh folder. */
async function withRecipe(source: string, body: (path: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir({ prefix: "lowrank recipe #" });
  try {
    await Deno.writeTextFile(`${folder}/recipe.ts`, source);
    await body(`${folder}/recipe.ts`);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

Deno.test("resolveRun() takes flags before the recipe, and that before the run resumed and the defaults", async () => {
  await withRecipe(
    "export default { steps: 20, batch: 2, freeze: ['mlp', 'norm'], overfitBatch: false };",
    async (path) => {
      const run = await resolveRun({ batch: 3 }, path, { steps: 10, batch: 1, seq: 7 });
      assert.deepEqual([run.batch, run.steps, run.seq, run.lr, run.seed], [3, 20, 7, undefined, DEFAULTS.seed]);
      assert.deepEqual([run.freeze, run.overfitBatch], [["mlp", "norm"], false]);
    },
  );
});

Deno.test("resolveRun() reads every recipe that comes with Lowrank", async () => {
  const folder = new URL("recipes/", import.meta.url);
  for await (const { name } of Deno.readDir(folder)) {
    const [, verb] = /arXiv[^]*deno task (train|finetune) --config/.exec(
      await Deno.readTextFile(new URL(name, folder)),
    )!;
    if (verb === "finetune") continue;
    const run = await resolveRun({}, new URL(name, folder).href);
    assert.equal(run.optimizer, "galore_adamw", name);
  }
});

const REFUSED: [string, string, RegExp][] = [
  ["has an unknown field", "export default { step: 20 };", /^Cannot use recipe .*recipe\.ts: a run has no step$/],
  ["exports no object", "export default 3;", /^Cannot use recipe .*: expected an object as its default export$/],
  ["exports nothing", "export const steps = 3;", /^Cannot use recipe .*: expected an object as its default export$/],
  ["does not parse", "export default {", /^Cannot use recipe .*recipe\.ts: /],
  ["throws", "throw new Error('no luck');", /^Cannot use recipe .*recipe\.ts: no luck$/],
  [
    "has a value of another kind",
    "export default { steps: 'many' };",
    /^Cannot use --steps in recipe .*: expected a whole number of at least 1, got "many"$/,
  ],
  [
    "names no optimizer",
    "export default { optimizer: 'galore_adam' };",
    /^Cannot use --optimizer in recipe .*: expected one of .* did you mean galore_adamw\?$/,
  ],
];

for (const [condition, source, message] of REFUSED) {
  Deno.test(`resolveRun() throws when the recipe ${condition}`, async () => {
    await withRecipe(source, async (path) => {
      await assert.rejects(resolveRun({}, path), (error: Error) => {
        assert.match(error.message.split("\n")[0], message);
        return true;
      });
    });
  });
}

Deno.test("resolveRun() throws when there is no recipe", async () => {
  await assert.rejects(
    resolveRun({}, "nothing.ts"),
    /^RangeError: Cannot use recipe nothing\.ts: there is no such file$/,
  );
});
