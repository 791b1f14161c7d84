/** Adafactor by hand: factored moments, the rates, the clip, momentum, decay, and what it is under GaLore. */
import assert from "node:assert/strict";
import { loopsBackend } from "../backends/cpu/loops/mod.ts";
import { type Backend, fromArray, own, Params, type Shape } from "../core/mod.ts";
import { assertNoLeak } from "../core/testing/leaks.ts";
import {
  adafactor,
  adafactorPreset,
  adafactorW,
  type BasisStrategy,
  flattenState,
  galore,
  galoreAdafactor,
  Optimizer,
  type Rule,
} from "./mod.ts";
import { numbers } from "./testing/rules.ts";

interface Start {
  readonly shape: Shape;
  readonly values: readonly number[];
  readonly dtype?: "f32" | "f64";
}

/** A weight after each of `gradients` under a rule. */
async function follow(rule: Rule, { shape, values, dtype = "f64" }: Start, gradients: readonly (readonly number[])[]) {
  using backend = loopsBackend();
  using params = new Params(backend);
  params.set("w", fromArray(backend, values, shape, dtype));
  using optimizer = new Optimizer(params, rule);
  const weights: number[][] = [];
  for (const values of gradients) {
    using gradient = fromArray(backend, values, shape, dtype);
    optimizer.stage("w", gradient);
    if (optimizer.refreshDue) await optimizer.refresh();
    optimizer.commit();
    weights.push([...await params.get("w").read()]);
  }
  return weights;
}

function assertNear(actual: readonly number[], expected: readonly number[], tolerance = 1e-12): void {
  assert.equal(actual.length, expected.length);
  actual.forEach((x, i) => assert.ok(Math.abs(x - expected[i]) <= tolerance, `${actual} is not ${expected}`));
}

const rms = (values: readonly number[]) => Math.sqrt(values.reduce((sum, x) => sum + x * x, 0) / values.length);

const ZEROS: Start = { shape: [2, 2], values: [0, 0, 0, 0] };
const FIXED = { learningRate: 0.1, scaleParameter: false };
/** Rows have mean squares 2.5 and 12.5, columns 5 and 10, all of it 7.5. */
const GRADIENT = [1, 2, -3, 4];
/** g^2 7.5 / (row column), rooted. Its RMS is sqrt(0.96). */
const DIRECTION = [Math.sqrt(0.6), Math.sqrt(1.2), -Math.sqrt(1.08), Math.sqrt(0.96)];

Deno.test("adafactor() divides by the roots of rows and columns of a 2x2 gradient", async () => {
  const [weights] = await follow(adafactor(FIXED), ZEROS, [GRADIENT]);
  assertNear(weights, DIRECTION.map((x) => -0.1 * x));
});

Deno.test("adafactor() keeps running means whose decay is 1 - t^-0.8, without bias correction", async () => {
  const second = [2, 0, 1, -1];
  const weights = await follow(adafactor({ ...FIXED, clipThreshold: 1e9 }), ZEROS, [GRADIENT, second]);
  const beta = 1 - 2 ** -0.8;
  const row = [beta * 2.5 + (1 - beta) * 2, beta * 12.5 + (1 - beta) * 1];
  const column = [beta * 5 + (1 - beta) * 2.5, beta * 10 + (1 - beta) * 0.5];
  const mean = (row[0] + row[1]) / 2;
  const expected = second.map((g, i) => {
    const direction = g * Math.sqrt(mean / (row[i >> 1] * column[i & 1]));
    return weights[0][i] - 0.1 * direction;
  });
  assertNear(weights[1], expected);
  const [, slower] = await follow(adafactor({ ...FIXED, clipThreshold: 1e9, decayRate: 0.4 }), ZEROS, [
    GRADIENT,
    second,
  ]);
  assert.ok(Math.abs(slower[0] - expected[0]) > 1e-3, "decayRate has no effect");
});

