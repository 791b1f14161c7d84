/** A run that stops and goes on is the run that never stopped, bit for bit; anything that would make it another is refused. */
import assert from "node:assert/strict";
import { hashFile, namesIn } from "./durable.ts";
import { fingerprint, stepRows, tinyConfig, Workspace, writeTinyModel } from "./testing/workspace.ts";

/** Copies a run as it was after `step`, with what a writer that dies leaves behind. */
async function stopAfter(run: string, step: number, to: string): Promise<void> {
  await Deno.mkdir(`${to}/checkpoints`, { recursive: true });
  await copyFolder(`${run}/checkpoints/step-${step}`, `${to}/checkpoints/step-${step}`);
  await Deno.copyFile(`${run}/config.json`, `${to}/config.json`);
  const rows = await Deno.readTextFile(`${run}/metrics.jsonl`);
  await Deno.writeTextFile(`${to}/metrics.jsonl`, rows + '{"step":99,"lo');
  await Deno.mkdir(`${to}/checkpoints/.tmp-step-${step + 1}-dead`);
}

async function copyFolder(from: string, to: string): Promise<void> {
  await Deno.mkdir(to, { recursive: true });
  for (const name of await namesIn(from)) await Deno.copyFile(`${from}/${name}`, `${to}/${name}`);
}

/** What must be equal: figures that do not depend on the clock, weights and optimizer. */
async function essence(run: string, last: number): Promise<unknown> {
  const rows = (await stepRows(run)).map(({ step, loss, lr, gradNorm, tokens }) => [step, loss, lr, gradNorm, tokens]);
  const folder = `${run}/checkpoints/step-${last}`;
  return [rows, await hashFile(`${folder}/model.safetensors`), await hashFile(`${folder}/optimizer.safetensors`)];
}

const EVERY_STEP = ["--save-every", "1", "--keep", "99"];

/** With a gap of 4, bases are renewed at steps 1, 5 and 9. */
const RUNS: [string, string[], number[]][] = [
  ["galore_adamw", [], [2, 4, 5, 7, 8]],
  ["galore_adamw, two micro-batches, exact bases", ["--grad-accum", "2", "--basis", "exact"], [3, 4]],
  ["galore_sgd on both sides", ["--optimizer", "galore_sgd", "--momentum", "0.9", "--proj-type", "full"], [6]],
  ["adamw", ["--optimizer", "adamw", "--weight-decay", "0.1", "--warmup", "4"], [3]],
  ["sgd with momentum", ["--optimizer", "sgd", "--momentum", "0.9", "--clip", "0"], [4]],
  ["galore_adamw on one batch", ["--overfit-batch"], [5]],
  ["adam, frozen embeddings, accumulating", ["--optimizer", "adam", "--freeze", "embed", "--grad-accum", "2"], [5]],
];

/** Wide enough for its moments to be stored in 8 bits. */
const ROOMY = ["--model", "roomy", "--rank", "48", "--optimizer"];

const FAMILY: [string, string[], number[]][] = [
  ["galore_adamw_8bit", [...ROOMY, "galore_adamw_8bit"], [2, 4]],
  ["galore_adamw_8bit, layer by layer, blocks of 2048, transported", [
    ...ROOMY,
    ...["galore_adamw_8bit", "--per-layer", "--clip", "0", "--state-block", "2048", "--moments", "transport"],
  ], [5, 7]],
  ["galore_adamw, layer by layer, clipped, accumulating", ["--per-layer", "--grad-accum", "2"], [4]],
  ["galore_adamw, two micro-batches, exact norm", ["--grad-accum", "2", "--clip-exact"], [6]],
  ["galore_adafactor", ["--optimizer", "galore_adafactor", "--weight-decay", "0.1"], [4]],
  ["q_galore", [...ROOMY, "q_galore"], [1, 6]],
  ["fira", ["--optimizer", "fira"], [5]],
  ["apollo", ["--optimizer", "apollo", "--states", "bf16", "--model", "roomy", "--rank", "48"], [4, 5]],
  ["apollo_mini", ["--optimizer", "apollo_mini"], [3]],
  ["adamw_8bit", [...ROOMY.slice(0, 2), "--optimizer", "adamw_8bit"], [3]],
  ["adamw in bf16 states", [...ROOMY.slice(0, 2), "--optimizer", "adamw", "--states", "bf16"], [3]],
  ["adafactor at its own rate", ["--optimizer", "adafactor", "--relative-step", "--scale-parameter"], [3]],
  ["muon", ["--optimizer", "muon"], [3]],
];

for (const [what, flags, stops] of [...RUNS, ...FAMILY]) {
  Deno.test(`train() gives the same bits when resumed: ${what}`, async () => {
    await using workspace = await Workspace.open();
    await writeTinyModel("roomy", { config: tinyConfig({ hidden_size: 96, intermediate_size: 128, head_dim: 48 }) });
    const whole = await workspace.train("--out", "whole", "--steps", "10", ...EVERY_STEP, ...flags);
    assert.equal(whole.code, 0, whole.err);
    const expected = await essence("whole", 10);
    for (const step of stops) {
      const run = `stopped-${step}`;
      await stopAfter("whole", step, run);
      const { code, err } = await workspace.run("train", "--resume", run);
      assert.equal(code, 0, err);
      assert.match(err, new RegExp(`going on after step ${step}\n`));
      assert.deepEqual(await essence(run, 10), expected, `after step ${step}`);
      assert.deepEqual((await namesIn(`${run}/checkpoints`)).filter((name) => name.startsWith(".")), []);
    }
  });
}

