/** The laws of DESIGN that every rule keeps, on any backend. `laws_test.ts` runs them. */
import assert from "node:assert/strict";
import { type Backend, backward, scope, Tensor } from "../../core/mod.ts";
import { assertNoLeak } from "../../core/testing/leaks.ts";
import { registerTest } from "../../core/testing/register.ts";
import { type State, walkState } from "../mod.ts";
import { load, PARABOLA, type Problem, ROSENBROCK, type RuleCase, RULES, store, Training } from "./rules.ts";

/** What a backend under test can do beside f32. */
export interface LawOptions {
  readonly dtypes: readonly ("f32" | "f64")[];
  /** Which rules to hold to the laws; all by default. */
  readonly rules?: readonly RuleCase[];
  /** Why the tests cannot run here, if they cannot. */
  readonly ignore?: string;
}

/** Registers a test per rule and law. */
export function optimizerLaws(
  name: string,
  makeBackend: () => Backend | Promise<Backend>,
  { dtypes, rules = RULES, ignore }: LawOptions = { dtypes: ["f32", "f64"] },
): void {
  for (const rule of rules) {
    registerTest(`${rule.name} keeps the laws of a rule on ${name}`, async (context) => {
      using backend = await makeBackend();
      for (const problem of [PARABOLA, ROSENBROCK]) {
        await context.step(`descends ${problem.name} in constant memory`, () => descends(backend, rule, problem));
      }
      for (const dtype of dtypes) {
        await context.step(`keeps dtype and shape in ${dtype}`, () => keepsSpecs(backend, rule, dtype));
      }
      await context.step("gives the same bits twice", () => isDeterministic(backend, rule));
      await context.step("goes on from saved bytes with the same bits", () => survivesStorage(backend, rule));
      await context.step("gives the same bits per layer as collected", () => isIndifferentToSink(backend, rule));
    }, ignore);
  }
}

const make = (rule: RuleCase, problem: Problem) => rule.make(problem.rate[rule.kind]);

/** Two hundred steps: the loss falls, memory does not grow, and all of it comes back. */
async function descends(backend: Backend, rule: RuleCase, problem: Problem): Promise<void> {
  await assertNoLeak("a training", backend, async () => {
    using training = new Training(backend, problem, make(rule, problem));
    const losses = await training.steps(1);
    const settled = backend.memory();
    losses.push(...await training.steps(199));
    assert.ok(losses.every(Number.isFinite), "a loss is not finite");
    const last = losses[losses.length - 1];
    assert.ok(last < 0.3 * losses[0], `the loss went from ${losses[0]} to ${last}`);
    assert.equal(backend.memory().live, settled.live, "buffers after 200 steps");
    assert.equal(backend.memory().inUse, settled.inUse, "bytes after 200 steps");
  });
}

function specsOf(state: State): string[] {
  const specs: string[] = [];
  walkState(state, (path, value) => specs.push(`${path}: ${value instanceof Tensor ? value : typeof value}`));
  return specs;
}

async function keepsSpecs(backend: Backend, rule: RuleCase, dtype: "f32" | "f64"): Promise<void> {
  using training = new Training(backend, PARABOLA, make(rule, PARABOLA), { dtype });
  const { params, optimizer } = training;
  const specs = () => [
    ...[...params.entries()].map(([name, weight]) => `${name}: ${weight}`),
    ...[...optimizer.snapshot().leaves].flatMap(([name, { state }]) => [name, ...specsOf(state)]),
  ];
  const before = params.names().map((name) => `${name}: ${params.get(name)}`);
  await training.steps(1);
  const first = specs(); // the state has its bases from here on
  assert.deepEqual(first.slice(0, before.length), before);
  // what is stored in fewer bits is so in f32 alone
  const isExpected = (spec: string) => spec.includes(dtype) || (dtype === "f32" && /: (u8|bf16)\[/.test(spec));
  assert.ok(first.every((spec) => !/\[/.test(spec) || isExpected(spec)), first.join("\n"));
  await training.steps(9);
  assert.deepEqual(specs(), first);
}

async function isDeterministic(backend: Backend, rule: RuleCase): Promise<void> {
  const run = async () => {
    using training = new Training(backend, PARABOLA, make(rule, PARABOLA));
    await training.steps(12);
    return await training.weights();
  };
  assert.deepEqual(await run(), await run());
}

/** After 5 steps, mid-gap, in the middle of the sixth, and through the renewal before the eighth. */
async function survivesStorage(backend: Backend, rule: RuleCase): Promise<void> {
  using first = new Training(backend, PARABOLA, make(rule, PARABOLA), { clip: 3 });
  await first.steps(5);
  await first.stage();
  const stored = await store(first.optimizer.snapshot());
  using second = new Training(backend, PARABOLA, make(rule, PARABOLA), { clip: 3 });
  for (const [name, weight] of Object.entries(await first.weights())) second.params.get(name).write(weight);
  load(backend, stored, second.optimizer);
  assert.equal(second.optimizer.step, 5);
  for (const training of [first, second]) {
    await training.commit();
    await training.steps(6);
  }
  assert.deepEqual(await second.weights(), await first.weights());
  assert.deepEqual(await store(second.optimizer.snapshot()), await store(first.optimizer.snapshot()));
}

async function isIndifferentToSink(backend: Backend, rule: RuleCase): Promise<void> {
  using layered = new Training(backend, PARABOLA, make(rule, PARABOLA), { clip: 3 });
  using collected = new Training(backend, PARABOLA, make(rule, PARABOLA), { clip: 3 });
  for (let step = 0; step < 9; step++) {
    await layered.steps(1);
    const gradients: [string, Tensor][] = [];
    {
      using _ = scope("collect");
      backward(PARABOLA.loss(collected.params), (leaf, gradient) => gradients.push([leaf, gradient.retained()]));
    }
    for (const [leaf, gradient] of gradients.reverse()) {
      collected.optimizer.stage(leaf, gradient);
      gradient.dispose();
    }
    await collected.commit();
  }
  assert.deepEqual(await collected.weights(), await layered.weights());
}
