/** Plans of fine-tuning beside real runs: the same bytes at the worst moment, and what is refused before it starts. */
import assert from "node:assert/strict";
import { webgpuTest } from "../backends/webgpu/testing.ts";
import type { Device } from "./device.ts";
import { completeFinetune, type Finetune } from "./finetune_options.ts";
import { checkFinetuneMemory, largestBatch, makeEach } from "./finetune_plan.ts";
import { runFinetune } from "./finetune_run.ts";
import { prepareFinetune } from "./finetune_setup.ts";
import type { SubjectRows } from "./finetune_subject.ts";
import { memoryOutput } from "./log.ts";
import { stateBytesOf } from "./memory_plan.ts";
import { writeTinyChat } from "./testing/tiny_chat.ts";
import { writeTinyRoberta, writeToyTask } from "./testing/tiny_roberta.ts";
import { stepRows, Workspace } from "./testing/workspace.ts";

/** A workspace with a tiny RoBERTa and its task, and a tiny LLaMA and its conversations. */
async function openToys(): Promise<Workspace> {
  const workspace = await Workspace.open();
  await writeTinyRoberta("roberta");
  await writeToyTask("task");
  await writeTinyChat();
  return workspace;
}

const SENTENCES = { model: "roberta", task: "sst2", data: ["task"], epochs: 1 };
const CHAT = { model: "base", task: "sft", data: ["chat.jsonl", "chat.jsonl"], seq: 64, batch: 3, epochs: 4 };
const CPU = { device: "cpu", threads: 1, blas: "off", out: "run" } as const;

/** Runs to the end and compares what was measured with the plan. */
async function assertAsPlanned(asked: Partial<Finetune>): Promise<void> {
  using setup = await prepareFinetune(completeFinetune({ rank: 4, ...asked }), memoryOutput());
  const { plan, backend, method, optimizer } = setup;
  await runFinetune(setup, {}, memoryOutput());
  const measured = Math.max(...(await stepRows("run")).map(({ memoryBytes }) => memoryBytes ?? 0));
  // a plan takes every micro-batch for the largest, and reads the figures of every step at once
  const isClose = (planned: number, bytes: number) => {
    const share = planned / bytes;
    assert.ok(share > 0.995 && share < 1.03, `planned ${planned}, measured ${bytes}`);
  };
  isClose(plan.stepBytes, measured);
  backend.resetPeak();
  if (method.merged) makeEach(method.merged());
  isClose(plan.writingBytes, backend.memory().peak);
  const { beginningBytes, stepBytes, evaluationBytes, writingBytes } = plan;
  assert.equal(plan.peakBytes, Math.max(beginningBytes, stepBytes, evaluationBytes, writingBytes));
  const { optimizerBytes, projectorBytes } = stateBytesOf(optimizer);
  assert.deepEqual([plan.optimizerBytes, plan.projectorBytes], [optimizerBytes, projectorBytes]);
  assert.equal(plan.trainedParameters, method.trained.size);
}

for (const [what, data] of Object.entries({ sentences: SENTENCES, conversations: CHAT })) {
  Deno.test.each([
    { method: "full" },
    { method: "galore", updateProjGap: 3 },
    { method: "lora", loraDropout: 0.1 },
    { method: "dora", checkpointActivations: true },
    { method: "lora", targets: ["all-linear"], optimizer: "adamw_8bit", gradAccum: 2 },
    { method: "full", optimizer: "sgd", perLayer: true, clip: 0 },
  ] as Partial<Finetune>[])(`planFinetune() says what a run on ${what} takes on the CPU with %o`, async (options) => {
    await using _ = await openToys();
    await assertAsPlanned({ ...data, ...CPU, ...options });
  });
}

Deno.test.each([
  { method: "lowrank" },
  { method: "relora" },
  { method: "flora" },
  { method: "deep-lora", deepCompress: true },
] as Partial<Finetune>[])("planFinetune() says what a run takes with %o", async (options) => {
  await using _ = await openToys();
  await assertAsPlanned({ ...SENTENCES, ...CPU, ...options });
});

webgpuTest("planFinetune() says what a run takes on WebGPU", async () => {
  await using _ = await openToys();
  await assertAsPlanned({ ...CHAT, ...CPU, device: "webgpu", autotune: "off", method: "lora", epochs: 1 });
});

