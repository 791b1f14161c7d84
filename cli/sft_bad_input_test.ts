/** Bad input to `finetune --task sft`, and adapters that do not fit in `generate`: one clear line each. */
import { loopsBackend } from "../backends/cpu/mod.ts";
import { initLlama, initLora, type LlamaConfig, type LoraConfig, savePeft } from "../models/mod.ts";
import { writeFolderDurably } from "./durable.ts";
import { testBadInputs } from "./testing/bad_input.ts";
import { tinyChatConfig, writeTinyChat } from "./testing/tiny_chat.ts";
import { writeTinyRoberta } from "./testing/tiny_roberta.ts";

const DEVICE = "--device cpu --threads 1 --blas off".split(" ");

/** A command line over the toy conversations with more flags, into the folder `run`. */
function finetune(...flags: readonly string[]): string[] {
  return ["finetune", "--model", "base", "--task", "sft", "--data", "chat.jsonl", "--out", "run", ...DEVICE, ...flags];
}

function generate(...flags: readonly string[]): string[] {
  return ["generate", "--model", "base", "--adapter", "adapter", "--prompt", "Hm?", ...DEVICE, ...flags];
}

const TIED = "--data chat.jsonl --method lora --modules-to-save embed_tokens".split(" ");

/** The toy model with other lines of conversations. */
async function makeLines(...lines: readonly string[]): Promise<void> {
  await writeTinyChat();
  await Deno.writeTextFile("chat.jsonl", lines.join("\n") + "\n");
}

const GOOD = '{"prompt": "Is it low?", "completion": "Yes."}';

/** An adapter of a model of this configuration in `adapter`, perhaps with another first number. */
async function makeAdapter(config: LlamaConfig, first?: number): Promise<void> {
  await writeTinyChat();
  const lora: LoraConfig = { r: 2, alpha: 4, targets: ["q_proj", "v_proj"] };
  using base = initLlama(loopsBackend(), config, 1);
  using adapter = initLora(base, lora, { seed: 1 });
  if (first !== undefined) {
    const tensor = adapter.get(adapter.names()[0]);
    tensor.write((await tensor.read()).map((value, i) => i === 0 ? first : Number(value)));
  }
  await writeFolderDurably(
    ".",
    "adapter",
    (writer) => savePeft(writer, adapter, { lora, taskType: "CAUSAL_LM" }, base.entries()),
  );
}

testBadInputs([
  {
    when: "a chat record has no answer",
    make: () => makeLines(GOOD, '{"messages": [{"role": "user", "content": "Is it low?"}]}'),
    argv: finetune(),
    message: /^Cannot read "chat\.jsonl": line 2 has no answer: no message has the role "assistant"$/,
  },
  {
    when: "a prompt has no completion",
    make: () => makeLines(GOOD, GOOD, '{"prompt": "Is it low?"}'),
    argv: finetune(),
    message: /^Cannot read "chat\.jsonl": line 3 has no answer: it needs a "completion"$/,
  },
  {
    when: "a chat record is longer than the model's positions",
    make: () => makeLines(GOOD, JSON.stringify({ prompt: "Why?", completion: "so ".repeat(40) + "." })),
    argv: finetune(),
    message: /^Cannot use "chat\.jsonl": line 2 has 1\d\d tokens, and the model has positions for 96$/,
  },
  {
    when: "a chat record is longer than a row",
    make: () => makeLines(GOOD),
    argv: finetune("--seq", "20"),
    message: /line 1 has 33 tokens, and a row has 20; use --seq 33, or cut it with --truncate$/,
  },
  {
    when: "nothing of an answer is left by the cut",
    make: () => makeLines(...Array(10).fill(GOOD)),
    argv: finetune("--seq", "20", "--truncate"),
    message: /^Cannot cut conversations to 20 tokens: an answer must lie within those of one: got none in 9$/,
  },
  {
    when: "rows of conversations are longer than the positions",
    make: () => makeLines(GOOD),
    argv: finetune("--seq", "97"),
    message: /^Cannot fine-tune on rows of 97 tokens: the model has positions for 96$/,
  },
  {
    when: "conversations are given the length of examples",
    make: () => makeLines(GOOD),
    argv: finetune("--max-length", "20"),
    message: /^Cannot use --max-length with --task sft: --seq is the length of its rows, and --truncate cuts$/,
  },
  {
    when: "examples are given the length of rows",
    argv: finetune("--task", "sst2", "--seq", "20"),
    message: /^Cannot use --seq with --task sst2: its examples are cut to --max-length$/,
  },
  {
    when: "conversations are too few to hold some out",
    make: () => makeLines(GOOD),
    argv: finetune(),
    message: /^Cannot hold out a tenth of chat\.jsonl: it must have 10 conversations: got 1$/,
  },
  {
    when: "there are no conversations",
    make: () => makeLines(""),
    argv: finetune(),
    message: /^Cannot read "chat\.jsonl": /,
  },
  {
    when: "conversations are for a RoBERTa",
    make: async () => {
      await makeLines(GOOD);
      await writeTinyRoberta("roberta");
    },
    argv: finetune("--model", "roberta"),
    message: /^Cannot load config\.json: expected model_type "llama", got "roberta"$/,
  },
  {
    when: "a table that is the output matrix as well is trained whole beside an adapter",
    make: () => writeTinyChat({ tie_word_embeddings: true }),
    argv: finetune(...TIED),
    message: /^Cannot adapt "model\.embed_tokens": an adapted table must not be the output matrix as well: got shape /,
  },
  {
    when: "an adapter to generate with has other sizes",
    make: () => makeAdapter(tinyChatConfig({ hidden_size: 16, head_dim: 8 })),
    argv: generate(),
    message: /^Cannot load ".*lora_A\.weight": expected .*\[2, 32\].* got .*\[2, 16\]/,
  },
  {
    when: "an adapter to generate with has other layers",
    make: () => makeAdapter(tinyChatConfig({ num_hidden_layers: 2 })),
    argv: generate(),
    message:
      /^Cannot load weights of adapter adapter: expected 4 tensors: got 4 extra \("base_model\.model\.model\.layers\.1\./,
  },
  {
    when: "an adapter to generate with holds a NaN",
    make: () => makeAdapter(tinyChatConfig(), NaN),
    argv: generate("--chat"),
    message: /^Cannot load ".*lora_A\.weight": every number must be finite: got NaN at 0$/,
  },
]);
