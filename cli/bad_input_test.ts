/** Flags, folders and permissions that cannot be: one line that says what is wrong, exit code 1, or 2 for usage. */
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { type BadInput, makeStore, testBadInputs, train } from "./testing/bad_input.ts";
import { fingerprint, Workspace } from "./testing/workspace.ts";

const FLAGS: BadInput[] = [
  {
    when: "a flag is unknown",
    argv: train("--rnak", "4"),
    message: /^Cannot use --rnak in train: no such flag; did you mean --rank\?$/,
    code: 2,
  },
  {
    when: "a verb is unknown",
    argv: ["trian"],
    message: /^Cannot run "trian": no such verb; did you mean train\?$/,
    code: 2,
  },
  {
    when: "a value is of another kind",
    argv: train("--lr", "fast"),
    message: /expected a number above 0, got "fast"$/,
    code: 2,
  },
  {
    when: "a flag is missing",
    argv: ["generate", "--model", "tiny"],
    message: /^Cannot generate without --prompt/,
    code: 2,
  },
  {
    when: "--out comes with --resume",
    argv: train("--resume", "run"),
    message: /^Cannot use --out with --resume/,
    code: 2,
  },
  {
    when: "the warm-up is longer than the run",
    argv: train("--warmup", "60"),
    message: /^Cannot warm up for 60 steps: the run has 6$/,
  },
  {
    when: "the dtype is bf16",
    argv: train("--dtype", "bf16"),
    message: /^Cannot train in bf16 on the CPU: use --dtype f32$/,
  },
  {
    when: "--freeze matches nothing",
    argv: train("--freeze", "none"),
    message: /^Cannot route: \/none\/ match no parameter/,
  },
  {
    when: "--freeze does not parse",
    argv: train("--freeze", "("),
    message: /^Cannot use --freeze \(: Invalid regular/,
  },
  {
    when: "--freeze leaves nothing",
    argv: train("--freeze", "."),
    message: /^Cannot train: --freeze leaves no parameter/,
  },
  { when: "the prompt is empty", argv: train("--prompt", ""), message: /^Cannot sample from an empty --prompt$/ },
  {
    when: "there is no recipe",
    argv: train("--config", "none.ts"),
    message: /^Cannot use recipe none\.ts: there is no such file$/,
  },
];

testBadInputs(FLAGS);

Deno.test("train() leaves a run alone when its folder is already in use", async () => {
  await using workspace = await Workspace.open();
  assert.equal((await workspace.train("--out", "run", "--steps", "1")).code, 0);
  const before = await fingerprint();
  const { code, err } = await workspace.train("--out", "run");
  assert.equal(code, 1);
  assert.match(err, /^Cannot start a run in run: it has metrics\.jsonl; add --resume run, or choose another --out\n$/m);
  assert.deepEqual(await fingerprint(), before);
});

/** Runs a command line as a process of its own. */
async function spawn(permissions: string[], argv: readonly string[]): Promise<{ code: number; err: string }> {
  const main = fileURLToPath(new URL("main.ts", import.meta.url));
  const args = ["run", "--no-prompt", ...permissions, main, ...argv];
  const { code, stderr } = await new Deno.Command(Deno.execPath(), { args }).output();
  return { code, err: new TextDecoder().decode(stderr) };
}

const PERMISSIONS: [string, string[], string[], RegExp][] = [
  ["read", [], [], /^Cannot go on without read access to [^\n]+: add --allow-read=[^\n]+ to the deno command\n$/],
  [
    "write",
    ["--allow-read"],
    ["--data", "store"],
    /\nCannot go on without write access to run: add --allow-write=run to the deno command\n$/,
  ],
  [
    "net",
    ["--allow-read", "--allow-write"],
    ["--data", "https://lowrank.example/store"],
    /^Cannot go on without net access to lowrank\.example:443: add --allow-net=lowrank\.example:443 to the deno command\n$/,
  ],
  [
    "ffi",
    ["--allow-read", "--allow-write"],
    ["--blas", "require"],
    /^Cannot start the cpu backend with a native BLAS: no permission \(--allow-ffi\)\n$/,
  ],
];

for (const [kind, permissions, flags, message] of PERMISSIONS) {
  Deno.test(`main() names the flag to add when it may not ${kind}`, async () => {
    await using _workspace = await Workspace.open();
    if (kind === "write") await makeStore();
    const { code, err } = await spawn(permissions, train(...flags));
    assert.equal(code, 1, err);
    assert.match(err, message);
  });
}
