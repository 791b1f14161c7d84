/** Divergences against closed forms, at their edges, and shift capture. */
import assert from "node:assert/strict";
import { jsDivergence, klDivergence, logSoftmax, shiftCapture, topIndex } from "./divergence.ts";

function near(actual: number, expected: number, slack = 1e-12): void {
  assert.ok(Math.abs(actual - expected) <= slack * Math.max(1, Math.abs(expected)), `${actual} is not ${expected}`);
}

const logs = (...p: number[]) => p.map(Math.log);

Deno.test("logSoftmax() sums to one, and keeps large and far-apart scores apart", () => {
  near(logSoftmax([0, Math.log(3)])[1], Math.log(0.75));
  const large = logSoftmax([1e4, 1e4 + 1, -1e4]);
  near(large.reduce((sum, value) => sum + Math.exp(value), 0), 1);
  near(large[1] - large[0], 1);
  near(large[2], -20_001 - Math.log1p(Math.exp(-1)));
  assert.deepEqual([...logSoftmax([5])], [0]);
});

Deno.test("klDivergence() of tables by hand", () => {
  near(klDivergence(logs(0.5, 0.5), logs(0.25, 0.75)), 0.5 * Math.log(2) + 0.5 * Math.log(2 / 3));
  near(klDivergence(logs(0.2, 0.3, 0.5), logs(0.5, 0.3, 0.2)), 0.3 * Math.log(2.5));
  assert.equal(klDivergence(logs(0.1, 0.9), logs(0.1, 0.9)), 0);
});

Deno.test("klDivergence() counts nothing that p does not say, and is infinite where q leaves out what p says", () => {
  near(klDivergence(logs(0, 1), logs(0.5, 0.5)), Math.LN2);
  assert.equal(klDivergence(logs(0.5, 0.5), logs(0, 1)), Infinity);
  assert.equal(klDivergence([-Infinity, 0], [-Infinity, 0]), 0);
  assert.equal(klDivergence([-800, 0], [-Infinity, 0]), 0);
});

Deno.test("klDivergence() keeps small differences: it is half the squared distance in the Fisher metric", () => {
  const p = logSoftmax([0.3, -0.2, 0.9, 0]);
  const step = [1e-6, -2e-6, 5e-7, 1e-6];
  const q = logSoftmax([0.3, -0.2, 0.9, 0].map((value, i) => value + step[i]));
  const mean = step.reduce((sum, d, i) => sum + Math.exp(p[i]) * d, 0);
  const variance = step.reduce((sum, d, i) => sum + Math.exp(p[i]) * (d - mean) ** 2, 0);
  near(klDivergence(p, q) / (variance / 2), 1, 1e-3);
});

Deno.test("jsDivergence() is symmetric, log 2 for what has nothing in common, and 0 for the same", () => {
  near(jsDivergence(logs(1, 0), logs(0, 1)), Math.LN2);
  assert.equal(jsDivergence(logs(0.3, 0.7), logs(0.3, 0.7)), 0);
  const [p, q] = [logs(0.5, 0.5), logs(0.1, 0.9)];
  near(jsDivergence(p, q), jsDivergence(q, p));
  const mean = logs(0.3, 0.7);
  near(jsDivergence(p, q), (klDivergence(p, mean) + klDivergence(q, mean)) / 2);
});

Deno.test("divergences refuse distributions over other events", () => {
  for (const divergence of [klDivergence, jsDivergence]) {
    assert.throws(() => divergence([0], logs(0.5, 0.5)), /^RangeError: Cannot compare distributions: .*got 1 and 2/);
  }
});

Deno.test("topIndex() is the first of the largest", () => {
  assert.deepEqual([[3, 1], [1, 3, 3], [-Infinity, -5], [7]].map(topIndex), [0, 1, 1, 0]);
});

Deno.test("shiftCapture() is 0 for the base, 1 for the reference, undefined where nothing moved", () => {
  assert.equal(shiftCapture(0.4, 0.4), 0);
  assert.equal(shiftCapture(0, 0.4), 1);
  assert.equal(shiftCapture(0.8, 0.4), -1);
  assert.equal(shiftCapture(0, 0), undefined);
  // a reference that has moved by the rounding of its scores, over a hundred places
  assert.equal(shiftCapture(3, 1e-10), undefined);
  assert.equal(shiftCapture(3, 5e-8, 100), undefined);
  assert.equal(shiftCapture(1e-7, 2e-7, 100), 0.5);
});
