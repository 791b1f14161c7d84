/** Measures of readings that are written by hand: capture by group, gaps, intervals, and what is left out. */
import assert from "node:assert/strict";
import { TOO_FEW } from "../data/mod.ts";
import { findMeasure, type MeasuredValue, measureModel } from "./shift_measures.ts";
import type { Readings } from "./shift_readings.ts";
import { shiftReport } from "./shift_report.ts";
import { resultCsv, type ShiftResult, verdictsOf } from "./shift_result.ts";
import type { Probes } from "./shift_subject.ts";

/** 60 items of two groups, 30 each, two places to an item. */
const GROUPS = Int32Array.from({ length: 60 }, (_, i) => i % 2);
const PROBES: Probes = {
  ...{
    groupNames: ["a", "b"],
    groups: GROUPS,
    choices: ["wanted", "unwanted"],
    labels: new Int32Array(60),
    positive: 1,
  },
};

/** Readings from what is said of item i. */
function readings(of: (i: number) => { far: number; loss: number; bad: boolean }): Readings {
  const items = Array.from({ length: 60 }, (_, i) => of(i));
  const array = (value: (item: typeof items[number]) => number) => Float64Array.from(items, value);
  return {
    places: array(() => 2),
    layers: [{ fromBase: array(() => 0), toReference: array(({ far }) => far) }],
    ...{ apart: array(() => 0), likeBase: array(() => 1), likeReference: array(() => 2) },
    loss: array(({ loss }) => loss),
    choices: Int32Array.from(items, ({ bad }) => Number(bad)),
    confidences: array(({ bad }) => bad ? 0.6 : 0.9),
  };
}

const BASE = readings((i) => ({ far: 1 + i % 3, loss: 4, bad: i < 40 }));
const REFERENCE = readings(() => ({ far: 0, loss: 1, bad: false }));
/** Group a has all of the shift, group b a quarter; bad stays bad in group b alone, for the first ten items. */
const MODEL = readings((i) => ({ far: i % 2 * 0.75 * (1 + i % 3), loss: 1 + i % 2, bad: i % 2 === 1 && i < 20 }));

function measure(model: Readings, samples = 200): MeasuredValue[] {
  return measureModel(PROBES, { model, base: BASE, reference: REFERENCE }, { samples });
}

function near(found: MeasuredValue | undefined, expected: number): void {
  assert.ok(
    typeof found?.value === "number" && Math.abs(found.value - expected) < 1e-12,
    `${found?.value} is not ${expected}`,
  );
}

Deno.test("measureModel() tells levels of all and of each group, and gaps", () => {
  const values = measure(MODEL);
  const of = (name: string, group: string | null = null) => findMeasure(values, name, group);
  near(of("shiftCapture"), 1 - 0.375);
  near(of("shiftCapture", "a"), 1);
  near(of("shiftCapture", "b"), 0.25);
  near(of("shiftCaptureGap"), 0.75);
  near(of("loss"), 0.75);
  near(of("excessLoss", "b"), 0.5);
  near(of("likeBase"), 0.5);
  near(of("accuracy"), 50 / 60);
  near(of("accuracy", "b"), 20 / 30);
  near(of("worstAccuracy"), 20 / 30);
  near(of("accuracyGap"), 1 / 3);
  near(of("demographicParity"), 1 / 3);
  near(of("retained"), 10 / 40);
  near(of("retained", "b"), 10 / 20);
  near(of("newHarms"), 0);
  near(of("calibrationError", "a"), 0.1);
  assert.deepEqual([of("retained")?.n, of("retained", "b")?.n, of("accuracy", "b")?.n], [40, 20, 30]);
  // 20 items of each group are behind the rates of retained behaviour
  assert.equal(of("retainedGap")?.value, TOO_FEW);
  assert.ok(!values.some((one) => /^equal|^true/.test(one.measure)), "nothing is labelled positive");
});

Deno.test("measureModel() tells equal opportunity and odds where items are labelled positive, by the items behind them", () => {
  const labels = Int32Array.from({ length: 60 }, (_, i) => Number(i < 20));
  const probes = { ...PROBES, choices: ["no", "yes"], labels };
  const model = readings((i) => ({ far: 0, loss: 1, bad: i < 20 && i % 2 === 0 }));
  const values = measureModel(probes, { model, base: BASE, reference: REFERENCE }, { samples: 0 });
  near(findMeasure(values, "truePositiveRate", "a"), 1);
  near(findMeasure(values, "truePositiveRate", "b"), 0);
  assert.deepEqual(["equalOpportunity", "equalisedOdds"].map((name) => findMeasure(values, name)?.value), [
    ...[TOO_FEW, TOO_FEW],
  ]);
});

Deno.test("measureModel() gives intervals around what varies, none where nothing does, and none without samples", () => {
  const values = measure(MODEL);
  const accuracy = findMeasure(values, "accuracy", "b")!;
  assert.ok(accuracy.low! < Number(accuracy.value) && Number(accuracy.value) < accuracy.high!);
  // 95 % of a share of 30: about 1.96 * sqrt(2/9 / 30) on either side
  assert.ok(Math.abs(accuracy.high! - accuracy.low! - 2 * 1.96 * Math.sqrt(2 / 9 / 30)) < 0.08);
  const capture = findMeasure(values, "shiftCapture", "a")!;
  assert.deepEqual([capture.low, capture.high], [1, 1]);
  assert.equal(findMeasure(values, "retainedGap")!.low, null);
  assert.ok(measure(MODEL, 0).every(({ low, high }) => low === null && high === null));
  assert.deepEqual(measure(MODEL), values);
});

