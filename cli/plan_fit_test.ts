/** `plan --compare` and `plan --fit`: what they print, and what they refuse. */
import assert from "node:assert/strict";
import { OPTIMIZERS } from "./options.ts";
import { Workspace } from "./testing/workspace.ts";

const FLAGS = ["--model", "llama-9m", "--vocab", "512", "--seq", "32"];

interface Listed {
  readonly choice: { readonly batch: number; readonly rank?: number; readonly optimizer: string };
  readonly plan: { readonly heldBytes: number };
  readonly command: string;
}

async function fits(workspace: Workspace, ...flags: string[]): Promise<Listed[]> {
  const { code, out, err } = await workspace.run("plan", ...FLAGS, ...flags, "--json");
  assert.equal(code, 0, err);
  return JSON.parse(out).fits;
}

Deno.test("plan --compare prints every optimizer, the largest peak first", async () => {
  await using workspace = await Workspace.open();
  const { code, out } = await workspace.run("plan", ...FLAGS, "--batch", "2", "--rank", "16", "--compare");
  assert.equal(code, 0);
  const rows = out.trim().split("\n").slice(2).map((line) => line.split(/ {2,}/)[0]);
  assert.deepEqual(rows.toSorted(), OPTIMIZERS.toSorted());
  const json = await workspace.run("plan", ...FLAGS, "--batch", "2", "--compare", "--json");
  const peaks = JSON.parse(json.out).compared.map(({ plan }: { plan: { peakBytes: number } }) => plan.peakBytes);
  assert.deepEqual(peaks, peaks.toSorted((a: number, b: number) => b - a));
});

Deno.test("plan --fit proposes set-ups that fit, the largest batch first, as commands that plan the same", async () => {
  await using workspace = await Workspace.open();
  const listed = await fits(workspace, "--device", "cpu", "--optimizer", "galore_adamw", "--fit", "12MB");
  assert.ok(listed.length > 1);
  for (const { plan } of listed) assert.ok(plan.heldBytes <= 12e6);
  const batches = listed.map(({ choice }) => choice.batch);
  assert.deepEqual(batches, batches.toSorted((a, b) => b - a));
  const [{ command, plan }] = listed;
  assert.match(command, /^deno task train --model llama-9m .*--memory-limit 12MB$/);
  const words = command.split(" ").slice(3).filter((word, i, all) =>
    word !== "--memory-limit" && all[i - 1] !== "--memory-limit"
  );
  const again = await workspace.run("plan", ...words, "--json");
  assert.equal(JSON.parse(again.out).heldBytes, plan.heldBytes, again.err);
});

Deno.test("plan --fit keeps what was given", async () => {
  await using workspace = await Workspace.open();
  const given = ["--optimizer", "galore_adamw", "--rank", "16", "--batch", "2", "--dtype", "bf16", "--fit", "20MB"];
  for (const { choice, command } of await fits(workspace, ...given)) {
    assert.deepEqual([choice.optimizer, choice.rank, choice.batch], ["galore_adamw", 16, 2]);
    assert.match(command, /--dtype bf16 --device webgpu/);
  }
});

Deno.test("plan --fit says in one line what the smallest set-up needs when nothing fits", async () => {
  await using workspace = await Workspace.open();
  const { code, out, err } = await workspace.run("plan", ...FLAGS, "--dtype", "bf16", "--fit", "1MB");
  assert.deepEqual([code, out], [1, ""]);
  assert.match(err, /^Cannot fit llama-9m into 1 MB: the smallest set-up needs \d+(\.\d+)? MB \(.*batch 1 x 32.*\)\n$/);
});

Deno.test.each([
  [["--fit", "much"], /Cannot use --fit in plan: expected a size/],
  [["--fit", "0"], /Cannot use --fit in plan/],
  [["--fit", "1GB", "--compare"], /Cannot use --compare with --fit/],
  [["--dtype", "bf16", "--device", "cpu"], /Cannot train in bf16 on the CPU/],
])("plan refuses %o in one line", async (flags, message) => {
  await using workspace = await Workspace.open();
  const { code, err } = await workspace.run("plan", ...FLAGS, ...flags);
  assert.ok(code > 0);
  assert.match(err, message);
  assert.equal(err.trim().split("\n").length, 1);
});
