/** `finetune --method deep-lora`: it learns a toy task in both forms, goes on with the same bits, and leaves plain LoRA. */
import assert from "node:assert/strict";
import { noWebgpu } from "../backends/webgpu/testing.ts";
import { registerTest } from "../core/testing/register.ts";
import { readMetrics } from "./metrics.ts";
import { tinyRobertaConfig, writeTinyRoberta, writeToyTask } from "./testing/tiny_roberta.ts";
import { fingerprint, type Outcome, Workspace } from "./testing/workspace.ts";

const FLAGS = "--model base --task sst2 --data task --device cpu --threads 1 --blas off --method deep-lora".split(" ");

/** A workspace with the tiny RoBERTa in `base`, its weights drawn so large, and the toy task in `task`. */
async function openToy(initializer_range = 0.15): Promise<Workspace> {
  const workspace = await Workspace.open();
  await writeTinyRoberta("base", { head: "classification", config: tinyRobertaConfig({ initializer_range }) });
  await writeToyTask("task");
  return workspace;
}

async function run(workspace: Workspace, argv: readonly string[]): Promise<Outcome> {
  const outcome = await workspace.run(...argv);
  assert.equal(outcome.code, 0, outcome.err);
  return outcome;
}

/** A spread of weights that leaves gradients small, as those of a large model are. */
const SMALL = 0.02;

/** Each form's flags, and what it learns the task with. */
const FORMS: Readonly<Record<string, { readonly flags: string; readonly learning: string; readonly range?: number }>> =
  {
    // with its own rank, rate, eps and first size
    whole: { flags: "--targets all-linear", learning: "--schedule constant --epochs 20 --eval-every 0", range: SMALL },
    compressed: {
      flags: "--rank 4 --lr 0.02 --deep-init 0.1 --deep-compress --deep-gamma 1",
      learning: "--epochs 13",
    },
  };

for (const [form, { flags, learning, range }] of Object.entries(FORMS)) {
  Deno.test(`finetune() learns the toy task with Deep LoRA and leaves LoRA that scores the same, ${form}`, async () => {
    await using workspace = await openToy(range);
    const before = await fingerprint("base");
    const { out } = await run(workspace, ["finetune", ...FLAGS, ...`${flags} ${learning} --out run`.split(" ")]);
    const [, said] = /^accuracy (\d\.\d+) at step/.exec(out)!;
    assert.ok(Number(said) > 0.9, out);
    assert.deepEqual(await fingerprint("base"), before);
    const adapter = JSON.parse(await Deno.readTextFile("run/best-adapter/adapter_config.json"));
    assert.deepEqual([adapter.peft_type, adapter.r, adapter.lora_alpha], ["LORA", 8, 8]);
    const saying = new RegExp(`^loss \\d\\.\\d+, accuracy ${said}, over 60 examples of `);
    const evaluate = "eval --task sst2 --data task/dev.tsv --device cpu --threads 1".split(" ");
    assert.match((await run(workspace, [...evaluate, "--model", "run"])).out, saying);
    const adapted = [...evaluate, "--model", "base", "--adapter", "run/best-adapter"];
    assert.match((await run(workspace, adapted)).out, saying);
  });

  Deno.test(`finetune() with Deep LoRA gives the same bits when resumed, ${form}`, async () => {
    await using workspace = await openToy();
    const more = `${flags} --lora-dropout 0.1 --epochs 2 --save-every 7 --eval-every 5 --keep 9 --out`.split(" ");
    await run(workspace, ["finetune", ...FLAGS, ...more, "whole"]);
    await run(workspace, ["finetune", ...FLAGS, ...more, "cut"]);
    const steps = [...Deno.readDirSync("cut/checkpoints")].map(({ name }) => Number(name.slice(5)));
    for (const step of steps) if (step > 7) await Deno.remove(`cut/checkpoints/step-${step}`, { recursive: true });
    const { err } = await run(workspace, ["finetune", "--resume", "cut"]);
    assert.match(err, /going on after step 7/);
    for (const folder of [`checkpoints/step-${Math.max(...steps)}`, "best", "best-adapter"]) {
      const [whole, cut] = await Promise.all([fingerprint(`whole/${folder}`), fingerprint(`cut/${folder}`)]);
      assert.deepEqual(Object.values(cut), Object.values(whole), folder);
    }
    const rows = async (name: string) =>
      (await readMetrics(`${name}/metrics.jsonl`)).map((row) => "loss" in row ? [row.step, row.loss] : row);
    assert.deepEqual(await rows("cut"), await rows("whole"));
  });
}

