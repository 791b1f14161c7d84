/** The study of visual prompts, small: its runs, its table, and that it goes on where it stopped. */
import assert from "node:assert/strict";
import { namesIn } from "../durable.ts";
import { memoryOutput } from "../log.ts";
import { writeTinyImages } from "../testing/tiny_images.ts";
import { fingerprint, Workspace } from "../testing/workspace.ts";
import { study } from "./vit_study.ts";

Deno.test("study() adapts in every way that it is asked for, and does again only what is gone", async () => {
  await using _ = await Workspace.open();
  await writeTinyImages("stripes.zarr", { count: 90, side: 28 });
  const flags = "--images images.idx --labels labels.idx --out out --known 0,1 --novel 1,2 --per-class 4 --steps 1 " +
    "--epochs 1 --warmup 0 --seeds 2 --only linear,full --threads 1";
  const first = memoryOutput();
  await study(flags.split(" "), first);
  const files = await namesIn("out");
  // rates at seed 1: four of the head's, three of all weights'; the best again at seed 2
  assert.equal(files.filter((name) => name.endsWith(".json")).length, 4 + 1 + 3 + 1);
  const [head, ...rows] = first.outText.trim().split("\n");
  assert.match(head, /^way +rate +seed 1 +seed 2 +mean +trained +share +optimizer +bytes a task +images\/s$/);
  assert.deepEqual(rows.map((row) => row.split(" ")[0]), ["linear", "full"]);
  assert.match(rows[0], / 130 +\d\.\d+% /); // two labels of 64 weights and a bias
  assert.match(rows[1], / 100\.00% /);
  const other = memoryOutput();
  await study([...flags.replace("--out out", "--out other").split(" "), "--rates-of", "out"], other);
  assert.equal((await namesIn("other")).filter((name) => name.endsWith(".json")).length, 2 * 2);
  const ratesIn = (text: string) => text.trim().split("\n").map((row) => row.split(/ {2,}/)[1]);
  assert.deepEqual(ratesIn(other.outText), ratesIn(first.outText));
  const before = await fingerprint("out");
  await Deno.remove(`out/${files.find((name) => name.startsWith("full-") && name.endsWith("seed-2.json"))}`);
  const again = memoryOutput();
  await study(flags.split(" "), again);
  assert.equal(again.errText.trim().split("\n").length, 1, again.errText);
  assert.deepEqual(Object.keys(await fingerprint("out")), Object.keys(before));
});
