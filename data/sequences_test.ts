/**
 * Sequences for RoBERTa against what the Python library makes of the same strings: `testdata/tokenizer_ids.json`, by tokenizers 0.23.2
 * with RobertaProcessing and longest-first truncation over the vocabulary of `testdata/tiny-bpe`.
 */

import assert from "node:assert/strict";
import { byteTokenizer } from "./byte_tokenizer.ts";
import { encodeExamples, truncateLongestFirst } from "./sequences.ts";
import { loadGolden, tinyRoberta } from "./testing/tokenizer_fixture.ts";

Deno.test("encodeExamples() frames and cuts pairs as the Python library does", async () => {
  const tokenizer = await tinyRoberta();
  const { robertaPairs } = await loadGolden();
  assert.equal(robertaPairs.length, 90);
  for (const { a, b, max, ids } of robertaPairs) {
    const [encoded] = encodeExamples(tokenizer, [{ sentences: [a, b], label: 1, row: 1 }], {
      positions: 512,
      maxLength: max ?? undefined,
    });
    assert.deepEqual([...encoded.ids], ids, JSON.stringify({ a, b, max }));
  }
});

Deno.test("encodeExamples() frames and cuts single sentences as the Python library does", async () => {
  const tokenizer = await tinyRoberta();
  const { robertaSingles } = await loadGolden();
  assert.equal(robertaSingles.length, 9);
  for (const { a, max, ids } of robertaSingles) {
    const [encoded] = encodeExamples(tokenizer, [{ sentences: [a], label: 0, row: 1 }], {
      positions: 512,
      maxLength: max ?? undefined,
    });
    assert.deepEqual([...encoded.ids], ids, JSON.stringify({ a, max }));
  }
});

Deno.test("truncateLongestFirst() keeps as much as fits, and never cuts the shorter one first", () => {
  for (let a = 0; a < 12; a++) {
    for (let b = 0; b < 12; b++) {
      for (let budget = 1; budget < 24; budget++) {
        const [keptA, keptB] = truncateLongestFirst([a, b], budget);
        assert.equal(keptA + keptB, Math.min(a + b, budget));
        assert.ok(keptA >= 0 && keptB >= 0 && keptA <= a && keptB <= b);
        if (a < b && keptA < a) assert.ok(keptB - keptA <= 1);
      }
    }
  }
});

Deno.test("encodeExamples() keeps labels and says what was cut", async () => {
  const examples = [{ sentences: ["the quick brown fox"], label: 1, row: 3 }, { sentences: ["a"], label: 0.5, row: 4 }];
  const encoded = encodeExamples(await tinyRoberta(), examples, { positions: 8 });
  assert.deepEqual(encoded.map(({ label, truncated }) => [label, truncated]), [[1, true], [0.5, false]]);
  assert.equal(encoded[0].ids.length, 8);
});

Deno.test("encodeExamples() throws when a sequence is longer than allowed and may not be cut", async () => {
  const examples = [{ sentences: ["a"], label: 0, row: 1 }, { sentences: ["abc", "abcdef"], label: 1, row: 2 }];
  const tokenizer = await tinyRoberta();
  const tokens = encodeExamples(tokenizer, examples, { positions: 99 })[1].ids.length;
  const error = new RegExp(`^RangeError: Cannot encode line 2: it has ${tokens} tokens, and 6 are allowed$`);
  assert.throws(() => encodeExamples(tokenizer, examples, { positions: 6, truncate: false }), error);
});

Deno.test("encodeExamples() throws when the model has fewer positions, or the tokenizer no <s>", async () => {
  const examples = [{ sentences: ["a"], label: 0, row: 1 }];
  const roberta = await tinyRoberta();
  const tooLong = /^RangeError: Cannot encode sequences of 600 tokens: the model has positions for 512$/;
  assert.throws(() => encodeExamples(roberta, examples, { positions: 512, maxLength: 600 }), tooLong);
  assert.throws(() => encodeExamples(roberta, examples, { positions: 512, maxLength: NaN }), /positions for 512/);
  assert.throws(() => encodeExamples(roberta, examples, { positions: 512, maxLength: 4 }), /at least 5 tokens: got 4/);
  assert.throws(
    () => encodeExamples(byteTokenizer(), examples, { positions: 512 }),
    /^TypeError: .*"byte": it names no/,
  );
});
