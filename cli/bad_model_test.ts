/** Models that cannot be loaded or do not fit: one line that says what is wrong, and nothing written or lost. */
import assert from "node:assert/strict";
import { writeFolderDurably } from "./durable.ts";
import { type BadInput, editJson, flipByte, testBadInputs, train } from "./testing/bad_input.ts";
import { tinyConfig, Workspace, writeTinyModel } from "./testing/workspace.ts";

interface Entry {
  shape: number[];
  dtype: string;
  data_offsets: [number, number];
}

/** A model folder `bad` whose weights' header is changed; `more` bytes are added at the end. */
async function badWeights(change: (header: Record<string, Entry>, size: number) => void, more = 0): Promise<void> {
  await writeTinyModel("bad");
  const path = "bad/model.safetensors";
  const bytes = await Deno.readFile(path);
  const length = Number(new DataView(bytes.buffer).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + length)));
  change(header, bytes.length - 8 - length);
  const text = new TextEncoder().encode(JSON.stringify(header));
  const start = new Uint8Array(8);
  new DataView(start.buffer).setBigUint64(0, BigInt(text.length), true);
  await Deno.writeFile(
    path,
    Uint8Array.from([...start, ...text, ...bytes.subarray(8 + length), ...Array(more).fill(0)]),
  );
}

async function badConfig(change: Record<string, unknown>): Promise<void> {
  await writeTinyModel("bad");
  await editJson("bad/config.json", (json) => Object.assign(json, change));
}

const NORM = "model.norm.weight";
const OTHER_NORM = "model.layers.0.input_layernorm.weight";

const MODELS: BadInput[] = [
  {
    when: "a tensor has another shape",
    make: () => badWeights((header) => void (header[NORM].shape = [16, 2])),
    argv: train("--model", "bad"),
    message: /^Cannot load "model\.norm\.weight": expected f32\[32\] \(hidden_size\), got f32\[16, 2\]$/,
  },
  {
    when: "a tensor is missing",
    make: () => badWeights((header) => [header.other, header[NORM]] = [header[NORM], undefined as unknown as Entry]),
    argv: train("--model", "bad"),
    message: /expected 12 tensors: got 1 missing \("model\.norm\.weight"\) and 1 extra \("other"\)$/,
  },
  {
    when: "there is a tensor too many",
    make: () =>
      badWeights((header, size) => header.other = { dtype: "F32", shape: [1], data_offsets: [size, size + 4] }, 4),
    argv: ["generate", "--model", "bad", "--prompt", "a"],
    message: /^Cannot load weights of bad: expected 12 tensors: got 1 extra \("other"\)$/,
  },
  {
    when: "tensors overlap",
    make: () => badWeights((header) => header[NORM].data_offsets = header[OTHER_NORM].data_offsets),
    argv: train("--model", "bad"),
    message: /^Cannot read bad\/model\.safetensors: tensor "model\.norm\.weight" must begin at .*: an overlap$/,
  },
  {
    when: "a tensor is of integers",
    make: () => badWeights((header) => void (header[NORM].dtype = "I32")),
    argv: train("--model", "bad"),
    message: /^Cannot load "model\.norm\.weight": the dtype must be one of F32, BF16, F16: got I32$/,
  },
  {
    when: "the header is larger than the file",
    make: async () => {
      await writeTinyModel("bad");
      await flipByte("bad/model.safetensors", 5); // 2^40 more
    },
    argv: train("--model", "bad"),
    message: /^Cannot read bad\/model\.safetensors: the header must have 1 to \d+ bytes .*: got 1099511628\d+$/,
  },
  {
    when: "the weights are cut off",
    make: async () => {
      await writeTinyModel("bad");
      await Deno.truncate("bad/model.safetensors", 5000);
    },
    argv: ["eval", "--model", "bad", "--data", "corpus.txt"],
    message: /^Cannot read bad\/model\.safetensors: the tensors must fill the file: 100992 bytes .*: got \d+ bytes$/,
  },
  {
    when: "a key of config.json is not implemented",
    make: () => badConfig({ sliding_window: 128 }),
    argv: train("--model", "bad"),
    message: /^Cannot load config\.json: sliding_window = 128 is not implemented$/,
  },
  {
    when: "the activation is not implemented",
    make: () => badConfig({ hidden_act: "gelu" }),
    argv: train("--model", "bad"),
    message: /^Cannot load config\.json: hidden_act = "gelu" is not implemented$/,
  },
  {
    when: "the model is not a LLaMA",
    make: () => badConfig({ model_type: "mistral" }),
    argv: train("--model", "bad"),
    message: /^Cannot load config\.json: expected model_type "llama", got "mistral"$/,
  },
  {
    when: "config.json is cut off",
    make: async () => {
      await writeTinyModel("bad");
      await Deno.truncate("bad/config.json", 30);
    },
    argv: train("--model", "bad"),
    message: /^Cannot read bad\/config\.json: .*JSON/,
  },
  {
    when: "a model has fewer ids than the tokenizer",
    make: () => writeTinyModel("bad", { config: tinyConfig({ vocab_size: 100, eos_token_id: null }) }),
    argv: train("--model", "bad"),
    message: /^Cannot use bad with tokenizer "byte": the model has 100 token ids, the tokenizer 257$/,
  },
  {
    when: "a model to evaluate has fewer ids than the tokenizer",
    make: () => writeTinyModel("bad", { config: tinyConfig({ vocab_size: 100, eos_token_id: null }) }),
    argv: ["eval", "--model", "bad", "--data", "corpus.txt", "--seq", "16"],
    message: /^Cannot use bad with tokenizer "byte": the model has 100 token ids, the tokenizer 257$/,
  },
  {
    when: "there is no such model",
    argv: train("--model", "llama-8b"),
    message: /^Cannot find model "llama-8b": expected one of llama-9m, .*, llama-7b$/,
  },
  {
    when: "there is no such folder",
    argv: train("--model", "none"),
    message: /^Cannot load none: it has no config\.json$/,
  },
  {
    when: "the model does not fit in memory",
    argv: train("--memory-limit", "100KB"),
    message:
      /^Cannot allocate \d+ KB for training tiny \(weights 101 KB, optimizer \d+ KB, .*\): .* 100 KB are in use; use a smaller/,
  },
  {
    when: "a model of 27 GB does not fit in memory",
    argv: train("--model", "llama-7b", "--memory-limit", "3GB"),
    message: /^Cannot allocate [\d.]+ GB for training llama-7b \(weights 25\.9 GB, .* of 3 GB are in use/,
  },
];

testBadInputs(MODELS);

Deno.test("train() clips a rank that is larger than the matrices, and says to what", async () => {
  await using workspace = await Workspace.open();
  const { code, err } = await workspace.train("--out", "run", "--rank", "400", "--steps", "1");
  assert.equal(code, 0, err);
  assert.match(
    err,
    /^note: rank 400 is larger than 7 of the projected matrices and is cut to their smaller side \(32 for /,
  );
  assert.match(err, /q_proj\.weight +1 +\[32, 32\] +galore\(adamw\) rank 32 /);
});

Deno.test("verify() names the file when a checkpoint is damaged", async () => {
  await using workspace = await Workspace.open();
  await writeFolderDurably(".", "folder", async (writer) => {
    await using sink = await writer.create("model.safetensors");
    await sink.write(new Uint8Array(100));
  });
  await flipByte("folder/model.safetensors", 50);
  const { code, err } = await workspace.run("verify", "folder");
  assert.equal(code, 1);
  assert.match(err, /^model\.safetensors: expected SHA-256 \w{64}, got \w{64}\nCannot vouch for folder: 1 problem\n$/);
});
