/** Group measures against tables worked out by hand, coverage of the intervals, and what names of groups may not change. */
import assert from "node:assert/strict";
import {
  behaviourOf,
  calibrationError,
  type Confusion,
  countedGroups,
  FAIRNESS,
  falsePositiveRate,
  gapError,
  gapInterval,
  gapOf,
  groupConfusions,
  type JudgedItems,
  percentileInterval,
  positiveRate,
  ratesOf,
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

type Fairness = keyof typeof FAIRNESS;

function kindsOf(name: Fairness, tables: readonly Confusion[]) {
  return FAIRNESS[name].map((rate) => ratesOf(tables, rate));
}

const gapOfRates = (name: Fairness) => (tables: readonly Confusion[]) => gapOf(...kindsOf(name, tables));
const [demographicParity, equalOpportunity, equalisedOdds] = (Object.keys(FAIRNESS) as Fairness[]).map(gapOfRates);

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

Deno.test("gapError() is of the groups that count in all items, however few items a draw leaves behind their values", () => {
  const whole = [{ value: 0.9, of: 300 }, { value: 0.1, of: 29 }, { value: 0.3, of: 31 }];
  const draw = [{ value: 0.8, of: 300 }, { value: 0.7, of: 40 }, { value: 0.5, of: 24 }];
  assert.deepEqual(countedGroups(whole), [0, 2]);
  near(gapError([whole], [draw]), 0.3); // -0.1 and +0.2
  near(gapError([whole, whole], [whole, draw]), 0.3);
  assert.equal(gapError([whole], [[draw[0], draw[1], { value: undefined, of: 0 }]]), undefined);
});

Deno.test("gapInterval() is the gap, give or take an error, from 0 to the most there can be", () => {
  assert.deepEqual(gapInterval(0.5, [0.25, 0, 0.125], { level: 1 }), { low: 0.25, high: 0.75 });
  assert.deepEqual(gapInterval(0.875, [0.25], { most: 1 }), { low: 0.625, high: 1 });
  assert.deepEqual(gapInterval(0.125, [0.25, undefined]), { low: 0, high: 0.375 });
  assert.equal(gapInterval(0.5, [0.25, undefined, undefined]), undefined);
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

const ALIKE = [100, 100, 100, 100].map((size) => ({ size, share: 0.7 }));

for (
  const [truth, groups] of [
    [0, ALIKE.slice(2)],
    [0, ALIKE],
    [0.25, [{ size: 140, share: 0.85 }, { size: 100, share: 0.6 }]],
  ] as const
) {
  const title =
    `bootstrap intervals of an accuracy gap of ${truth} between ${groups.length} groups cover it as often as they say`;
  Deno.test(title, () => {
    const draw = uniform(11);
    const [trials, samples] = [100, 80];
    const owners = groups.flatMap(({ size }, group) => Array<number>(size).fill(group));
    let covered = 0;
    for (let trial = 0; trial < trials; trial++) {
      const right = owners.map((group) => Number(draw() < groups[group].share));
      const shares = (picked: ArrayLike<number>) => {
        const hits = groups.map(() => 0);
        for (let i = 0; i < picked.length; i++) hits[owners[picked[i]]] += right[picked[i]];
        return [groups.map(({ size }, group) => ({ value: hits[group] / size, of: size }))];
      };
      const whole = shares(owners.map((_, i) => i));
      const errors = Array.from(
        resamples(owners, { samples, seed: trial }),
        (picked) => gapError(whole, shares(picked)),
      );
      const { low, high } = gapInterval(gapOf(...whole) as number, errors, { most: 1 })!;
      if (low <= truth && truth <= high) covered++;
    }
    // 95 % nominal; 100 trials have a standard error of 2 %
    assert.ok(covered / trials > 0.9 && covered < trials, `${covered} of ${trials}`);
  });
}

Deno.test("other names and another order of groups change no gap and no interval", () => {
  const draw = uniform(5);
  const groups = Array.from({ length: 200 }, () => Math.floor(draw() * 3));
  const labels = groups.map(() => Number(draw() < 0.5));
  const predictions = labels.map((label, i) => draw() < 0.6 + 0.1 * groups[i] ? label : 1 - label);
  const all = (names: readonly number[]) => {
    const renamed = groups.map((group) => names[group]);
    const judged = { predictions, labels, groups: renamed };
    return (Object.keys(FAIRNESS) as Fairness[]).map((name) => {
      const kinds = (picked?: Int32Array) => kindsOf(name, groupConfusions(judged, 7, 1, picked));
      const whole = kinds();
      const errors = Array.from(
        resamples(renamed, { samples: 50, seed: 1 }),
        (picked) => gapError(whole, kinds(picked)),
      );
      return [gapOf(...whole), gapInterval(Number(gapOf(...whole)), errors)];
    });
  };
  assert.deepEqual(all([2, 0, 1]), all([0, 1, 2]));
  assert.deepEqual(all([6, 3, 4]), all([0, 1, 2]));
});
