/** `finetune --method flora`: it learns a toy task, writes HiRA's files that give its model, and goes on with the same bits. */
import assert from "node:assert/strict";
import { loopsBackend } from "../backends/cpu/mod.ts";
import { webgpuTest } from "../backends/webgpu/testing.ts";
import { fromArray, noGrad, type Params, type ParamsView, scope } from "../core/mod.ts";
import { assertRms } from "../core/testing/golden.ts";
import { assertNoLeak } from "../core/testing/leaks.ts";
import { loadHira, type RobertaConfig, robertaLogits, withFlora } from "../models/mod.ts";
import { FileFolder } from "./files.ts";
import { completeFinetune, type Finetune } from "./finetune_options.ts";
import { runFinetune } from "./finetune_run.ts";
import { prepareFinetune } from "./finetune_setup.ts";
import { memoryOutput } from "./log.ts";
import { isStepRow, readMetrics } from "./metrics.ts";
import { OPTIMIZERS } from "./options.ts";
import { loadRoberta } from "./roberta_folder.ts";
import { testBadInputs } from "./testing/bad_input.ts";
import { writeTinyRoberta, writeToyTask } from "./testing/tiny_roberta.ts";
import { fingerprint, type Outcome, Workspace } from "./testing/workspace.ts";

const FLAGS = "--model base --task sst2 --data task --method flora --threads 1 --blas off".split(" ");
const INITS = ["residual", "ones"] as const;
const TINY = "--device cpu --rank 4 --lr 0.02";
const LEARNING = "--device cpu --rank 8 --epochs 14 --targets all-linear";

/** A workspace with the tiny RoBERTa, classifier included, in `base` and the toy task in `task`. */
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

function scores(view: ParamsView, config: RobertaConfig) {
  using _ = scope("scores");
  const ids = Int32Array.from({ length: 40 }, (_, i) => 5 + (7 * i * i + 3 * i) % 380);
  const tokens = fromArray(view.backend, ids, [4, 10]);
  return noGrad(() => robertaLogits(view, config, { tokens }, "classification")).readSync();
}

async function load(folder: string): Promise<{ params: Params; config: RobertaConfig }> {
  return await loadRoberta(loopsBackend(), new FileFolder(folder), { head: "classification" });
}

for (const [init, lr, rank] of [["residual", 0.03, 8], ["ones", 0.01, 9]] as const) {
  Deno.test(`finetune() learns the toy task with flora from ${init} and writes a HiRA adapter that gives its model`, async () => {
    await using workspace = await openToy();
    const before = await fingerprint("base");
    const { out } = await finetune(workspace, `${LEARNING} --lr ${lr} --flora-init ${init} --out run`);
    const [, accuracy] = /^accuracy (\d\.\d+) at step \d+; trained parameters /.exec(out)!;
    assert.ok(Number(accuracy) > 0.9, out);
    assert.deepEqual(await fingerprint("base"), before);
    const { params, config } = await load("base");
    using base = params;
    using adapter = await loadHira(new FileFolder("run/best-adapter"), base, { modelType: "roberta" });
    assert.deepEqual([adapter.taskType, adapter.baseModel, adapter.flora.r], ["SEQ_CLS", "base", rank]);
    assert.equal(adapter.params.names().length, 2 * 6 * 2 + 4);
    using best = (await load("run/best")).params;
    const view = withFlora(base, [{ params: adapter.params, config: adapter.flora }]);
    const [expected, plain] = [scores(best, config), scores(base, config)];
    assertRms("logits", scores(view, config), expected, { tolerance: 2e-6 });
    assert.ok(plain.some((value, i) => Math.abs(value - expected[i]) > 0.1));
  });
}

