/** A run whose steps are read together is the run that reads each: rows, occasions, checkpoints, resumption. */
import assert from "node:assert/strict";
import { Optimizer } from "../optimizers/mod.ts";
import { hashFile, namesIn } from "./durable.ts";
import { memoryOutput } from "./log.ts";
import { isStepRow, readMetrics } from "./metrics.ts";
import { resolveRun } from "./recipe.ts";
import { runTraining } from "./training_run.ts";
import { prepareTraining } from "./training_setup.ts";
import { Workspace } from "./testing/workspace.ts";

const RUN = {
  model: "tiny",
  data: ["corpus.txt"],
  seq: 16,
  batch: 4,
  steps: 11,
  rank: 4,
  updateProjGap: 4,
  warmup: 0,
  evalBatches: 2,
  evalEvery: 3,
  saveEvery: 4,
  keep: 9,
  logEvery: 5,
  device: "cpu",
  threads: 1,
  blas: "off",
} as const;

/** Trains as on a device that is not read every step. Gives the log. */
async function trainGuarded(out: string): Promise<string> {
  const output = memoryOutput();
  const setup = await prepareTraining(await resolveRun({ ...RUN, out }), output);
  using _backend = setup.backend;
  using _params = setup.params;
  setup.optimizer.dispose();
  const { clip, seed } = setup.run;
  using optimizer = new Optimizer(setup.params, setup.choice.routing, { clip, seed, guard: true });
  await runTraining({ ...setup, optimizer }, {}, output);
  return output.errText;
}

async function essence(run: string): Promise<unknown> {
  const rows = (await readMetrics(`${run}/metrics.jsonl`)).map((row) =>
    isStepRow(row) ? [row.step, row.loss, row.lr, row.gradNorm, row.tokens] : row
  );
  const checkpoints = (await namesIn(`${run}/checkpoints`)).sort();
  const hashes = await Promise.all(
    checkpoints.flatMap((name) =>
      ["model", "optimizer"].map((file) => hashFile(`${run}/checkpoints/${name}/${file}.safetensors`))
    ),
  );
  // an evaluation stands behind its step, whenever that was read
  return { rows, checkpoints, hashes };
}

Deno.test("runTraining() gives the same run when steps are read together, and it resumes to the same", async () => {
  await using workspace = await Workspace.open();
  const flags = Object.entries(RUN).flatMap(([key, value]) => [
    `--${key.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`,
    String(value),
  ]);
  const checked = await workspace.run("train", ...flags, "--out", "checked");
  assert.equal(checked.code, 0, checked.err);
  const log = await trainGuarded("guarded");
  const expected = await essence("checked");
  assert.deepEqual(await essence("guarded"), expected);
  const logged = [...log.matchAll(/^step +(\d+)\/11 \|/gm)].map(([, step]) => Number(step));
  assert.deepEqual(logged, [1, 5, 10]);
  assert.deepEqual([...log.matchAll(/held-out loss/g)].length, [...checked.err.matchAll(/held-out loss/g)].length);

  await Deno.remove("guarded/checkpoints/step-11", { recursive: true });
  const resumed = await workspace.run("train", "--resume", "guarded");
  assert.equal(resumed.code, 0, resumed.err);
  assert.match(resumed.err, /going on after step 8\n/);
  assert.deepEqual(await essence("guarded"), expected);
});

Deno.test("train() refuses to resume with another basis, refresh or rounding, and takes old runs as they were", async () => {
  await using workspace = await Workspace.open();
  assert.equal((await workspace.train("--out", "run", "--refresh", "together")).code, 0);
  for (
    const [flags, difference] of [[["--refresh", "staggered"], /refresh was "together", is "staggered"$/], [[
      "--basis",
      "gram",
    ], /basis was "subspace", is "gram"$/], [
      ["--rounding", "master"],
      /rounding was "stochastic", is "master"$/,
    ]] as const
  ) {
    const { code, err } = await workspace.run("train", "--resume", "run", ...flags);
    assert.equal(code, 1, err);
    assert.match(err.trimEnd(), difference);
  }
  // a run from before these options were written down
  const config = JSON.parse(await Deno.readTextFile("run/config.json"));
  const path = "run/checkpoints/step-6/state.json";
  const state = JSON.parse(await Deno.readTextFile(path));
  for (const key of ["refresh", "rounding"]) {
    delete config.run[key];
    delete state.identity[key];
  }
  await Deno.writeTextFile("run/config.json", JSON.stringify(config));
  await Deno.writeTextFile(path, JSON.stringify(state));
  const manifest = JSON.parse(await Deno.readTextFile("run/checkpoints/step-6/manifest.json"));
  const entry = manifest.files["state.json"];
  manifest.files["state.json"] = { ...entry, sha256: await hashFile(path), bytes: (await Deno.stat(path)).size };
  await Deno.writeTextFile("run/checkpoints/step-6/manifest.json", JSON.stringify(manifest));
  const { code, err } = await workspace.run("train", "--resume", "run", "--steps", "8");
  assert.equal(code, 0, err);
});
