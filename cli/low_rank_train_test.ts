/** `train --method lowrank`: factors are trained, resumed to the bit, and used by the other verbs as a plain model. */
import assert from "node:assert/strict";
import { llamaConfig, llamaWeights, lowRankWeights, openSafetensors, openWeights } from "../models/mod.ts";
import { hashFile } from "./durable.ts";
import { FileFolder } from "./files.ts";
import { fingerprint, stepRows, Workspace } from "./testing/workspace.ts";

const FLAGS = ["--model", "llama-9m", "--method", "lowrank", "--rank", "8"];

async function sizesIn(folder: string, file: string): Promise<Map<string, readonly number[]>> {
  await using source = await new FileFolder(folder).open(file);
  const { tensors } = await openSafetensors(source);
  return new Map([...tensors].map(([name, { shape }]) => [name, shape]));
}

Deno.test("train() with --method lowrank trains factors, and leaves a model that other verbs take", async () => {
  await using workspace = await Workspace.open();
  const { code, err } = await workspace.train(...FLAGS, "--out", "run", "--steps", "8", "--eval-batches", "0");
  assert.equal(code, 0, err);
  assert.match(err, /\d+% in factors W = BA of rank 8\n/);
  assert.match(err, /q_proj\.lowrank_B\.weight +4 +\[128, 8\] +adamw/);
  const rows = await stepRows("run");
  assert.ok(rows[7].loss < rows[0].loss - 0.3, `${rows[0].loss} -> ${rows[7].loss}`);

  const folder = "run/checkpoints/step-8";
  const config = llamaConfig("llama-9m", { vocab_size: 257 });
  const factors = new Map([...lowRankWeights(config, { rank: 8 })].filter(([name]) => name.includes("lowrank_")));
  const stored = await sizesIn(folder, "factors.safetensors");
  assert.deepEqual(new Set(stored.keys()), new Set(factors.keys()));
  for (const [name, { shape }] of factors) assert.deepEqual(stored.get(name), shape, name);
  await using weights = await openWeights(new FileFolder(folder));
  assert.deepEqual([...weights.names].sort(), [...llamaWeights(config).keys()].sort());

  const quiet = ["--threads", "1", "--blas", "off", "--device", "cpu"];
  const evaluated = await workspace.run(
    "eval",
    "--model",
    "run",
    "--data",
    "corpus.txt",
    "--seq",
    "16",
    ...quiet,
    "--json",
  );
  assert.equal(evaluated.code, 0, evaluated.err);
  const last = JSON.parse((await Deno.readTextFile("run/metrics.jsonl")).trim().split("\n").at(-1)!);
  assert.ok(Math.abs(JSON.parse(evaluated.out).loss - last.validationLoss) < 1e-5, evaluated.out);
  const generated = await workspace.run("generate", "--model", folder, "--prompt", "the ", "--tokens", "4", ...quiet);
  assert.equal(generated.code, 0, generated.err);
  assert.equal((await workspace.run("verify", folder)).code, 0);
});

Deno.test("train() with --method lowrank gives the same bits when resumed", async () => {
  await using workspace = await Workspace.open();
  const flags = [...FLAGS, "--optimizer", "adam", "--batch", "2", "--save-every", "3", "--eval-every", "0"];
  assert.equal((await workspace.train(...flags, "--out", "whole", "--steps", "6")).code, 0);
  await Deno.mkdir("part/checkpoints", { recursive: true });
  const moved = "checkpoints/step-3";
  await Deno.rename(`whole/${moved}`, `part/${moved}`);
  for (const file of ["config.json", "metrics.jsonl"]) await Deno.copyFile(`whole/${file}`, `part/${file}`);
  const { code, err } = await workspace.run("train", "--resume", "part");
  assert.equal(code, 0, err);
  for (const file of ["model.safetensors", "factors.safetensors", "optimizer.safetensors"]) {
    const [part, whole] = ["part", "whole"].map((run) => hashFile(`${run}/checkpoints/step-6/${file}`));
    assert.equal(await part, await whole, file);
  }
  const before = await fingerprint("part");
  for (
    const [different, message] of [[["--rank", "4"], /rank was 8, is 4$/], [
      ["--method", "full"],
      /method was "lowrank"/,
    ]]
  ) {
    const refused = await workspace.run("train", "--resume", "part", ...different as string[]);
    assert.equal(refused.code, 1);
    assert.match(refused.err.trimEnd(), message as RegExp);
    assert.deepEqual(await fingerprint("part"), before);
  }
});

Deno.test("train() with --method lowrank takes the memory that is planned, and less than the whole model's", async () => {
  await using workspace = await Workspace.open();
  const peaks: number[] = [];
  for (const method of ["lowrank", "full"]) {
    const flags = [...FLAGS, "--method", method, "--optimizer", "adamw", "--batch", "2"];
    const { code, out, err } = await workspace.train(...flags, "--dry-run");
    assert.equal(code, 0, err);
    const [, peak, planned] = /peak ([\d.]+) MB \(planned ([\d.]+) MB\)/.exec(out)!.map(Number);
    assert.ok(Math.abs(peak / planned - 1) < 0.02, out);
    peaks.push(peak);
  }
  assert.ok(peaks[0] < 0.5 * peaks[1], `${peaks}`);
});

Deno.test("train() refuses --method lowrank with an optimizer that projects, or on a folder's weights", async () => {
  await using workspace = await Workspace.open();
  for (
    const [flags, message] of [
      [[...FLAGS, "--optimizer", "galore_adamw"], /Cannot train with --method lowrank: .*: got galore_adamw$/],
      [["--method", "lowrank"], /Cannot train with --method lowrank: it starts from scratch, .*: got tiny$/],
    ] as const
  ) {
    const { code, err } = await workspace.train(...flags, "--out", "run");
    assert.equal(code, 1);
    assert.match(err.trimEnd(), message);
  }
});
