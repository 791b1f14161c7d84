/** Group measures against tables worked out by hand, coverage of the intervals, and what names of groups may not change. */
import assert from "node:assert/strict";
import {
  behaviourOf,
  calibrationError,
  demographicParity,
  equalisedOdds,
  equalOpportunity,
  falsePositiveRate,
  gapOf,
  groupConfusions,
  type JudgedItems,
  percentileInterval,
  positiveRate,
  resamples,
  shareOf,
  TOO_FEW,
  truePositiveRate,
  worstOf,
} from "./group_metrics.ts";

function near(actual: unknown, expected: number): void {
  assert.ok(typeof actual === "number" && Math.abs(actual - expected) < 1e-12, `${actual} is not ${expected}`);
}

/** Items of groups with `[group, label, prediction, how many]`. */
function items(...cells: readonly (readonly [number, number, number, number])[]): JudgedItems {
  const rows = cells.flatMap(([group, label, prediction, count]) => Array(count).fill([group, label, prediction]));
  return {
    groups: rows.map(([group]) => group),
    labels: rows.map(([, label]) => label),
    predictions: rows.map(([, , prediction]) => prediction),
  };
}

// group 0: TP 30 FN 10 FP 8 TN 32; group 1: TP 15 FN 15 FP 18 TN 32
const TABLE = items(
  ...[[0, 1, 1, 30], [0, 1, 0, 10], [0, 0, 1, 8], [0, 0, 0, 32]] as const,
  ...[[1, 1, 1, 15], [1, 1, 0, 15], [1, 0, 1, 18], [1, 0, 0, 32]] as const,
);

Deno.test("groupConfusions() counts each group's table", () => {
  assert.deepEqual(groupConfusions(TABLE, 2), [
    { truePositive: 30, falsePositive: 8, trueNegative: 32, falseNegative: 10 },
    { truePositive: 15, falsePositive: 18, trueNegative: 32, falseNegative: 15 },
  ]);
  assert.deepEqual(groupConfusions(TABLE, 2, 1, [0, 0, 159])[0].truePositive, 2);
  assert.throws(
    () => groupConfusions({ ...TABLE, groups: [0] }, 1),
    /^RangeError: Cannot compare groups: .*got 160 predictions, 160 labels, 1 groups/,
  );
});

Deno.test("rates and gaps of the table by hand", () => {
  const tables = groupConfusions(TABLE, 2);
  assert.deepEqual(tables.map((one) => shareOf(positiveRate(one))), [38 / 80, 33 / 80]);
  assert.deepEqual(tables.map((one) => shareOf(truePositiveRate(one))), [30 / 40, 15 / 30]);
  assert.deepEqual(tables.map((one) => shareOf(falsePositiveRate(one))), [8 / 40, 18 / 50]);
  near(demographicParity(tables), 5 / 80);
  near(equalOpportunity(tables), 1 / 4);
  near(equalisedOdds(tables), 1 / 4);
});

Deno.test("equalisedOdds() is the gap of the false positive rates when that is the larger one", () => {
  const tables = groupConfusions(
    items([0, 1, 1, 30], [0, 0, 1, 3], [0, 0, 0, 27], [1, 1, 1, 40], [1, 0, 1, 20], [1, 0, 0, 20]),
    2,
  );
  near(equalOpportunity(tables), 0);
  near(equalisedOdds(tables), 0.5 - 0.1);
});

Deno.test("gaps are refused when fewer than 30 items are behind them", () => {
  const small = groupConfusions(items([0, 1, 1, 40], [0, 0, 0, 40], [1, 1, 1, 14], [1, 0, 1, 15]), 2);
  assert.deepEqual([demographicParity, equalOpportunity, equalisedOdds].map((gap) => gap(small)), [
    ...[TOO_FEW, TOO_FEW, TOO_FEW],
  ]);
  // 30 items in all, but only 15 of them positive
  const few = groupConfusions(items([0, 1, 1, 40], [0, 0, 0, 40], [1, 1, 0, 15], [1, 0, 0, 15]), 2);
  near(demographicParity(few), 1 / 2);
  assert.deepEqual([equalOpportunity(few), equalisedOdds(few)], [TOO_FEW, TOO_FEW]);
  assert.equal(TOO_FEW, "n < 30");
});

Deno.test("gapOf() and worstOf() leave groups out that have too few items or no value", () => {
  const values = [{ value: 0.9, of: 30 }, { value: 0.1, of: 29 }, { value: undefined, of: 50 }, { value: 0.7, of: 31 }];
  near(gapOf(values), 0.2);
  near(worstOf(values), 0.7);
  assert.equal(gapOf(values.slice(0, 3)), TOO_FEW);
  assert.equal(worstOf([values[1]]), TOO_FEW);
});

