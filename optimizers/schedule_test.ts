/** Learning rates by step, against their formulas. */
import assert from "node:assert/strict";
import {
  constant,
  cosine,
  jaggedCosine,
  linearDecay,
  scaleByLearningRate,
  type Schedule,
  warmupStableDecay,
} from "./mod.ts";

function assertRates(schedule: Schedule, expected: Readonly<Record<number, number>>): void {
  for (const [step, rate] of Object.entries(expected)) {
    assert.ok(Math.abs(schedule(Number(step)) - rate) < 1e-12, `step ${step}: ${schedule(Number(step))}, not ${rate}`);
  }
}

Deno.test("constant() stays after its warm-up", () => {
  assertRates(constant(0.3), { 1: 0.3, 2: 0.3, 1e6: 0.3 });
  assertRates(constant(0.3, 3), { 1: 0.1, 2: 0.2, 3: 0.3, 4: 0.3 });
});

Deno.test("cosine() warms up in a line and falls to the minimum by half a cosine", () => {
  const schedule = cosine({ peak: 0.8, warmup: 4, total: 12, minimum: 0.2 });
  assertRates(schedule, {
    1: 0.2,
    2: 0.4,
    4: 0.8,
    6: 0.2 + 0.6 * (1 + Math.SQRT1_2) / 2,
    8: 0.5,
    10: 0.2 + 0.6 * (1 - Math.SQRT1_2) / 2,
    12: 0.2,
    13: 0.2,
    1000: 0.2,
  });
  assertRates(cosine({ peak: 1, total: 2 }), { 1: 0.5, 2: 0 });
});

Deno.test("linearDecay() falls in a line", () => {
  const schedule = linearDecay({ peak: 1, warmup: 2, total: 10, minimum: 0.2 });
  assertRates(schedule, { 1: 0.5, 2: 1, 4: 0.8, 6: 0.6, 10: 0.2, 11: 0.2 });
});

Deno.test("warmupStableDecay() stays at the peak until its last steps", () => {
  const schedule = warmupStableDecay({ peak: 1, warmup: 2, total: 10, decay: 4, minimum: 0.2 });
  assertRates(schedule, { 1: 0.5, 2: 1, 5: 1, 6: 1, 7: 0.8, 8: 0.6, 10: 0.2, 99: 0.2 });
});

Deno.test("jaggedCosine() is 0 at each restart, warms up in a line, and is the cosine everywhere else", () => {
  for (const warmup of [0, 3, 10]) {
    for (const restartWarmup of [0, 1, 4]) {
      const envelope = cosine({ peak: 0.8, warmup, total: 40, minimum: 0.08 });
      const schedule = jaggedCosine({ peak: 0.8, warmup, total: 40, minimum: 0.08, restartEvery: 10, restartWarmup });
      for (let step = 1; step <= 45; step++) {
        const since = step % 10;
        const isWarming = step >= 10 && step < 40 && since < restartWarmup;
        const expected = isWarming ? since / restartWarmup * envelope(step - since + restartWarmup) : envelope(step);
        assertRates(schedule, { [step]: expected });
        if (isWarming && since === 0) assert.equal(schedule(step), 0);
      }
    }
  }
});

Deno.test("jaggedCosine() meets its envelope without a jump where a warm-up ends, and is the paper's by hand", () => {
  const schedule = jaggedCosine({ peak: 1, warmup: 2, total: 12, minimum: 0.1, restartEvery: 6, restartWarmup: 2 });
  const at = (step: number) => 0.1 + 0.9 * 0.5 * (1 + Math.cos(Math.PI * (step - 2) / 10));
  assertRates(schedule, {
    1: 0.5,
    2: 1,
    5: at(5),
    6: 0,
    7: at(8) / 2,
    8: at(8),
    9: at(9),
    11: at(11),
    12: 0.1,
    13: 0.1,
  });
  // between restarts no step changes the rate by more than the warm-up's slope or the steepest of a cosine
  const long = jaggedCosine({ peak: 1, warmup: 50, total: 4000, minimum: 0.1, restartEvery: 1000, restartWarmup: 50 });
  for (let step = 1; step < 4000; step++) {
    const change = long(step + 1) - long(step);
    if (step < 3999 && (step + 1) % 1000 === 0) assert.equal(long(step + 1), 0);
    else assert.ok(change <= 1 / 50 + 1e-12 && change >= -0.9 * Math.PI / 2 / 3950, `step ${step}: ${change}`);
  }
});