Deno.test("finetune() with Deep LoRA moves its factors where gradients are small, and says so where --eps keeps them", async () => {
  await using workspace = await openToy(SMALL);
  const said = async (flags: string) =>
    (await run(workspace, ["finetune", ...FLAGS, ..."--epochs 0.5 --log-every 99".split(" "), ...flags.split(" ")]))
      .err;
  for (const form of ["", "--deep-compress --rank 4 "]) {
    assert.doesNotMatch(await said(`${form}--out moved${form.length}`), /have not moved/);
    assert.match(
      await said(`${form}--eps 1e-6 --out kept${form.length}`),
      /\nnote: the factors have not moved from --deep-init 0\.001: give a larger one, a higher --lr or more steps\n/,
    );
  }
});

registerTest("webgpu: finetune() with Deep LoRA has the CPU's losses, compressed", async () => {
  await using workspace = await openToy();
  const more = "--deep-compress --rank 4 --deep-init 0.1 --lr 0.02 --epochs 0.4 --log-every 1".split(" ");
  const losses = async (device: string) => {
    await run(workspace, ["finetune", ...FLAGS, ...more, "--device", device, "--autotune", "off", "--out", device]);
    return (await readMetrics(`${device}/metrics.jsonl`)).flatMap((row) => "loss" in row ? [row.loss] : []);
  };
  const [cpu, gpu] = [await losses("cpu"), await losses("webgpu")];
  assert.equal(gpu.length, 4);
  cpu.forEach((loss, i) => assert.ok(Math.abs(gpu[i] / loss - 1) < 1e-3, `${gpu[i]} for ${loss}`));
}, noWebgpu);

const REFUSED: Readonly<Record<string, RegExp>> = {
  "--targets word_embeddings": /Cannot adapt ".*word_embeddings": Deep LoRA is offered for linear maps only/,
  "--deep-compress --rank 17": /Cannot adapt ".*query": the compressed form needs 2 r .* got r 17 and shape \[32,32\]/,
  "--targets nothing": /got "nothing"/,
};

for (const [flags, message] of Object.entries(REFUSED)) {
  Deno.test(`finetune() with Deep LoRA refuses in one line: ${flags}`, async () => {
    await using workspace = await openToy();
    const { code, err } = await workspace.run("finetune", ...FLAGS, ...flags.split(" "), "--out", "run");
    assert.equal(code, 1);
    assert.match(err.trimEnd().split("\n").at(-1)!, message);
    assert.deepEqual([...Deno.readDirSync(".")].filter(({ name }) => name === "run"), []);
  });
}

Deno.test("plan() counts Deep LoRA's tensors, compressed as well", async () => {
  await using workspace = await openToy();
  const plan = async (...flags: string[]) => {
    const argv = ["plan", "--model", "base", "--task", "sst2", "--method", "deep-lora", "--json", ...flags];
    return JSON.parse((await run(workspace, argv)).out);
  };
  const count = (parts: number) => 2 * 2 * parts; // query and value of two layers
  const head = 32 * 32 + 32 + 2 * 32 + 2;
  const { trainedParameters } = await plan("--rank", "4");
  assert.equal(trainedParameters, count(4 * 32 + 4 * 4 + 32 * 4) + head);
  const compressed = await plan("--rank", "4", "--deep-compress");
  assert.equal(compressed.trainedParameters, count(8 * 32 + 3 * 8 * 8 + 32 * 8) + head);
});
