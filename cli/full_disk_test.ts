/** A disk that fills up: runs go on without what found no room, and at their end say the most that they can. */
import assert from "node:assert/strict";
import { DiskFullError } from "./durable.ts";
import { exists } from "./files.ts";
import { diskFullIn } from "./full_disk.ts";
import { readMetrics } from "./metrics.ts";
import { FINETUNE_STRIPES, openStripes } from "./testing/tiny_images.ts";
import { type Outcome, Workspace } from "./testing/workspace.ts";

/** Runs while there is no room for folders of some names. */
async function withoutRoomFor(names: RegExp, run: () => Promise<Outcome>): Promise<Outcome> {
  const mkdir = Deno.mkdir;
  Deno.mkdir = (path, options) => {
    if (!names.test(String(path))) return mkdir(path, options);
    return Promise.reject(Object.assign(new Error("No space left on device (os error 28)"), { code: "ENOSPC" }));
  };
  try {
    return await run();
  } finally {
    Deno.mkdir = mkdir;
  }
}

const RUN = `${FINETUNE_STRIPES} --epochs 1 --lr 0.003 --eval-every 3 --device cpu --threads 1 --blas off --out run`;

Deno.test("diskFullIn() tries every write, gives the first full disk, and throws anything else", async () => {
  const done: string[] = [];
  const full = (name: string) => () => Promise.reject(new DiskFullError(name));
  const write = (name: string) => () => Promise.resolve(void done.push(name));
  assert.equal((await diskFullIn(write("a"), full("b"), full("c"), write("d")))?.message, "b");
  assert.deepEqual(done, ["a", "d"]);
  assert.equal(await diskFullIn(write("e")), undefined);
  await assert.rejects(diskFullIn(() => Promise.reject(new RangeError("other")), write("f")), /other/);
  assert.equal(done.at(-1), "e");
});

Deno.test("finetune() goes on when a disk has no room for the best model, and writes it when resumed", async () => {
  await using workspace = await openStripes();
  const { code, out, err } = await withoutRoomFor(/\.tmp-best-/, () => workspace.run(...RUN.split(" ")));
  assert.equal(code, 1);
  assert.match(
    err,
    /^step +3 \| dev loss .*, best\nwarning: Cannot write run\/best: the disk is full; .*; training goes on$/m,
  );
  assert.match(
    err,
    /^saved run\/checkpoints\/step-5\nCannot write run\/best: the disk is full; .* make room and go on\n$/m,
  );
  assert.match(out, /^trained parameters .*; at the end accuracy \d\.\d{4}\n$/);
  assert.match(await Deno.readTextFile("run/report.html"), /<h3>accuracy<\/h3>/);
  assert.ok(!await exists("run/best"));
  const rows = await readMetrics("run/metrics.jsonl");
  const resumed = await workspace.run("finetune", "--resume", "run");
  assert.equal(resumed.code, 0, resumed.err);
  assert.match(resumed.out, /^accuracy \d\.\d{4} at step 5; /);
  assert.ok(await exists("run/best/model.safetensors"));
  assert.deepEqual(await readMetrics("run/metrics.jsonl"), rows);
});

Deno.test("finetune() has its report and summary when a disk has no room for the last checkpoint", async () => {
  await using workspace = await openStripes();
  const { code, out, err } = await withoutRoomFor(/\.tmp-step-5-/, () => workspace.run(...RUN.split(" ")));
  assert.equal(code, 1);
  assert.match(err, /\nCannot write run\/checkpoints\/step-5: the disk is full; .*\n$/);
  assert.match(out, /^accuracy \d\.\d{4} at step \d+; /);
  assert.ok(await exists("run/report.html") && await exists("run/best/model.safetensors"));
});

Deno.test("train() has its report and summary when a disk has no room for the last checkpoint", async () => {
  await using workspace = await Workspace.open();
  const { code, out, err } = await withoutRoomFor(
    /\.tmp-step-2-/,
    () => workspace.train("--steps", "2", "--out", "run"),
  );
  assert.equal(code, 1);
  assert.match(err, /\nCannot write run\/checkpoints\/step-2: the disk is full; .*\n$/);
  assert.match(out, /^held-out loss \d/m);
  assert.ok(await exists("run/report.html"));
});