Deno.test("jaggedCosine() restarts as before under an envelope that ends behind the run", () => {
  const options = { peak: 1, warmup: 1, total: 6, minimum: 0, restartEvery: 3, restartWarmup: 1 };
  const at = (step: number, end: number) => 0.5 * (1 + Math.cos(Math.PI * (step - 1) / (end - 1)));
  for (const end of [6, 7]) {
    const expected = { 1: 1, 2: at(2, end), 3: 0, 4: at(4, end), 5: at(5, end), 6: at(6, end), 7: 0 };
    assertRates(jaggedCosine({ ...options, end }), expected);
  }
  assertRates(jaggedCosine(options), { 5: at(5, 6), 6: 0 });
});

Deno.test("jaggedCosine() refuses restarts that do not divide the run, and warm-ups longer than a cycle", () => {
  const base = { peak: 1, total: 100 };
  for (const restartEvery of [30, 0, -10, 2.5, NaN, 101]) {
    assert.throws(() => jaggedCosine({ ...base, restartEvery }), {
      name: "RangeError",
      message: `Cannot restart every ${restartEvery} steps: expected a whole number that divides the 100 steps`,
    });
  }
  for (const options of [{ restartWarmup: 25 }, { restartWarmup: -1 }, { warmup: 26 }, { restartWarmup: NaN }]) {
    assert.throws(() => jaggedCosine({ ...base, ...options, restartEvery: 25 }), {
      name: "RangeError",
      message:
        /^Cannot warm up for \d+ steps and for (-?\d+|NaN) after each restart: expected less than the 25 between/,
    });
  }
});

Deno.test("schedules never leave [0, peak] and meet without a jump, whatever their lengths", () => {
  for (const warmup of [0, 1, 5, 10]) {
    for (const total of [1, 10, 100]) {
      if (warmup > total) continue;
      const options = { peak: 1, warmup, total, minimum: 0.1 };
      const schedules = [
        cosine(options),
        linearDecay(options),
        ...[0, 3, 1000].map((decay) => warmupStableDecay({ ...options, decay })),
      ];
      for (const [index, schedule] of schedules.entries()) {
        const rates = Array.from({ length: total + 5 }, (_, i) => schedule(i + 1));
        assert.ok(rates.every((rate) => rate >= 0 && rate <= 1), `${index}: ${rates}`);
        for (let i = 1; i < warmup; i++) assert.ok(Math.abs(rates[i] - rates[i - 1] - 1 / warmup) < 1e-12, `${rates}`);
        for (let i = Math.max(1, warmup); i < rates.length; i++) {
          assert.ok(rates[i] <= rates[i - 1] + 1e-12, `${index}: rises after the warm-up: ${rates}`);
        }
        assert.ok(total <= warmup || Math.abs(rates[total + 3] - 0.1) < 1e-12, `${index}: ends at ${rates[total + 3]}`);
      }
    }
  }
});

Deno.test("scaleByLearningRate() gives the rate of each step", () => {
  const rule = scaleByLearningRate(linearDecay({ peak: 1, total: 10 }));
  assert.deepEqual([1, 5, 10].map((step) => rule.learningRate!(step)), [0.9, 0.5, 0]);
  assert.equal(scaleByLearningRate(0.25).learningRate!(7), 0.25);
});
