/** `finetune --task sft`: every method learns answers and nothing else, and leaves folders that load again. */
import assert from "node:assert/strict";
import { loopsBackend } from "../backends/cpu/mod.ts";
import { fromArray, noGrad, type Params, scope, type Tensor } from "../core/mod.ts";
import { assertNoLeak } from "../core/testing/leaks.ts";
import { byteTokenizer, loadChatTemplate, loadTokenizer, PLAIN_CHAT_TEMPLATE, readChat } from "../data/mod.ts";
import { llama, type LlamaConfig, loadPeft } from "../models/mod.ts";
import { loadConfig, loadModel } from "./checkpoint.ts";
import { FileFolder } from "./files.ts";
import { completeFinetune, type Finetune } from "./finetune_options.ts";
import { runFinetune } from "./finetune_run.ts";
import { prepareFinetune } from "./finetune_setup.ts";
import { EpochBatches } from "./finetune_subject.ts";
import { memoryOutput } from "./log.ts";
import { isStepRow, readMetrics } from "./metrics.ts";
import { openSft, type SftRows } from "./sft.ts";
import { editJson } from "./testing/bad_input.ts";
import { TINY_CHAT, writeTinyChat } from "./testing/tiny_chat.ts";
import { fingerprint, type Outcome, Workspace } from "./testing/workspace.ts";

const DEVICE = "--device cpu --threads 1 --blas off".split(" ");
const FLAGS = "--model base --task sft --data chat.jsonl --data chat.jsonl --seq 64 --batch 4".split(" ");

async function openToy(): Promise<Workspace> {
  const workspace = await Workspace.open();
  await writeTinyChat();
  return workspace;
}

async function run(workspace: Workspace, ...argv: readonly string[]): Promise<Outcome> {
  const outcome = await workspace.run(...argv, ...DEVICE);
  assert.equal(outcome.code, 0, outcome.err);
  return outcome;
}

async function finetune(workspace: Workspace, flags: string): Promise<Outcome> {
  return await run(workspace, "finetune", ...FLAGS, ...flags.split(" "));
}

/** The likeliest answers to the trained questions, less the newline that ends the output. */
async function answers(workspace: Workspace, ...flags: readonly string[]): Promise<string[]> {
  const said = [];
  for (const [question] of TINY_CHAT) {
    const argv = ["generate", "--chat", "--prompt", question, "--tokens", "14", "--temperature", "0", ...flags];
    said.push((await run(workspace, ...argv)).out.replace(/\n$/, ""));
  }
  return said;
}

const TRAINED = TINY_CHAT.map(([, answer]) => answer);
const LEARNING: Readonly<Record<string, string>> = {
  full: "--method full --lr 0.01 --epochs 50",
  galore: "--method galore --rank 8 --scale 1 --lr 0.02 --epochs 50 --update-proj-gap 10",
  lora: "--method lora --rank 8 --targets all-linear --lr 0.02 --epochs 60",
  dora: "--method dora --rank 8 --targets all-linear --lr 0.02 --epochs 60",
};

