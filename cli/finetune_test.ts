/** `finetune`: every method learns a toy task, leaves folders that load again, and goes on with the same bits. */
import assert from "node:assert/strict";
import { loopsBackend } from "../backends/cpu/mod.ts";
import { backward, type HostArray, type Params, scope } from "../core/mod.ts";
import { assertNoLeak } from "../core/testing/leaks.ts";
import { glueTask, loadTokenizer } from "../data/mod.ts";
import { loadPeft, mergeLora, withLabels } from "../models/mod.ts";
import { FileFolder } from "./files.ts";
import { epochRows, openFinetuneData } from "./finetune_data.ts";
import { evaluateTask } from "./finetune_evaluation.ts";
import { completeFinetune, type Finetune } from "./finetune_options.ts";
import { runFinetune } from "./finetune_run.ts";
import { prepareFinetune } from "./finetune_setup.ts";
import { EpochBatches } from "./finetune_subject.ts";
import { memoryOutput } from "./log.ts";
import { readMetrics } from "./metrics.ts";
import glue from "./recipes/glue.ts";
import { loadRoberta } from "./roberta_folder.ts";
import { tinyRobertaConfig, writeTinyRoberta, writeToyTask } from "./testing/tiny_roberta.ts";
import { fingerprint, type Outcome, Workspace } from "./testing/workspace.ts";

const FLAGS = "--model base --task sst2 --data task --device cpu --threads 1 --blas off".split(" ");

/** A workspace with the tiny RoBERTa in `base` and the toy task in `task`. */
async function openToy(): Promise<Workspace> {
  const workspace = await Workspace.open();
  await writeTinyRoberta("base");
  await writeToyTask("task");
  return workspace;
}

async function finetune(workspace: Workspace, flags: string): Promise<Outcome> {
  const outcome = await workspace.run("finetune", ...FLAGS, ...flags.split(" "));
  assert.equal(outcome.code, 0, outcome.err);
  return outcome;
}

/** Accuracy of a model on the toy task. */
async function accuracyOf(params: Params, folder: string): Promise<number> {
  const { config } = await loadedConfig(folder);
  const task = glueTask("sst2");
  const tokenizer = await loadTokenizer("base");
  const data = await openFinetuneData(["task"], { task, tokenizer, maxLength: 32, positions: 32 }, memoryOutput());
  const rows = epochRows(data.dev[0].examples, { batch: 16, padId: 1 });
  return (await evaluateTask({ backend: params.backend, view: params, config }, task, rows)).scores.accuracy;
}

async function loadedConfig(folder: string) {
  const { params, config } = await loadRoberta(loopsBackend(), new FileFolder(folder), { head: "classification" });
  return { params, config };
}

const LEARNING: Readonly<Record<string, string>> = {
  lowrank: "--method lowrank --rank 4 --lr 0.004 --epochs 6",
  full: "--method full --lr 0.004 --epochs 6",
  galore: "--method galore --rank 4 --scale 1 --lr 0.01 --epochs 6 --update-proj-gap 10",
  lora: "--method lora --rank 8 --lr 0.01 --epochs 12",
  dora: "--method dora --rank 8 --lr 0.01 --epochs 12 --targets query --targets value --targets key",
};

for (const [method, flags] of Object.entries(LEARNING)) {
  Deno.test(`finetune() learns the toy task and leaves a folder that loads when the method is ${method}`, async () => {
    await using workspace = await openToy();
    const before = await fingerprint("base");
    const { out, err } = await finetune(workspace, `${flags} --out run`);
    const [, said] = /^accuracy (\d\.\d+) at step \d+; trained parameters .*; optimizer .*; sentences\/s \d/.exec(out)!;
    assert.ok(Number(said) > 0.9, out);
    assert.match(err, /note: base has no classification head: classifier\.dense\.weight, .* drawn from seed 1\n/);
    assert.match(err, /note: lm_head of base is for another task and left aside\n/);
    assert.deepEqual(await fingerprint("base"), before);
    using loaded = (await loadedConfig("run/best")).params;
    assert.equal((await accuracyOf(loaded, "run/best")).toFixed(4), said);
    const report = await Deno.readTextFile("run/report.html");
    assert.match(report, /<h3>accuracy<\/h3>/);
  });
}