Deno.test("adafactor() clips the update, before the rate, to an RMS of clipThreshold", async () => {
  const [weights] = await follow(adafactor({ ...FIXED, clipThreshold: 0.5 }), ZEROS, [GRADIENT]);
  assertNear(weights, DIRECTION.map((x) => -0.1 * 0.5 * x / Math.sqrt(0.96)));
  assert.ok(Math.abs(rms(weights) - 0.05) < 1e-12);
});

Deno.test("adafactor() keeps a moment per element of a vector", async () => {
  const start = { shape: [3], values: [1, 1, 1] };
  const weights = await follow(adafactor({ ...FIXED, clipThreshold: 1e9 }), start, [[3, -4, 0.5], [1, 1, 1]]);
  assertNear(weights[0], [0.9, 1.1, 0.9]);
  const beta = 1 - 2 ** -0.8;
  assertNear(weights[1], [3, -4, 0.5].map((g, i) => weights[0][i] - 0.1 / Math.sqrt(beta * g * g + (1 - beta))));
});

Deno.test("adafactor() steps by min(1e-2, 1 / sqrt(t)) when it has no rate, and says so", () => {
  const at = [1, 100, 1e4, 4e4, 1e6];
  assertNear(at.map(adafactor().learningRate!), [1e-2, 1e-2, 1e-2, 5e-3, 1e-3]);
  // 1e-6 t reaches 1 / sqrt(t) at t = 1e4
  assertNear(at.map(adafactor({ warmupInit: true }).learningRate!), [1e-6, 1e-4, 1e-2, 5e-3, 1e-3]);
  assert.deepEqual(at.map(adafactor({ learningRate: (step) => 1 / step }).learningRate!), at.map((step) => 1 / step));
  assert.equal(galore(adafactor(FIXED), { rank: 1 }).learningRate?.(1), 0.1);
});

Deno.test("adafactor() moves by the relative step and the warm-up's", async () => {
  const start = { shape: [2], values: [1, 1] };
  const step = { clipThreshold: 1e9, scaleParameter: false };
  assertNear((await follow(adafactor(step), start, [[5, -5]]))[0], [0.99, 1.01]);
  assertNear((await follow(adafactor({ ...step, warmupInit: true }), start, [[5, -5]]))[0], [1 - 1e-6, 1 + 1e-6]);
});

Deno.test("adafactor() scales by the parameter's RMS unless told otherwise, by eps2 at least", async () => {
  const values = [3, -1, 2, 0.5];
  const [weights] = await follow(adafactor({ learningRate: 0.1 }), { shape: [2, 2], values }, [GRADIENT]);
  assertNear(weights, values.map((p, i) => p - 0.1 * rms(values) * DIRECTION[i]));
  const [small] = await follow(adafactor({ learningRate: 0.1, eps2: 0.25 }), ZEROS, [GRADIENT]);
  assertNear(small, DIRECTION.map((x) => -0.1 * 0.25 * x));
});

Deno.test("adafactor() holds updates with the rate in them when there is momentum", async () => {
  const rule = adafactor({ learningRate: (step) => step === 1 ? 0.1 : 0.001, scaleParameter: false, beta1: 0.9 });
  const plain = adafactor({ learningRate: 1, scaleParameter: false });
  const [first, second] = await follow(plain, ZEROS, [GRADIENT, GRADIENT]);
  const directions = [first.map((x) => -x), second.map((x, i) => first[i] - x)];
  const weights = await follow(rule, ZEROS, [GRADIENT, GRADIENT]);
  const mu = directions[0].map((x) => 0.1 * 0.1 * x);
  assertNear(weights[0], mu.map((x) => -x));
  // the rate of the first step stays in what it left
  assertNear(weights[1], mu.map((x, i) => -x - (0.9 * x + 0.1 * 0.001 * directions[1][i])));
});