for (
  const flags of ["--flora-init residual --optimizer adamw_8bit", "--flora-init ones --lora-dropout 0.1 --grad-accum 2"]
) {
  Deno.test(`finetune() with flora gives the same bits when resumed: ${flags}`, async () => {
    await using workspace = await openToy();
    const run = `${TINY} ${flags} --epochs 3 --save-every 7 --eval-every 5 --keep 9`;
    await finetune(workspace, `${run} --out whole`);
    await finetune(workspace, `${run} --out cut`);
    const steps = [...Deno.readDirSync("cut/checkpoints")].map(({ name }) => Number(name.slice(5)));
    for (const step of steps) if (step > 7) await Deno.remove(`cut/checkpoints/step-${step}`, { recursive: true });
    const { code, err } = await workspace.run("finetune", "--resume", "cut");
    assert.equal(code, 0, err);
    assert.match(err, /going on after step 7/);
    for (const folder of [`checkpoints/step-${Math.max(...steps)}`, "best", "best-adapter"]) {
      const [whole, cut] = await Promise.all([fingerprint(`whole/${folder}`), fingerprint(`cut/${folder}`)]);
      assert.deepEqual(Object.values(cut), Object.values(whole), folder);
    }
    const rows = async (name: string) =>
      (await readMetrics(`${name}/metrics.jsonl`)).map((row) => "loss" in row ? [row.step, row.loss] : row);
    assert.deepEqual(await rows("cut"), await rows("whole"));
  });
}

/** A run as the module's functions take it. */
function toyRun(changes: Partial<Finetune>): Finetune {
  return completeFinetune({
    ...{ model: "base", task: "sst2", data: ["task"], device: "cpu", threads: 1, blas: "off", method: "flora" },
    ...changes,
  });
}

Deno.test("runFinetune() with flora leaves no tensor behind", async () => {
  await using _ = await openToy();
  using setup = await prepareFinetune(toyRun({ epochs: 1, out: "run", floraInit: "ones" }), memoryOutput());
  assert.ok([...setup.base.entries()].every(([name]) => setup.base.isFrozen(name)));
  await assertNoLeak("runFinetune", setup.backend, () => runFinetune(setup, {}, memoryOutput()));
});

async function losses(run: string): Promise<number[]> {
  return (await readMetrics(`${run}/metrics.jsonl`)).filter(isStepRow).map(({ loss }) => loss);
}

Deno.test("finetune() trains flora under every optimizer, in both forms", async () => {
  await using workspace = await openToy();
  await finetune(workspace, "--device cpu --epochs 0.2 --lr 1e-9 --out still");
  const [, first] = await losses("still");
  for (const [i, optimizer] of OPTIMIZERS.entries()) {
    const out = `run-${optimizer}`;
    await finetune(
      workspace,
      `--device cpu --epochs 0.2 --optimizer ${optimizer} --flora-init ${INITS[i % 2]} --out ${out}`,
    );
    const [, second] = await losses(out);
    assert.ok(Number.isFinite(second) && Math.abs(second - first) > 1e-5, `${optimizer}: ${second}`);
  }
});

webgpuTest("finetune() with flora has the CPU's losses on webgpu", async () => {
  await using workspace = await openToy();
  for (const init of INITS) {
    for (const device of ["cpu", "webgpu"]) {
      await finetune(
        workspace,
        `--device ${device} --rank 4 --epochs 0.4 --flora-init ${init} --out ${device}-${init}`,
      );
    }
    const [expected, actual] = [await losses(`cpu-${init}`), await losses(`webgpu-${init}`)];
    assert.equal(actual.length, 4);
    actual.forEach((loss, i) => assert.ok(Math.abs(loss - expected[i]) < 1e-4, `${init} ${i}: ${loss} ${expected[i]}`));
  }
});

testBadInputs([{
  when: "factors that begin as ones are to decay",
  make: async () => {
    await writeTinyRoberta("base");
    await writeToyTask("task");
  },
  argv: ["finetune", ...FLAGS, ..."--device cpu --flora-init ones --weight-decay 0.01 --out run".split(" ")],
  message:
    /^Cannot use --weight-decay with --flora-init ones: it would take the model's weights to 0; residual keeps them$/,
}]);
