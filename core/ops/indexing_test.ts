/** Dropout and look-ups: what is random, what repeats, and what is refused. */
import assert from "node:assert/strict";
import { loopsBackend } from "../../backends/cpu/loops/mod.ts";
import { asLeaf, backward } from "../autograd.ts";
import { foldIn, keyOf } from "../random.ts";
import { scope } from "../scope.ts";
import { fromArray } from "../tensor.ts";
import { fill, iota } from "./create.ts";
import { dropout, embedding, gather } from "./indexing.ts";
import { reshape, transpose } from "./layout.ts";
import { crossEntropy } from "./loss.ts";
import { sum } from "./reduce.ts";

const key = keyOf(4);

Deno.test("dropout() drops the asked share, keeps the mean, and repeats under its key alone", () => {
  using backend = loopsBackend();
  using _ = scope("test");
  const x = fill(backend, 3, [100, 100]);
  const values = dropout(x, 0.3, key).readSync();
  const kept = values.filter((value) => value !== 0);
  assert.ok(Math.abs(kept.length / values.length - 0.7) < 0.015, `kept ${kept.length}`);
  assert.ok(kept.every((value) => value === Math.fround(3 * Math.fround(1 / 0.7))));
  assert.deepEqual(dropout(x, 0.3, key).readSync(), values);
  assert.notDeepEqual(dropout(x, 0.3, foldIn(key, 1)).readSync(), values);
  // the mask follows the element's place in the shape, not in memory
  assert.deepEqual(dropout(transpose(x), 0.3, key).readSync(), values);
});

Deno.test("dropout() passes the gradient where the value passed", () => {
  using backend = loopsBackend();
  using _ = scope("test");
  const x = asLeaf(fill(backend, 1, [1000]), "x");
  const out = dropout(x, 0.5, key);
  backward(sum(out), (_name, gradient) => assert.deepEqual(gradient.readSync(), out.readSync()));
});

Deno.test("dropout() gives x itself at rate 0 and refuses rates outside [0, 1)", () => {
  using backend = loopsBackend();
  using x = fill(backend, 1, [3]);
  assert.equal(dropout(x, 0, key), x);
  for (const rate of [1, -0.1, NaN]) {
    assert.throws(() => dropout(x, rate, key), {
      name: "RangeError",
      message: `Cannot drop in dropout(): rate must be in [0, 1), got ${rate}`,
    });
  }
});

Deno.test("embedding() refuses an index outside the table, and operands that are none", () => {
  using backend = loopsBackend();
  using _ = scope("test");
  const table = reshape(iota(backend, 6, "f32"), [3, 2]);
  for (const index of [3, -1]) {
    assert.throws(() => embedding(table, fromArray(backend, [0, index], [2], "i32")), RangeError);
  }
  assert.throws(() => embedding(table, fromArray(backend, [0, 1], [2])), {
    name: "TypeError",
    message: "Cannot look up in embedding(): got table f32[3, 2] and indices f32[2]",
  });
});

Deno.test("gather() and crossEntropy() refuse an index outside its row, as the next row must not stand in", () => {
  using backend = loopsBackend();
  using _ = scope("test");
  const x = reshape(iota(backend, 6, "f32"), [2, 3]);
  for (const index of [3, -1, -101]) {
    for (const picks of [[index, 0], [0, index]]) {
      assert.throws(() => gather(x, fromArray(backend, picks, [2, 1], "i32")), RangeError);
      assert.throws(() => crossEntropy(x, fromArray(backend, picks, [2], "i32")), RangeError);
    }
  }
  assert.throws(() => gather(x, fromArray(backend, [0, 3], [2, 1], "u32")), RangeError);
});
