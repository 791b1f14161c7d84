/** `eval` scores by the labels that a head was trained for, whatever their order, and cuts where its run did. */
import assert from "node:assert/strict";
import { loopsBackend } from "../backends/cpu/mod.ts";
import { initLora, initVit, type LoraConfig, savePeft } from "../models/mod.ts";
import { writeFolderDurably } from "./durable.ts";
import { tinyRobertaConfig, toyRows, writeTinyRoberta } from "./testing/tiny_roberta.ts";
import { writeRobertaAdapter } from "./testing/tiny_adapters.ts";
import { editJson, testBadInputs } from "./testing/bad_input.ts";
import { FINETUNE_STRIPES, openStripes, runOnCpu, tinyVitConfig } from "./testing/tiny_images.ts";
import { Workspace } from "./testing/workspace.ts";

const OWN = "--task own --sentence text --label kind";
const DEVICE = "--device cpu --threads 1 --blas off";

/** Rows of the toy task, twice as many good ones as bad ones: no guess is right of half of them. */
function unevenRows(count: number, seed: number) {
  return toyRows(count, seed).filter((_, i) => i % 4 !== 0);
}

/** Rows of the toy task with the classes `good` and `bad`, some for an adapter by name. */
async function writeKinds(file: string, { count, seed, only }: { count: number; seed: number; only?: string }) {
  const rows = unevenRows(count, seed).map(({ sentence, label }) => ({ text: sentence, kind: label ? "good" : "bad" }));
  const lines = rows.filter(({ kind }) => only === undefined || kind === only);
  await Deno.writeTextFile(file, lines.map((row) => JSON.stringify({ ...row, adapter: "a" }) + "\n").join(""));
  return lines;
}

Deno.test("evaluateOnTask() scores an adapter by the labels that it was trained for, whatever the file holds", async () => {
  await using workspace = await Workspace.open();
  await writeTinyRoberta("base");
  await writeKinds("train.jsonl", { count: 32, seed: 1 });
  await writeKinds("dev.jsonl", { count: 40, seed: 2 });
  const labels = "--labels good --labels bad";
  const { out } = await runOnCpu(
    workspace,
    `finetune --model base ${OWN} ${labels} --data train.jsonl --data dev.jsonl --method lora --lr 0.01 --epochs 3 ` +
      "--max-length 6 --out run",
  );
  const [, said] = /^accuracy (\d\.\d+)/.exec(out)!;
  assert.notEqual(Number(said), 0.5);
  assert.deepEqual(JSON.parse(await Deno.readTextFile("run/best-adapter/labels.json")), { labels: ["good", "bad"] });
  const adapted = await runOnCpu(workspace, `eval --model base ${OWN} --adapter a=run/best-adapter --data dev.jsonl`);
  assert.match(adapted.out, new RegExp(`accuracy ${said}, `));
  assert.match(adapted.err, /^note: \d+ examples of dev\.jsonl are cut to 6 tokens$/m);
  assert.doesNotMatch(adapted.err, /labels/);
  const whole = await runOnCpu(workspace, `eval --model run ${OWN} --data dev.jsonl`);
  assert.match(whole.out, new RegExp(`accuracy ${said}, `));
  assert.match(whole.err, /are cut to 6 tokens/);
  // a file that lacks a class
  const { length } = await writeKinds("good.jsonl", { count: 20, seed: 2, only: "good" });
  const good = await runOnCpu(
    workspace,
    `eval --model base ${OWN} --adapter run/best-adapter --data good.jsonl --json`,
  );
  assert.equal(JSON.parse(good.out).examples, length);
  // PEFT's own folders do not say
  await Deno.remove("run/best-adapter/labels.json");
  const { err } = await runOnCpu(workspace, `eval --model base ${OWN} --adapter run/best-adapter --data dev.jsonl`);
  assert.match(
    err,
    /^note: run\/best-adapter does not say its labels: they are taken to be bad, good, in this order$/m,
  );
});

Deno.test("evaluateOnTask() takes an adapter's score for one, whatever the model's head is", async () => {
  await using workspace = await Workspace.open();
  await writeTinyRoberta("base");
  const config = tinyRobertaConfig({ num_labels: 1, id2label: { 0: "LABEL_0" }, problem_type: "regression" });
  await writeRobertaAdapter("a", config, { seed: 1 });
  await Deno.writeTextFile("a/labels.json", `{"labels": "score"}`);
  const lines = toyRows(6, 1).map(({ sentence }, i) => JSON.stringify({ text: sentence, kind: i / 2 }) + "\n");
  await Deno.writeTextFile("dev.jsonl", lines.join(""));
  const { out, err } = await runOnCpu(workspace, `eval --model base ${OWN} --adapter a --data dev.jsonl`);
  assert.match(out, /pearson -?\d\.\d+, spearman -?\d\.\d+, over 6 examples/);
  assert.equal(err.includes("note"), false, err);
});

Deno.test("evaluateOnTask() meets a model's labels with a task's by name, and says so where they are others", async () => {
  await using workspace = await Workspace.open();
  const write = async (names: readonly string[]) => {
    await writeTinyRoberta("model", {
      head: "classification",
      config: tinyRobertaConfig({ id2label: Object.fromEntries(names.entries()) }),
    });
  };
  const lines = unevenRows(40, 1).map(({ sentence, label }) => `${sentence}\t${label}\n`);
  await Deno.writeTextFile("dev.tsv", "sentence\tlabel\n" + lines.join(""));
  const measured = async (names: readonly string[]) => {
    await write(names);
    const { out, err } = await runOnCpu(workspace, "eval --model model --task sst2 --data dev.tsv --json");
    return { accuracy: JSON.parse(out).accuracy, notes: err.split("\n").filter((line) => line.includes("labels")) };
  };
  const plain = await measured(["LABEL_0", "LABEL_1"]);
  assert.notEqual(plain.accuracy, 0.5);
  assert.deepEqual(await measured(["negative", "positive"]), plain);
  const swapped = await measured(["POSITIVE", "NEGATIVE"]);
  assert.deepEqual([swapped.accuracy.toFixed(6), swapped.notes], [(1 - plain.accuracy).toFixed(6), []]);
  assert.deepEqual(await measured(["sad", "glad"]), {
    accuracy: plain.accuracy,
    notes: ["note: the head of model counts as it is: its labels are sad, glad, now negative, positive"],
  });
});