Deno.test("adafactorW() decays before the step, at the rate with the parameter's size in it", async () => {
  const start = { shape: [2, 2], values: [3, -1, 2, 0.5] };
  for (const options of [{}, { learningRate: 0.1 }, FIXED, { ...FIXED, beta1: 0.9 }]) {
    const [plain] = await follow(adafactorW(options), start, [GRADIENT]);
    const [decayed] = await follow(adafactorW({ ...options, weightDecay: 2 }), start, [GRADIENT]);
    const rate = (options.learningRate ?? 0.01) * ("scaleParameter" in options ? 1 : rms(start.values));
    assertNear(decayed, plain.map((x, i) => x - 2 * rate * start.values[i]));
  }
  assert.equal(adafactorW({ ...FIXED, weightDecay: 1 }).learningRate!(3), 0.1);
});

Deno.test("adafactor() keeps rows and columns of the last two axes, vectors whole, and momentum if asked for", () => {
  using backend = loopsBackend();
  const shapesOf = (shape: Shape, beta1?: number) => {
    const spec = { name: "w", backend, shape, dtype: "bf16" as const, index: 0, count: 1 };
    const { tensors } = flattenState(adafactor({ beta1 }).init(spec));
    const shapes = Object.fromEntries([...tensors].map(([path, { shape, dtype }]) => [path, [dtype, ...shape]]));
    for (const tensor of tensors.values()) tensor.dispose();
    return shapes;
  };
  assert.deepEqual(shapesOf([3, 5]), { row: ["f32", 3], column: ["f32", 5] });
  assert.deepEqual(shapesOf([4, 3, 5]), { row: ["f32", 4, 3], column: ["f32", 4, 5] });
  assert.deepEqual(shapesOf([5]), { nu: ["f32", 5] });
  assert.deepEqual(shapesOf([]), { nu: ["f32"] });
  assert.deepEqual(shapesOf([3, 5], 0.9), { row: ["f32", 3], column: ["f32", 5], mu: ["f32", 3, 5] });
  assert.deepEqual(adafactor().slots, { nu: "nonnegative" });
  assert.deepEqual(adafactor({ beta1: 0.9 }).slots, { mu: "signed", nu: "nonnegative" });
});

Deno.test("adafactor() treats each matrix of a stack by itself but for the clip", async () => {
  const options = { ...FIXED, clipThreshold: 1e9 };
  const second = [2, 0, 1, -1];
  const [both] = await follow(adafactor(options), { shape: [2, 2, 2], values: Array(8).fill(0) }, [
    [...GRADIENT, ...second],
  ]);
  const [first] = await follow(adafactor(options), ZEROS, [GRADIENT]);
  const [other] = await follow(adafactor(options), ZEROS, [second]);
  assertNear(both, [...first, ...other]);
});

Deno.test("adafactor() stays finite in f32 when rows are zero and entries of any size", async () => {
  const start = { ...ZEROS, dtype: "f32" } as const;
  const [usual] = await follow(adafactor(FIXED), start, [GRADIENT]);
  // from 1e-13 down, eps1 is felt
  for (const size of [1e-12, 1e-6, 1e6, 1e18]) {
    const [weights] = await follow(adafactor(FIXED), start, [GRADIENT.map((g) => size * g)]);
    assertNear(weights, usual, 1e-6);
  }
  assert.deepEqual((await follow(adafactor(FIXED), start, [[0, 0, 0, 0], [0, 0, 0, 0]]))[1], [0, 0, 0, 0]);
  const [holed] = await follow(adafactor(FIXED), start, [[0, 0, 1e18, 0]]);
  assert.ok(holed.every(Number.isFinite) && Math.abs(holed[2]) > 0 && holed[0] === 0, `${holed}`);
});

/** The first unit vectors of either side. */
const UNIT_BASIS: BasisStrategy = {
  name: "unit vectors",
  options: {},
  // deno-lint-ignore require-yield -- nothing to wait for
  *compute({ backend, shape }, { side, rank }) {
    const d = shape[side === "left" ? 0 : 1];
    const rows = Float64Array.from({ length: rank * d }, (_, i) => i % d === Math.floor(i / d) ? 1 : 0);
    return own(fromArray(backend, rows, [rank, d], "f64"));
  },
};

