/** `train --method relora`: factors beside frozen matrices, folded in at restarts, resumed to the bit, used as a plain model. */
import assert from "node:assert/strict";
import { loopsBackend } from "../backends/cpu/mod.ts";
import { noWebgpu } from "../backends/webgpu/testing.ts";
import { svd } from "../core/mod.ts";
import { initLlama } from "../models/mod.ts";
import { jaggedCosine } from "../optimizers/mod.ts";
import { loadModel } from "./checkpoint.ts";
import { FileFolder } from "./files.ts";
import { testBadInputs, train } from "./testing/bad_input.ts";
import { fingerprint, type Outcome, stepRows, tinyConfig, Workspace } from "./testing/workspace.ts";

const RELORA = "--method relora --rank 2 --alpha 4 --lr 0.01".split(" ");

async function trained(workspace: Workspace, ...flags: string[]): Promise<Outcome> {
  const outcome = await workspace.train(...RELORA, ...flags);
  assert.equal(outcome.code, 0, outcome.err);
  return outcome;
}

/** Singular values of what training changed of a weight. */
async function changeOf(folder: string, name: string): Promise<Float64Array> {
  using before = initLlama(loopsBackend(), tinyConfig(), 1);
  using after = (await loadModel(loopsBackend(), new FileFolder(folder))).params;
  const [old, fresh] = [await before.get(name).read(), await after.get(name).read()];
  const [rows, columns] = before.get(name).shape;
  return svd(fresh.map((value, i) => value - old[i]), rows, columns).values;
}

Deno.test("train() with --method relora adds up a rank a cycle, trains the rest whole, and leaves a model for other verbs", async () => {
  await using workspace = await Workspace.open();
  const before = await fingerprint("tiny");
  const { err } = await trained(workspace, "--out", "run", "--steps", "40", "--eval-every", "20");
  const [, size] = /model +tiny: (\d+,\d+) weights, vocabulary 257, [\d,]+ trained, \d+% in factors W \+ BA of rank 2\n/
    .exec(err)!;
  using whole = initLlama(loopsBackend(), tinyConfig(), 1);
  assert.equal(size, whole.size.toLocaleString("en-US"));
  assert.match(err, /q_proj\.lora_A\.weight +1 +\[2, 32\] +adamw/);
  assert.deepEqual(
    err.match(/step +\d+ \| restart .*/g),
    [10, 20, 30].map((step, i) =>
      `step   ${step} | restart ${i + 1}: 14 factors folded in and begun again, 90% of their moments gone`
    ),
  );
  const rows = await stepRows("run");
  assert.ok(rows[39].loss < rows[0].loss - 0.5, `${rows[0].loss} -> ${rows[39].loss}`);
  const schedule = jaggedCosine({ peak: 0.01, total: 40, minimum: 0.001, restartEvery: 10, restartWarmup: 1 });
  assert.deepEqual(rows.map(({ lr }) => lr), Array.from({ length: 40 }, (_, i) => schedule(i + 1)));

  const folder = "run/checkpoints/step-40";
  const values = await changeOf(folder, "model.layers.0.mlp.up_proj.weight");
  assert.ok(values[7] > 1e-4 && values[8] < 1e-6, `${values}`); // four cycles of rank 2
  assert.ok((await changeOf(folder, "model.embed_tokens.weight"))[20] > 1e-4);
  const quiet = "--threads 1 --blas off --device cpu".split(" ");
  const evaluated = await workspace.run(
    "eval",
    ..."--model run --data corpus.txt --seq 16 --json".split(" "),
    ...quiet,
  );
  assert.equal(evaluated.code, 0, evaluated.err);
  const last = JSON.parse((await Deno.readTextFile("run/metrics.jsonl")).trim().split("\n").at(-1)!);
  // an evaluation here sees all that is held out, the run two batches of it
  assert.ok(Math.abs(JSON.parse(evaluated.out).loss - last.validationLoss) < 0.2, evaluated.out);
  assert.equal((await workspace.run("verify", folder)).code, 0);
  assert.deepEqual(await fingerprint("tiny"), before);
});

Deno.test("train() with --method relora gives the same bits when resumed before, at and after a restart", async () => {
  await using workspace = await Workspace.open();
  const often = "--steps 6 --relora-every 2 --relora-warmup 1 --save-every 1 --keep 20 --eval-every 0".split(" ");
  const reset = "--relora-reset random --relora-prune 0.5 --grad-accum 2 --clip-exact".split(" ");
  await trained(workspace, ...often, ...reset, "--out", "whole");
  for (const step of [1, 2, 3]) {
    const part = `part-${step}`;
    await Deno.mkdir(`${part}/checkpoints/step-${step}`, { recursive: true });
    const moved = `checkpoints/step-${step}`;
    for (const { name } of Deno.readDirSync(`whole/${moved}`)) {
      await Deno.copyFile(`whole/${moved}/${name}`, `${part}/${moved}/${name}`);
    }
    for (const file of ["config.json", "metrics.jsonl"]) await Deno.copyFile(`whole/${file}`, `${part}/${file}`);
    const { code, err } = await workspace.run("train", "--resume", part);
    assert.equal(code, 0, err);
    for (const later of [3, 6].filter((later) => later > step)) {
      const [one, other] = await Promise.all(
        ["whole", part].map((run) => fingerprint(`${run}/checkpoints/step-${later}`)),
      );
      assert.deepEqual(Object.values(other), Object.values(one), `step ${later} from ${step}`);
    }
  }
  const refused = await workspace.run("train", "--resume", "part-2", "--alpha", "5");
  assert.equal(refused.code, 1);
  assert.match(refused.err, /alpha was 4, is 5\n/);
});

