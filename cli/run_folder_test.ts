import assert from "node:assert/strict";
import { writeFolderDurably } from "./durable.ts";
import {
  checkpointName,
  createRun,
  latestCheckpoint,
  listCheckpoints,
  pruneCheckpoints,
  resumeRun,
  RunError,
} from "./run_folder.ts";

const NOW = new Date(2026, 3, 2, 9, 8, 7);

async function inFolder(test: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir({ prefix: "lowrank-" });
  const before = Deno.cwd();
  Deno.chdir(folder);
  try {
    await test(folder);
  } finally {
    Deno.chdir(before);
    await Deno.remove(folder, { recursive: true });
  }
}

async function save(run: string, step: number): Promise<void> {
  await writeFolderDurably(`${run}/checkpoints`, checkpointName(step), async (writer) => {
    await using sink = await writer.create("state.json");
    await sink.write(new TextEncoder().encode(`${step}`));
  });
}

const steps = async (run: string) => (await listCheckpoints(run)).map(({ step }) => step);

Deno.test("createRun() names the folder after model, optimizer and time when no path is given", () =>
  inFolder(async () => {
    using first = await createRun(undefined, "llama-9m-galore_adamw", NOW);
    using second = await createRun(undefined, "llama-9m-galore_adamw", NOW);
    using third = await createRun(undefined, "../my model/", NOW);
    assert.equal(first.path, "runs/llama-9m-galore_adamw-20260402-090807");
    assert.equal(second.path, "runs/llama-9m-galore_adamw-20260402-090807-2");
    assert.equal(third.name, "my-model-20260402-090807");
    await first.writeConfig({ model: "llama-9m" });
    assert.deepEqual(JSON.parse(await Deno.readTextFile(first.config)), { model: "llama-9m" });
  }));

Deno.test("createRun() refuses a folder that another trainer has locked", () =>
  inFolder(async () => {
    {
      using _run = await createRun("out", "x", NOW);
      await assert.rejects(createRun("out", "x", NOW), (error: Error) => {
        assert.ok(error instanceof RunError);
        assert.match(error.message, /^Cannot train in out: another trainer is at work there/);
        return true;
      });
    }
    using _again = await createRun("out", "x", NOW);
  }));

Deno.test("createRun() refuses a folder in use and says how to go on", () =>
  inFolder(async () => {
    await Deno.mkdir("out");
    await Deno.writeTextFile("out/metrics.jsonl", "");
    await assert.rejects(createRun("out", "x", NOW), {
      message: "Cannot start a run in out: it has metrics.jsonl; add --resume out, or choose another --out",
    });
    await save("other", 5);
    await assert.rejects(createRun("other", "x", NOW), /it has checkpoints/);
    using _free = await resumeRun("other"); // a refusal gives the lock back
  }));

Deno.test("resumeRun() finds a run by its folder, by a checkpoint, and the latest without a name", () =>
  inFolder(async () => {
    await save("runs/old", 900);
    await save("runs/new", 3);
    await Deno.utime("runs/old/checkpoints/step-900", 1, 1);
    for (const path of ["runs/new", "runs/new/checkpoints/step-3", undefined, "latest"]) {
      using run = await resumeRun(path);
      assert.equal(run.path, "runs/new");
    }
  }));

Deno.test("resumeRun() clears what a dead trainer left", () =>
  inFolder(async () => {
    await save("run", 3);
    await Deno.mkdir("run/checkpoints/.tmp-step-4-00000000");
    using run = await resumeRun("run");
    assert.deepEqual([...Deno.readDirSync(run.checkpoints)].map(({ name }) => name), ["step-3"]);
  }));

Deno.test("resumeRun() says what is missing when there is no run", () =>
  inFolder(async () => {
    await assert.rejects(resumeRun(), /no run in runs\/ has a checkpoint/);
    await assert.rejects(resumeRun("gone"), /Cannot resume gone: there is no such folder/);
    await Deno.mkdir("empty");
    await assert.rejects(resumeRun("empty"), /Cannot resume empty: it holds no run/);
    await assert.rejects(resumeRun("run/checkpoints/step-3"), /there is no such folder/);
  }));

Deno.test("listCheckpoints() sorts by number and passes over other names", () =>
  inFolder(async () => {
    for (const step of [9, 100, 20]) await save("run", step);
    for (const name of ["step-07", "step-x", ".tmp-step-500-0", "notes"]) await Deno.mkdir(`run/checkpoints/${name}`);
    assert.deepEqual(await steps("run"), [100, 20, 9]);
    assert.deepEqual(await steps("nowhere"), []);
  }));

Deno.test("latestCheckpoint() falls back with a warning when the newest is damaged", () =>
  inFolder(async () => {
    for (const step of [1, 2, 3]) await save("run", step);
    await Deno.writeTextFile("run/checkpoints/step-3/state.json", "4");
    await Deno.remove("run/checkpoints/step-2/manifest.json");
    const { checkpoint, warnings } = await latestCheckpoint("run");
    assert.equal(checkpoint?.step, 1);
    assert.match(warnings[0], /^passing over run\/checkpoints\/step-3: state.json: expected SHA-256/);
    assert.match(warnings[1], /step-2: there is no manifest.json/);
    assert.equal((await latestCheckpoint("run", { hashes: false })).checkpoint?.step, 3);
    assert.equal((await latestCheckpoint("nowhere")).checkpoint, undefined);
  }));

Deno.test("pruneCheckpoints() keeps the last good checkpoint when newer ones are damaged", () =>
  inFolder(async () => {
    for (const step of [1, 2, 3, 4]) await save("run", step);
    await Deno.remove("run/checkpoints/step-4/manifest.json");
    assert.deepEqual(await pruneCheckpoints("run", 2), [1]);
    assert.deepEqual(await pruneCheckpoints("run", 1), [2]);
    assert.deepEqual(await steps("run"), [4, 3]);
    await assert.rejects(pruneCheckpoints("run", 0), RangeError);
  }));
