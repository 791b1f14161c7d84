/** Runs on images that were cut go on with the same bits, those of `train` from drawn weights too. */
import assert from "node:assert/strict";
import { readMetrics } from "./metrics.ts";
import { FINETUNE_STRIPES, openStripes, runOnCpu } from "./testing/tiny_images.ts";
import { fingerprint, type Workspace } from "./testing/workspace.ts";

const RESUMED = [
  "--method vpt-deep --prompts 3 --prompt-dropout 0.1 --crop-padding 2 --flip",
  "--method linear --grad-accum 2",
  "--method galore --rank 4 --update-proj-gap 5",
];

for (const flags of RESUMED) {
  Deno.test(`finetune() gives the same bits on images when resumed: ${flags}`, async () => {
    await using workspace = await openStripes();
    const flagged = `${FINETUNE_STRIPES} ${flags} --epochs 4 --save-every 3 --eval-every 4 --keep 9`;
    await runOnCpu(workspace, `${flagged} --out whole`);
    await runOnCpu(workspace, `${flagged} --out cut`);
    await assertSameWhenCut(workspace, "finetune", 6);
  });
}

/** Takes the run `cut` back to a step, goes on, and holds it to the run `whole`. */
async function assertSameWhenCut(workspace: Workspace, verb: string, at: number): Promise<void> {
  const steps = [...Deno.readDirSync("cut/checkpoints")].map(({ name }) => Number(name.slice(5)));
  for (const step of steps) if (step > at) await Deno.remove(`cut/checkpoints/step-${step}`, { recursive: true });
  const { code, err } = await workspace.run(verb, "--resume", "cut");
  assert.equal(code, 0, err);
  assert.match(err, new RegExp(`going on after step ${at}`));
  const [whole, cut] = await Promise.all(
    ["whole", "cut"].map((name) => fingerprint(`${name}/checkpoints/step-${Math.max(...steps)}`)),
  );
  assert.deepEqual(Object.values(cut), Object.values(whole));
  const rows = async (name: string) =>
    (await readMetrics(`${name}/metrics.jsonl`)).map((row) => "loss" in row ? [row.step, row.loss] : row);
  assert.deepEqual(await rows("cut"), await rows("whole"));
}

Deno.test("train() trains a built-in ViT from drawn weights, and goes on with the same bits", async () => {
  await using workspace = await openStripes();
  const flags = "train --model vit-0.2m --data stripes.zarr --optimizer galore_adamw --rank 8 --update-proj-gap 5 " +
    "--batch 12 --steps 12 --save-every 4 --eval-every 6 --keep 9 --crop-padding 1";
  const { out, err } = await runOnCpu(workspace, `${flags} --out whole`);
  assert.match(out, /^accuracy \d\.\d+ at step \d+; trained parameters 20\d,\d+ \(100\.00%\)/);
  assert.match(err, /galore\(adamw\) rank 8/);
  const { run: saved, model } = JSON.parse(await Deno.readTextFile("whole/config.json"));
  assert.deepEqual([saved.task, saved.steps, saved.rank, model.image_size], ["images", 12, 8, 14]);
  const [first] = await readMetrics("whole/metrics.jsonl");
  assert.ok("loss" in first && Math.abs(first.loss - Math.log(3)) < 0.1, "new weights tell nothing");
  await runOnCpu(workspace, `${flags} --out cut`);
  await assertSameWhenCut(workspace, "train", 4);
  const folder = await runOnCpu(
    workspace,
    "train --model whole --data stripes.zarr --steps 2 --batch 12 --optimizer muon --out more",
  );
  assert.doesNotMatch(folder.err, /left aside|has no head/);
});

Deno.test("finetune() keeps the pictures of its report when a finished run is resumed, and tells images a second", async () => {
  await using workspace = await openStripes();
  const { err } = await runOnCpu(workspace, `${FINETUNE_STRIPES} --epochs 1 --lr 0.003 --out run`);
  assert.match(err, /^step +1\/5 \|.* \| [\d.]+ img\/s$/m);
  const report = await Deno.readTextFile("run/report.html");
  assert.match(report, / on images with full, adamw, batch 12, stripes\.zarr/);
  assert.match(report, /<h3>Images a second<\/h3>/);
  const again = await workspace.run("finetune", "--resume", "run");
  assert.equal(again.code, 0, again.err);
  const imagesOf = (html: string) => html.match(/<section><h2>(?:Images|Confusion)<[^]*?<\/section>/g);
  assert.equal(imagesOf(report)?.length, 2);
  assert.deepEqual(imagesOf(await Deno.readTextFile("run/report.html")), imagesOf(report));
});
