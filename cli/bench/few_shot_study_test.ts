/** The few-shot study, small: its runs, its table and plot, and that it goes on where it stopped. */
import assert from "node:assert/strict";
import { namesIn } from "../durable.ts";
import { memoryOutput } from "../log.ts";
import { writeTinyRoberta, writeToyTask } from "../testing/tiny_roberta.ts";
import { fingerprint, Workspace } from "../testing/workspace.ts";
import { study } from "./few_shot_study.ts";

Deno.test("study() runs every method at every rank once, and again only what is gone", async () => {
  await using _ = await Workspace.open();
  await writeTinyRoberta("base");
  await writeToyTask("task");
  const flags =
    "--data task --model base --out out --sentences 8 --ranks 2,4 --seeds 1 --steps 2 --max-length 32 --threads 1"
      .split(
        " ",
      );
  const first = memoryOutput();
  await study(flags, first);
  const files = await namesIn("out");
  // three methods: three rates at rank 2, and the best again at rank 4
  assert.equal(files.filter((name) => name.endsWith(".json")).length, 12);
  assert.deepEqual(files.filter((name) => !name.endsWith(".json")), ["ranks-8.svg", "table.txt", "train-8-seed-1.tsv"]);
  const lines = first.outText.trim().split("\n");
  assert.match(lines[0], /^sentences +method +rank +rate +dev mean +\+- +seeds +rank learned$/);
  assert.deepEqual(lines.slice(1).map((line) => line.trim().split(/ {2,}/).slice(0, 3).join("; ")), [
    ...["8; Deep LoRA; 2", "8; Deep LoRA; 4", "8; LoRA, alpha 16; 2", "8; LoRA, alpha 16; 4"],
    ...["8; LoRA, alpha r; 2", "8; LoRA, alpha r; 4"],
  ]);
  const sentences = (await Deno.readTextFile("out/train-8-seed-1.tsv")).trim().split("\n");
  assert.deepEqual(sentences.slice(1).map((line) => line.split("\t")[1]), [..."00001111"]);
  assert.match(await Deno.readTextFile("out/ranks-8.svg"), /^<svg .*Deep LoRA/s);
  const before = await fingerprint("out");
  const gone = files.find((name) => name.startsWith("8-deep-lora-rank-4"))!;
  await Deno.remove(`out/${gone}`);
  const again = memoryOutput();
  await study(flags, again);
  assert.equal(again.errText.trim().split("\n").length, 1, again.errText);
  assert.deepEqual(await fingerprint("out"), before);
});