Deno.test("measureModel() draws the gap of the groups that count, though a draw may leave fewer than 30 items behind one", () => {
  // 31 positives of a second group, 29 of a third: draws have 30 of either about as often as not
  const groups = Int32Array.from({ length: 400 }, (_, i) => i < 200 ? 0 : i < 300 ? 1 : 2);
  const first = [0, 200, 300];
  const labels = groups.map((group, i) => Number(i - first[group] < [100, 31, 29][group]));
  const choices = labels.map((label, i) => label === 1 && groups[i] > 0 && i % 2 === 0 ? 0 : label);
  const array = () => new Float64Array(400).fill(1);
  const said: Readings = {
    ...{ places: array(), layers: [{ fromBase: array(), toReference: array() }], apart: array(), likeBase: array() },
    ...{ likeReference: array(), loss: array(), choices, confidences: array() },
  };
  const probes = { groupNames: ["a", "b", "c"], groups, choices: ["no", "yes"], labels, positive: 1 };
  const values = measureModel(probes, { model: said, base: said, reference: said }, { samples: 200 });
  const { value, low, high } = findMeasure(values, "equalOpportunity")!;
  assert.equal(value, 1 - 15 / 31);
  // 95 % of the rate of group b: 1.96 * sqrt(1/4 / 31) on either side
  for (const side of [Number(value) - low!, high! - Number(value)]) assert.ok(Math.abs(side - 0.176) < 0.03, `${side}`);
});

Deno.test("measureModel() says that groups may be alike: 0 lies within the interval of a gap that noise makes", () => {
  const model = readings((i) => ({ far: 0.5, loss: i % 7, bad: i % 3 === 0 || i === 1 }));
  const values = measure(model);
  for (const name of ["accuracyGap", "demographicParity", "lossGap", "excessLossGap"]) {
    const { value, low, high } = findMeasure(values, name)!;
    assert.ok(Number(value) > 0 && low === 0 && high! > Number(value), `${name} ${value} [${low}, ${high}]`);
  }
});

Deno.test("measureModel() gives the base nothing of the shift and the reference all, and says nothing of a shift of none", () => {
  for (const [model, capture] of [[BASE, 0], [REFERENCE, 1]] as const) {
    for (const group of [null, "a", "b"]) near(findMeasure(measure(model, 0), "shiftCapture", group), capture);
  }
  const still = measureModel(PROBES, { model: REFERENCE, base: REFERENCE, reference: REFERENCE }, { samples: 10 });
  assert.equal(findMeasure(still, "shiftCapture")!.value, null);
  // 60 items of two places, moved by the rounding of their scores
  const hardly = { ...BASE, layers: [{ ...BASE.layers[0], toReference: new Float64Array(60).fill(1e-12) }] };
  const noise = measureModel(PROBES, { model: MODEL, base: hardly, reference: REFERENCE }, { samples: 10 });
  for (const group of [null, "a"]) assert.equal(findMeasure(noise, "shiftCapture", group)!.value, null);
  assert.equal(findMeasure(still, "retained")!.value, null);
});

Deno.test("measureModel() leaves out what needs choices where nothing is chosen", () => {
  const plain = { ...PROBES, choices: [], labels: new Int32Array() };
  const names = measureModel(plain, { model: MODEL, base: BASE, reference: REFERENCE }, { samples: 0 })
    .map((one) => one.measure);
  assert.ok(names.includes("shiftCapture") && names.includes("lossGap"));
  assert.ok(!names.some((name) => /accuracy|retained|Odds|Parity/.test(name)));
});

Deno.test("verdictsOf() says which group was left behind, and resultCsv() every measure", () => {
  const model = { name: "low", folder: "low", size: 1, measures: measure(MODEL, 0), lens: [] };
  const result: ShiftResult = {
    ...{ task: "sft", data: "p.jsonl", column: "group", unit: "token", positive: "unwanted", bootstrap: 0 },
    ...{ groups: [{ name: "a", n: 30 }, { name: "b", n: 30 }], models: [model], energy: [], maps: [] },
  };
  assert.deepEqual(verdictsOf(result), [
    { ok: false, text: "low leaves b behind: it has captured 0.250 of its shift, and 0.625 of all" },
  ]);
  const small = { ...result, groups: [{ name: "a", n: 30 }, { name: "b", n: 29 }] };
  assert.deepEqual(verdictsOf(small), []);
  const lines = resultCsv(result).trimEnd().split("\n");
  assert.equal(lines.length, 1 + model.measures.length);
  assert.ok(lines.includes("low,shiftCapture,b,30,0.25,,"));
  assert.ok(lines.includes("low,retainedGap,,60,n < 30,,"));
});

Deno.test("shiftReport() tells what is known of maps that are too large to be decomposed", () => {
  const models = ["base", "reference", "low"].map((name, i) => {
    return { name, folder: name, size: 1, measures: measure([BASE, REFERENCE, MODEL][i], 0), lens: [] };
  });
  const none = { effectiveRank: null, rank: null, leastMissing: null, overlap: null };
  const explanation = { ...none, missing: 0.123, predictedExcess: [4.56, 7.89], maps: [] };
  const html = shiftReport({
    ...{ task: "sft", data: "p.jsonl", column: "group", unit: "token", positive: "unwanted", bootstrap: 0, energy: [] },
    groups: [{ name: "a", n: 30 }, { name: "b", n: 30 }],
    models: [...models.slice(0, 2), { ...models[2], explanation }],
    maps: [{ module: "large", energy: 1, singularValues: null }],
  });
  for (const text of ["0.123", "4.56", "7.89", "Maps with sides above 768 are not decomposed."]) {
    assert.ok(html.includes(text), text);
  }
});
