/** `chooseOptimizer()`: rates of their own and a method's schedule. */
import assert from "node:assert/strict";
import { constant } from "../optimizers/mod.ts";
import { chooseOptimizer } from "./optimizer_choice.ts";
import { DEFAULTS } from "./options.ts";
import { restartsOf } from "./relora.ts";

const SHAPES = new Map([["a.outer.weight", [8, 8]], ["a.inner.weight", [8, 8]], ["head.bias", [8]]]);

/** The rate of each parameter at a step. */
function ratesAt(
  step: number,
  optimizer: "adamw" | "galore_adamw",
  extra: Partial<Parameters<typeof chooseOptimizer>[1]>,
  run: Partial<typeof DEFAULTS> = {},
) {
  const options = {
    ...DEFAULTS,
    optimizer,
    lr: 0.5,
    rank: 2,
    schedule: "constant",
    warmup: 0,
    basis: "exact",
    ...run,
  } as const;
  const { routing } = chooseOptimizer(options, {
    ...{ shapes: SHAPES, projected: /\.(outer|inner)\.weight$/, hiddenSize: 8, steps: 10, gradAccum: 1, seed: 1 },
    ...{ dtype: "f32", ...extra },
  });
  return [...SHAPES.keys()].map((name) =>
    routing.routes.find(([pattern]) => pattern.test(name))![1]!.learningRate!(step)
  );
}

for (const optimizer of ["adamw", "galore_adamw"] as const) {
  Deno.test(`chooseOptimizer() multiplies the rate of the parameters that a pattern matches: ${optimizer}`, () => {
    assert.deepEqual(ratesAt(1, optimizer, {}), [0.5, 0.5, 0.5]);
    assert.deepEqual(ratesAt(1, optimizer, { rates: [[/outer/, 0.1], [/weight$/, 2]] }), [0.05, 1, 0.5]);
  });
}

Deno.test("chooseOptimizer() takes a method's own schedule in place of the run's", () => {
  const ownSchedule = ({ peak, total }: { peak: number; total: number }) => constant(peak * total);
  assert.deepEqual(ratesAt(3, "adamw", { ownSchedule, rates: [[/bias/, 0.5]] }), [5, 5, 2.5]);
});

Deno.test("chooseOptimizer() falls to 0 behind the last step, whose rate is Hugging Face's, and to another minimum at it", () => {
  const linear = (steps: number, warmup: number, minLr = 0) =>
    Array.from(
      { length: steps },
      (_, i) => ratesAt(i + 1, "adamw", { steps }, { schedule: "linear", warmup, minLr })[0],
    );
  assert.deepEqual(linear(1, 0), [0.5]);
  assert.deepEqual(linear(4, 0), [0.5, 0.375, 0.25, 0.125]);
  assert.deepEqual(linear(5, 2), [0.25, 0.5, 0.375, 0.25, 0.125]);
  assert.deepEqual(linear(4, 2, 0.5), [0.25, 0.5, 0.375, 0.25]);
});

Deno.test("chooseOptimizer() loses no step of ReLoRA but those of its restarts to a minimum of 0", () => {
  for (const [steps, reloraEvery] of [[1, 1], [5, undefined], [8, undefined], [12, 4], [12, 12]] as const) {
    const { schedule: ownSchedule, isDue } = restartsOf({ ...DEFAULTS, reloraEvery, reloraWarmup: 0 }, steps);
    const rates = Array.from(
      { length: steps },
      (_, i) => ratesAt(i + 1, "adamw", { steps, ownSchedule }, { minLr: 0 })[0],
    );
    assert.ok(rates.every((rate) => rate > 0 && rate <= 0.5), `${rates}`);
    const warmed = restartsOf({ ...DEFAULTS, reloraEvery, reloraWarmup: Number(steps > 4) }, steps).schedule;
    const jagged = rates.map((_, i) => ratesAt(i + 1, "adamw", { steps, ownSchedule: warmed }, { minLr: 0 })[0]);
    jagged.forEach((rate, i) => assert.equal(rate, isDue(i + 1) && steps > 4 ? 0 : rates[i]));
  }
});