Deno.test("calibrationError() of a table by hand", () => {
  // bin 0.6-0.7: mean 0.65, 1 of 2 right; bin 0.9-1: 0.9 and 1, both right; 0.05: wrong
  const error = calibrationError([0.62, 0.68, 0.9, 1, 0.05], [true, false, true, true, false]);
  near(error, (2 * 0.15 + 2 * 0.05 + 0.05) / 5);
  assert.equal(calibrationError([1, 1, 0], [1, 1, 0]), 0);
  near(calibrationError([0.5, 0.9], [1, 1], 10, [1, 1, 1]), 0.1);
  assert.equal(calibrationError([], []), undefined);
});

Deno.test("behaviourOf() counts what stayed bad among what the reference cured, and what broke", () => {
  const base = [1, 1, 1, 1, 0, 0, 0, 0];
  const reference = [0, 0, 0, 1, 0, 0, 0, 1];
  const candidate = [1, 0, 1, 1, 1, 0, 0, 1];
  assert.deepEqual(behaviourOf({ base, reference, candidate }), {
    retained: { hits: 2, of: 3 },
    newHarms: { hits: 1, of: 3 },
  });
  assert.deepEqual(behaviourOf({ base, reference, candidate: base }).retained, { hits: 3, of: 3 });
  assert.deepEqual(behaviourOf({ base, reference, candidate: reference }), {
    retained: { hits: 0, of: 3 },
    newHarms: { hits: 0, of: 3 },
  });
  assert.equal(shareOf(behaviourOf({ base: [0], reference: [0], candidate: [0] }).retained), undefined);
});

Deno.test("resamples() keeps each group's size, and draws every item about as often", () => {
  const groups = [0, 0, 0, 0, 0, 1, 1, 1, 2];
  const counts = new Float64Array(groups.length);
  let samples = 0;
  for (const picked of resamples(groups, { samples: 2000, seed: 3 })) {
    assert.deepEqual([...picked].map((i) => groups[i]), groups);
    for (const i of picked) counts[i]++;
    samples++;
  }
  assert.equal(samples, 2000);
  for (const count of counts) assert.ok(Math.abs(count / 2000 - 1) < 0.1, `${counts}`);
  const once = [...resamples(groups, { samples: 3, seed: 3 })];
  assert.deepEqual(once, [...resamples(groups, { samples: 3, seed: 3 })]);
  assert.notDeepEqual(once, [...resamples(groups, { samples: 3, seed: 4 })]);
});

Deno.test("percentileInterval() of values by hand, and where a measure is seldom defined", () => {
  assert.deepEqual(percentileInterval([4, 1, 3, 2, 0], 0.5), { low: 1, high: 3 });
  assert.deepEqual(percentileInterval([1, 2], 0.5), { low: 1.25, high: 1.75 });
  assert.deepEqual(percentileInterval([5, undefined, 5, TOO_FEW]), { low: 5, high: 5 });
  assert.equal(percentileInterval([5, undefined, TOO_FEW]), undefined);
  assert.equal(percentileInterval([]), undefined);
});

/** Uniform numbers, the same every time. */
function uniform(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

Deno.test("bootstrap intervals of an accuracy gap cover the true one about as often as they say", () => {
  const draw = uniform(11);
  const truth = 0.25;
  let covered = 0;
  const trials = 200;
  for (let trial = 0; trial < trials; trial++) {
    const groups = Array.from({ length: 240 }, (_, i) => i < 140 ? 0 : 1);
    const right = groups.map((group) => Number(draw() < (group === 0 ? 0.85 : 0.85 - truth)));
    const gap = (picked: Int32Array) => {
      const of = [0, 0];
      const hits = [0, 0];
      for (const i of picked) {
        of[groups[i]]++;
        hits[groups[i]] += right[i];
      }
      return gapOf(of.map((n, group) => ({ value: hits[group] / n, of: n })));
    };
    const interval = percentileInterval(Array.from(resamples(groups, { samples: 200, seed: trial }), gap))!;
    if (interval.low <= truth && truth <= interval.high) covered++;
  }
  // 95 % nominal; 200 trials have a standard error of 1.5 %
  assert.ok(covered / trials > 0.9 && covered / trials < 0.99, `${covered} of ${trials}`);
});

Deno.test("other names and another order of groups change no gap and no interval", () => {
  const draw = uniform(5);
  const groups = Array.from({ length: 200 }, () => Math.floor(draw() * 3));
  const labels = groups.map(() => Number(draw() < 0.5));
  const predictions = labels.map((label, i) => draw() < 0.6 + 0.1 * groups[i] ? label : 1 - label);
  const all = (names: readonly number[]) => {
    const renamed = groups.map((group) => names[group]);
    const judged = { predictions, labels, groups: renamed };
    const gaps = [demographicParity, equalOpportunity, equalisedOdds];
    const values = (picked?: Int32Array) => gaps.map((gap) => gap(groupConfusions(judged, 7, 1, picked)));
    const drawn = Array.from(resamples(renamed, { samples: 50, seed: 1 }), (picked) => values(picked));
    return [values(), gaps.map((_, i) => percentileInterval(drawn.map((row) => row[i])))];
  };
  assert.deepEqual(all([2, 0, 1]), all([0, 1, 2]));
  assert.deepEqual(all([6, 3, 4]), all([0, 1, 2]));
});
