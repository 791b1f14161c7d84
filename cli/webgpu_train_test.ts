/** The command line on a GPU, or on what emulates one: the same losses, one read a log line, exact resumption, bf16. */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import type { WebgpuBackend } from "../backends/webgpu/mod.ts";
import { Batches } from "../data/mod.ts";
import { openWeights } from "../models/mod.ts";
import { type Device, findGpu } from "./device.ts";
import { hashFile } from "./durable.ts";
import { FileFolder } from "./files.ts";
import { memoryOutput } from "./log.ts";
import { resolveRun } from "./recipe.ts";
import { trainLoop } from "./trainer.ts";
import { prepareTraining } from "./training_setup.ts";
import { stepRows, Workspace } from "./testing/workspace.ts";

const found = await findGpu().catch(() => undefined);
if (!found && Deno.env.get("LOWRANK_REQUIRE_WEBGPU") === "1") throw new Error("LOWRANK_REQUIRE_WEBGPU=1: no adapter");

function testOnGpu(name: string, fn: () => Promise<void>): void {
  const where = found ? found.name : "there is no adapter";
  Deno.test({ name: `${name} (${where})`, ignore: !found, fn });
}

const GPU = ["--device", "webgpu", "--log-every", "4"];

testOnGpu("train() on webgpu gives the losses of the CPU", async () => {
  await using workspace = await Workspace.open();
  for (const optimizer of ["galore_adamw", "sgd"]) {
    const flags = ["--optimizer", optimizer, "--basis", "exact", "--steps", "5"];
    const cpu = await workspace.train("--out", `cpu-${optimizer}`, ...flags);
    assert.equal(cpu.code, 0, cpu.err);
    const gpu = await workspace.train("--out", `gpu-${optimizer}`, ...flags, ...GPU);
    assert.equal(gpu.code, 0, gpu.err);
    assert.match(gpu.err, /^device +webgpu /m);
    const [expected, actual] = [await stepRows(`cpu-${optimizer}`), await stepRows(`gpu-${optimizer}`)];
    assert.equal(actual.length, 5);
    actual.forEach(({ loss, gradNorm }, i) => {
      assert.ok(Math.abs(loss - expected[i].loss) < 2e-3, `step ${i + 1}: ${loss} and ${expected[i].loss}`);
      assert.ok(Math.abs(gradNorm! / expected[i].gradNorm! - 1) < 2e-2, `step ${i + 1}: norm ${gradNorm}`);
    });
  }
});

for (const flags of [[], ["--dtype", "bf16"]]) {
  const what = flags.join(" ") || "f32";
  testOnGpu(`train() on webgpu goes on to the same bits when resumed: ${what}`, async () => {
    await using workspace = await Workspace.open();
    const whole = await workspace.train("--out", "run", ...GPU, ...flags, "--steps", "9", "--save-every", "5");
    assert.equal(whole.code, 0, whole.err);
    const { run } = JSON.parse(await Deno.readTextFile("run/config.json"));
    assert.deepEqual([run.basis, run.refresh], ["polar", "staggered"]);
    const files = ["model", "optimizer"].map((name) => `run/checkpoints/step-9/${name}.safetensors`);
    const expected = await Promise.all(files.map(hashFile));
    const rows = (await stepRows("run")).map(({ step, loss }) => [step, loss]);
    assert.deepEqual(rows.map(([step]) => step), [1, 2, 3, 4, 5, 6, 7, 8, 9]);
    assert.ok(rows[8][1] < rows[0][1], `${rows[0][1]} -> ${rows[8][1]}`);
    await Deno.remove("run/checkpoints/step-9", { recursive: true });
    const again = await workspace.run("train", "--resume", "run");
    assert.equal(again.code, 0, again.err);
    assert.deepEqual(await Promise.all(files.map(hashFile)), expected);
    assert.deepEqual((await stepRows("run")).map(({ step, loss }) => [step, loss]), rows);
    await using weights = await openWeights(new FileFolder("run/checkpoints/step-9"));
    assert.equal(weights.info("lm_head.weight").dtype, flags.length > 0 ? "BF16" : "F32");
  });
}

