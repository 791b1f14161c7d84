/** `plan` of fine-tuning: the paper's table from shapes, plans of single runs, what is trained, and what is refused. */
import assert from "node:assert/strict";
import { ROBERTA_PROJECTED, robertaConfig, robertaWeights } from "../models/mod.ts";
import { honestMemory, modelShapes, PAPER_FINETUNE } from "./accounting.ts";
import { type FinetuneMethodName, sizeInWords } from "./finetune_method_options.ts";
import type { FinetunePlan } from "./finetune_plan.ts";
import { formatTable } from "./log.ts";
import type { Run } from "./options.ts";
import { trainedRows } from "./plan_finetune.ts";
import type { ComparedMethod } from "./plan_finetune_compare.ts";
import { writeTinyChat } from "./testing/tiny_chat.ts";
import { writeTinyRoberta } from "./testing/tiny_roberta.ts";
import { Workspace } from "./testing/workspace.ts";

const SHAPES = modelShapes(robertaWeights(robertaConfig("roberta-base"), "classification"), ROBERTA_PROJECTED);
/** Elements of f32 factors of rank 1 for every projected matrix, and of the head. */
const [FACTORS, HEAD] = [12 * (4 * (768 + 768) + 2 * (768 + 3072)), 768 * 768 + 768 + 2 * 768 + 2];

async function planned(workspace: Workspace, flags: string): Promise<FinetunePlan & { readonly task: string }> {
  const { code, out, err } = await workspace.run("plan", ...flags.split(" "), "--device", "cpu", "--json");
  assert.equal(code, 0, err);
  return JSON.parse(out);
}

Deno.test("plan --task glue --compare has the paper's memory of RoBERTa-base, its rule, and the bytes of a run", async () => {
  await using workspace = await Workspace.open();
  const argv = "plan --model roberta-base --task glue --batch 1 --max-length 8 --device cpu --compare".split(" ");
  const { compared } = JSON.parse((await workspace.run(...argv, "--json")).out) as { compared: ComparedMethod[] };
  assert.deepEqual(compared.map(({ method, rank, printed }) => ({ method, rank, printed })), [
    ...PAPER_FINETUNE.map(({ method, rank, printed }) => ({ method, rank, printed })),
  ]);
  for (const { method, rank = 0, printed, paperBytes, plan } of compared) {
    assert.ok(Math.abs(paperBytes! - printed!) < 1.5e6, `${method} ${rank}: ${paperBytes}`);
    const galore = method === "galore" ? { rank, projector: "f32" as const } : undefined;
    const { weights, states } = honestMemory(SHAPES, { weights: "f32", moments: "f32", galore });
    const trained = rank * FACTORS + HEAD;
    assert.equal(plan.weightBytes, weights);
    assert.equal(plan.adapterBytes, method === "lora" ? 4 * trained : 0);
    assert.equal(plan.optimizerBytes + plan.projectorBytes, method === "lora" ? 8 * trained : states);
  }
  const { out } = await workspace.run(...argv);
  assert.match(out, /^galore +4 +253 +253\.3 +820\.7 /m);
  assert.match(out, /^lora +8 +264 +265\.2 +521\.6 /m);
});

Deno.test("plan --compare takes one rank, and prints no figure of the paper for another model", async () => {
  await using workspace = await Workspace.open();
  const argv = "plan --task sst2 --compare --device cpu --batch 1 --max-length 8 --json".split(" ");
  const listed = async (...flags: readonly string[]): Promise<ComparedMethod[]> =>
    JSON.parse((await workspace.run(...argv, ...flags)).out).compared;
  const other = await listed("--model", "roberta-2m", "--rank", "4");
  assert.deepEqual(other.map(({ method, rank, printed }) => [method, rank, printed]), [
    ["full", undefined, undefined],
    ["galore", 4, undefined],
    ["lora", 4, undefined],
  ]);
  const same = await listed("--model", "roberta-base", "--rank", "4");
  assert.deepEqual(same.map(({ printed }) => printed), [747e6, 253e6, 257e6]);
});

Deno.test("plan --compare of a ViT lists what images are adapted by, and no figure of the paper", async () => {
  await using workspace = await Workspace.open();
  const argv = "plan --model vit-0.2m --compare --device cpu --batch 1".split(" ");
  const { compared } = JSON.parse((await workspace.run(...argv, "--rank", "4", "--json")).out);
  const listed = (compared as ComparedMethod[]).map(({ method, rank, prompts }) => [method, rank ?? prompts]);
  assert.deepEqual(listed, [
    ...[["linear", undefined], ["vpt-shallow", 10], ["vpt-deep", 10], ["lora", 4], ["galore", 4], ["full", undefined]],
  ]);
  const { out } = await workspace.run(...argv);
  assert.match(out, /^MB +rank +prompts +trained +of the model +weights\+state +gradients +peak$/m);
  assert.match(out, /^vpt-deep +10 +[\d,]+ +[\d.]+% +[\d.]+ +[\d.]+ +[\d.]+$/m);
  assert.match(out, /^full +[\d,]+ +100% /m);
  assert.doesNotMatch(out, /paper/);
});

Deno.test("plan and report say a rank only where method or optimizer has one", () => {
  const size = { prompts: 10, rank: 16 };
  const wordsOf = (method: FinetuneMethodName, optimizer: Run["optimizer"] = "adamw") =>
    sizeInWords({ ...size, method, optimizer });
  assert.deepEqual([wordsOf("full"), wordsOf("linear"), wordsOf("vpt-deep")], ["", "", ", 10 prompts"]);
  assert.deepEqual([wordsOf("lora"), wordsOf("full", "galore_adamw")], [", rank 16", ", rank 16"]);
  assert.equal(wordsOf("full", "apollo_mini"), ", rank 1");
});

