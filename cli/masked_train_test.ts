/**
 * `train` of a RoBERTa from scratch on text: what it learns, what it leaves behind, and what other verbs make of that.
 */
import assert from "node:assert/strict";
import { keyOf } from "../core/mod.ts";
import { maskedByteTokenizer } from "../data/mod.ts";
import { openWeights, robertaWeights } from "../models/mod.ts";
import { hashFile } from "./durable.ts";
import { FileFolder } from "./files.ts";
import { maskRows, specialTokens } from "./objective.ts";
import { OPTIMIZERS } from "./options.ts";
import { loadRobertaConfig } from "./roberta_folder.ts";
import { writeTinyRoberta, writeToyTask } from "./testing/tiny_roberta.ts";
import { type Outcome, stepRows, Workspace } from "./testing/workspace.ts";

const ON_CPU = ["--device", "cpu", "--threads", "1", "--blas", "off"];

async function pretrain(workspace: Workspace, ...flags: string[]): Promise<Outcome> {
  const outcome = await workspace.train("--rank", "8", "--lr", "0.01", ...flags);
  assert.equal(outcome.code, 0, outcome.err);
  return outcome;
}

Deno.test("train() pre-trains a RoBERTa on bytes without any files, and finetune() and eval() take it up", async () => {
  await using workspace = await Workspace.open();
  const { out, err } = await pretrain(
    workspace,
    ...[
      "--model",
      "roberta-2m",
      "--out",
      "run",
      "--steps",
      "20",
      "--seq",
      "34",
      "--optimizer",
      "adamw",
      "--lr",
      "0.003",
    ],
  );
  const losses = (await stepRows("run")).map(({ loss }) => loss);
  const mean = (values: number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;
  assert.ok(Math.abs(losses[0] - Math.log(261)) < 0.3, `${losses[0]}`);
  assert.ok(mean(losses.slice(-4)) < losses[0] - 2, losses.join(" "));
  assert.match(out, /^held-out loss \d\.\d{3} nats a hidden byte, perplexity \d+\.\d+\n$/);
  assert.match(err, /objective 15% of the tokens are hidden and found again; no text is sampled\n/);

  const folder = new FileFolder("run/checkpoints/step-20");
  const config = await loadRobertaConfig(folder);
  assert.deepEqual([config.vocab_size, config.pad_token_id, config.max_position_embeddings], [261, 1, 36]);
  assert.deepEqual(JSON.parse(await folder.text("config.json")).architectures, ["RobertaForMaskedLM"]);
  await using weights = await openWeights(folder);
  assert.deepEqual([...weights.names].sort(), [...robertaWeights(config, "masked-lm").keys()].sort());

  const [said] = /\d\.\d{3}/.exec(out)!;
  const data = ["--data", "corpus.txt", "--seq", "34", "--batch", "3", ...ON_CPU];
  const evaluated = await workspace.run("eval", "--model", "run", ...data, "--batches", "3", "--json");
  assert.equal(evaluated.code, 0, evaluated.err);
  assert.ok(JSON.parse(evaluated.out).loss > 1);
  const whole = await workspace.run("eval", "--model", "run", ...data, "--batch", "4", "--batches", "2", "--json");
  assert.equal(JSON.parse(whole.out).loss.toFixed(3), said, "the same tokens are hidden in training and after it");

  await writeToyTask("task", { train: 40, dev: 10 });
  const tuned = await workspace.run(
    ...["finetune", "--model", "run/checkpoints/step-20", "--task", "sst2", "--data", "task", "--max-length", "32"],
    ...["--epochs", "1", "--method", "lora", "--out", "tuned", ...ON_CPU],
  );
  assert.equal(tuned.code, 0, tuned.err);
  assert.match(tuned.err, /lm_head of run\/checkpoints\/step-20 is for another task and left aside/);
});

Deno.test("train() of a RoBERTa gives the same bits when resumed, dropout and masks included", async () => {
  await using workspace = await Workspace.open();
  await writeTinyRoberta("base");
  const flags = ["--model", "base", "--grad-accum", "2", "--save-every", "3", "--keep", "9", "--update-proj-gap", "2"];
  await pretrain(workspace, ...flags, "--out", "whole", "--steps", "6");
  await Deno.mkdir("part/checkpoints", { recursive: true });
  await Deno.rename("whole/checkpoints/step-3", "part/checkpoints/step-3");
  for (const file of ["config.json", "metrics.jsonl"]) await Deno.copyFile(`whole/${file}`, `part/${file}`);
  const resumed = await workspace.run("train", "--resume", "part");
  assert.equal(resumed.code, 0, resumed.err);
  for (const file of ["model.safetensors", "optimizer.safetensors"]) {
    const [one, two] = ["whole", "part"].map((run) => hashFile(`${run}/checkpoints/step-6/${file}`));
    assert.equal(await one, await two, file);
  }
  const lossesOf = async (run: string) => (await stepRows(run)).map(({ loss }) => loss);
  assert.deepEqual(await lossesOf("part"), await lossesOf("whole"));
});

for (const optimizer of OPTIMIZERS) {
  Deno.test(`train() moves a RoBERTa with ${optimizer} and the plan says what it takes`, async () => {
    await using workspace = await Workspace.open();
    await writeTinyRoberta("base");
    const { out } = await pretrain(workspace, "--model", "base", "--optimizer", optimizer, "--dry-run");
    const [, loss, peak, planned] = /loss ([\d.]+), .* peak (\d+) KB \(planned (\d+) KB\)/.exec(out)!.map(Number);
    assert.ok(loss > 4);
    // the plan's worst step is one that renews bases beside moments, which the first has not got yet
    assert.ok(peak <= planned && peak > 0.97 * planned, `${peak} KB, planned ${planned} KB`);
  });
}

Deno.test("maskRows() frames rows and hides the same tokens however rows are batched", () => {
  const tokenizer = maskedByteTokenizer();
  const special = specialTokens(tokenizer, "model");
  const options = { special, key: keyOf(7), vocab: tokenizer.vocabSize };
  const [batch, seq] = [6, 40];
  const tokens = Uint32Array.from({ length: batch * (seq + 1) }, (_, i) => i % 11 === 0 ? 2 : 5 + i % 256);
  const all = maskRows({ tokens, batch, seq, index: 12 }, options);
  assert.deepEqual(all.shape, [6, 42]);
  assert.ok(all.count > 10 && all.count < 70, `${all.count}`);
  const seen = new Map<number, number>();
  for (let i = 0; i < all.targets.length; i++) {
    assert.equal(all.targets[i] === -100, i >= all.count);
    if (i < all.count) seen.set(all.places[i], all.targets[i]);
  }
  for (let row = 0; row < batch; row++) {
    const shown = [...all.tokens.subarray(row * 42, (row + 1) * 42)];
    const was = shown.map((token, t) => seen.get(row * 42 + t) ?? token);
    assert.deepEqual(was, [0, ...tokens.subarray(row * (seq + 1), row * (seq + 1) + seq), 2]);
    const alone = maskRows({ tokens: tokens.subarray(row * 41), batch: 1, seq, index: 12 + row }, options);
    assert.deepEqual([...alone.tokens], shown);
  }
  assert.ok([...seen.values()].every((token) => token >= 5), "no special token is hidden");
});

const REFUSED: readonly [string, string[], RegExp][] = [
  [
    "a tokenizer has no mask",
    ["--model", "roberta-2m", "--tokenizer", "tiny"],
    /needs <s>, <pad>, <\/s> and <mask>: it has no <s>, <pad>, <mask>/,
  ],
  ["factors are asked for", ["--model", "roberta-2m", "--method", "lowrank"], /--method lowrank: it is for a LLaMA/],
  ["sequences have no room", ["--model", "roberta-2m", "--seq", "2"], /sequences of 2: <s> and <\/s> leave no token/],
  [
    "sequences exceed the positions",
    ["--model", "base", "--seq", "64"],
    /base on sequences of 64: it has positions for 32/,
  ],
];

for (const [why, flags, message] of REFUSED) {
  Deno.test(`train() of a RoBERTa is refused in one line when ${why}`, async () => {
    await using workspace = await Workspace.open();
    await writeTinyRoberta("base");
    const { code, err } = await workspace.train(...flags);
    assert.equal(code, 1);
    assert.match(err, message);
    assert.equal(err.trim().split("\n").length, 1, err);
  });
}
