/** The byte tokenizer for masked-LM models beside the same one read from its files by the Hugging Face library. */
import assert from "node:assert/strict";
import { huggingFaceTokenizer } from "./hf_tokenizer.ts";
import { loadTokenizer } from "./load_tokenizer.ts";
import { maskedByteTokenizer } from "./masked_byte_tokenizer.ts";

const TEXTS = ["", "Hi there", "h\u00e9 \u6f22\u5b57 \u{1f600}\n\ttabs  two", "\ufeffmark"];

Deno.test("maskedByteTokenizer() gives bytes behind RoBERTa's special tokens and reads them back", () => {
  const { encode, decode, vocabSize, bosId, padId, eosId, unkId, maskId } = maskedByteTokenizer();
  assert.deepEqual([bosId, padId, eosId, unkId, maskId, vocabSize], [0, 1, 2, 3, 4, 261]);
  for (const text of TEXTS) {
    assert.deepEqual([...encode(text)], [...new TextEncoder().encode(text)].map((byte) => byte + 5));
    assert.equal(decode(encode(text)), text);
  }
  assert.equal(decode([0, 77, 4, 110, 2, 261]), "<s>H<mask>i</s>\ufffd");
  assert.deepEqual([...encode("<s>")], [65, 120, 67], "text forges no special token");
});

Deno.test("maskedByteTokenizer() has files that Hugging Face's library reads with the same ids", () => {
  const byte = maskedByteTokenizer();
  const read = huggingFaceTokenizer({ name: "read", hash: byte.hash, folder: "read", files: byte.files });
  for (const key of ["vocabSize", "bosId", "padId", "eosId", "unkId", "maskId"] as const) {
    assert.equal(read[key], byte[key], key);
  }
  for (const text of TEXTS) assert.deepEqual(read.encode(text), byte.encode(text));
});

Deno.test("loadTokenizer() gives the masked byte tokenizer by name and from a folder with its files", async () => {
  const folder = await Deno.makeTempDir();
  try {
    for (const [name, bytes] of maskedByteTokenizer().files) await Deno.writeFile(`${folder}/${name}`, bytes);
    assert.equal(await loadTokenizer(folder), maskedByteTokenizer());
    assert.equal(await loadTokenizer("masked-byte"), maskedByteTokenizer());
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
