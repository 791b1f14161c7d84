/** Packed conversations: nothing lost, nothing learned across a border, rows filled. */

import assert from "node:assert/strict";
import type { EncodedChat } from "./chat_template.ts";
import { packChat, packedBatches } from "./packing.ts";
import { foldKey } from "./shuffle.ts";

const PAD = 0;

/** A conversation of `length` tokens whose last `answer` ones count; no two conversations share an id. */
function chat(line: number, length: number, answer: number): EncodedChat {
  const ids = Int32Array.from({ length }, (_, i) => line * 1000 + i);
  return { ids, counted: Uint8Array.from({ length }, (_, i) => i >= length - answer ? 1 : 0), line };
}

const CHATS = Array.from({ length: 200 }, (_, i) => {
  const length = 2 + foldKey(i) % 60;
  return chat(i + 1, length, 1 + foldKey(i, 1) % (length - 1));
});

Deno.test("packChat() keeps every conversation whole, once, and pads with the id given", () => {
  const { tokens, segments, rows, seq } = packChat(CHATS, { seq: 64, padId: PAD });
  const seen = new Map<number, number[]>();
  for (let row = 0; row < rows; row++) {
    for (let i = row * seq; i < (row + 1) * seq; i++) {
      assert.equal(segments[i] === 0, tokens[i] === PAD);
      if (segments[i] === 0) continue;
      const line = Math.floor(tokens[i] / 1000);
      seen.set(line, [...seen.get(line) ?? [], tokens[i]]);
      // one segment number to one conversation
      const before = i > row * seq ? segments[i - 1] : 0;
      assert.equal(segments[i], tokens[i] % 1000 === 0 ? before + 1 : before);
    }
  }
  assert.deepEqual([...seen].sort(([a], [b]) => a - b), CHATS.map(({ ids, line }) => [line, [...ids]]));
});

Deno.test("packChat() makes targets of answers only, from the token before in the same conversation", () => {
  const { tokens, targets, counted } = packChat(CHATS, { seq: 64, padId: PAD });
  let found = 0;
  for (const [i, target] of targets.entries()) {
    if (target === -100) continue;
    found++;
    assert.equal(target, tokens[i] + 1);
    assert.equal(CHATS[Math.floor(target / 1000) - 1].counted[target % 1000], 1);
  }
  const wanted = CHATS.reduce((sum, chat) => sum + chat.counted.reduce((a, b) => a + b), 0);
  assert.equal(found, wanted);
  assert.equal(counted, wanted);
});

Deno.test("packChat() does not learn a first token, which nothing of its conversation comes before", () => {
  const { targets, counted } = packChat([chat(1, 3, 3), chat(2, 3, 3)], { seq: 8, padId: PAD });
  assert.deepEqual([...targets], [1001, 1002, -100, 2001, 2002, -100, -100, -100]);
  assert.equal(counted, 4);
});

Deno.test("packChat() fills rows: the fullest that has room is taken", () => {
  const packed = packChat([chat(1, 5, 1), chat(2, 7, 1), chat(3, 3, 1), chat(4, 2, 1), chat(5, 4, 1)], {
    seq: 10,
    padId: PAD,
  });
  const firsts = Array.from(
    { length: packed.rows },
    (_, row) => [...packed.tokens.subarray(row * 10, row * 10 + 10)].filter((id) => id % 1000 === 0 && id > 0),
  );
  assert.deepEqual(firsts, [[1000, 4000], [2000, 3000], [5000]]);
  const used = CHATS.reduce((sum, { ids }) => sum + ids.length, 0);
  const { rows, seq } = packChat(CHATS, { seq: 64, padId: PAD });
  assert.ok(used / (rows * seq) > 0.9, `${used / (rows * seq)} of the rows is used`);
});

Deno.test("packChat() refuses a conversation longer than a row, or cuts its end when told to", () => {
  const long = [chat(7, 12, 6)];
  const error = /^RangeError: Cannot pack the conversation on line 7: it has 12 tokens, and a row has 8$/;
  assert.throws(() => packChat(long, { seq: 8, padId: PAD }), error);
  const { tokens, counted, truncated } = packChat(long, { seq: 8, padId: PAD, truncate: true });
  assert.deepEqual([...tokens], [...long[0].ids.subarray(0, 8)]);
  assert.deepEqual([counted, truncated], [2, 1]);
  const lost = /line 7: an answer must lie within the first 6 tokens: got none$/;
  assert.throws(() => packChat(long, { seq: 6, padId: PAD, truncate: true }), lost);
});

Deno.test("packedBatches() gives every row once an epoch, in an order of the seed's, resumable", () => {
  const packed = packChat(CHATS, { seq: 64, padId: PAD });
  const rowsOf = (options: { seed?: number; epoch?: number; start?: number }) =>
    [...packedBatches(packed, { batch: 8, ...options })].flatMap(({ tokens, targets, segments, size }) =>
      Array.from({ length: size }, (_, i) => {
        const part = (values: ArrayLike<number>) => Array.from(values).slice(i * 64, (i + 1) * 64);
        return [part(tokens), part(targets), part(segments)].join();
      })
    );
  const stored = rowsOf({});
  const shuffled = rowsOf({ seed: 3, epoch: 1 });
  assert.equal(new Set(stored).size, packed.rows);
  assert.notDeepEqual(shuffled, stored);
  assert.deepEqual(shuffled.toSorted(), stored.toSorted());
  assert.deepEqual(rowsOf({ seed: 3, epoch: 1 }), shuffled);
  assert.notDeepEqual(rowsOf({ seed: 3, epoch: 2 }), shuffled);
  assert.deepEqual(rowsOf({ seed: 3, epoch: 1, start: 4 }), shuffled.slice(32));
  const counts = [...packedBatches(packed, { batch: 8 })].map(({ counted }) => counted);
  assert.equal(counts.reduce((a, b) => a + b), packed.counted);
});
