/** A hundred steps of the soak that `deno task test:long` runs for 2,000: nothing is left over at step boundaries. */
import assert from "node:assert/strict";
import { byteTokenizer, prepareStore } from "../data/mod.ts";
import { driftsOf, soak } from "./testing/soak.ts";
import { Workspace } from "./testing/workspace.ts";

Deno.test("trainLoop() leaves no tensor behind when it runs for a hundred steps", async () => {
  await using _workspace = await Workspace.open();
  await prepareStore({ inputs: "corpus.txt", tokenizer: byteTokenizer(), seq: 16, out: "store" });
  const samples = await soak({ store: "store", steps: 100, every: 10, threads: 2 });
  assert.equal(samples.length, 10);
  assert.deepEqual(driftsOf(samples, Infinity), []);
  assert.ok(samples[9].loss < samples[0].loss);
});
