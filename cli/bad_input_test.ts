/** Bad input of every kind: one line that says what is wrong, exit code 1 (2 for usage), and nothing written or lost. */
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { byteTokenizer, prepareStore, writeStore } from "../data/mod.ts";
import { hashFile, writeFolderDurably } from "./durable.ts";
import {
  fingerprint,
  sentences,
  stepRows,
  tinyConfig,
  trainFlags,
  Workspace,
  writeTinyModel,
} from "./testing/workspace.ts";

interface BadInput {
  /** Completes "fails when". */
  readonly when: string;
  /** Makes the input. */
  readonly make?: () => Promise<unknown>;
  /** The command line; `train` adds those of a usual run. */
  readonly argv: readonly string[];
  readonly message: RegExp;
  /** Default 1. */
  readonly code?: number;
  /** What is found out only while training leaves the run's folder. */
  readonly leavesRun?: boolean;
}

const train = (...flags: string[]) => ["train", ...trainFlags("--out", "run", ...flags)];

const encoder = new TextEncoder();

/** Changes a JSON file. */
async function editJson(path: string, change: (json: Record<string, unknown>) => void): Promise<void> {
  const json = JSON.parse(await Deno.readTextFile(path));
  change(json);
  await Deno.writeTextFile(path, JSON.stringify(json));
}

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
  const text = encoder.encode(JSON.stringify(header));
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

/** The corpus as a store, one row a chunk, with a change to one of its files. */
async function makeStore(change?: () => Promise<unknown>): Promise<void> {
  const inputs = "corpus.txt";
  await prepareStore({ inputs, tokenizer: byteTokenizer(), seq: 16, out: "store", holdOut: 0.1, rowsPerChunk: 1 });
  await change?.();
}

async function flipByte(path: string, at: number): Promise<void> {
  const bytes = await Deno.readFile(path);
  bytes[at] ^= 1;
  await Deno.writeFile(path, bytes);
}

async function* manyTokens(id: number): AsyncGenerator<Uint32Array> {
  yield new Uint32Array(1000).fill(id);
}

type Attributes = { tokenizer: { hash: string; vocabSize: number } };

const editStore = (change: (attributes: Attributes) => void) =>
  makeStore(() => editJson("store/zarr.json", ({ attributes }) => change(attributes as Attributes)));

const TEXT: BadInput[] = [
  {
    when: "a file is missing",
    argv: train("--data", "none.txt"),
    message: /^Cannot read "none.txt": there is no such/,
  },
  {
    when: "a file is empty",
    make: () => Deno.writeTextFile("empty.txt", ""),
    argv: train("--data", "empty.txt"),
    message: /^Cannot read "empty.txt": the file is empty$/,
  },
  {
    when: "a file is not UTF-8",
    make: () => Deno.writeFile("latin.txt", Uint8Array.from([...encoder.encode(sentences(2000)), 0xe9, 0x20])),
    argv: train("--data", "latin.txt"),
    message: /^Cannot read "latin.txt": it is not UTF-8 at byte 2000; convert it to UTF-8 first$/,
  },
  {
    when: "a file is not text",
    make: () => Deno.writeFile("picture.png", Uint8Array.of(0x89, 0x50, 0x4e, 0x47)),
    argv: train("--data", "picture.png"),
    message: /^Cannot read "picture.png": its name must end in \.txt, \.jsonl, \.txt\.gz or \.jsonl\.gz$/,
  },
  {
    when: "a line is not JSON",
    make: () => Deno.writeTextFile("bad.jsonl", '{"text": "a"}\n{"text": \n'),
    argv: train("--data", "bad.jsonl"),
    message: /^Cannot read "bad.jsonl": line 2 is not JSON/,
  },
  {
    when: "a line has no text",
    make: () => Deno.writeTextFile("bad.jsonl", '{"body": "a"}\n'),
    argv: train("--data", "bad.jsonl"),
    message: /^Cannot read "bad.jsonl": line 1 must be an object with a string field "text"$/,
  },
  {
    when: "a text is shorter than a sequence",
    make: () => Deno.writeTextFile("short.txt", "to be"),
    argv: train("--data", "short.txt"),
    message: /one sequence of seq 16 needs 17 tokens, got 5$/,
  },
  {
    when: "a folder is no store",
    make: () => Deno.mkdir("folder"),
    argv: train("--data", "folder"),
    message: /^Cannot open the store "folder": it has no zarr\.json; is it a token store\?$/,
  },
  {
    when: "there is no data",
    argv: ["train"],
    message: /^Cannot train without data: give --data FILE, or write \.lowrank\/deno-types\.txt with "deno types"$/,
  },
  {
    when: "a store is there already",
    make: () => makeStore(),
    argv: ["prepare", "--input", "corpus.txt", "--out", "store"],
    message: /^Cannot prepare a store in "store": it exists already/,
  },
  {
    when: "there is no tokenizer",
    argv: train("--tokenizer", "none"),
    message: /^Cannot load the tokenizer "none": expected "byte", or a folder with tokenizer\.json/,
  },
  { when: "eval has no data", argv: ["eval", "--model", "tiny"], message: /^Cannot open data: give --data a file/ },
];