Deno.test("evaluateOnImages() refuses an adapter for other classes, and takes the most batches that are asked for", async () => {
  await using workspace = await openStripes();
  await runOnCpu(workspace, `${FINETUNE_STRIPES} --method lora --rank 2 --epochs 0.1 --no-merge --out run`);
  const evaluate =
    "eval --model base --adapter run/best-adapter --task images --data stripes.zarr --batch 7 --batches 2";
  assert.equal(JSON.parse((await runOnCpu(workspace, `${evaluate} --json`)).out).images, 14);
  await editJson("run/best-adapter/labels.json", (json) => json.labels = ["0", "2", "1"]);
  const { code, err } = await workspace.run(...`${evaluate} ${DEVICE}`.split(" "));
  assert.equal(code, 1);
  assert.match(
    err,
    /Cannot evaluate run\/best-adapter on the images of stripes\.zarr: its labels are 0, 2, 1, the images' classes 0, 1, 2/,
  );
  await Deno.remove("run/best-adapter/labels.json");
  const unlabelled = await runOnCpu(workspace, evaluate);
  assert.match(unlabelled.err, /note: run\/best-adapter does not say its labels: they are taken to be 0, 1, 2, in/);
  await writeHeadless("headless");
  const headless = await workspace.run(...evaluate.replace("run/best-adapter", "headless").split(" "));
  assert.match(headless.err, /Cannot use the adapter headless on this model: one of them must have the head: got no /);
});

/** Writes an adapter of the tiny ViT that brings no head, as PEFT does where there are no modules to save. */
async function writeHeadless(folder: string): Promise<void> {
  using base = initVit(loopsBackend(), tinyVitConfig(), { seed: 1 });
  const lora: LoraConfig = { r: 2, alpha: 4, targets: ["query"] };
  using adapter = initLora(base, lora, { seed: 1 });
  await writeFolderDurably(".", folder, (writer) => savePeft(writer, adapter, { lora }, base.entries()));
}

/** Adapters `a` and `b` of a model without a head, for labels of these names. */
async function makeAdapters(a: unknown, b: unknown): Promise<void> {
  await writeTinyRoberta("base");
  for (const [seed, [name, labels]] of [["a", a] as const, ["b", b] as const].entries()) {
    await writeRobertaAdapter(name, tinyRobertaConfig(), { seed });
    await Deno.writeTextFile(`${name}/labels.json`, JSON.stringify({ labels }));
  }
  await writeKinds("dev.jsonl", { count: 4, seed: 1 });
}

/** A command line for the task of good and bad. */
function evaluate(flags: string): string[] {
  return `eval --model base ${OWN} --data dev.jsonl ${DEVICE} ${flags}`.split(" ");
}

testBadInputs([
  {
    when: "adapters of one evaluation have their labels in different orders",
    make: () => makeAdapters(["good", "bad"], ["bad", "good"]),
    argv: evaluate("--adapter a=a --adapter b=b"),
    message: /^Cannot use adapters of different labels at once: a has good, bad, b has bad, good$/,
  },
  {
    when: "an adapter was trained for other labels than those that are given",
    make: () => makeAdapters(["good", "bad"], []),
    argv: evaluate("--adapter a --labels bad --labels good"),
    message: /^Cannot use --labels bad, good with the adapter a: its labels are good, bad$/,
  },
  {
    when: "the data has a label that the adapter does not know",
    make: () => makeAdapters(["good", "poor"], []),
    argv: evaluate("--adapter a"),
    message: /^Cannot read "dev\.jsonl": line 2: the label must be one of 0 \(good\), 1 \(poor\): got "bad"$/,
  },
  {
    when: "an adapter has another number of labels than the task",
    make: async () => {
      await makeAdapters(["x", "y", "z"], []);
      await Deno.writeTextFile("dev.tsv", "sentence\tlabel\n fine\t1\n");
    },
    argv: `eval --model base --adapter a --task sst2 --data dev.tsv ${DEVICE}`.split(" "),
    message: /^Cannot evaluate a on sst2: the task has 2 labels, the adapter 3$/,
  },
  {
    when: "an adapter's labels are no names",
    make: () => makeAdapters([1, 2], []),
    argv: evaluate("--adapter a"),
    message: /^Cannot read a\/labels\.json: its labels must be two names or more, or "score"$/,
  },
  ...["--seq 9", "--max-length 9", "--sentence x", "--label x", "--hold-out 0.2", "--tokenizer byte"].map((flag) => ({
    when: `images are evaluated with ${flag}`,
    argv: `eval --model base --task images --data store ${flag}`.split(" "),
    message: new RegExp(`^Cannot use ${flag.split(" ")[0]} with --task images: it is for `),
  })),
  {
    when: "text is evaluated with a crop",
    argv: "eval --model tiny --data corpus.txt --crop 9".split(" "),
    message: /^Cannot use --crop without --task: it is for --task images$/,
  },
]);
