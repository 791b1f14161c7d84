/**
 * Tokenizers: ids against the Hugging Face library and a BPE written the slow way, files that load again, exact cuts.
 * `testdata/tiny-bpe` is a vocabulary of 60 merges, trained for these tests on four sentences.
 */

import assert from "node:assert/strict";
import { Tokenizer as Library } from "npm:@huggingface/tokenizers@0.2.0";
import { byteTokenizer, byteToUnicode } from "./byte_tokenizer.ts";
import { loadTokenizer } from "./load_tokenizer.ts";
import { hashFiles, type Tokenizer } from "./tokenizer.ts";

const TINY = new URL("./testdata/tiny-bpe", import.meta.url).pathname;
const SAMPLES = [
  "",
  "The quick brown fox didn't jump.",
  "  two  spaces\n\n tab\tend  ",
  "été naïve 日本語 👩‍👧 \u0301 \u200b",
  "'s't're 12345 they'll\r\nnext",
  "\ufeffmark \ud800 lone",
];

/** BPE by its definition: split by GPT-2's expression, then join the pair of lowest rank until none is left. */
function slowBpe(text: string, vocab: Record<string, number>, merges: string[]): number[] {
  const characters = byteToUnicode();
  const words = text.match(/'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+/gu) ?? [];
  return words.flatMap((word) => {
    const parts = [...new TextEncoder().encode(word)].map((byte) => characters[byte]);
    for (;;) {
      const ranks = parts.slice(1).map((part, i) => merges.indexOf(`${parts[i]} ${part}`));
      const best = Math.min(...ranks.filter((rank) => rank >= 0));
      if (best === Infinity) return parts.map((part) => vocab[part]);
      parts.splice(ranks.indexOf(best), 2, merges[best].replace(" ", ""));
    }
  });
}

function encodeInPieces(tokenizer: Tokenizer, text: string, size: number): number[] {
  const ids: number[] = [];
  let held = "";
  for (let i = 0; i < text.length; i += size) {
    held += text.slice(i, i + size);
    const cut = tokenizer.splitPoint!(held);
    ids.push(...tokenizer.encode(held.slice(0, cut)));
    held = held.slice(cut);
  }
  return [...ids, ...tokenizer.encode(held)];
}

async function withFolder(files: ReadonlyMap<string, string | Uint8Array>, body: (folder: string) => Promise<void>) {
  const folder = await Deno.makeTempDir();
  try {
    for (const [name, content] of files) {
      const bytes = typeof content === "string" ? new TextEncoder().encode(content) : content;
      await Deno.writeFile(`${folder}/${name}`, bytes);
    }
    await body(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

Deno.test("byteTokenizer() gives UTF-8 bytes and reads them back", () => {
  const byte = byteTokenizer();
  assert.equal(byte.vocabSize, 257);
  assert.equal(byte.eosId, 256);
  for (const text of SAMPLES) {
    const bytes = new TextEncoder().encode(text);
    assert.deepEqual([...byte.encode(text)], [...bytes]);
    assert.equal(byte.decode(byte.encode(text)), new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes));
  }
});

Deno.test("byteTokenizer() decodes cut characters, ends and strange ids without throwing", () => {
  const byte = byteTokenizer();
  assert.equal(byte.decode([0xe6, 0x97]), "\ufffd");
  assert.equal(byte.decode([104, 256, 105, 999]), "h<|endoftext|>i\ufffd");
  assert.equal(byte.decode([]), "");
});

Deno.test("byteTokenizer() has files that Hugging Face loads with the same ids", () => {
  const { files, encode } = byteTokenizer();
  const read = (name: string) => JSON.parse(new TextDecoder().decode(files.get(name)));
  const library = new Library(read("tokenizer.json"), read("tokenizer_config.json"));
  for (const text of SAMPLES) assert.deepEqual(library.encode(text).ids, [...encode(text)]);
  assert.deepEqual(library.encode("<|endoftext|>").ids, [256]);
  assert.equal(encode("<|endoftext|>").length, 13);
  assert.equal(library.decode([...encode("été 日本")]), "été 日本");
});

Deno.test("loadTokenizer() gives the byte tokenizer when a folder holds its files", async () => {
  await withFolder(byteTokenizer().files, async (folder) => {
    assert.equal(await loadTokenizer(folder), byteTokenizer());
  });
});

Deno.test("loadTokenizer() agrees with slow BPE when a folder has vocab.json and merges.txt", async () => {
  const tokenizer = await loadTokenizer(TINY);
  const vocab = JSON.parse(await Deno.readTextFile(`${TINY}/vocab.json`));
  const merges = (await Deno.readTextFile(`${TINY}/merges.txt`)).split("\n").slice(1, -1);
  assert.equal(merges.length, 60);
  for (const text of SAMPLES) assert.deepEqual([...tokenizer.encode(text)], slowBpe(text, vocab, merges), text);
  assert.equal(tokenizer.vocabSize, 317);
  assert.equal(tokenizer.eosId, 316);
  assert.equal(tokenizer.name, "tiny-bpe");
  assert.equal(tokenizer.decode(tokenizer.encode(SAMPLES[3])), SAMPLES[3]);
});

Deno.test("loadTokenizer() gives the known ids of the tiny vocabulary", async () => {
  const tokenizer = await loadTokenizer(TINY);
  const ids = [260, 220, 80, 84, 314, 220, 308, 292, 290, 77, 272, 220, 73, 84, 76, 79, 13];
  assert.deepEqual([...tokenizer.encode("The quick brown fox didn't jump.")], ids);
});

Deno.test("loadTokenizer() keeps the hash when the tokenizer's files are loaded from a checkpoint", async () => {
  const tokenizer = await loadTokenizer(TINY);
  assert.equal(tokenizer.hash, hashFiles(tokenizer.files));
  await withFolder(tokenizer.files, async (folder) => {
    const again = await loadTokenizer(folder);
    assert.equal(again.hash, tokenizer.hash);
    assert.deepEqual(again.encode(SAMPLES[3]), tokenizer.encode(SAMPLES[3]));
  });
});

Deno.test("loadTokenizer() ends texts with </s> when vocab.json is RoBERTa's", async () => {
  const vocab = JSON.parse(await Deno.readTextFile(`${TINY}/vocab.json`));
  delete vocab["<|endoftext|>"];
  for (const [i, token] of ["<s>", "<pad>", "</s>", "<unk>", "<mask>"].entries()) vocab[token] = 316 + i;
  const files = { "vocab.json": JSON.stringify(vocab), "merges.txt": await Deno.readTextFile(`${TINY}/merges.txt`) };
  await withFolder(new Map(Object.entries(files)), async (folder) => {
    const tokenizer = await loadTokenizer(folder);
    assert.equal(tokenizer.eosId, 318);
    assert.equal(tokenizer.vocabSize, 321);
    assert.deepEqual(tokenizer.encode(SAMPLES[1]), (await loadTokenizer(TINY)).encode(SAMPLES[1]));
    const read = (name: string) => JSON.parse(new TextDecoder().decode(tokenizer.files.get(name)));
    const library = new Library(read("tokenizer.json"), read("tokenizer_config.json"));
    const ids = library.encode("the <mask>").ids;
    assert.deepEqual([ids[0], ids.at(-2), ids.at(-1)], [316, 320, 318]);
  });
});

Deno.test("loadTokenizer() splits the tokens of added_tokens.json out before BPE", async () => {
  const file = (name: string) => Deno.readTextFileSync(`${TINY}/${name}`);
  const files = { "vocab.json": file("vocab.json"), "merges.txt": file("merges.txt") };
  const added = JSON.stringify({ "<|im_start|>": 317, "<|im_end|>": 319, "<|endoftext|>": 316 });
  await withFolder(new Map(Object.entries({ ...files, "added_tokens.json": added })), async (folder) => {
    const tokenizer = await loadTokenizer(folder);
    const plain = await loadTokenizer(TINY);
    const text = "<|im_start|>the end<|im_end|> the<|endoftext|>";
    const ids = [317, ...plain.encode("the end"), 319, ...plain.encode(" the"), 316];
    assert.deepEqual([...tokenizer.encode(text)], ids);
    assert.equal(tokenizer.decode(ids), text);
    assert.deepEqual([tokenizer.vocabSize, tokenizer.eosId], [320, 316]);
    assert.deepEqual([...encodeInPieces(tokenizer, text, 7)], ids);
  });
});

Deno.test("splitPoint() cuts where the parts give the ids of the whole", async () => {
  const text = SAMPLES.join(" ").repeat(4) + "tail";
  for (const tokenizer of [byteTokenizer(), await loadTokenizer(TINY)]) {
    const whole = [...tokenizer.encode(text)];
    for (const size of [1, 2, 7, 31, 64]) {
      assert.deepEqual(encodeInPieces(tokenizer, text, size), whole, `${tokenizer.name} in pieces of ${size}`);
    }
  }
});

Deno.test("splitPoint() is absent when the splitting expression is not known to be exact", async () => {
  const files = new Map((await loadTokenizer(TINY)).files);
  const json = JSON.parse(new TextDecoder().decode(files.get("tokenizer.json")));
  json.normalizer = { type: "NFC" };
  await withFolder(new Map([["tokenizer.json", JSON.stringify(json)]]), async (folder) => {
    assert.equal((await loadTokenizer(folder)).splitPoint, undefined);
  });
});

const GOOD_VOCAB = '{"a":0,"b":1,"ab":2,"<|endoftext|>":3}';

function added(tokens: string): Record<string, string> {
  return { "vocab.json": GOOD_VOCAB, "merges.txt": "", "added_tokens.json": tokens };
}

for (
  const [condition, files, error] of [
    ["the folder is empty", {}, /^NotFound: Cannot load the tokenizer .*expected "byte", "masked-byte", or a folder/],
    ["vocab.json is not JSON", { "vocab.json": "{", "merges.txt": "" }, /^SyntaxError: .*vocab.json is not JSON/],
    [
      "two tokens share an id",
      { "vocab.json": '{"a":0,"b":0}', "merges.txt": "" },
      /^SyntaxError: .*its own whole number/,
    ],
    ["a merge is unknown", { "vocab.json": GOOD_VOCAB, "merges.txt": "#version\na b\nb b\n" }, /line 3: .*got "b b"/],
    ["nothing ends a text", { "vocab.json": '{"a":0}', "merges.txt": "" }, /neither "<\|endoftext\|>" nor "<\/s>"/],
    [
      "an added token is no number",
      added('{"<x>":"4"}'),
      /added_tokens.json must map each token to its own whole number/,
    ],
    [
      "an added token has the id of another",
      added('{"<x>":1}'),
      /added_tokens.json must give "<x>" an id of its own: got 1, which is "b"$/,
    ],
    [
      "an added token has another id than in the vocabulary",
      added('{"ab":4}'),
      /must give "ab" an id of its own: got 4, which has 2 in vocab.json$/,
    ],
    ["tokenizer.json holds a list", { "tokenizer.json": "[]" }, /tokenizer.json must hold an object/],
    ["tokenizer.json has no model", { "tokenizer.json": "{}" }, /^SyntaxError: .*tokenizer.json: /],
  ] as [string, Record<string, string>, RegExp][]
) {
  Deno.test(`loadTokenizer() throws when ${condition}`, async () => {
    await withFolder(new Map(Object.entries(files)), async (folder) => {
      await assert.rejects(loadTokenizer(folder), error);
    });
  });
}
