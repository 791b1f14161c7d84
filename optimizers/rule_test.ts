/** Chains, routes, and the closed forms of the simple rules. */
import assert from "node:assert/strict";
import { loopsBackend } from "../backends/cpu/loops/mod.ts";
import { type Backend, fromArray, mul, Params } from "../core/mod.ts";
import {
  accumulate,
  adamW,
  addDecayedWeights,
  chain,
  decayAfterUpdate,
  finish,
  galore,
  type GradientRule,
  identity,
  Optimizer,
  resolveRoutes,
  route,
  type Rule,
  scaleByAdam,
  scaleByLearningRate,
  sgd,
  trace,
} from "./mod.ts";

/** A weight after each of `gradients` under a rule, in f64. */
async function follow(backend: Backend, rule: Rule, start: number, gradients: readonly number[]): Promise<number[]> {
  using params = new Params(backend);
  params.set("w", fromArray(backend, [start], [1], "f64"));
  using optimizer = new Optimizer(params, rule);
  const weights: number[] = [];
  for (const value of gradients) {
    using gradient = fromArray(backend, [value], [1], "f64");
    optimizer.stage("w", gradient);
    optimizer.commit();
    weights.push((await params.get("w").read())[0]);
  }
  return weights;
}

function assertNear(actual: readonly number[], expected: readonly number[]): void {
  assert.equal(actual.length, expected.length);
  actual.forEach((value, i) => assert.ok(Math.abs(value - expected[i]) < 1e-12, `${actual} is not ${expected}`));
}

const GRADIENTS = [1, -0.5, 0.25, 2];

Deno.test("sgd() follows torch.optim.SGD, with momentum and with Nesterov's", async () => {
  using backend = loopsBackend();
  for (const { momentum, nesterov } of [{ momentum: 0 }, { momentum: 0.9 }, { momentum: 0.9, nesterov: true }]) {
    let weight = 3;
    let velocity = 0;
    const expected = GRADIENTS.map((gradient) => {
      velocity = momentum * velocity + gradient;
      return weight -= 0.1 * (nesterov ? gradient + momentum * velocity : velocity);
    });
    assertNear(await follow(backend, sgd({ learningRate: 0.1, momentum, nesterov }), 3, GRADIENTS), expected);
  }
});

Deno.test("adamW() follows its formula for either place of eps and of the decay", async () => {
  using backend = loopsBackend();
  const [learningRate, weightDecay, beta1, beta2, eps] = [0.1, 0.2, 0.8, 0.95, 0.3];
  for (const epsPlacement of ["corrected", "uncorrected"] as const) {
    for (const decayPlacement of ["before", "after"] as const) {
      let [weight, m, v] = [3, 0, 0];
      const expected = GRADIENTS.map((gradient, index) => {
        m = beta1 * m + (1 - beta1) * gradient;
        v = beta2 * v + (1 - beta2) * gradient ** 2;
        const [c1, c2] = [1 - beta1 ** (index + 1), 1 - beta2 ** (index + 1)];
        const direction = epsPlacement === "corrected"
          ? m / c1 / (Math.sqrt(v / c2) + eps)
          : m / (Math.sqrt(v) + eps) * Math.sqrt(c2) / c1;
        const decay = 1 - learningRate * weightDecay;
        return weight = decayPlacement === "before"
          ? weight * decay - learningRate * direction
          : (weight - learningRate * direction) * decay;
      });
      const rule = adamW({ learningRate, weightDecay, beta1, beta2, eps, epsPlacement, decayPlacement });
      assertNear(await follow(backend, rule, 3, GRADIENTS), expected);
    }
  }
});

Deno.test("addDecayedWeights() and decayAfterUpdate() shrink a weight by rate times decay when there is no gradient", async () => {
  using backend = loopsBackend();
  const rate = (step: number) => step / 10;
  for (
    const rule of [
      chain(identity(), addDecayedWeights(0.5), scaleByLearningRate(rate)),
      chain(identity(), scaleByLearningRate(rate), decayAfterUpdate(0.5)),
      finish(identity(), { learningRate: rate, weightDecay: 0.5 }),
    ]
  ) {
    assertNear(await follow(backend, rule, 1, [0, 0]), [0.95, 0.95 * 0.9]);
  }
});