Deno.test("train() with --method relora starts warm from what a run of whole matrices has left", async () => {
  await using workspace = await Workspace.open();
  const full = await workspace.train(..."--optimizer adamw --lr 0.01 --steps 30 --out full".split(" "));
  assert.equal(full.code, 0, full.err);
  const warm = await trained(workspace, ..."--model full/checkpoints/step-30 --steps 8 --out warm".split(" "));
  assert.match(warm.err, /restart 3: /);
  const [before, after] = [await stepRows("full"), await stepRows("warm")];
  assert.ok(after[0].loss < before[0].loss - 0.5, `${before[0].loss}, then ${after[0].loss}`);
  assert.ok(after[7].loss < before[29].loss + 0.2, `${before[29].loss}, then ${after[7].loss}`);
});

Deno.test("train() with --method relora takes the memory that is planned", async () => {
  await using workspace = await Workspace.open();
  const { out } = await trained(workspace, "--model", "llama-9m", "--rank", "8", "--dry-run");
  const [, peak, planned] = /peak (\d\.\d+ MB) \(planned (\d\.\d+ MB)\)/.exec(out)!;
  assert.equal(peak, planned);
});

Deno.test({
  name: "webgpu: train() with --method relora has the CPU's losses, and the same bits when resumed",
  ignore: noWebgpu !== undefined,
  async fn() {
    await using workspace = await Workspace.open();
    const flags =
      "--steps 6 --relora-every 2 --relora-warmup 1 --eval-every 0 --save-every 3 --keep 9 --sample-tokens 0";
    await trained(workspace, ...flags.split(" "), "--out", "cpu");
    await trained(
      workspace,
      ...flags.split(" "),
      ..."--device webgpu --autotune off --log-every 3 --out gpu".split(" "),
    );
    const losses = async (run: string) => (await stepRows(run)).map(({ loss }) => loss);
    const [cpu, gpu] = [await losses("cpu"), await losses("gpu")];
    gpu.forEach((loss, i) => assert.ok(Math.abs(loss - cpu[i]) < 1e-4, `step ${i + 1}: ${loss}, on the CPU ${cpu[i]}`));
    const whole = await fingerprint("gpu/checkpoints/step-6");
    await Deno.remove("gpu/checkpoints/step-6", { recursive: true });
    const { code, err } = await workspace.run("train", "--resume", "gpu");
    assert.equal(code, 0, err);
    assert.deepEqual(await fingerprint("gpu/checkpoints/step-6"), whole);
  },
});

testBadInputs([
  ...["full --alpha 3", "full --relora-every 3", "lowrank --relora-reset zero", "lowrank --relora-prune 0.5"].map((
    flags,
  ) => {
    const [method, flag, value] = flags.split(" ");
    return {
      when: `training is told --method ${flags}`,
      argv: train("--method", method, flag, value),
      message: new RegExp(`^Cannot use ${flag} with --method ${method}: it is for --method relora$`),
    };
  }),
  {
    when: "--method relora is asked for a schedule of another kind",
    argv: train(...RELORA, "--schedule", "constant"),
    message: /^Cannot use --schedule constant with --method relora: its rate follows a cosine with restarts$/,
  },
  {
    when: "a share is given of moments that are all set to 0",
    argv: train(...RELORA, "--relora-reset", "zero", "--relora-prune", "0.5"),
    message: /^Cannot use --relora-prune with --relora-reset zero: all moments become 0$/,
  },
  {
    when: "--method relora is asked of an optimizer with a rank of its own",
    argv: train(...RELORA, "--optimizer", "galore_adamw"),
    message:
      /^Cannot train with --method relora: its factors need an optimizer without a rank of its own, .*: got galore/,
  },
  {
    when: "a run has no whole number of cycles",
    argv: train(...RELORA, "--steps", "10", "--relora-every", "3"),
    message: /^Cannot restart every 3 steps: --relora-every must divide the 10 steps of the run: use 2 or 5$/,
  },
  {
    when: "--method relora is asked of a RoBERTa",
    argv: train(...RELORA, "--model", "roberta-2m"),
    message: /^Cannot train with --method relora: it is for a LLaMA: got a RoBERTa$/,
  },
]);