for (const flags of ["--method full", "--method lora --targets all-linear"]) {
  Deno.test(`finetune() runs within its planned memory, and refuses a byte less before it starts: ${flags}`, async () => {
    await using workspace = await openToys();
    const argv =
      `finetune --model roberta --task sst2 --data task ${flags} --epochs 2 --device cpu --threads 1 --blas off`;
    const finetune = (...more: readonly (string | number)[]) => workspace.run(...argv.split(" "), ...more.map(String));
    using setup = await prepareFinetune(
      completeFinetune({
        ...SENTENCES,
        ...CPU,
        method: flags.includes("lora") ? "lora" : "full",
        targets: ["all-linear"],
      }),
      memoryOutput(),
    );
    const { heldBytes } = setup.plan;
    const { code, err } = await finetune("--memory-limit", heldBytes, "--out", "run");
    assert.equal(code, 0, err);
    assert.match(err, /^memory {4}(\S+ [KM]B) at most as planned, \1 allowed$/m);
    const refused = await finetune("--memory-limit", heldBytes - 1, "--out", "other");
    assert.deepEqual([refused.code, refused.out], [1, ""]);
    const parts = flags.includes("lora") ? "weights .*, adapter .*, optimizer .*" : "weights .*, optimizer .*";
    assert.match(
      refused.err,
      new RegExp(`^Cannot allocate .* for fine-tuning roberta \\(${parts}, gradients and activations .*\\): .*\n$`),
    );
    await assert.rejects(Deno.stat("other"), Deno.errors.NotFound);
  });
}

Deno.test("planFinetune() plans evaluation too, which takes the most where what is held out is longer", async () => {
  await using _ = await openToys();
  await Deno.writeTextFile("task/dev.tsv", "sentence\tlabel\n" + `${" the film".repeat(15)}\t1\n`.repeat(20));
  const run = completeFinetune({ ...SENTENCES, ...CPU, method: "linear", epochs: 0.1 });
  using unlimited = await prepareFinetune(run, memoryOutput());
  const { plan } = unlimited;
  assert.ok(plan.evaluationBytes > 1.5 * plan.stepBytes, `${plan.evaluationBytes}, a step ${plan.stepBytes}`);
  using setup = await prepareFinetune({ ...run, memoryLimit: plan.heldBytes }, memoryOutput());
  const { backend, subject, method } = setup;
  await runFinetune(setup, {}, memoryOutput());
  backend.resetPeak();
  await subject.measure(method.view());
  const share = plan.evaluationBytes / backend.memory().peak;
  assert.ok(share > 0.995 && share < 1.03, `planned ${share} of what is measured`);
  await assert.rejects(
    prepareFinetune({ ...run, memoryLimit: plan.heldBytes - 1 }, memoryOutput()),
    /for fine-tuning roberta \(weights .*, optimizer .*, activations of an evaluation \d/,
  );
});

Deno.test("checkFinetuneMemory() names what is too large: a weight to be written, or a tensor that a device cannot hold", async () => {
  await using _ = await openToys();
  using setup = await prepareFinetune(completeFinetune({ ...CHAT, ...CPU, method: "lora" }), memoryOutput());
  const { plan, backend } = setup;
  const twice = 2 * plan.peakBytes;
  const wide = { ...plan, writingBytes: twice, peakBytes: twice, heldBytes: twice };
  const memory = () => ({ ...backend.memory(), limit: plan.peakBytes });
  assert.throws(
    () => checkFinetuneMemory(wide, "base", { ...backend, memory }),
    /adapter .*, optimizer .*, a merged weight \d/,
  );
  const limits = { maxStorageBufferBindingSize: 100 } as NonNullable<Device["adapter"]>["limits"];
  const adapter = { limits } as Device["adapter"];
  assert.throws(
    () => checkFinetuneMemory(plan, "base", { ...backend, adapter }),
    /^RangeError: Cannot fine-tune base on .*: the tensor .* takes .*, and one may take 100 B there; use a smaller --batch/,
  );
});

const rowsOf = (batch: number, seq: number, count?: number): SubjectRows => ({ batch, seq, count, index: 0 });

Deno.test("largestBatch() takes the most tokens, of equals the padded one, and the first of those that are waited for", async () => {
  const all = [rowsOf(2, 8, 16), rowsOf(4, 8, 32), rowsOf(4, 8, 30), rowsOf(3, 9, 20), rowsOf(4, 8)];
  assert.equal(await largestBatch(all.values()), all[2]);
  let isClosed = false;
  const images = async function* () {
    try {
      yield* await Promise.resolve(all);
    } finally {
      isClosed = true;
    }
  };
  assert.equal(await largestBatch(images()), all[0]);
  assert.ok(isClosed);
  await assert.rejects(largestBatch([].values()), /without a batch/);
});
