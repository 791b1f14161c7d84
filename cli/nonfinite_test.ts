/** A loss or a gradient that is not finite stops the run before it can touch weights or checkpoints. */
import assert from "node:assert/strict";
import type { Params } from "../core/mod.ts";
import { loopsBackend } from "../backends/cpu/mod.ts";
import { initLlama } from "../models/mod.ts";
import { galoreSgd, Optimizer } from "../optimizers/mod.ts";
import { rowsLoss } from "./evaluation.ts";
import { fingerprint, stepRows, tinyConfig, Workspace, writeTinyModel } from "./testing/workspace.ts";
import { NonFiniteError, type TrainerParts, trainLoop } from "./trainer.ts";

/** Sets one weight of a tensor. */
function poison(params: Params, name: string, index: number, value: number): void {
  const tensor = params.get(name);
  params.backend.write(tensor.buffer, 4 * index, new Uint8Array(Float32Array.of(value).buffer));
}

const WEIGHTS: [string, number][] = [
  ["model.layers.0.mlp.up_proj.weight", NaN],
  ["model.layers.0.self_attn.o_proj.weight", Infinity],
  ["lm_head.weight", -Infinity],
];

for (const [name, value] of WEIGHTS) {
  Deno.test(`train() names step and parameter when ${name} holds ${value}`, async () => {
    await using workspace = await Workspace.open();
    await writeTinyModel("bad", { change: (params) => poison(params, name, 7, value) });
    const { code, err } = await workspace.train("--out", "run", "--model", "bad");
    assert.equal(code, 1);
    const [last] = err.trimEnd().split("\n").slice(-1);
    const loss =
      /^Cannot take step 1: the loss is (NaN|-?Infinity); (.*?); the weights are those of step 0\. Lower --lr/;
    assert.equal(loss.exec(last)?.[2], `${name} holds ${value}`, last);
    assert.deepEqual(Object.keys(await fingerprint("run")), ["run/.lock"]);
    const again = await workspace.train("--out", "run", "--steps", "1");
    assert.equal(again.code, 0, again.err);
  });
}

Deno.test("train() stops and keeps its last checkpoint when the rate is far too high", async () => {
  await using workspace = await Workspace.open();
  const flags = ["--optimizer", "sgd", "--clip", "0", "--schedule", "constant", "--steps", "50", "--save-every", "1"];
  const { code, err } = await workspace.train("--out", "run", ...flags, "--lr", "1e13");
  assert.equal(code, 1, err);
  const [, step, before] =
    /\nCannot take step (\d+): .* the weights are those of step (\d+)\. Lower --lr or set --clip\n$/
      .exec(err)!;
  assert.equal(Number(before), Number(step) - 1);
  assert.match(err, /the loss is NaN; (the largest weight is \S+ in [\w.]+|[\w.]+ holds \S+);|the gradient of [\w.]+/);
  assert.equal((await stepRows("run")).length, Number(before));
  const verified = await workspace.run("verify", `run/checkpoints/step-${before}`);
  assert.equal(verified.code, 0, verified.err);
});

Deno.test("trainLoop() leaves weights and state as they were when a gradient is not finite", async () => {
  using backend = loopsBackend();
  const config = tinyConfig();
  using params = initLlama(backend, config, 1);
  // So large that squares of its gradient overflow, while the loss does not: its own gradient is finite.
  params.get("model.norm.weight").write(new Float32Array(32).fill(1e30));
  params.get("lm_head.weight").write(new Float32Array(257 * 32).fill(0));
  using optimizer = new Optimizer(
    params,
    galoreSgd({ learningRate: 0.1, projected: /_proj|lm_head/, galore: { rank: 4, updateProjGap: 2 } }),
  );
  const before = new Map(
    await Promise.all([...params.entries()].map(async ([name, x]) => [name, await x.read()] as const)),
  );
  const rows = { tokens: new Uint32Array(17).map((_, i) => i), batch: 1, seq: 16 };
  const loss = rowsLoss(backend, params, config);
  const parts: TrainerParts = { backend, params, optimizer, loss, nextBatch: () => Promise.resolve(rows) };
  const options = { startStep: 4, startTokens: 0, steps: 9, afterSteps: () => Promise.resolve(false) };
  await assert.rejects(trainLoop(parts, options), (error: Error) => {
    assert.ok(error instanceof NonFiniteError);
    assert.match(error.message, /^Cannot take step 5: the gradient of lm_head\.weight is not finite; .* of step 4\./);
    return true;
  });
  for (const [name, tensor] of params.entries()) assert.deepEqual(await tensor.read(), before.get(name), name);
  assert.equal(optimizer.step, 0);
  for (const { staged, count } of optimizer.snapshot().leaves.values()) {
    assert.deepEqual([staged, count], [undefined, 0]);
  }
});
