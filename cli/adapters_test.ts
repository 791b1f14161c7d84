/** Several adapters in one batch: `generate --batch` and `eval` give each line what its own adapter gives alone. */
import assert from "node:assert/strict";
import { tinyChatConfig, writeTinyChat } from "./testing/tiny_chat.ts";
import { writeLlamaAdapter, writeRobertaAdapter } from "./testing/tiny_adapters.ts";
import { tinyRobertaConfig, toyRows, writeTinyRoberta } from "./testing/tiny_roberta.ts";
import { type Outcome, Workspace } from "./testing/workspace.ts";

const DEVICE = "--device cpu --threads 1 --blas off".split(" ");

async function run(workspace: Workspace, ...argv: readonly string[]): Promise<Outcome> {
  const outcome = await workspace.run(...argv, ...DEVICE);
  assert.equal(outcome.code, 0, outcome.err);
  return outcome;
}

/** A tiny LLaMA, `base`, and three adapters of it: of other ranks, on other modules, one with DoRA. */
async function openLlama(): Promise<Workspace> {
  const workspace = await Workspace.open();
  await writeTinyChat();
  const config = tinyChatConfig();
  await writeLlamaAdapter("law", config, { seed: 1, lora: { dora: true }, size: 0.6 });
  await writeLlamaAdapter("code", config, { seed: 2, lora: { r: 3, targets: "all-linear" } });
  await writeLlamaAdapter("poem", config, { seed: 3, lora: { targets: ["o_proj", "down_proj"], alpha: 8 } });
  return workspace;
}

const ADAPTERS = "--adapter law=law --adapter code=./code --adapter poem=poem".split(" ");

/** Prompts of different lengths, one longer than half of the 96 positions. */
const LINES: readonly { readonly prompt: string; readonly adapter: string | null }[] = [
  { prompt: "What is rank?", adapter: "law" },
  { prompt: "Hm?", adapter: "code" },
  { prompt: "What is rank?", adapter: null },
  { prompt: "Is it low? ".repeat(6), adapter: "poem" },
  { prompt: "What is rank?", adapter: "code" },
  { prompt: "Who is Ada, and what did she write?", adapter: "law" },
  { prompt: "é", adapter: "poem" },
];

async function writeLines(lines: readonly unknown[], file = "prompts.jsonl"): Promise<void> {
  await Deno.writeTextFile(file, lines.map((line) => JSON.stringify(line) + "\n").join(""));
}

interface Answer {
  readonly adapter: string | null;
  readonly prompt: string;
  readonly completion: string;
}

async function generateBatch(workspace: Workspace, ...flags: readonly string[]): Promise<Answer[]> {
  const argv = ["generate", "--model", "base", "--batch", "prompts.jsonl", ...flags];
  return (await run(workspace, ...argv)).out.trimEnd().split("\n").map((line) => JSON.parse(line));
}

for (const chat of [false, true]) {
  Deno.test(`generate() continues each line of a batch as its adapter does alone${chat ? ", in a chat" : ""}`, async () => {
    await using workspace = await openLlama();
    await writeLines(LINES.map((line) => ({ ...line, id: 7 })));
    // 40 tokens more than fit into the positions of the longest prompt, in a chat
    const flags = ["--tokens", "40", "--temperature", "0", ...(chat ? ["--chat"] : [])];
    const answers = await generateBatch(workspace, ...ADAPTERS, ...flags);
    assert.deepEqual(answers.map(({ adapter, prompt }) => ({ adapter, prompt })), LINES);
    for (const { adapter, prompt, completion } of answers) {
      const named = adapter === null ? [] : ["--adapter", adapter];
      const { out } = await run(workspace, "generate", "--model", "base", "--prompt", prompt, ...named, ...flags);
      assert.equal(out, `${chat ? "" : prompt}${completion}\n`);
    }
    const asked = answers.filter(({ prompt }) => prompt === "What is rank?").map(({ completion }) => completion);
    assert.equal(new Set(asked).size, 3, "law, code and no adapter answer differently");
  });
}

