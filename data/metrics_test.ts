/** Measures against tables worked out by hand, and their undefined cases. */

import assert from "node:assert/strict";
import { accuracy, f1, matthewsCorrelation, METRICS, pearson, spearman } from "./metrics.ts";

function near(actual: number, expected: number): void {
  assert.ok(Math.abs(actual - expected) < 1e-12, `${actual} is not ${expected}`);
}

// By hand: 3 true positives, 1 false positive, 2 false negatives, 4 true negatives.
const SAID = [1, 1, 1, 1, 0, 0, 0, 0, 0, 0];
const MEANT = [1, 1, 1, 0, 1, 1, 0, 0, 0, 0];

Deno.test("accuracy() counts predictions that equal their label", () => {
  near(accuracy(SAID, MEANT), 7 / 10);
  near(accuracy([2, 0, 1, 2], [2, 1, 1, 0]), 1 / 2);
  near(accuracy([0], [1]), 0);
});

Deno.test("f1() is the harmonic mean of precision 3/4 and recall 3/5", () => {
  near(f1(SAID, MEANT), 2 / (4 / 3 + 5 / 3));
  near(f1(MEANT, MEANT), 1);
});

Deno.test("f1() is of class 1: turning the classes over changes it", () => {
  const turn = (classes: number[]) => classes.map((c) => 1 - c);
  near(f1(turn(SAID), turn(MEANT)), 2 * 4 / (2 * 4 + 1 + 2));
});

Deno.test("f1() is 0 without a true positive", () => {
  assert.equal(f1([0, 0, 0], [1, 0, 1]), 0);
  assert.equal(f1([1, 0], [0, 1]), 0);
  assert.equal(f1([0, 0], [0, 0]), 0);
});

Deno.test("matthewsCorrelation() is (3*4 - 1*2) / sqrt(4 * 5 * 5 * 6)", () => {
  near(matthewsCorrelation(SAID, MEANT), 10 / Math.sqrt(600));
  near(matthewsCorrelation(MEANT, MEANT), 1);
  near(matthewsCorrelation(MEANT.map((c) => 1 - c), MEANT), -1);
});

Deno.test("matthewsCorrelation() is 0 when one class is never said or never meant", () => {
  assert.equal(matthewsCorrelation([1, 1, 1], [1, 0, 1]), 0);
  assert.equal(matthewsCorrelation([0, 0, 0], [1, 0, 1]), 0);
  assert.equal(matthewsCorrelation([0, 1, 0], [1, 1, 1]), 0);
});

Deno.test("matthewsCorrelation() keeps large counts apart", () => {
  const said = new Uint8Array(400_000).fill(1, 0, 200_000);
  const meant = new Uint8Array(400_000).fill(1, 100_000, 300_000);
  assert.equal(matthewsCorrelation(said, meant), 0);
  near(matthewsCorrelation(said, said), 1);
});

Deno.test("pearson() of a table by hand", () => {
  // x - 3: -2 -1 0 1 2; y - 4: -2 0 -1 1 2; xy 9, xx 10, yy 10
  near(pearson([1, 2, 3, 4, 5], [2, 4, 3, 5, 6]), 0.9);
  near(pearson([1, 2, 3], [30, 20, 10]), -1);
});

Deno.test("pearson() ignores shift and scale, even far from zero", () => {
  const x = [1, 2, 3, 4, 5].map((v) => 1e6 + v / 8);
  near(pearson(x, [2, 4, 3, 5, 6]), 0.9);
});

Deno.test("spearman() of a table by hand, without and with ties", () => {
  // without ties 1 - 6 * sum d^2 / (n (n^2 - 1)) with d = 0 1 -1 0 0
  near(spearman([10, 20, 30, 40, 50], [1, 9, 4, 16, 25]), 1 - 6 * 2 / (5 * 24));
  // ranks 1 2.5 2.5 4 and 1 3 2 4: xy 4.5, xx 4.5, yy 5
  near(spearman([1, 2, 2, 3], [1, 3, 2, 4]), 4.5 / Math.sqrt(4.5 * 5));
  near(spearman([1, 2, 3, 4], [1, 8, 27, 64]), 1);
});

Deno.test("correlations are 0 when one side is constant", () => {
  for (const measure of [pearson, spearman]) {
    assert.equal(measure([0.1, 0.1, 0.1], [1, 2, 3]), 0);
    assert.equal(measure([1, 2, 3], [4.7, 4.7, 4.7]), 0);
    assert.equal(measure([1], [2]), 0);
  }
});

Deno.test("correlations are NaN when a prediction is", () => {
  for (const measure of [pearson, spearman]) assert.ok(Number.isNaN(measure([1, NaN, 3, 2], [1, 2, 3, 4])));
});

Deno.test("measures refuse empty and uneven arrays, and classes that they do not count", () => {
  for (const measure of Object.values(METRICS)) {
    assert.throws(() => measure([], []), /^RangeError: Cannot measure .*got 0 predictions, 0 labels/);
    assert.throws(() => measure([1], [1, 0]), /got 1 predictions, 2 labels/);
  }
  for (const measure of [f1, matthewsCorrelation]) {
    assert.throws(() => measure([0, 2], [0, 1]), /classes must be 0 or 1: got prediction 2 and label 1 at 1/);
    assert.throws(() => measure([0, 1], [0, NaN]), /got prediction 1 and label NaN/);
  }
});