Deno.test("finetune() writes an adapter that gives the best model on its base when the method is lora", async () => {
  await using workspace = await openToy();
  await writeTinyRoberta("base", { head: "classification" });
  const { err } = await finetune(workspace, `${LEARNING.lora} --epochs 2 --out run`);
  assert.doesNotMatch(err, /drawn from seed/);
  const { params } = await loadedConfig("base");
  using base = params;
  using adapter = await loadPeft(new FileFolder("run/best-adapter"), base);
  assert.deepEqual([adapter.taskType, adapter.baseModel, adapter.lora.r], ["SEQ_CLS", "base", 8]);
  using merged = mergeLora(base, adapter.params, adapter.lora);
  using best = (await loadedConfig("run/best")).params;
  assert.deepEqual(merged.names(), best.names());
  for (const [name, tensor] of merged.entries()) {
    const [one, other] = [await tensor.read(), await best.get(name).read()];
    one.forEach((value, i) => assert.ok(Math.abs(Number(value) - Number(other[i])) < 1e-6, name));
  }
});

/** The labels of a head that is left aside, and the task that another is drawn for. */
const OTHER_HEADS = {
  "2 labels": { was: ["a", "b", "c"], task: "sst2" },
  "a score": { was: ["a", "b"], task: "own --sentence sentence --label label --labels score" },
};

for (const [now, { was, task }] of Object.entries(OTHER_HEADS)) {
  Deno.test(`finetune() draws a head for ${now} in place of one for ${was.length} labels, and says so`, async () => {
    await using workspace = await openToy();
    const config = withLabels(tinyRobertaConfig(), was);
    await writeTinyRoberta("base", { config, head: "classification" });
    await writeToyTask("task", { train: 16, dev: 8 });
    const { err } = await finetune(workspace, `--task ${task} --method lora --epochs 1 --out run`);
    const note = `the head of base, for ${was.join(", ")}, is left aside: one for ${now} is drawn from seed 1`;
    assert.ok(err.includes(`note: ${note}\n`), err);
    const best = await loadedConfig("run/best");
    using params = best.params;
    assert.deepEqual(params.get("classifier.out_proj.weight").shape, [now === "a score" ? 1 : 2, 32]);
    const evaluate = async (model: string) => {
      const flags = `eval --task ${task} --data task/dev.tsv --device cpu --threads 1 --json ${model}`;
      const { out, err, code } = await workspace.run(...flags.split(" "));
      assert.equal(code, 0, err);
      return JSON.parse(out).loss;
    };
    const adapted = await evaluate("--model base --adapter run/best-adapter");
    assert.ok(Math.abs(adapted - await evaluate("--model run")) < 1e-5);
  });
}

Deno.test("finetune() adapts the modules whose whole names an expression matches, and leaves it to PEFT", async () => {
  await using workspace = await openToy();
  const expression = "roberta\\..*layer\\.0\\..*(query|key)";
  await finetune(workspace, `--method lora --targets /${expression}/ --epochs 0.1 --out run`);
  const { target_modules } = JSON.parse(await Deno.readTextFile("run/best-adapter/adapter_config.json"));
  assert.equal(target_modules, expression);
  using base =
    (await loadRoberta(loopsBackend(), new FileFolder("base"), { head: "classification", headSeed: 1 })).params;
  using adapter = await loadPeft(new FileFolder("run/best-adapter"), base);
  const adapted = adapter.params.names().filter((name) => name.endsWith(".lora_A.weight"));
  const names = ["query", "key"].map((part) => `roberta.encoder.layer.0.attention.self.${part}.lora_A.weight`);
  assert.deepEqual(adapted, names);
});

Deno.test("completeFinetune() takes fewer rows of conversations to a batch than examples, unless told", () => {
  const batchOf = (task: string, asked: Partial<Finetune> = {}) =>
    completeFinetune({ model: "m", task, ...asked }).batch;
  assert.deepEqual([batchOf("sst2"), batchOf("sft"), batchOf("sft", { batch: 16 })], [16, 4, 16]);
});