Deno.test("chain() runs its rules in order, and scales the gradient once", async () => {
  using backend = loopsBackend();
  const times = (factor: number): GradientRule => ({
    ...identity(),
    name: "times",
    update: (update, state) => [mul(update, factor), state],
  });
  const rule = chain(
    identity(),
    times(2),
    trace({ decay: 0 }), // scales by the factor too, where it comes first
    times(3),
    scaleByLearningRate(0.5),
  );
  assertNear(await follow(backend, accumulate(1, rule), 0, [1]), [-3]);
  using params = new Params(backend);
  params.set("w", fromArray(backend, [0], [1]));
  using optimizer = new Optimizer(params, accumulate(2, rule));
  for (let micro = 0; micro < 2; micro++) {
    using gradient = fromArray(backend, [1], [1]);
    optimizer.stage("w", gradient);
  }
  optimizer.commit();
  assert.deepEqual([...await params.get("w").read()], [-3]);
});

Deno.test("chain() gives the learning rate of its schedule, and 1 without one", () => {
  assert.equal(chain(identity(), scaleByLearningRate((step) => step * 2)).learningRate!(4), 8);
  assert.equal(chain(identity()).learningRate!(4), 1);
});

Deno.test("chain() refuses no rules, a projection behind another rule, and a rule that accumulates", () => {
  assert.throws(() => chain(), /Cannot chain\(\) no rules/);
  assert.throws(() => chain(trace({ decay: 0.9 }), galore(identity(), { rank: 1 })), /Cannot chain galore behind/);
  assert.throws(() => chain(accumulate(2, identity()), scaleByLearningRate(1)), /wrap the whole chain in accumulate/);
});

const A = sgd({ learningRate: 1 });
const B = adamW({ learningRate: 1 });

Deno.test("route() takes the first pattern that matches, and freezes by null", () => {
  const routing = route([[/norm/, null], [/^model\./, A], [/weight$/, B]]);
  const resolved = resolveRoutes(["model.norm.weight", "model.q.weight", "head.weight"], routing);
  assert.deepEqual([...resolved], [["model.norm.weight", null], ["model.q.weight", A], ["head.weight", B]]);
});

Deno.test("route() finds every name when a pattern is global or sticky", () => {
  for (const flags of ["g", "y", "gy"]) {
    const resolved = resolveRoutes(["w.a", "w.b", "w.c"], route([[new RegExp("w", flags), A]]));
    assert.equal(resolved.size, 3);
  }
});

Deno.test("route() lists parameters that no pattern matches", () => {
  assert.throws(
    () => resolveRoutes(["a", "b.bias", "c.bias"], route([[/^a$/, A]])),
    /^RangeError: Cannot route 2 parameters: no pattern matches "b.bias", "c.bias"; add a rule, or null to freeze$/,
  );
  const many = Array.from({ length: 11 }, (_, i) => `p${i}`);
  assert.throws(() => resolveRoutes(many, route([])), /"p7" and 3 more; add a rule/);
});

Deno.test("route() lists patterns that match nothing, those hidden by earlier ones too", () => {
  const routing = route([[/(?:)/, A], [/bias$/, B], [/embed/, null]]);
  assert.throws(
    () => resolveRoutes(["w", "w.bias"], routing),
    /^RangeError: Cannot route: \/bias\$\/, \/embed\/ match no parameter; remove them$/,
  );
});

Deno.test("a rule says what it is: name, options and slots", () => {
  assert.deepEqual(scaleByAdam({ beta1: 0.5 }).options, {
    beta1: 0.5,
    beta2: 0.999,
    eps: 1e-8,
    epsPlacement: "corrected",
  });
  assert.deepEqual(scaleByAdam().slots, { mu: "signed", nu: "nonnegative" });
  const { name, options, slots } = galore(scaleByAdam(), { rank: 3 });
  assert.equal(name, "galore");
  assert.deepEqual([options.rank, options.updateProjGap, options.scale, options.projType], [3, 200, 1, "std"]);
  assert.deepEqual(slots, {}); // what may be stored otherwise is inside: galore(storeAs(...))
});