Deno.test("generate() draws the tokens of a line by the seed and what it says, not by its company or place", async () => {
  await using workspace = await openLlama();
  await writeLines(LINES);
  const flags = [...ADAPTERS, "--tokens", "12", "--temperature", "1"];
  const all = await generateBatch(workspace, ...flags);
  assert.deepEqual(await generateBatch(workspace, ...flags, "--rows", "3"), all);
  await writeLines(LINES.slice(0, 4));
  assert.deepEqual(await generateBatch(workspace, ...flags), all.slice(0, 4));
  await writeLines(LINES.slice(2).reverse());
  assert.deepEqual((await generateBatch(workspace, ...flags)).reverse(), all.slice(2));
  await writeLines(LINES.slice(0, 4));
  assert.notDeepEqual(await generateBatch(workspace, ...flags, "--seed", "2"), all.slice(0, 4));
  await writeLines([LINES[0], LINES[0]]);
  const [first, second] = await generateBatch(workspace, ...flags);
  assert.deepEqual(first, all[0]);
  assert.notEqual(second.completion, first.completion);
});

Deno.test("generate() takes a batch for one adapter without a name, and for none", async () => {
  await using workspace = await openLlama();
  const flags = ["--tokens", "8", "--temperature", "0"];
  await writeLines(LINES.filter(({ adapter }) => adapter === "law"));
  const named = await generateBatch(workspace, "--adapter", "law=law", ...flags);
  await writeLines(named.map(({ prompt }) => ({ prompt })));
  const unnamed = await generateBatch(workspace, "--adapter", "./law", ...flags);
  assert.deepEqual(unnamed, named.map((answer) => ({ ...answer, adapter: "./law" })));
  const bare = await generateBatch(workspace, ...flags);
  assert.deepEqual(bare.map(({ adapter }) => adapter), [null, null]);
  assert.notDeepEqual(bare.map(({ completion }) => completion), named.map(({ completion }) => completion));
  await writeLines(named.map(({ prompt }) => ({ prompt, adapter: null })));
  assert.deepEqual(await generateBatch(workspace, "--adapter", "./law", ...flags), bare);
});

Deno.test("generate() and eval() serve several FLoRA adapters of HiRA's files, and one alone", async () => {
  await using workspace = await openLlama();
  for (const [seed, name] of ["a", "b"].entries()) {
    const lora = { targets: ["q_proj", "v_proj", "up_proj"] };
    await writeLlamaAdapter(name, tinyChatConfig(), { seed, kind: "flora", lora, size: 1 });
  }
  const lines = ["a", null, "b", "a"].map((adapter, i) => ({ prompt: "Is it low? ".repeat(1 + i), adapter }));
  await writeLines(lines);
  const flags = ["--tokens", "12", "--temperature", "0"];
  const answers = await generateBatch(workspace, "--adapter", "a=a", "--adapter", "b=b", ...flags);
  for (const { adapter, prompt, completion } of answers) {
    const named = adapter === null ? [] : ["--adapter", adapter];
    const { out } = await run(workspace, "generate", "--model", "base", "--prompt", prompt, ...named, ...flags);
    assert.equal(out, `${prompt}${completion}\n`);
  }
  const losses = [];
  for (const named of [[], ["--adapter", "a"], ["--adapter", "b"]]) {
    const argv = "eval --model base --data corpus.txt --seq 16 --batches 2 --json".split(" ");
    losses.push(JSON.parse((await run(workspace, ...argv, ...named)).out).loss.toFixed(4));
  }
  assert.equal(new Set(losses).size, 3, `${losses}`);
});

Deno.test("generate() says so when adapters that fit were made for different models", async () => {
  await using workspace = await openLlama();
  for (const [name, baseModel] of [["a", "one"], ["b", "two"], ["c", "one"]] as const) {
    await writeLlamaAdapter(name, tinyChatConfig(), { seed: 1, baseModel });
  }
  await writeLines([{ prompt: "Hm?", adapter: "a" }]);
  const argv = "generate --model base --batch prompts.jsonl --tokens 1 --adapter a=a --adapter".split(" ");
  const note = "note: the adapters say that they were made for different models: one, two";
  assert.ok((await run(workspace, ...argv, "b=b")).err.includes(note));
  assert.ok(!(await run(workspace, ...argv, "c=c")).err.includes("note"));
});

