/** The study's baseline and word-level tokenizer. */
import assert from "node:assert/strict";
import { loadTokenizer } from "../../data/mod.ts";
import { accuracyOf, bagOfWords, countWords, type Labelled, wordsOf, wordTokenizerFiles } from "./words.ts";

Deno.test("wordsOf() separates words, clitics and punctuation as SST-2 does", () => {
  assert.deepEqual(wordsOf("I've seen It, they don't."), ["i", "'ve", "seen", "it", ",", "they", "do", "n't", "."]);
});

const labelled = (...texts: [string, number][]): Labelled[] =>
  texts.map(([text, label]) => ({ words: text.split(" "), label }));

Deno.test("bagOfWords() is at the minimum of its penalised loss, and learns which words count", () => {
  const examples = labelled(["good film", 1], ["bad film", 0], ["good good plot", 1], ["bad plot", 0], ["film", 1]);
  const l2 = 0.1;
  const score = bagOfWords(examples, { l2, steps: 4000 });
  assert.equal(accuracyOf(score, examples), 1);
  assert.equal(accuracyOf(score, labelled(["good unknown", 1], ["bad unknown", 0])), 1);
  const bias = score([]);
  const weights = ["good", "bad", "film", "plot"].map((word) => [word, score([word]) - bias] as const);
  const errorOf = ({ words, label }: Labelled) => 1 / (1 + Math.exp(-score(words))) - label;
  assert.ok(Math.abs(examples.reduce((sum, one) => sum + errorOf(one), 0)) < 1e-6, "the bias has no slope");
  for (const [word, weight] of weights) {
    const having = examples.filter(({ words }) => words.includes(word));
    const slope = having.reduce((sum, one) => sum + errorOf(one), 0) / examples.length + l2 * weight;
    assert.ok(Math.abs(slope) < 1e-6, `${word}: ${slope}`);
  }
});

Deno.test("wordTokenizerFiles() make a tokenizer that has RoBERTa's special tokens and knows words", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const words = [...countWords([["a", "fine", "film"], ["film"]]).keys()];
    for (const [name, content] of Object.entries(wordTokenizerFiles(words))) {
      await Deno.writeTextFile(`${folder}/${name}`, content);
    }
    const { encode, bosId, padId, eosId, unkId, maskId, vocabSize } = await loadTokenizer(folder);
    assert.deepEqual([bosId, padId, eosId, unkId, maskId, vocabSize], [0, 1, 2, 3, 4, 8]);
    assert.deepEqual([...encode("A fine  song")], [5, 6, 3]);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
