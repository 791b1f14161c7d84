/** Bad input to `generate` and `eval` with several adapters: one clear line each. */
import { testBadInputs } from "./testing/bad_input.ts";
import { writeLlamaAdapter, writeRobertaAdapter } from "./testing/tiny_adapters.ts";
import { tinyChatConfig, writeTinyChat } from "./testing/tiny_chat.ts";
import { tinyRobertaConfig, writeTinyRoberta } from "./testing/tiny_roberta.ts";

const DEVICE = "--device cpu --threads 1 --blas off".split(" ");
const NAMED = ["--adapter", "a=a", "--adapter", "b=b"];

/** A command line over `prompts.jsonl` with more flags. */
function generate(...flags: readonly string[]): string[] {
  return ["generate", "--model", "base", "--batch", "prompts.jsonl", "--tokens", "2", ...flags, ...DEVICE];
}

function evaluate(...flags: readonly string[]): string[] {
  return ["eval", ...flags, ...DEVICE];
}

const ON_CHAT = ["--model", "base", "--task", "sft", "--data", "chat.jsonl"];
const ON_TASK = ["--model", "roberta", "--task", "sst2", "--data", "dev.tsv"];

/** A tiny LLaMA with adapters `a` and `b`, and a file of prompts. */
async function makeLlama(...lines: readonly string[]): Promise<void> {
  await writeTinyChat();
  await writeLlamaAdapter("a", tinyChatConfig(), { seed: 1 });
  await writeLlamaAdapter("b", tinyChatConfig(), { seed: 2 });
  await Deno.writeTextFile("prompts.jsonl", lines.map((line) => line + "\n").join(""));
}

const GOOD = '{"prompt": "Why?", "adapter": "a"}';

/** A tiny RoBERTa without a head, adapters `a` and `b` with heads, and a table. */
async function makeRoberta(table: string): Promise<void> {
  await writeTinyRoberta("roberta");
  await writeRobertaAdapter("a", tinyRobertaConfig(), { seed: 1 });
  await writeRobertaAdapter("b", tinyRobertaConfig(), { seed: 2 });
  await Deno.writeTextFile("dev.tsv", table);
}

const TABLE = "sentence\tlabel\tadapter\n a film\t1\ta\n a song\t0\tb\n";