for (const flags of [LEARNING.galore, LEARNING.lowrank, `${LEARNING.lora} --lora-dropout 0.1 --grad-accum 2`]) {
  Deno.test(`finetune() gives the same bits when resumed: ${flags}`, async () => {
    await using workspace = await openToy();
    const run = `${flags} --epochs 4 --save-every 7 --eval-every 5 --keep 9`;
    await finetune(workspace, `${run} --out whole`);
    await finetune(workspace, `${run} --out cut`);
    const steps = [...Deno.readDirSync("cut/checkpoints")].map(({ name }) => Number(name.slice(5)));
    for (const step of steps) if (step > 14) await Deno.remove(`cut/checkpoints/step-${step}`, { recursive: true });
    const { code, err } = await workspace.run("finetune", "--resume", "cut");
    assert.equal(code, 0, err);
    assert.match(err, /going on after step 14/);
    const last = Math.max(...steps);
    for (const folder of [`checkpoints/step-${last}`, "best"]) {
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
    ...{ model: "base", task: "sst2", data: ["task"], device: "cpu", threads: 1, blas: "off" },
    ...changes,
  });
}

Deno.test("prepareFinetune() gives a frozen base neither gradients nor state, and leaves its bits", async () => {
  await using _ = await openToy();
  using setup = await prepareFinetune(toyRun({ method: "lora" }), memoryOutput());
  const { subject, base, method, optimizer } = setup;
  const before = new Map<string, HostArray>();
  for (const [name, tensor] of base.entries()) before.set(name, (await tensor.read()).slice());
  const reached = new Set<string>();
  {
    const rows = await new EpochBatches(subject, 0).next();
    using _step = scope("step");
    const loss = subject.loss(method.view(), rows);
    backward(loss, (name, gradient) => {
      reached.add(name);
      optimizer.stage(name, gradient);
    });
  }
  await optimizer.gradientNorm();
  optimizer.commit();
  assert.deepEqual([...reached].sort(), method.trained.names().sort());
  assert.deepEqual([...optimizer.snapshot().leaves.keys()].sort(), method.trained.names().sort());
  for (const [name, tensor] of base.entries()) assert.deepEqual(await tensor.read(), before.get(name), name);
});

Deno.test("finetune() stops when evaluations bring no new best for as long as --patience says", async () => {
  await using workspace = await openToy();
  const { err, out } = await finetune(workspace, "--lr 1e-9 --epochs 9 --eval-every 2 --patience 3 --out run");
  assert.match(err, /stopped early: 3 evaluations without a new best/);
  assert.match(out, / at step 2;/);
  const steps = (await readMetrics("run/metrics.jsonl")).map(({ step }) => step);
  assert.equal(Math.max(...steps), 8);
  const again = await workspace.run("finetune", "--resume", "run");
  assert.equal(again.code, 0, again.err);
  assert.match(again.err, /stopped early/);
  assert.equal((await readMetrics("run/metrics.jsonl")).length, steps.length);
});

Deno.test("finetune() learns a score of pairs from a file of one's own", async () => {
  await using workspace = await openToy();
  const words = ["fine", "dull", "warm", "grim"];
  const rows = Array.from({ length: 200 }, (_, i) => {
    const [a, b] = [words[i % 4], words[(i >> 2) % 4]];
    return JSON.stringify({ one: ` the ${a}`, two: ` a ${b} film`, close: (i % 2) - ((i >> 2) % 2) });
  });
  await Deno.writeTextFile("pairs.jsonl", rows.join("\n") + "\n");
  const own = "--task own --sentence one --sentence2 two --label close --labels score --data pairs.jsonl";
  const argv = `--model base ${own} --lr 0.004 --epochs 8 --device cpu --threads 1 --out run`.split(" ");
  const { code, out, err } = await workspace.run("finetune", ...argv);
  assert.equal(code, 0, err);
  assert.match(err, /every tenth example of pairs\.jsonl is held out/);
  const [, pearson] = /^pearson (\d\.\d+), spearman/.exec(out)!;
  assert.ok(Number(pearson) > 0.9, out);
  const config = JSON.parse(await Deno.readTextFile("run/best/config.json"));
  assert.deepEqual([config.problem_type, config.architectures], ["regression", ["RobertaForSequenceClassification"]]);
  // the labels are the model's, unless they are given
  const columns = own.replace("--labels score ", "").split(" ");
  const evaluated = await workspace.run("eval", "--model", "run", ...columns, "--device", "cpu", "--threads", "1");
  assert.equal(evaluated.code, 0, evaluated.err);
  assert.match(evaluated.out, /^loss \d\.\d+, pearson \d\.\d+/);
});

Deno.test("finetune() drops what --dropout says, and the folder remembers it", async () => {
  await using workspace = await openToy();
  const losses = [];
  for (const rate of [0, 0.5]) {
    await finetune(workspace, `--method full --lr 0.001 --epochs 1 --dropout ${rate} --out run-${rate}`);
    losses.push((await readMetrics(`run-${rate}/metrics.jsonl`)).map((row) => "loss" in row ? row.loss : 0));
    const config = JSON.parse(await Deno.readTextFile(`run-${rate}/best/config.json`));
    assert.deepEqual([config.hidden_dropout_prob, config.attention_probs_dropout_prob], [rate, rate]);
  }
  assert.notDeepEqual(losses[0], losses[1]);
});

Deno.test("runFinetune() leaves no tensor behind", async () => {
  await using _ = await openToy();
  using setup = await prepareFinetune(toyRun({ method: "dora", epochs: 1, out: "run" }), memoryOutput());
  await assertNoLeak("runFinetune", setup.backend, () => runFinetune(setup, {}, memoryOutput()));
});

Deno.test("evaluateOnTask() gives a run's accuracy of its folder, and of its adapter on the base", async () => {
  await using workspace = await openToy();
  const { out } = await finetune(workspace, `${LEARNING.lora} --epochs 7 --out run`);
  const [, accuracy] = /^accuracy (\d\.\d+)/.exec(out)!;
  const evaluate = async (flags: string) => {
    const argv = `eval --task sst2 --device cpu --threads 1 ${flags}`.split(" ");
    const outcome = await workspace.run(...argv);
    assert.equal(outcome.code, 0, outcome.err);
    return outcome.out;
  };
  const saying = new RegExp(`^loss \\d\\.\\d+, accuracy ${accuracy}, over 60 examples of `);
  assert.match(await evaluate("--model run --data task"), saying);
  assert.match(await evaluate("--model base --adapter run/best-adapter --data task/dev.tsv"), saying);
  const json = JSON.parse(await evaluate("--model run/best --data task --json"));
  assert.equal(json.accuracy.toFixed(4), accuracy);
});

Deno.test("finetune() takes the paper's values for the task and the rank from the GLUE recipe, and flags over them", async () => {
  await using workspace = await openToy();
  const recipe = new URL("recipes/glue.ts", import.meta.url).href;
  for (const [rank, lr, scale] of [[4, 1e-5, 4], [8, 2e-5, 2]]) {
    const { err } = await finetune(
      workspace,
      `--config ${recipe} --rank ${rank} --epochs 0.2 --max-length 32 --out run-${rank}`,
    );
    assert.match(err, /query\.weight +2 +\[32, 32\] +galore\(adamw\) rank/);
    const { run } = JSON.parse(await Deno.readTextFile(`run-${rank}/config.json`));
    assert.deepEqual([run.lr, run.scale, run.updateProjGap, run.batch, run.epochs], [lr, scale, 500, 16, 0.2]);
  }
  // another method keeps its own rate and rank
  const flags = { task: "sst2", method: "lora", model: "base" } as const;
  const { lr, rank, scale, epochs } = completeFinetune({ ...glue(flags), ...flags });
  assert.deepEqual([lr, rank, scale, epochs], [5e-4, 8, undefined, 30]);
});
