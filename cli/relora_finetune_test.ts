/** `finetune --method relora`: learns, restarts, leaves the merged model, and goes on with the same bits around restarts. */
import assert from "node:assert/strict";
import { loopsBackend } from "../backends/cpu/mod.ts";
import { noWebgpu } from "../backends/webgpu/testing.ts";
import { jaggedCosine } from "../optimizers/mod.ts";
import { FileFolder } from "./files.ts";
import { isStepRow, readMetrics } from "./metrics.ts";
import { OPTIMIZERS } from "./options.ts";
import { loadRoberta } from "./roberta_folder.ts";
import { testBadInputs } from "./testing/bad_input.ts";
import { writeTinyRoberta, writeToyTask } from "./testing/tiny_roberta.ts";
import { fingerprint, type Outcome, stepRows, Workspace } from "./testing/workspace.ts";

const FLAGS = "--model base --task sst2 --data task --method relora --device cpu --threads 1 --blas off".split(" ");

/** A workspace with the tiny RoBERTa in `base` and the toy task in `task`. */
async function openToy(): Promise<Workspace> {
  const workspace = await Workspace.open();
  await writeTinyRoberta("base", { head: "classification" });
  await writeToyTask("task");
  return workspace;
}

async function finetune(workspace: Workspace, flags: string): Promise<Outcome> {
  const outcome = await workspace.run("finetune", ...FLAGS, ...flags.split(" "));
  assert.equal(outcome.code, 0, outcome.err);
  return outcome;
}

Deno.test("finetune() learns the toy task by relora, and what it leaves is the model with every cycle in it", async () => {
  await using workspace = await openToy();
  const before = await fingerprint("base");
  const run = "--rank 8 --lr 0.01 --epochs 12 --log-every 1 --min-lr 0.1 --no-merge --out run";
  const { out, err } = await finetune(workspace, run);
  const [, accuracy] = /^accuracy (\d\.\d+)/.exec(out)!;
  assert.ok(Number(accuracy) > 0.9, out);
  assert.deepEqual(
    err.match(/step \d+ \| restart \d: .*/g),
    [30, 60, 90].map((step, i) =>
      `step ${step} | restart ${i + 1}: 8 factors folded in and begun again, 90% of their moments gone`
    ),
  );
  assert.deepEqual(await fingerprint("base"), before);
  assert.deepEqual((await Array.fromAsync(Deno.readDir("run"))).map(({ name }) => name).sort(), [
    ...[".lock", "best", "checkpoints", "config.json", "metrics.jsonl", "report.html"],
  ]);
  const evaluated = await workspace.run(..."eval --model run --task sst2 --data task --device cpu".split(" "));
  assert.match(evaluated.out, new RegExp(`accuracy ${accuracy}, over 60 examples`));
  const rates = (await stepRows("run")).map(({ step, lr }) => [step, lr]);
  const schedule = jaggedCosine({ peak: 0.01, total: 120, minimum: 0.001, restartEvery: 30, restartWarmup: 3 });
  assert.deepEqual(rates, Array.from({ length: 120 }, (_, i) => [i + 1, schedule(i + 1)]));
  assert.deepEqual(rates.filter(([, rate]) => rate === 0).map(([step]) => step), [30, 60, 90]);
});

Deno.test("finetune() by relora gives the same bits when resumed before, at and after a restart", async () => {
  await using workspace = await openToy();
  const often = "--save-every 1 --keep 99 --eval-every 4";
  const run = `--rank 4 --lr 0.01 --epochs 3 --grad-accum 2 --lora-dropout 0.1 --relora-every 5 --relora-warmup 2`;
  await finetune(workspace, `${run} --relora-reset random --relora-prune 0.5 ${often} --out whole`);
  const loss = async (name: string) =>
    (await readMetrics(`${name}/metrics.jsonl`)).map((row) => isStepRow(row) ? [row.step, row.loss, row.lr] : row);
  for (const step of [4, 5, 6]) {
    await copyFolder("whole", "cut");
    for (let later = step + 1; later <= 15; later++) {
      await Deno.remove(`cut/checkpoints/step-${later}`, { recursive: true });
    }
    const { code, err } = await workspace.run("finetune", "--resume", "cut");
    assert.equal(code, 0, err);
    assert.match(err, new RegExp(`going on after step ${step}\n`));
    for (const folder of [...["step-11", "step-15"].map((name) => `checkpoints/${name}`), "best"]) {
      const [whole, cut] = await Promise.all([fingerprint(`whole/${folder}`), fingerprint(`cut/${folder}`)]);
      assert.deepEqual(Object.values(cut), Object.values(whole), `${folder} from step ${step}`);
    }
    assert.deepEqual(await loss("cut"), await loss("whole"));
    await Deno.remove("cut", { recursive: true });
  }
});