for (const [method, flags] of Object.entries(LEARNING)) {
  Deno.test(`finetune() changes the answers to the trained ones when the task is sft and the method ${method}`, async () => {
    await using workspace = await openToy();
    const before = await fingerprint("base");
    const untrained = await answers(workspace, "--model", "base");
    for (const [i, answer] of TRAINED.entries()) assert.notEqual(untrained[i], answer);
    const { err } = await finetune(workspace, `${flags} --eval-every 10 --out run`);
    assert.match(err, /data {6}sft: 4 conversations in 4 rows of 64, of whose tokens 14% are learned; 4 held out/);
    assert.deepEqual(await answers(workspace, "--model", "run"), TRAINED);
    assert.deepEqual(await fingerprint("base"), before);
    const measured = (await readMetrics("run/metrics.jsonl")).flatMap((row) =>
      isStepRow(row) ? [] : row.validationLoss
    );
    assert.ok(measured[measured.length - 1] < 0.8 * measured[0], `${measured}`);
    const best = await run(workspace, ..."eval --model run --task sft --data chat.jsonl --json".split(" "));
    assert.ok(Math.abs(JSON.parse(best.out).loss - measured[measured.length - 1]) < 1e-5, best.out);
    if (method === "full" || method === "galore") return;
    const adapter = ["--model", "base", "--adapter", "run/best-adapter"];
    assert.deepEqual(await answers(workspace, ...adapter), TRAINED);
    const losses = await Promise.all([["--model", "run/best"], adapter].map(async (model) => {
      const { out } = await run(
        workspace,
        "eval",
        ...model,
        ..."--data corpus.txt --seq 16 --batches 2 --json".split(" "),
      );
      return JSON.parse(out).loss as number;
    }));
    assert.ok(Math.abs(losses[0] - losses[1]) < 1e-5, `${losses}`);
  });
}

/** A run as the module's functions take it. */
function toyRun(changes: Partial<Finetune> = {}): Finetune {
  return completeFinetune({
    ...{ model: "base", task: "sft", data: ["chat.jsonl", "chat.jsonl"], device: "cpu", threads: 1, blas: "off" },
    ...changes,
  });
}

function logitsOf(params: Params, config: LlamaConfig, ids: readonly number[]): Tensor {
  using forward = scope("by hand");
  const tokens = fromArray(params.backend, Int32Array.from(ids), [1, ids.length]);
  return forward.keep(noGrad(() => llama(params, config, tokens)));
}

/** The sum of -log p over the tokens that `isAnswer` marks, by the definition, in doubles. */
async function surprise(params: Params, config: LlamaConfig, ids: readonly number[], isAnswer: readonly boolean[]) {
  using output = logitsOf(params, config, ids);
  const logits = await output.read();
  let total = 0;
  for (let i = 1; i < ids.length; i++) {
    if (!isAnswer[i]) continue;
    const row = Array.from(logits.subarray((i - 1) * config.vocab_size, i * config.vocab_size), Number);
    total += Math.log(row.reduce((sum, value) => sum + Math.exp(value), 0)) - row[ids[i]];
  }
  return total;
}

/** A conversation in the plain template's words, written out: the answer and the end after it count. */
function byHand([question, answer]: readonly [string, string]): { ids: number[]; isAnswer: boolean[] } {
  const bytes = (text: string) => [...new TextEncoder().encode(text)];
  const prompt = [...bytes(`user:\n${question}`), 256, ...bytes("assistant:\n")];
  const counted = [...bytes(answer), 256];
  return { ids: [...prompt, ...counted], isAnswer: [...prompt.map(() => false), ...counted.map(() => true)] };
}

Deno.test("openSft() counts the tokens of answers and no other in the loss, packed and alone", async () => {
  await using _ = await openToy();
  const subject = await openSft(toyRun({ seq: 90, batch: 1 }), memoryOutput());
  using backend = loopsBackend();
  using params = await subject.load(backend, memoryOutput());
  const config = subject.config as LlamaConfig;
  const chats = TINY_CHAT.map(byHand);
  const count = chats.flatMap(({ isAnswer }) => isAnswer).filter(Boolean).length;
  let alone = 0;
  for (const { ids, isAnswer } of chats) alone += await surprise(params, config, ids, isAnswer);
  const { loss, scores } = await subject.measure(params);
  assert.ok(Math.abs(loss - alone / count) < 1e-5, `${loss}, by hand ${alone / count}`);
  assert.ok(Math.abs(scores.perplexity - Math.exp(alone / count)) < 1e-2);

  assert.equal(subject.batchesAnEpoch, 2);
  const batches = new EpochBatches(subject, 0);
  for (let i = 0; i < 2; i++) {
    const rows = await batches.next() as SftRows;
    const members = chats.filter(({ ids }) => String([...rows.tokens]).includes(String(ids)));
    assert.equal(members.length, 2);
    const first = String([...rows.tokens]).startsWith(String(members[0].ids)) ? members : members.reverse();
    const isAnswer = first.flatMap((chat) => chat.isAnswer);
    const packed = await surprise(params, config, first.flatMap(({ ids }) => ids), isAnswer);
    using loss = subject.loss(params, rows);
    const [value] = await loss.read();
    const expected = packed / isAnswer.filter(Boolean).length;
    assert.ok(Math.abs(Number(value) - expected) < 1e-5, `${value}, by hand ${expected}`);
  }
});