Deno.test("galore(adafactor()) clips and factors in the subspace and scales by the whole weight", async () => {
  const start = { shape: [2, 2], values: [3, -1, 2, 0.5] };
  const options = { learningRate: 0.1, weightDecay: 2 };
  const projection = { rank: 2, projType: "left", basis: UNIT_BASIS } as const;
  const [whole] = await follow(adafactorW({ ...options, scaleParameter: true }), start, [GRADIENT]);
  const projected = (galore: { rank: number }, scale = 1) =>
    follow(
      galoreAdafactor({ ...options, scaleParameter: true, galore: { ...projection, ...galore, scale }, projected: /w/ })
        .routes[0][1]!,
      start,
      [GRADIENT],
    );
  assertNear((await projected({ rank: 2 }))[0], whole);
  // of one row, g^2 / (row column / row) is 1 everywhere
  const rate = 0.1 * rms(start.values);
  const step = [0.25 * rate, 0.25 * rate, 0, 0];
  assertNear((await projected({ rank: 1 }, 0.25))[0], start.values.map((p, i) => p - 2 * rate * p - step[i]));
});

Deno.test("adafactorPreset() and galoreAdafactor() take the rate as it is", async () => {
  const start = { shape: [2, 2], values: [3, -1, 2, 0.5] };
  const [preset] = await follow(adafactorPreset({ learningRate: 0.1 }), start, [GRADIENT]);
  assertNear(preset, start.values.map((p, i) => p - 0.1 * DIRECTION[i]));
  const { routes } = galoreAdafactor({ learningRate: 0.1, galore: { rank: 1 }, projected: /w/ });
  const [rest] = await follow(routes[1][1]!, start, [GRADIENT]);
  assertNear(rest, preset);
});

Deno.test("adafactor() refuses rates that contradict each other", () => {
  const both = () => adafactor({ learningRate: 0.1, relativeStep: true });
  assert.throws(both, { name: "RangeError", message: /either learningRate or relativeStep, got both/ });
  assert.throws(() => adafactor({ relativeStep: false }), { name: "RangeError", message: /got neither/ });
  assert.throws(() => adafactor({ learningRate: 0.1, warmupInit: true }), /Cannot use warmupInit.*needs relativeStep/);
  assert.throws(() => adafactor({ clipThreshold: 0 }), { name: "RangeError", message: /Cannot clip to an RMS of 0/ });
  assert.throws(() => adafactor({ decayRate: -0.8 }), { name: "RangeError", message: /above 0, got -0.8/ });
});

Deno.test("adafactorW() leaves no memory behind, matrices and vectors, clipped and guarded", async () => {
  using backend = loopsBackend();
  await assertNoLeak("a training", backend, () => train(backend, adafactorW({ beta1: 0.9, weightDecay: 0.1 })));
});

function train(backend: Backend, rule: Rule): void {
  using params = new Params(backend);
  const shapes: Record<string, Shape> = { w: [3, 4], v: [5] };
  for (const [name, shape] of Object.entries(shapes)) {
    params.set(name, fromArray(backend, numbers(name, shape.reduce((a, b) => a * b)), shape));
  }
  using optimizer = new Optimizer(params, rule, { clip: 1, guard: true });
  let settled = 0;
  for (let step = 0; step < 5; step++) {
    for (const [name, shape] of Object.entries(shapes)) {
      using gradient = fromArray(backend, numbers(`${name} ${step}`, shape.reduce((a, b) => a * b)), shape);
      optimizer.stage(name, gradient);
    }
    optimizer.commit();
    if (step > 0) assert.equal(backend.memory().live, settled, `buffers after step ${step + 1}`);
    settled = backend.memory().live;
  }
}
