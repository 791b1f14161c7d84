/** The study of fine-tuning, small: its runs, its baseline, its table, and that it goes on where it stopped. */
import assert from "node:assert/strict";
import { namesIn } from "../durable.ts";
import { memoryOutput } from "../log.ts";
import { writeToyTask } from "../testing/tiny_roberta.ts";
import { fingerprint, Workspace } from "../testing/workspace.ts";
import { study } from "./sst2_study.ts";

Deno.test("study() pre-trains, fine-tunes in every way that it is asked for, and does again only what is gone", async () => {
  await using _ = await Workspace.open();
  await writeToyTask("task", { train: 24, dev: 12 });
  const flags = "--data task --out out --steps 1 --epochs 1 --warmup 0 --only linear --threads 1";
  const first = memoryOutput();
  await study(flags.split(" "), first);
  const files = await namesIn("out");
  // two methods, two rates at seed 1, and the best again at seeds 2 and 3
  assert.equal(files.filter((name) => name.endsWith(".json")).length, 2 * 4);
  assert.match(first.errText, /^bag of words: \d+\.\d% of dev with penalty /);
  const [head, ...rows] = first.outText.trim().split("\n");
  assert.match(head, /^method +rate +seed 1 +seed 2 +seed 3 +dev mean +test mean +trained +optimizer +sentences\/s$/);
  assert.deepEqual(rows.map((row) => row.split(/ {2,}/)[0]), ["linear lora r=8", "linear dora r=8", "bag of words"]);
  const before = await fingerprint("out");
  await Deno.remove(`out/${files.find((name) => name.startsWith("linear-dora") && name.endsWith("seed-3.json"))}`);
  const again = memoryOutput();
  await study(flags.split(" "), again);
  assert.equal(again.errText.trim().split("\n").length, 2, again.errText); // the baseline, and the one that was gone
  assert.deepEqual(Object.keys(await fingerprint("out")), Object.keys(before));
});