for (const flags of [LEARNING.galore, `${LEARNING.lora} --lora-dropout 0.1 --grad-accum 2`]) {
  Deno.test(`finetune() gives the same bits when a run over conversations is resumed: ${flags}`, async () => {
    await using workspace = await openToy();
    const all = `${flags} --seq 90 --batch 1 --epochs 14 --save-every 7 --eval-every 5 --keep 9`;
    await finetune(workspace, `${all} --out whole`);
    await finetune(workspace, `${all} --out cut`);
    const steps = [...Deno.readDirSync("cut/checkpoints")].map(({ name }) => Number(name.slice(5)));
    for (const step of steps) if (step > 7) await Deno.remove(`cut/checkpoints/step-${step}`, { recursive: true });
    const { err } = await run(workspace, "finetune", "--resume", "cut");
    assert.match(err, /going on after step 7/);
    for (const folder of [`checkpoints/step-${Math.max(...steps)}`, "best"]) {
      const [whole, cut] = await Promise.all([fingerprint(`whole/${folder}`), fingerprint(`cut/${folder}`)]);
      assert.deepEqual(Object.values(cut), Object.values(whole), folder);
    }
    const { err: refused, code } = await workspace.run("finetune", "--resume", "cut", "--seq", "95", ...DEVICE);
    assert.equal(code, 1);
    assert.match(refused, /Cannot resume cut: the run differs: seq was 90, is 95/);
  });
}

Deno.test("finetune() leaves a folder that names its end and its template when the model's own named neither", async () => {
  await using workspace = await openToy();
  const { err } = await finetune(workspace, "--epochs 1 --out run");
  assert.match(err, /^note: base has no chat template: a plain one is used/m);
  assert.equal((await loadConfig(new FileFolder("run/best"))).eos_token_id, byteTokenizer().eosId);
  assert.equal((await loadChatTemplate("run/best"))?.source, PLAIN_CHAT_TEMPLATE);
  const { err: said } = await run(
    workspace,
    "generate",
    "--model",
    "run",
    "--chat",
    "--prompt",
    "Hm?",
    "--tokens",
    "1",
  );
  assert.doesNotMatch(said, /no chat template/);
  const again = await finetune(workspace, "--model run --epochs 1 --out again");
  assert.doesNotMatch(again.err, /no chat template/);
});

Deno.test("finetune() takes the chat template of the model's folder", async () => {
  await using workspace = await openToy();
  const template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ eos_token }}{% endfor %}" +
    "{% if add_generation_prompt %}[assistant]{% endif %}";
  await editJson("base/tokenizer_config.json", (json) => json.chat_template = template);
  const subject = await openSft(toyRun({ seq: 64 }), memoryOutput());
  const [question, answer] = TINY_CHAT[0];
  const first = `[user]${question}<|endoftext|>[assistant]${answer}<|endoftext|>`;
  const tokenizer = await loadTokenizer("base");
  const texts = await Promise.all([0, 1].map(async (place) => {
    const { value } = await subject.epoch(0, place).next();
    return tokenizer.decode((value as SftRows | undefined)?.tokens ?? []);
  }));
  assert.ok(texts.some((text) => text.includes(first)), `${texts}`);
  const { err } = await finetune(workspace, "--epochs 1 --out run");
  assert.doesNotMatch(err, /no chat template/);
  assert.equal((await loadChatTemplate("run/best"))?.source, template);
});