testBadInputs([
  {
    when: "a line of a batch asks for an unknown adapter",
    make: () => makeLlama(GOOD, '{"prompt": "Why?", "adapter": "c"}'),
    argv: generate(...NAMED),
    message: /^Cannot read "prompts\.jsonl": line 2 asks for an unknown adapter, "c": the names are "a", "b"$/,
  },
  {
    when: "a line of a batch asks for an adapter and no flag names one",
    make: () => makeLlama(GOOD),
    argv: generate("--adapter", "./a"),
    message: /^Cannot read "prompts\.jsonl": line 1 asks for an unknown adapter, "a": no flag gives one$/,
  },
  {
    when: "a line of a batch names no adapter among several",
    make: () => makeLlama(GOOD, "", '{"prompt": "Why?"}'),
    argv: generate(...NAMED),
    message: /^Cannot read "prompts\.jsonl": line 3 names no adapter, nor null for none: the names are "a", "b"$/,
  },
  {
    when: "an adapter of a batch is named by a number",
    make: () => makeLlama('{"prompt": "Why?", "adapter": 1}'),
    argv: generate(...NAMED),
    message: /^Cannot read "prompts\.jsonl": line 1: an adapter's name must be text, got 1$/,
  },
  {
    when: "a line of a batch has no prompt",
    make: () => makeLlama(GOOD, '{"text": "Why?", "adapter": "a"}'),
    argv: generate(...NAMED),
    message: /^Cannot read "prompts\.jsonl": line 2 needs a "prompt", a text: got none$/,
  },
  {
    when: "a line of a batch is not JSON",
    make: () => makeLlama(GOOD, "Why?"),
    argv: generate(...NAMED),
    message: /^Cannot read "prompts\.jsonl": line 2 is not JSON /,
  },
  {
    when: "a batch is empty",
    make: () => makeLlama(),
    argv: generate(...NAMED),
    message: /^Cannot read "prompts\.jsonl": the file holds no prompts$/,
  },
  {
    when: "there is no file of a batch",
    make: async () => {
      await makeLlama();
      await Deno.remove("prompts.jsonl");
    },
    argv: generate(...NAMED),
    message: /^Cannot read "prompts\.jsonl": there is no such file$/,
  },
  {
    when: "one of several adapters is of a wider model",
    make: async () => {
      await makeLlama(GOOD);
      await writeLlamaAdapter("wide", tinyChatConfig({ hidden_size: 48, head_dim: 24 }), { seed: 3 });
    },
    argv: generate(...NAMED, "--adapter", "c=wide"),
    message:
      /^Cannot use the adapter c=wide on this model: Cannot load ".*lora_A\.weight": expected .*\[2, 32\].* got /,
  },
  {
    when: "one of several adapters is of a deeper model",
    make: async () => {
      await makeLlama(GOOD);
      await writeLlamaAdapter("deep", tinyChatConfig({ num_hidden_layers: 2 }), { seed: 3 });
    },
    argv: generate(...NAMED, "--adapter", "c=deep"),
    message: /^Cannot use the adapter c=deep on this model: Cannot load weights of adapter deep: expected 4 tensors: /,
  },
  {
    when: "one of several adapters is of another kind of model",
    make: async () => {
      await makeLlama(GOOD);
      await writeRobertaAdapter("other", tinyRobertaConfig(), { seed: 3 });
    },
    argv: generate(...NAMED, "--adapter", "c=other"),
    message:
      /^Cannot use the adapter c=other on this model: Cannot fit the adapter to the model: every named module must be there: got "query", "value", /,
  },
  {
    when: "adapters of two kinds come together",
    make: async () => {
      await makeLlama(GOOD);
      await writeLlamaAdapter("other", tinyChatConfig(), { seed: 3, kind: "flora" });
    },
    argv: generate(...NAMED, "--adapter", "c=other"),
    message:
      /^Cannot use the adapter c=other on this model: adapters of one batch must be of one kind: got LORA and HIRA$/,
  },
  {
    when: "the folder of one of several adapters is missing",
    make: () => makeLlama(GOOD),
    argv: generate(...NAMED, "--adapter", "c=nowhere"),
    message: /^Cannot use the adapter c=nowhere on this model: /,
  },
  {
    when: "several adapters have no names",
    make: () => makeLlama(GOOD),
    argv: generate("--adapter", "a=a", "--adapter", "./b"),
    message: /^Cannot use 2 adapters: each needs a name, --adapter NAME=FOLDER: got \.\/b$/,
  },
  {
    when: "two adapters have one name",
    make: () => makeLlama(GOOD),
    argv: generate("--adapter", "a=a", "--adapter", "a=b"),
    message: /^Cannot use two adapters by one name: got "a" twice$/,
  },
  {
    when: "an adapter's name is empty",
    make: () => makeLlama(GOOD),
    argv: generate("--adapter", "=a"),
    message: /^Cannot use --adapter =a: write NAME=FOLDER: its name is empty$/,
  },
  {
    when: "a named adapter has no folder",
    make: () => makeLlama(GOOD),
    argv: generate("--adapter", "a="),
    message: /^Cannot use --adapter a=: write NAME=FOLDER: its folder is empty$/,
  },
  {
    when: "one prompt comes with several adapters",
    make: () => makeLlama(GOOD),
    argv: ["generate", "--model", "base", "--prompt", "Why?", ...NAMED, ...DEVICE],
    message: /^Cannot choose among 2 adapters: --prompt takes one; the lines of a --batch file name theirs$/,
  },
  {
    when: "a prompt comes with a batch",
    make: () => makeLlama(GOOD),
    argv: generate("--prompt", "Why?"),
    message: /^Cannot generate with --prompt and --batch at once: /,
    code: 2,
  },
  {
    when: "conversations to evaluate on have no column of adapters",
    make: () => makeLlama(GOOD),
    argv: evaluate(...ON_CHAT, ...NAMED),
    message:
      /^Cannot read "chat\.jsonl": it needs a column "adapter" with the adapters' names: its columns are "prompt", "completion"; --adapter-column names another$/,
  },
  {
    when: "text comes with several adapters",
    make: () => makeLlama(GOOD),
    argv: evaluate("--model", "base", "--data", "corpus.txt", ...NAMED),
    message: /^Cannot choose among 2 adapters: text names none: give --task$/,
  },
  {
    when: "an example asks for an unknown adapter",
    make: () => makeRoberta(TABLE + " a film\t1\tc\n"),
    argv: evaluate(...ON_TASK, ...NAMED),
    message: /^Cannot read "dev\.tsv": line 4 asks for an unknown adapter, "c": the names are "a", "b"$/,
  },
  {
    when: "the named column of adapters is not there",
    make: () => makeRoberta(TABLE),
    argv: evaluate(...ON_TASK, ...NAMED, "--adapter-column", "who"),
    message:
      /^Cannot read "dev\.tsv": it needs a column "who" with the adapters' names: its columns are "sentence", "label", "adapter"$/,
  },
  {
    when: "a column of adapters is named and no adapter is",
    make: () => makeRoberta(TABLE),
    argv: evaluate(...ON_TASK, "--adapter", "a", "--adapter-column", "adapter"),
    message: /^Cannot use --adapter-column: no adapter has a name: give --adapter NAME=FOLDER$/,
  },
  {
    when: "an example is for no adapter and the model has no head",
    make: () => makeRoberta(TABLE + " a film\t1\t\n"),
    argv: evaluate(...ON_TASK, ...NAMED),
    message: /^Cannot load weights of .*: expected \d+ tensors: got 4 missing \("classifier\./,
  },
  {
    when: "neither an adapter nor its model has a head",
    make: async () => {
      await makeRoberta(TABLE);
      await writeRobertaAdapter("b", tinyRobertaConfig(), { seed: 2, lora: { modulesToSave: [] } });
    },
    argv: evaluate(...ON_TASK, ...NAMED),
    message: /^Cannot use the adapter b=b on this model: one of them must have the head: got no "classifier\./,
  },
  {
    when: "one of several adapters has a head of other classes",
    make: async () => {
      await makeRoberta(TABLE);
      await writeRobertaAdapter("b", tinyRobertaConfig({ num_labels: 3, id2label: { 0: "x", 1: "y", 2: "z" } }), {
        seed: 2,
      });
    },
    argv: evaluate(...ON_TASK, ...NAMED),
    message:
      /^Cannot use the adapter b=b on this model: Cannot load ".*classifier\.out_proj\.(weight|bias)": expected /,
  },
  {
    when: "text comes with an adapter of a RoBERTa",
    make: () => makeRoberta(TABLE),
    argv: evaluate("--model", "roberta", "--data", "corpus.txt", "--adapter", "a"),
    message: /^Cannot evaluate an adapter of a RoBERTa on text: give --task$/,
  },
]);
