/** Text and stores that cannot be trained on: one line that says what is wrong, and nothing written or lost. */
import assert from "node:assert/strict";
import { byteTokenizer, prepareStore, writeStore } from "../data/mod.ts";
import { hashFile } from "./durable.ts";
import { type BadInput, editJson, flipByte, makeStore, testBadInputs, train } from "./testing/bad_input.ts";
import { sentences, stepRows, Workspace } from "./testing/workspace.ts";

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
    make: () =>
      Deno.writeFile("latin.txt", Uint8Array.from([...new TextEncoder().encode(sentences(2000)), 0xe9, 0x20])),
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
    message: /^Cannot load the tokenizer "none": expected "byte", "masked-byte", or a folder with tokenizer\.json/,
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
  },
  {
    when: "a shard is cut off",
    make: () => makeStore(() => Deno.truncate("store/train/c/0/0", 500)),
    argv: train("--data", "store"),
    message:
      /^Cannot read chunk \d+ of shard "train\/c\/0\/0" of store "store": the file must have \d+ bytes, got 500$/,
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

testBadInputs([...TEXT, ...STORES]);

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
