/** What `plan` says of dtype, rounding, checkpointed activations and the largest tensor. */
import assert from "node:assert/strict";
import type { MemoryPlan } from "./memory_plan.ts";
import { Workspace } from "./testing/workspace.ts";

const FLAGS = ["--model", "llama-9m", "--vocab", "8000", "--batch", "4", "--seq", "64"];

async function planned(workspace: Workspace, ...flags: string[]): Promise<MemoryPlan> {
  const { code, out, err } = await workspace.run("plan", ...FLAGS, "--json", ...flags);
  assert.equal(code, 0, err);
  return JSON.parse(out);
}

Deno.test("plan() halves weights in bf16, and counts a master copy", async () => {
  await using workspace = await Workspace.open();
  const [whole, halved, master] = [
    await planned(workspace),
    await planned(workspace, "--dtype", "bf16"),
    await planned(workspace, "--dtype", "bf16", "--rounding", "master"),
  ];
  assert.equal(halved.weightBytes, whole.weightBytes / 2);
  assert.equal(halved.optimizerBytes, whole.optimizerBytes);
  assert.equal(master.optimizerBytes, halved.optimizerBytes + whole.weightBytes);
  assert.ok(halved.activationBytes < whole.activationBytes);
});

Deno.test("plan() needs less for activations when they are checkpointed", async () => {
  await using workspace = await Workspace.open();
  const flags = ["--vocab", "257", "--batch", "16"];
  const [kept, again] = [
    await planned(workspace, ...flags),
    await planned(workspace, ...flags, "--checkpoint-activations"),
  ];
  assert.ok(again.activationBytes < 0.7 * kept.activationBytes, `${again.activationBytes} of ${kept.activationBytes}`);
  assert.equal(again.weightBytes, kept.weightBytes);
});

Deno.test("plan() names the largest tensor", async () => {
  await using workspace = await Workspace.open();
  assert.deepEqual((await planned(workspace)).largest, { label: "f32[256, 8000]", bytes: 4 * 256 * 8000 });
  const { largest } = await planned(workspace, "--batch", "1", "--seq", "8");
  assert.deepEqual(largest, { label: "model.embed_tokens.weight", bytes: 4 * 128 * 8000 });
  const { out } = await workspace.run("plan", ...FLAGS);
  assert.match(out, /^largest tensor, f32\[256, 8000\] +8\.19 MB$/m);
});

Deno.test("plan() needs little more for a run that guards itself", async () => {
  await using workspace = await Workspace.open();
  const [cpu, webgpu] = [await planned(workspace), await planned(workspace, "--device", "webgpu")];
  assert.ok(webgpu.peakBytes >= cpu.peakBytes && webgpu.peakBytes < 1.2 * cpu.peakBytes);
});