async function copyFolder(from: string, to: string): Promise<void> {
  await Deno.mkdir(to);
  for await (const { name, isDirectory } of Deno.readDir(from)) {
    if (isDirectory) await copyFolder(`${from}/${name}`, `${to}/${name}`);
    else await Deno.copyFile(`${from}/${name}`, `${to}/${name}`);
  }
}

Deno.test("finetune() by relora restarts under every optimizer", async () => {
  await using workspace = await openToy();
  const { params } = await loadRoberta(loopsBackend(), new FileFolder("base"), { head: "classification" });
  using base = params;
  const query = "roberta.encoder.layer.0.attention.self.query.weight";
  for (const optimizer of OPTIMIZERS) {
    const { err } = await finetune(
      workspace,
      `--rank 2 --epochs 0.6 --relora-every 3 --log-every 1 --save-every 0 --optimizer ${optimizer} --out ${optimizer}`,
    );
    assert.equal(err.match(/ \| restart 1: 8 factors/g)?.length, 1, err);
    const rows = await stepRows(optimizer);
    assert.ok(rows.length === 6 && rows.every(({ loss }) => Number.isFinite(loss)), optimizer);
    using best = (await loadRoberta(loopsBackend(), new FileFolder(`${optimizer}/best`), { head: "classification" }))
      .params;
    assert.notDeepEqual(await best.get(query).read(), await base.get(query).read(), optimizer);
  }
});

Deno.test({
  name: "webgpu: finetune() by relora has the CPU's losses, and the same bits when resumed",
  ignore: noWebgpu !== undefined,
  async fn() {
    await using workspace = await openToy();
    const run = "--epochs 0.6 --relora-every 2 --relora-warmup 1 --lora-dropout 0.1 --save-every 3";
    await finetune(workspace, `${run} --out cpu`);
    await finetune(workspace, `${run} --device webgpu --autotune off --log-every 3 --out gpu`);
    const [cpu, gpu] = await Promise.all(["cpu", "gpu"].map(stepRows));
    assert.equal(gpu.length, 6);
    gpu.forEach(({ loss }, i) => assert.ok(Math.abs(loss - cpu[i].loss) < 1e-4, `step ${i + 1}: ${loss}`));
    const whole = await fingerprint("gpu/checkpoints/step-6");
    await Deno.remove("gpu/checkpoints/step-6", { recursive: true });
    const { code, err } = await workspace.run("finetune", "--resume", "gpu");
    assert.equal(code, 0, err);
    assert.deepEqual(await fingerprint("gpu/checkpoints/step-6"), whole);
  },
});

async function makeToy(): Promise<void> {
  await writeTinyRoberta("base");
  await writeToyTask("task");
}

testBadInputs([
  {
    when: "restarts are asked for with a constant rate",
    make: makeToy,
    argv: ["finetune", ...FLAGS, ..."--schedule constant --out run".split(" ")],
    message: /^Cannot use --schedule constant with --method relora: its rate follows a cosine with restarts$/,
  },
  {
    when: "restarts do not divide the run",
    make: makeToy,
    argv: ["finetune", ...FLAGS, ..."--epochs 3 --relora-every 8 --out run".split(" ")],
    message: /^Cannot restart every 8 steps: --relora-every must divide the 30 steps of the run: use 6 or 10$/,
  },
  {
    when: "there are more steps between restarts than in the run",
    make: makeToy,
    argv: ["finetune", ...FLAGS, ..."--epochs 1 --relora-every 50 --out run".split(" ")],
    message: /^Cannot restart every 50 steps: --relora-every must divide the 10 steps of the run: use 10$/,
  },
  {
    when: "the rate has no time to rise between restarts",
    make: makeToy,
    argv: ["finetune", ...FLAGS, ..."--epochs 1 --relora-every 5 --relora-warmup 5 --out run".split(" ")],
    message: /^Cannot warm up for 0 steps and for 5 after each restart: expected less than the 5 between restarts$/,
  },
]);