const STORES: BadInput[] = [
  {
    when: "store and tokenizer have other files",
    make: () => editStore(({ tokenizer }) => void (tokenizer.hash = "0".repeat(64))),
    argv: train("--data", "store"),
    message:
      /^Cannot read store with tokenizer "byte" \(257 ids, hash \w+\): it was made with "byte" \(257 ids, hash 0{12}/,
  },
  {
    when: "store and tokenizer have other vocabularies",
    make: () => editStore(({ tokenizer }) => void (tokenizer.vocabSize = 300)),
    argv: train("--data", "store"),
    message: /it was made with "byte" \(300 ids, /,
  },
  {
    when: "a token id is beyond the vocabulary",
    make: async () => {
      const tokenizer = { ...byteTokenizer(), vocabSize: 300 };
      await writeStore({ tokens: manyTokens(297), tokenizer, seq: 16, out: "store" });
      await editJson(
        "store/zarr.json",
        ({ attributes }) => void ((attributes as Attributes).tokenizer.vocabSize = 257),
      );
    },
    argv: train("--data", "store"),
    message:
      /^Cannot read chunk 0 of shard "train\/c\/0\/0" of store "store": it holds token id 297, but the vocabulary has 257$/,
    leavesRun: true,
  },
  {
    when: "a byte of a chunk is flipped",
    make: () => makeStore(() => flipByte("store/train/c/0/0", 300)),
    argv: train("--data", "store", "--batch", "64", "--steps", "8"),
    message: /^Cannot read chunk \d+ of shard "train\/c\/0\/0" of store "store": its checksum does not match/,
    leavesRun: true,
  },
  {
    when: "a chunk is missing",
    make: () => makeStore(() => Deno.remove("store/train/c/0/0")),
    argv: train("--data", "store"),
    message: /^Cannot read chunk \d+ of shard "train\/c\/0\/0" of store "store": the file does not exist$/,
    leavesRun: true,
  },
  {
    when: "a shard is cut off",
    make: () => makeStore(() => Deno.truncate("store/train/c/0/0", 500)),
    argv: train("--data", "store"),
    message:
      /^Cannot read chunk \d+ of shard "train\/c\/0\/0" of store "store": the file must have \d+ bytes, got 500$/,
    leavesRun: true,
  },
  {
    when: "a held-out chunk is flipped",
    make: () => makeStore(() => flipByte("store/validation/c/0/0", 300)),
    argv: ["eval", "--model", "tiny", "--data", "store", "--seq", "16"],
    message: /^Cannot read chunk \d+ of shard "validation\/c\/0\/0" of store "store": its checksum does not match/,
  },
  {
    when: "a store is damaged",
    make: () => makeStore(() => flipByte("store/train/c/0/0", 300)),
    argv: ["verify", "store"],
    message: /^Cannot vouch for store: 1 problem$/,
  },
  {
    when: "--seq is not the store's",
    make: () => makeStore(),
    argv: train("--data", "store", "--seq", "32"),
    message: /^Cannot train on sequences of 32: store holds sequences of 16; use --seq 16$/,
  },
  {
    when: "a store is named beside a text",
    make: () => makeStore(),
    argv: train("--data", "store", "--data", "corpus.txt"),
    message: /^Cannot read "store": its name must end in/,
  },
  {
    when: "a store has nothing held out",
    make: () => prepareStore({ inputs: "corpus.txt", tokenizer: byteTokenizer(), seq: 16, out: "store", holdOut: 0 }),
    argv: ["eval", "--model", "tiny", "--data", "store", "--seq", "16"],
    message: /^Cannot read split "validation" of store "store": it has only train$/,
  },
];

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

const FLAGS: BadInput[] = [
  {
    when: "a flag is unknown",
    argv: train("--rnak", "4"),
    message: /^Cannot use --rnak in train: no such flag; did you mean --rank\?$/,
    code: 2,
  },
  {
    when: "a verb is unknown",
    argv: ["trian"],
    message: /^Cannot run "trian": no such verb; did you mean train\?$/,
    code: 2,
  },
  {
    when: "a value is of another kind",
    argv: train("--lr", "fast"),
    message: /expected a number above 0, got "fast"$/,
    code: 2,
  },
  {
    when: "a flag is missing",
    argv: ["generate", "--model", "tiny"],
    message: /^Cannot generate without --prompt/,
    code: 2,
  },
  {
    when: "--out comes with --resume",
    argv: train("--resume", "run"),
    message: /^Cannot use --out with --resume/,
    code: 2,
  },
  {
    when: "the warm-up is longer than the run",
    argv: train("--warmup", "60"),
    message: /^Cannot warm up for 60 steps: the run has 6$/,
  },
  {
    when: "the device is webgpu",
    argv: train("--device", "webgpu"),
    message: /^Cannot run on webgpu: this version trains on the CPU; use --device cpu$/,
  },
  {
    when: "the dtype is bf16",
    argv: train("--dtype", "bf16"),
    message: /^Cannot train in bf16 on the CPU: use --dtype f32$/,
  },
  {
    when: "--freeze matches nothing",
    argv: train("--freeze", "none"),
    message: /^Cannot route: \/none\/ match no parameter/,
  },
  {
    when: "--freeze does not parse",
    argv: train("--freeze", "("),
    message: /^Cannot use --freeze \(: Invalid regular/,
  },
  {
    when: "--freeze leaves nothing",
    argv: train("--freeze", "."),
    message: /^Cannot train: --freeze leaves no parameter/,
  },
  { when: "the prompt is empty", argv: train("--prompt", ""), message: /^Cannot sample from an empty --prompt$/ },
  {
    when: "there is no recipe",
    argv: train("--config", "none.ts"),
    message: /^Cannot use recipe none\.ts: there is no such file$/,
  },
];

for (const { when, make, argv, message, code = 1, leavesRun = false } of [...TEXT, ...STORES, ...MODELS, ...FLAGS]) {
  Deno.test(`main() fails in one line when ${when}`, async () => {
    await using workspace = await Workspace.open();
    await make?.();
    const before = await fingerprint();
    const outcome = await workspace.run(...argv);
    assert.equal(outcome.code, code, outcome.err);
    const lines = outcome.err.trimEnd().split("\n");
    assert.match(lines[lines.length - 1], message);
    assert.deepEqual(lines.filter((line) => /^\s+at |^\w*Error/.test(line)), [], "a stack trace");
    const after = await fingerprint();
    for (const path of Object.keys(after)) {
      if (path.startsWith(".lowrank/") || (leavesRun && path.startsWith("run/"))) delete after[path];
    }
    assert.deepEqual(after, before);
  });
}

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

Deno.test("train() leaves a run alone when its folder is already in use", async () => {
  await using workspace = await Workspace.open();
  assert.equal((await workspace.train("--out", "run", "--steps", "1")).code, 0);
  const before = await fingerprint();
  const { code, err } = await workspace.train("--out", "run");
  assert.equal(code, 1);
  assert.match(err, /^Cannot start a run in run: it has metrics\.jsonl; add --resume run, or choose another --out\n$/m);
  assert.deepEqual(await fingerprint(), before);
});

Deno.test("train() loses no step when it meets a damaged chunk, and goes on once it is mended", async () => {
  await using workspace = await Workspace.open();
  await makeStore();
  const flags = ["--data", "store", "--batch", "8", "--grad-accum", "2", "--steps", "28"];
  assert.equal((await workspace.train("--out", "whole", ...flags)).code, 0);
  await flipByte("store/train/c/0/0", 9000);
  const { code, err } = await workspace.train("--out", "run", ...flags);
  assert.equal(code, 1, err);
  const [, saved] = /\nsaved run\/checkpoints\/step-(\d+)\nCannot read chunk .* its checksum does not match.*\n$/.exec(
    err,
  )!;
  assert.equal((await stepRows("run")).length, Number(saved));
  await flipByte("store/train/c/0/0", 9000);
  assert.equal((await workspace.run("train", "--resume", "run")).code, 0);
  const weights = ["run", "whole"].map((run) => hashFile(`${run}/checkpoints/step-28/model.safetensors`));
  assert.equal(...await Promise.all(weights) as [string, string]);
});

/** Runs a command line as a process of its own. */
async function spawn(permissions: string[], argv: readonly string[]): Promise<{ code: number; err: string }> {
  const main = fileURLToPath(new URL("main.ts", import.meta.url));
  const args = ["run", "--no-prompt", ...permissions, main, ...argv];
  const { code, stderr } = await new Deno.Command(Deno.execPath(), { args }).output();
  return { code, err: new TextDecoder().decode(stderr) };
}

const PERMISSIONS: [string, string[], string[], RegExp][] = [
  ["read", [], [], /^Cannot go on without read access to [^\n]+: add --allow-read=[^\n]+ to the deno command\n$/],
  [
    "write",
    ["--allow-read"],
    ["--data", "store"],
    /\nCannot go on without write access to run: add --allow-write=run to the deno command\n$/,
  ],
  [
    "net",
    ["--allow-read", "--allow-write"],
    ["--data", "https://lowrank.example/store"],
    /^Cannot go on without net access to lowrank\.example:443: add --allow-net=lowrank\.example:443 to the deno command\n$/,
  ],
  [
    "ffi",
    ["--allow-read", "--allow-write"],
    ["--blas", "require"],
    /^Cannot start the cpu backend with a native BLAS: no permission \(--allow-ffi\)\n$/,
  ],
];

for (const [kind, permissions, flags, message] of PERMISSIONS) {
  Deno.test(`main() names the flag to add when it may not ${kind}`, async () => {
    await using _workspace = await Workspace.open();
    if (kind === "write") await makeStore();
    const { code, err } = await spawn(permissions, train(...flags));
    assert.equal(code, 1, err);
    assert.match(err, message);
  });
}

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