Deno.test("plan --method lora counts what is trained, and says how large a part it is", async () => {
  await using workspace = await Workspace.open();
  const flags = "--model roberta-base --method lora --rank 4 --batch 1 --max-length 8";
  const plan = await planned(workspace, flags);
  const trained = 12 * 2 * 4 * (768 + 768) + HEAD;
  assert.equal(plan.task, "glue");
  assert.deepEqual([plan.parameters, plan.trainedParameters], [124_647_170, trained]);
  assert.deepEqual(
    [plan.adapterBytes, plan.gradientBytes, plan.optimizerBytes],
    [trained, trained, 2 * trained].map((n) => 4 * n),
  );
  assert.ok(plan.peakBytes > plan.weightBytes + plan.adapterBytes + plan.gradientBytes + plan.optimizerBytes);
  const { out } = await workspace.run("plan", ...flags.split(" "), "--device", "cpu");
  assert.match(out, /^roberta-base on glue: 124,647,170 weights; lora trains 739,586, 0\.59%$/m);
  assert.match(
    out,
    /^roberta\.encoder\.layer\.\*\.attention\.self\.query\.lora_A\.weight +12 +\[4, 768\] +36,864 +0\.03%$/m,
  );
  assert.match(out, /^total +52 +739,586 +0\.59%$/m);
});

Deno.test("plan of fine-tuning takes folders, of a LLaMA for conversations, and the flags of finetune", async () => {
  await using workspace = await Workspace.open();
  await writeTinyChat();
  await writeTinyRoberta("roberta");
  const chat = await planned(workspace, "--model base --method lora --batch 2 --seq 32");
  assert.equal(chat.task, "sft");
  assert.deepEqual(chat.trained.map(({ name }) => name.replace(/.*self_attn\./, "")), [
    ...["q_proj.lora_A.weight", "q_proj.lora_B.weight", "v_proj.lora_A.weight", "v_proj.lora_B.weight"],
  ]);
  const long = await planned(workspace, "--model base --method lora --batch 2 --seq 64");
  assert.ok(long.activationBytes > 1.5 * chat.activationBytes);
  const galore = await planned(workspace, "--model roberta --task mnli --method galore --rank 4 --batch 2");
  assert.ok(galore.projectorBytes > 0 && galore.refreshGradientBytes > galore.gradientBytes);
  assert.equal(galore.trained.find(({ name }) => name === "classifier.out_proj.weight")?.shape[0], 3);
  const wide = await planned(
    workspace,
    "--model roberta --method lora --targets all-linear --modules-to-save word_embeddings",
  );
  assert.ok(wide.trained.some(({ name }) => name === "roberta.embeddings.word_embeddings.weight"));
});

Deno.test("trainedRows() says how large a part of a backbone prompts are", () => {
  const prompts = [
    { name: "prompt_embeddings", shape: [1, 50, 768] },
    { name: "deep_prompt_embeddings", shape: [11, 50, 768] },
  ];
  assert.deepEqual(formatTable(trainedRows(prompts, 85_798_656), "lrlrr"), [
    "trained                 n  shape          weights  of the model",
    "prompt_embeddings       1  [1, 50, 768]    38,400        0.045%",
    "deep_prompt_embeddings  1  [11, 50, 768]  422,400         0.49%",
    "total                   2                 460,800         0.54%",
  ]);
});

Deno.test.each([
  ["--model roberta-base --task sst2 --fit 8GB", 2, /Cannot use --fit with --task/],
  ["--model roberta-base --task sst2 --compare --optimizer sgd", 2, /Cannot use --optimizer with --compare of ways/],
  [
    "--model roberta-base --task sst2 --method full --rank 7",
    1,
    /Cannot use --rank with --method full: it is for galore/,
  ],
  ["--model vit-0.2m --fit 1GB", 2, /Cannot use --fit with the ViT vit-0\.2m: it proposes runs of training on text/],
  ["--model roberta-base --method lora --fit 1GB", 2, /Cannot use --fit with --method lora: it proposes/],
  ["--model vit-0.2m --compare --method lora", 2, /Cannot use --method with --compare of ways to fine-tune/],
  ["--model vit-0.2m --vocab 100", 1, /Cannot use --vocab to plan vit-0\.2m: a ViT has no use for it/],
  ["--model roberta-base --targets query", 2, /Cannot use --targets without --task/],
  ["--model roberta-base --task sst3", 1, /Cannot find the task "sst3"/],
  ["--model roberta-base --task sft", 1, /Cannot plan to fine-tune roberta-base on sft: it is a RoBERTa/],
  ["--model llama-9m --task sst2", 1, /Cannot plan to fine-tune llama-9m on sst2: it is a LLaMA/],
  ["--model roberta-base --task sst2 --dtype bf16", 1, /Cannot plan to fine-tune in bf16/],
  ["--model roberta-base --task sst2 --seq 32", 1, /Cannot use --seq with --task sst2/],
  ["--model roberta-base --method lora --targets nowhere", 1, /every named module must be there: got "nowhere"/],
  ["--model nowhere --method lora", 1, /Cannot fine-tune nowhere: there is no such folder/],
  ["--method lora", 1, /Cannot fine-tune without a model/],
])("plan refuses %s in one line", async (flags, expected, message) => {
  await using workspace = await Workspace.open();
  const { code, err } = await workspace.run("plan", ...flags.split(" "));
  assert.equal(code, expected, err);
  assert.match(err, message);
  assert.equal(err.trim().split("\n").length, 1);
});