Deno.test("eval() of conversations gives each adapter's the loss that it has alone, from mixed batches", async () => {
  await using workspace = await openLlama();
  const names = ["law", "code", "poem", null];
  const chats = Array.from({ length: 10 }, (_, i) => ({
    prompt: "Is it so? ".repeat(1 + i % 4),
    completion: "Yes. ".repeat(1 + i % 3),
    voice: names[i % 4],
  }));
  await writeLines(chats, "mixed.jsonl");
  const argv = "eval --model base --task sft --json --batch".split(" ");
  const mixed = ["--data", "mixed.jsonl", ...ADAPTERS, "--adapter-column", "voice"];
  const { out } = await run(workspace, ...argv, "4", ...mixed);
  const { adapters, ...all } = JSON.parse(out);
  assert.deepEqual(adapters.map((one: { adapter: string }) => one.adapter), names);
  let [loss, tokens] = [0, 0];
  for (const share of adapters) {
    await writeLines(chats.filter(({ voice }) => voice === share.adapter), "own.jsonl");
    const named = share.adapter === null ? [] : ["--adapter", share.adapter];
    const alone = JSON.parse((await run(workspace, ...argv, "1", "--data", "own.jsonl", ...named)).out);
    assert.ok(Math.abs(share.loss - alone.loss) < 1e-5, `${share.adapter}: ${share.loss}, alone ${alone.loss}`);
    assert.equal(share.tokens, alone.tokens);
    loss += share.loss * share.tokens;
    tokens += share.tokens;
  }
  assert.equal(all.tokens, tokens);
  assert.ok(Math.abs(all.loss - loss / tokens) < 1e-9);
  assert.equal(new Set(adapters.map((one: { loss: number }) => one.loss.toFixed(3))).size, 4);
  const text = (await run(workspace, "eval", "--model", "base", "--task", "sft", ...mixed)).out.split("\n");
  assert.match(
    text[0],
    /^loss \d+\.\d{4} nats a token, perplexity \S+, over \d+ tokens of 10 answers of mixed\.jsonl$/,
  );
  assert.deepEqual(text.slice(1, 5).map((line) => line.split(":")[0]), ["  law", "  code", "  poem", "  no adapter"]);
});

for (const task of ["own", "sst2"]) {
  Deno.test(`eval() of the task ${task} gives each adapter's examples what they have alone, heads included`, async () => {
    await using workspace = await Workspace.open();
    const config = tinyRobertaConfig();
    await writeTinyRoberta("encoder", { config });
    await writeTinyRoberta("classifier", { config, head: "classification" });
    await writeRobertaAdapter("a", config, { seed: 1 });
    await writeRobertaAdapter("b", config, { seed: 2, lora: { r: 5, targets: "all-linear" } });
    const rows = toyRows(40, 3).map((row, i) => ({ ...row, adapter: ["a", "b", ""][i % 3] }));
    const write = async (file: string, some: typeof rows) => {
      const lines = some.map(({ sentence, label, adapter }) => `${sentence}\t${label}\t${adapter}\n`);
      await Deno.writeTextFile(file, "sentence\tlabel\tadapter\n" + lines.join(""));
    };
    const own = task === "own" ? "--sentence sentence --label label --labels 0 --labels 1".split(" ") : [];
    const argv = ["eval", "--task", task, ...own, "--json"];
    const named = ["--adapter", "a=a", "--adapter", "b=b"];
    await write("dev.tsv", rows);
    const mixed = await run(workspace, ...argv, "--model", "classifier", ...named, "--data", "dev.tsv");
    const { adapters, ...all } = JSON.parse(mixed.out);
    assert.equal(all.examples, 40);
    let right = 0;
    for (const [i, folder] of [["a"], ["b"], []].entries()) {
      const share = adapters[i];
      assert.equal(share.adapter, folder[0] ?? null);
      await write("own.tsv", rows.filter(({ adapter }) => adapter === (folder[0] ?? "")));
      const model = ["--model", "classifier", ...folder.flatMap((name) => ["--adapter", name])];
      const alone = JSON.parse((await run(workspace, ...argv, ...model, "--data", "own.tsv")).out);
      assert.ok(Math.abs(share.loss - alone.loss) < 1e-5, `${folder}: ${share.loss}, alone ${alone.loss}`);
      assert.deepEqual([share.accuracy, share.examples], [alone.accuracy, alone.examples]);
      right += share.accuracy * share.examples;
    }
    assert.ok(Math.abs(all.accuracy - right / 40) < 1e-9);
    assert.equal(new Set(adapters.map(({ loss }: { loss: number }) => loss.toFixed(3))).size, 3);

    // an encoder without a head serves those whose adapters bring one
    await write("dev.tsv", rows.filter(({ adapter }) => adapter !== ""));
    const headless = await run(workspace, ...argv, "--model", "encoder", ...named, "--data", "dev.tsv");
    for (const [i, share] of JSON.parse(headless.out).adapters.entries()) {
      assert.ok(Math.abs(share.loss - adapters[i].loss) < 1e-5);
    }
  });
}