Deno.test("train() takes the latest run when --resume has no value", async () => {
  await using workspace = await Workspace.open();
  for (const steps of ["2", "3"]) assert.equal((await workspace.train("--steps", steps)).code, 0);
  const { code, err } = await workspace.run("train", "--resume", "--steps", "4");
  assert.equal(code, 0, err);
  assert.match(err, /going on after step 3\n/);
  const [older, newer] = await namesIn("runs");
  assert.deepEqual([(await stepRows(`runs/${older}`)).length, (await stepRows(`runs/${newer}`)).length], [2, 4]);
});

Deno.test("train() goes on beyond the steps of its first start when resumed with more", async () => {
  await using workspace = await Workspace.open();
  const flags = ["--schedule", "constant"];
  assert.equal((await workspace.train("--out", "short", "--steps", "5", ...flags)).code, 0);
  assert.equal((await workspace.train("--out", "long", "--steps", "9", ...flags)).code, 0);
  const { code, err } = await workspace.run("train", "--resume", "short", "--steps", "9");
  assert.equal(code, 0, err);
  assert.deepEqual(await essence("short", 9), await essence("long", 9));
});

Deno.test("train() does nothing but report when the run resumed has reached its end", async () => {
  await using workspace = await Workspace.open();
  assert.equal((await workspace.train("--out", "run")).code, 0);
  const before = await essence("run", 6);
  const { code, err } = await workspace.run("train", "--resume", "run");
  assert.equal(code, 0, err);
  assert.deepEqual(await essence("run", 6), before);
});

Deno.test("train() falls back to an older checkpoint when the newest is damaged", async () => {
  await using workspace = await Workspace.open();
  assert.equal((await workspace.train("--out", "run", "--steps", "6", "--save-every", "3")).code, 0);
  const expected = await essence("run", 6);
  const file = "run/checkpoints/step-6/optimizer.safetensors";
  const bytes = await Deno.readFile(file);
  bytes[bytes.length - 100] ^= 1;
  await Deno.writeFile(file, bytes);
  const { code, err } = await workspace.run("train", "--resume", "run");
  assert.equal(code, 0, err);
  assert.match(err, /^warning: passing over run\/checkpoints\/step-6: optimizer\.safetensors: expected SHA-256/m);
  assert.match(err, /going on after step 3\n/);
  assert.deepEqual(await essence("run", 6), expected);
});

Deno.test("train() refuses to resume when no checkpoint verifies", async () => {
  await using workspace = await Workspace.open();
  assert.equal((await workspace.train("--out", "run")).code, 0);
  await Deno.truncate("run/checkpoints/step-6/model.safetensors", 1000);
  const before = await fingerprint();
  const { code, err } = await workspace.run("train", "--resume", "run");
  assert.equal(code, 1);
  assert.match(err, /^Cannot resume run: it has no checkpoint that verifies/m);
  assert.deepEqual(await fingerprint(), before);
});

const DIFFERENT: [string, string[], RegExp][] = [
  ["rank", ["--rank", "8"], /rank was 4, is 8$/],
  ["batch", ["--batch", "2"], /batch was 4, is 2$/],
  ["sequence length", ["--seq", "8"], /seq was 16, is 8$/],
  ["optimizer", ["--optimizer", "adamw"], /optimizer was "galore_adamw", is "adamw"; rank was 4, is null$/],
  ["architecture", ["--model", "wide"], /model\.hidden_size was 32, is 40; model\.intermediate_size was 48, is 56/],
  ["seed", ["--seed", "2"], /seed was 1, is 2$/],
  ["data", ["--data", "other.txt"], /data was \["\w{64}"\], is \["\w{64}"\]$/],
  ["held-out part", ["--hold-out", "0.2"], /holdOut was 0\.1, is 0\.2$/],
];

Deno.test("train() prints the difference and changes nothing when resumed as another run", async () => {
  await using workspace = await Workspace.open();
  await writeTinyModel("wide", { config: tinyConfig({ hidden_size: 40, intermediate_size: 56, head_dim: 20 }) });
  await Deno.writeTextFile("other.txt", (await Deno.readTextFile("corpus.txt")).toUpperCase());
  assert.equal((await workspace.train("--out", "run")).code, 0);
  const before = await fingerprint("run");
  for (const [what, flags, difference] of DIFFERENT) {
    const { code, err } = await workspace.run("train", "--resume", "run", ...flags);
    const [last] = err.trimEnd().split("\n").slice(-1);
    assert.equal(code, 1, `${what}: ${err}`);
    assert.match(last, /^Cannot resume run: the run differs: /, what);
    assert.match(last, difference, what);
    assert.deepEqual(await fingerprint("run"), before, what);
  }
});

Deno.test("train() refuses to resume what is no run", async () => {
  await using workspace = await Workspace.open();
  for (const [path, why] of [["nowhere", "there is no such folder"], ["tiny", "it holds no run"]]) {
    const { code, err } = await workspace.run("train", "--resume", path);
    assert.deepEqual([code, err], [1, `Cannot resume ${path}: ${why}\n`]);
  }
  const { code, err } = await workspace.run("train", "--resume");
  assert.deepEqual([code, err], [
    1,
    "Cannot resume: no run in runs/ has a checkpoint; name one with --resume FOLDER\n",
  ]);
});