Deno.test("finetune() writes the adapter alone when --no-merge is given", async () => {
  await using workspace = await openToy();
  const { err } = await finetune(workspace, "--method lora --no-merge --epochs 1 --out run");
  assert.match(err, /; run\/best-adapter, run\/report\.html\n/);
  assert.deepEqual([...Deno.readDirSync("run/best-adapter")].map(({ name }) => name).sort(), [
    "adapter_config.json",
    "adapter_model.safetensors",
    "manifest.json",
  ]);
  const { code, err: refused } = await workspace.run("generate", "--model", "run", "--prompt", "a", ...DEVICE);
  assert.equal(code, 1);
  assert.equal(
    refused,
    "Cannot use run: it keeps an adapter alone; give its model, and --adapter run/best-adapter\n",
  );
  using base = (await loadModel(loopsBackend(), new FileFolder("base"))).params;
  using adapter = await loadPeft(new FileFolder("run/best-adapter"), base);
  assert.deepEqual([adapter.taskType, adapter.baseModel, adapter.lora.targets], ["CAUSAL_LM", "base", [
    "q_proj",
    "v_proj",
  ]]);
});

Deno.test("finetune() cuts conversations that are longer than a row when --truncate is given", async () => {
  await using workspace = await openToy();
  const { err } = await finetune(workspace, "--seq 38 --truncate --epochs 1 --out run");
  assert.match(err, /^note: [1-4] conversations are cut to 38 tokens$/m);
});

Deno.test("finetune() leaves out conversations of which no answer is left by --truncate, and counts them", async () => {
  await using workspace = await openToy();
  const long = JSON.stringify({ prompt: "Why? ".repeat(20), completion: "So." });
  await Deno.writeTextFile("chat.jsonl", `${long}\n`, { append: true });
  const { err } = await finetune(workspace, "--truncate --epochs 1 --out run");
  assert.match(err, /^note: 2 conversations are left out: no answer is within their first 64 tokens$/m);
  assert.match(err, /data {6}sft: 4 conversations in 4 rows of 64, .* 4 held out/);
});

for (const pad of [-1, 257, null]) {
  Deno.test(`openSft() pads with the tokenizer's end when the configuration's token is ${pad}`, async () => {
    await using _ = await openToy();
    await editJson("base/config.json", (json) => json.pad_token_id = pad);
    const subject = await openSft(toyRun({ seq: 64 }), memoryOutput());
    const rows = (await subject.epoch(0, 0).next()).value as SftRows;
    assert.equal(rows.tokens[63], byteTokenizer().eosId);
  });
}

Deno.test("openSft() pads with the configuration's token where it is one", async () => {
  await using _ = await openToy();
  await editJson("base/config.json", (json) => json.pad_token_id = 0);
  const subject = await openSft(toyRun({ seq: 64 }), memoryOutput());
  assert.equal(((await subject.epoch(0, 0).next()).value as SftRows).tokens[63], 0);
});

Deno.test("runFinetune() leaves no tensor behind when the task is sft", async () => {
  await using _ = await openToy();
  using setup = await prepareFinetune(toyRun({ method: "lora", epochs: 2, out: "run" }), memoryOutput());
  await assertNoLeak("runFinetune", setup.backend, () => runFinetune(setup, {}, memoryOutput()));
});

Deno.test("readChat() reads the conversations of the examples, each short enough for a row of 256 bytes", async () => {
  const records = await readChat(new URL("examples/chat.jsonl", import.meta.url).pathname);
  assert.equal(records.length, 42);
  for (const { messages } of records) {
    assert.ok(messages.reduce((sum, { role, content }) => sum + role.length + content.length + 3, 0) < 256);
    assert.equal(messages[messages.length - 1].role, "assistant");
  }
});
