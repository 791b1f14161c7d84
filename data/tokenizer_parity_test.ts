/**
 * Tokenizers on awkward strings, against the JavaScript library itself and against the Python one's ids.
 * GPT-2's own files are not in this repository: `LOWRANK_GPT2_TOKENIZER=FOLDER` names a folder that has its `vocab.json` and
 * `merges.txt`; without it that test is ignored.
 */

import assert from "node:assert/strict";
import { Tokenizer as Library } from "npm:@huggingface/tokenizers@0.2.0";
import { byteTokenizer } from "./byte_tokenizer.ts";
import { loadTokenizer } from "./load_tokenizer.ts";
import { withFolder } from "./testing/store_fixture.ts";
import { loadGolden, TINY_LLAMA, tinyRoberta, tinyRobertaFiles } from "./testing/tokenizer_fixture.ts";
import type { Tokenizer } from "./tokenizer.ts";

const GPT2 = Deno.env.get("LOWRANK_GPT2_TOKENIZER");

function libraryOf({ files }: Tokenizer): Library {
  const read = (name: string) => JSON.parse(new TextDecoder().decode(files.get(name)));
  return new Library(read("tokenizer.json"), read("tokenizer_config.json"));
}

/** Checks ids against Python's and the library's, and that byte-level ids decode to the text. */
function agrees(tokenizer: Tokenizer, golden: [string, number[]][]): void {
  const library = libraryOf(tokenizer);
  for (const [text, ids] of golden) {
    assert.deepEqual([...tokenizer.encode(text)], ids, `Python, ${JSON.stringify(text)}`);
    const plain = text === "" ? [] : library.encode(text, { add_special_tokens: false }).ids;
    assert.deepEqual([...tokenizer.encode(text)], plain, `the library, ${JSON.stringify(text)}`);
  }
}

Deno.test("RoBERTa's files give the Python library's ids on awkward strings", async () => {
  const tokenizer = await tinyRoberta();
  const { roberta } = await loadGolden();
  assert.equal(roberta.length, 15);
  agrees(tokenizer, roberta);
  for (const [text, ids] of roberta) {
    // <mask> takes the space before it
    if (!text.includes("<mask>")) assert.equal(tokenizer.decode(ids), text);
  }
});

Deno.test("a tokenizer.json of LLaMA's kind gives the Python library's ids and texts", async () => {
  const tokenizer = await loadTokenizer(TINY_LLAMA);
  const { llama, llamaDecoded } = await loadGolden();
  assert.equal(llama.length, 9);
  agrees(tokenizer, llama);
  for (const [text, decoded] of llamaDecoded) {
    assert.equal(tokenizer.decode(tokenizer.encode(text)), decoded, JSON.stringify(text));
  }
});

Deno.test({
  name: "GPT-2's files give the known ids" + (GPT2 ? "" : " (LOWRANK_GPT2_TOKENIZER names no folder with them)"),
  ignore: GPT2 === undefined,
  fn: async () => {
    const tokenizer = await loadTokenizer(GPT2!);
    assert.equal(tokenizer.vocabSize, 50257);
    assert.deepEqual([...tokenizer.encode("Hello world")], [15496, 995]);
    const { gpt2 } = await loadGolden();
    assert.equal(gpt2.length, 16);
    agrees(tokenizer, gpt2);
    for (const [text, ids] of gpt2) assert.equal(tokenizer.decode(ids), text);
  },
});

Deno.test("encode() takes a lone surrogate for U+FFFD in every tokenizer", async () => {
  for (const tokenizer of [byteTokenizer(), await tinyRoberta(), await loadTokenizer(TINY_LLAMA)]) {
    for (const lone of ["\ud83d", "a\udc00b", "\udc00\ud800"]) {
      const replaced = lone.replace(/[\ud800-\udfff]/g, "\ufffd");
      assert.deepEqual(tokenizer.encode(lone), tokenizer.encode(replaced), `${tokenizer.name} ${JSON.stringify(lone)}`);
    }
  }
});

Deno.test("special tokens are known by id, from the folder's files or by their usual names", async () => {
  const { bosId, eosId, padId, unkId, maskId } = await tinyRoberta();
  assert.deepEqual([bosId, padId, eosId, unkId, maskId], [316, 317, 318, 319, 320]);
  const llama = await loadTokenizer(TINY_LLAMA);
  assert.deepEqual([llama.unkId, llama.bosId, llama.eosId, llama.padId, llama.maskId], [0, 1, 2, undefined, undefined]);
  const byte = byteTokenizer();
  assert.deepEqual([byte.eosId, byte.bosId, byte.padId, byte.maskId], [256, undefined, undefined, undefined]);
});

Deno.test("a special token that tokenizer_config.json gives as null is none", async () => {
  await withFolder(async (folder) => {
    await Deno.copyFile(`${TINY_LLAMA}/tokenizer.json`, `${folder}/tokenizer.json`);
    await Deno.writeTextFile(
      `${folder}/tokenizer_config.json`,
      '{"bos_token": null, "eos_token": {"content": "</s>"}}',
    );
    const { bosId, eosId, unkId } = await loadTokenizer(folder);
    assert.deepEqual([bosId, eosId, unkId], [undefined, 2, 0]);
  });
});

Deno.test("RoBERTa's end is </s> though its vocabulary has GPT-2's as a word, and no file says so", async () => {
  const files = await tinyRobertaFiles();
  const vocab = JSON.parse(new TextDecoder().decode(files.get("vocab.json")));
  await withFolder(async (folder) => {
    await Deno.writeTextFile(`${folder}/vocab.json`, JSON.stringify({ ...vocab, "<|endoftext|>": 321 }));
    await Deno.writeFile(`${folder}/merges.txt`, files.get("merges.txt")!);
    await Deno.writeTextFile(`${folder}/tokenizer_config.json`, '{"model_max_length": 512}');
    const { bosId, eosId, padId, maskId } = await loadTokenizer(folder);
    assert.deepEqual([bosId, padId, eosId, maskId], [316, 317, 318, 320]);
  });
});

Deno.test("loadTokenizer() keeps a chat template among the files, and the hash as it was", async () => {
  for (const plain of [byteTokenizer(), await loadTokenizer(TINY_LLAMA)]) {
    await withFolder(async (folder) => {
      for (const [name, bytes] of plain.files) await Deno.writeFile(`${folder}/${name}`, bytes);
      await Deno.writeTextFile(`${folder}/chat_template.jinja`, "{{ messages }}");
      const tokenizer = await loadTokenizer(folder);
      assert.equal(tokenizer.hash, plain.hash);
      assert.equal(new TextDecoder().decode(tokenizer.files.get("chat_template.jinja")), "{{ messages }}");
      assert.deepEqual(tokenizer.encode("a b"), plain.encode("a b"));
    });
  }
});
