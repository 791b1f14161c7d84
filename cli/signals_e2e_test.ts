/** A training process that is told to stop: it finishes its step, saves, and another goes on to the same bits. */
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { hashFile } from "./durable.ts";
import { listCheckpoints } from "./run_folder.ts";
import { stepRows, trainFlags, Workspace } from "./testing/workspace.ts";

const MAIN = fileURLToPath(new URL("main.ts", import.meta.url));
const PERMISSIONS = ["--no-prompt", "--allow-read", "--allow-write", "--allow-sys=systemMemoryInfo"];

/** Starts `train` as a process of its own, sends signals once a step is done, and waits for its end. */
async function interrupt(flags: string[], signals: Deno.Signal[]): Promise<{ code: number; err: string }> {
  const args = ["run", ...PERMISSIONS, MAIN, "train", ...trainFlags(...flags)];
  await using child = new Deno.Command(Deno.execPath(), { args, stdout: "null", stderr: "piped" }).spawn();
  let err = "";
  let sent = false;
  for await (const text of child.stderr.pipeThrough(new TextDecoderStream())) {
    err += text;
    if (sent || !/step +3\//.test(err)) continue;
    for (const signal of signals) child.kill(signal);
    sent = true;
  }
  return { code: (await child.status).code, err };
}

const STEPS = 300;
const FLAGS = ["--steps", `${STEPS}`, "--batch", "16"];
const ignore = Deno.build.os === "windows";

/** Goes on with `run` to its end, and compares it with a run that nothing has stopped. */
async function finishAndCompare(workspace: Workspace): Promise<void> {
  const resumed = await workspace.run("train", "--resume", "run", "--save-every", "0");
  assert.equal(resumed.code, 0, resumed.err);
  assert.equal((await workspace.train(...FLAGS, "--out", "whole")).code, 0);
  const losses = async (run: string) => (await stepRows(run)).map(({ step, loss }) => [step, loss]);
  assert.deepEqual(await losses("run"), await losses("whole"));
  for (const file of ["model.safetensors", "optimizer.safetensors"]) {
    const hashes = ["run", "whole"].map((run) => hashFile(`${run}/checkpoints/step-${STEPS}/${file}`));
    assert.equal(...await Promise.all(hashes) as [string, string]);
  }
}

for (const signal of ["SIGINT", "SIGTERM"] as const) {
  Deno.test({ name: `train() saves, exits 0 and can go on when it gets ${signal}`, ignore }, async () => {
    await using workspace = await Workspace.open();
    const { code, err } = await interrupt([...FLAGS, "--out", "run"], [signal]);
    assert.equal(code, 0, err);
    const [, step] = /\nstopped after step (\d+); go on with --resume run\n$/.exec(err) ?? [];
    assert.ok(Number(step) >= 3 && Number(step) < STEPS, err);
    assert.match(err, new RegExp(`^${signal}: finishing this step and saving`, "m"));
    assert.equal((await workspace.run("verify", `run/checkpoints/step-${step}`)).code, 0);
    assert.match(await Deno.readTextFile("run/report.html"), /<svg/);
    await finishAndCompare(workspace);
  });
}

Deno.test({ name: "train() loses only the steps since its last checkpoint when it is killed", ignore }, async () => {
  await using workspace = await Workspace.open();
  const { err } = await interrupt([...FLAGS, "--out", "run", "--save-every", "2"], ["SIGKILL"]);
  assert.doesNotMatch(err, /stopped after/);
  await finishAndCompare(workspace);
});

Deno.test(
  { name: "train() exits at once, and tears no checkpoint, when it gets a second signal", ignore },
  async () => {
    await using workspace = await Workspace.open();
    const flags = ["--steps", "5000", "--save-every", "1", "--out", "run"];
    const { code, err } = await interrupt(flags, ["SIGINT", "SIGTERM"]);
    assert.equal(code, 130, err);
    const checkpoints = await listCheckpoints("run");
    assert.ok(checkpoints.length > 0);
    for (const { path } of checkpoints) assert.equal((await workspace.run("verify", path)).code, 0);
  },
);
