/** `--modules-to-save`: modules that are trained whole beside an adapter's factors, stored in its files and loaded again. */
import assert from "node:assert/strict";
import { loopsBackend } from "../backends/cpu/mod.ts";
import type { Params } from "../core/mod.ts";
import { loadPeft } from "../models/mod.ts";
import { loadModel } from "./checkpoint.ts";
import { FileFolder } from "./files.ts";
import { loadRoberta } from "./roberta_folder.ts";
import { writeTinyChat } from "./testing/tiny_chat.ts";
import { writeTinyRoberta, writeToyTask } from "./testing/tiny_roberta.ts";
import { fingerprint, type Outcome, Workspace } from "./testing/workspace.ts";

const DEVICE = "--device cpu --threads 1 --blas off".split(" ");
const WORDS = "roberta.embeddings.word_embeddings.weight";

async function openToy(): Promise<Workspace> {
  const workspace = await Workspace.open();
  await writeTinyRoberta("base", { head: "classification" });
  await writeToyTask("task");
  return workspace;
}

async function run(workspace: Workspace, argv: string): Promise<Outcome> {
  const outcome = await workspace.run(...argv.split(" "), ...DEVICE);
  assert.equal(outcome.code, 0, outcome.err);
  return outcome;
}

/** Rows of a table that differ in two models. */
async function changedRows(one: Params, other: Params, name: string): Promise<number> {
  const [a, b] = await Promise.all([one, other].map((params) => params.get(name).read()));
  const columns = one.get(name).shape[1];
  const changed = new Set<number>();
  a.forEach((value, i) => value !== b[i] && changed.add(Math.floor(i / columns)));
  return changed.size;
}

for (const method of ["lora", "dora"]) {
  Deno.test(`finetune() trains a named table whole beside ${method}, and its adapter gives the same score`, async () => {
    await using workspace = await openToy();
    const before = await fingerprint("base");
    const saved = `--modules-to-save word_embeddings`;
    const flags = `--model base --task sst2 --data task --method ${method} --rank 4 --lr 0.01 --epochs 5 ${saved}`;
    const { out, err } = await run(workspace, `finetune ${flags} --out run`);
    assert.match(err, /roberta\.embeddings\.word_embeddings\.weight +1 +\[400, 32\] +adamw/);
    const [, accuracy] = /^accuracy (\d\.\d+)/.exec(out)!;
    assert.ok(Number(accuracy) > 0.9, out);
    assert.deepEqual(await fingerprint("base"), before);

    const { modules_to_save } = JSON.parse(await Deno.readTextFile("run/best-adapter/adapter_config.json"));
    assert.deepEqual(modules_to_save, ["classifier", "word_embeddings"]);
    const load = async (folder: string) =>
      (await loadRoberta(loopsBackend(), new FileFolder(folder), { head: "classification" })).params;
    using base = await load("base");
    using best = await load("run/best");
    using adapter = (await loadPeft(new FileFolder("run/best-adapter"), base)).params;
    assert.ok(adapter.has(WORDS) && adapter.has("classifier.out_proj.weight"));
    assert.deepEqual(await adapter.get(WORDS).read(), await best.get(WORDS).read());
    // words of the task moved, bytes that never occur did not
    const moved = await changedRows(base, best, WORDS);
    assert.ok(moved >= 18 && moved < 60, `${moved} rows moved`);

    const scores = [];
    for (const model of ["--model base --adapter run/best-adapter", "--model run/best"]) {
      scores.push(JSON.parse((await run(workspace, `eval --task sst2 --data task ${model} --json`)).out));
    }
    assert.equal(scores[0].accuracy.toFixed(4), accuracy);
    assert.equal(scores[1].accuracy, scores[0].accuracy);
    assert.ok(Math.abs(scores[0].loss - scores[1].loss) < 1e-5, `${scores[0].loss}, ${scores[1].loss}`);
  });
}

Deno.test("finetune() goes on with the same bits when a table is trained whole beside an adapter", async () => {
  await using workspace = await openToy();
  const saved = "--modules-to-save word_embeddings --save-every 6 --keep 9";
  const flags = `--model base --task sst2 --data task --method lora --lr 0.01 --epochs 2 ${saved}`;
  await run(workspace, `finetune ${flags} --out whole`);
  await run(workspace, `finetune ${flags} --out cut`);
  const steps = [...Deno.readDirSync("cut/checkpoints")].map(({ name }) => Number(name.slice(5)));
  for (const step of steps) if (step > 6) await Deno.remove(`cut/checkpoints/step-${step}`, { recursive: true });
  const { err } = await run(workspace, "finetune --resume cut");
  assert.match(err, /going on after step 6/);
  const last = `checkpoints/step-${Math.max(...steps)}`;
  const [whole, cut] = await Promise.all([fingerprint(`whole/${last}`), fingerprint(`cut/${last}`)]);
  assert.deepEqual(Object.values(cut), Object.values(whole));
  const refused = await workspace.run("finetune", "--resume", "cut", "--modules-to-save", "LayerNorm", ...DEVICE);
  assert.equal(refused.code, 1);
  assert.match(refused.err, /Cannot resume cut: the run differs: /);
});

Deno.test("finetune() trains a LLaMA's table whole beside an adapter on conversations", async () => {
  await using workspace = await Workspace.open();
  await writeTinyChat({ tie_word_embeddings: false });
  const data = "--model base --task sft --data chat.jsonl --data chat.jsonl --seq 64 --batch 4";
  await run(workspace, `finetune ${data} --method lora --lr 0.02 --epochs 8 --modules-to-save embed_tokens --out run`);
  using base = (await loadModel(loopsBackend(), new FileFolder("base"))).params;
  using best = (await loadModel(loopsBackend(), new FileFolder("run/best"))).params;
  using adapter = (await loadPeft(new FileFolder("run/best-adapter"), base)).params;
  const name = "model.embed_tokens.weight";
  assert.deepEqual(await adapter.get(name).read(), await best.get(name).read());
  assert.ok(await changedRows(base, best, name) > 0);
  assert.equal(await changedRows(base, best, "lm_head.weight"), 0);
});

Deno.test("finetune() refuses a module to save that the model has not, in one line and before there is a folder", async () => {
  await using workspace = await openToy();
  const flags = "finetune --model base --task sst2 --data task --method lora --modules-to-save pooler --out run";
  const { code, err } = await workspace.run(...flags.split(" "), ...DEVICE);
  assert.equal(code, 1);
  assert.match(
    err,
    /^Cannot fit the adapter to the model: every named module must be there: got "pooler", the model has .*\n$/m,
  );
  await assert.rejects(Deno.stat("run"), Deno.errors.NotFound);
});