testOnGpu("trainLoop() on webgpu reads once a sync point, bases included", async () => {
  await using _ = await Workspace.open();
  const output = memoryOutput();
  const flags = { model: "tiny", data: ["corpus.txt"], seq: 16, batch: 4, rank: 4, updateProjGap: 3, steps: 9 };
  const setup = await prepareTraining(await resolveRun({ ...flags, device: "webgpu" }), output);
  using backend = setup.backend as Device & WebgpuBackend;
  using _params = setup.params;
  using _optimizer = setup.optimizer;
  await using batches = new Batches(setup.data.path, { batch: 4, seed: 1, readers: 0 });
  const reads: number[] = [];
  const { loss } = setup.objective;
  await trainLoop({ ...setup, loss, nextBatch: () => batches.next() }, {
    startStep: 0,
    startTokens: 0,
    steps: 9,
    syncDue: (step) => step % 3 === 0,
    afterSteps: () => (reads.push(backend.counters().readbacks), Promise.resolve(false)),
  });
  assert.deepEqual(reads.map((count) => count - reads[0]), [0, 1, 2]);
});

testOnGpu("train() on webgpu stops with the last good weights when the rate is far too high", async () => {
  await using workspace = await Workspace.open();
  const flags = ["--optimizer", "sgd", "--clip", "0", "--schedule", "constant", "--lr", "1e13", "--steps", "20"];
  const { code, err } = await workspace.train("--out", "run", ...GPU, ...flags);
  assert.equal(code, 1, err);
  const [, step, before] = /\nCannot take step (\d+): .* the weights are those of step (\d+)\. Lower --lr/.exec(err)!;
  assert.equal(Number(before), Number(step) - 1);
  assert.equal((await stepRows("run")).length, Number(before));
});

testOnGpu("train() on webgpu refuses a tensor that the device cannot bind", async () => {
  await using workspace = await Workspace.open();
  const flags = ["--model", "llama-9m", "--vocab", "32000", "--batch", "100000", "--seq", "16"];
  const { code, err } = await workspace.train("--out", "run", ...GPU, ...flags);
  assert.equal(code, 1);
  assert.match(
    err,
    /^Cannot train llama-9m on webgpu .*: the tensor f32\[1600000, 32000\] takes 205 GB, and one may take .* there; use a smaller --batch, --seq or --vocab, or --device cpu\n$/,
  );
});

testOnGpu("eval() and generate() run on webgpu", async () => {
  await using workspace = await Workspace.open();
  const evaluated = async (device: string) => {
    const flags = ["--model", "tiny", "--data", "corpus.txt", "--seq", "16", "--device", device, "--json"];
    const { code, out, err } = await workspace.run("eval", ...flags);
    assert.equal(code, 0, err);
    return JSON.parse(out).loss as number;
  };
  const [cpu, gpu] = [await evaluated("cpu"), await evaluated("webgpu")];
  assert.ok(Math.abs(cpu - gpu) < 1e-4, `${cpu} and ${gpu}`);
  const flags = ["--model", "tiny", "--prompt", "the cat", "--tokens", "8", "--device", "webgpu"];
  const { code, out, err } = await workspace.run("generate", ...flags);
  assert.equal(code, 0, err);
  assert.match(out, /^the cat[^]*\n$/);
});

testOnGpu("train() on webgpu ends in one line when the GPU is lost, and goes on from the last checkpoint", async () => {
  await using workspace = await Workspace.open();
  const devices: GPUDevice[] = [];
  const { requestDevice } = GPUAdapter.prototype;
  GPUAdapter.prototype.requestDevice = async function (...args) {
    const device = await requestDevice.apply(this, args);
    devices.push(device);
    return device;
  };
  // as soon as a checkpoint is there, in the middle of whatever the device is doing
  const watch = setInterval(() => {
    if (!existsSync("run/checkpoints/step-3/state.json")) return;
    clearInterval(watch);
    devices.at(-1)?.destroy();
  }, 1);
  try {
    const lost = await workspace.train("--out", "run", ...GPU, "--steps", "400", "--save-every", "3");
    assert.equal(lost.code, 1);
    const last = lost.err.trimEnd().split("\n").at(-1)!;
    assert.match(last, /Cannot .*the GPU .*was lost .*resume from the last checkpoint/);
    assert.doesNotMatch(lost.err, /\n +at /);
  } finally {
    clearInterval(watch);
    GPUAdapter.prototype.requestDevice = requestDevice;
  }
  const newest = [...Deno.readDirSync("run/checkpoints")].map(({ name }) =>
    Number(/^step-(\d+)$/.exec(name)?.[1] ?? 0)
  );
  const step = Math.max(...newest);
  assert.equal((await workspace.run("verify", `run/checkpoints/step-${step}`)).code, 0);
  await using weights = await openWeights(new FileFolder(`run/checkpoints/step-${step}`));
  assert.ok((await weights.float32("lm_head.weight")).every(Number.isFinite));
});
