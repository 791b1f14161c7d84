/** The guard: what is not finite changes nothing, without a read; what is finite is as without it, to the bit. */
import assert from "node:assert/strict";
import { cpuBackend, loopsBackend } from "../backends/cpu/mod.ts";
import { type Backend, foldIn, fromArray, type HostArray, keyOf, normal, Params } from "../core/mod.ts";
import { assertNoLeak } from "../core/testing/leaks.ts";
import {
  accumulate,
  adamW,
  galoreAdamW,
  galoreSgd,
  Optimizer,
  type OptimizerOptions,
  polarBasis,
  type Routing,
  type Rule,
  sgd,
} from "./mod.ts";
import { store, type StoredSnapshot } from "./testing/rules.ts";

/** More than a piece of the gate in one of them. */
const SHAPES = { wide: [6, 9], tall: [12, 5], bias: [7], large: [1031, 1025] } as const;
type Name = keyof typeof SHAPES;
const NAMES: readonly Name[] = ["wide", "tall", "bias"];

const numbers = (shape: readonly number[], ...key: (string | number)[]) =>
  normal(foldIn(keyOf(3), ...key), shape.reduce((size, extent) => size * extent, 1));

class Bench implements Disposable {
  readonly params: Params;
  readonly optimizer: Optimizer;

  constructor(
    readonly backend: Backend,
    rule: Rule | Routing,
    options: OptimizerOptions,
    readonly names: readonly Name[] = NAMES,
  ) {
    this.params = new Params(backend);
    for (const name of names) {
      const values = numbers(SHAPES[name], name);
      values[1] = -0;
      this.params.set(name, fromArray(backend, values, SHAPES[name]));
    }
    this.optimizer = new Optimizer(this.params, rule, options);
  }

  /** One step, with `spoil` as the last element of one leaf's gradient. */
  async step(step: number, spoil?: number): Promise<void> {
    for (let micro = 0; micro < this.optimizer.microBatches; micro++) {
      for (const name of this.names) {
        const values = numbers(SHAPES[name], name, step, micro);
        if (spoil !== undefined && name === this.names.at(-1) && micro === 0) values[values.length - 1] = spoil;
        using gradient = fromArray(this.backend, values, SHAPES[name]);
        this.optimizer.stage(name, gradient);
      }
    }
    if (this.optimizer.refreshDue) await this.optimizer.refresh();
    this.optimizer.commit();
  }

  async bits(): Promise<[Record<string, HostArray>, StoredSnapshot["leaves"]]> {
    const weights: Record<string, HostArray> = {};
    for (const [name, weight] of this.params.entries()) {
      weights[name] = new Uint32Array((await weight.read()).buffer as ArrayBuffer);
    }
    return [weights, (await store(this.optimizer.snapshot())).leaves];
  }

  [Symbol.dispose](): void {
    this.optimizer.dispose();
    this.params.dispose();
  }
}

const galore = { rank: 2, updateProjGap: 50 };
const projected = /wide|tall/;
const RULES: Readonly<Record<string, () => Rule | Routing>> = {
  "adamW()": () => adamW({ learningRate: 0.01, weightDecay: 0.1 }),
  "galoreAdamW()": () => galoreAdamW({ learningRate: 0.01, weightDecay: 0.1, galore, projected }),
  "galoreSgd() on both sides": () =>
    galoreSgd({ learningRate: 0.1, momentum: 0.9, galore: { ...galore, projType: "full" }, projected }),
  "sgd() with momentum": () => sgd({ learningRate: 0.1, momentum: 0.9 }),
  "accumulate() of adamW()": () => accumulate(2, adamW({ learningRate: 0.01 })),
};

const BACKENDS: Readonly<Record<string, () => Backend | Promise<Backend>>> = {
  loops: () => loopsBackend({ readSync: false }),
  cpu: () => cpuBackend({ threads: 1, blas: "off" }),
};

for (const [where, makeBackend] of Object.entries(BACKENDS)) {
  for (const [name, make] of Object.entries(RULES)) {
    Deno.test(`${name} with a guard on ${where} changes nothing from a step on that is not finite`, async () => {
      using backend = await makeBackend();
      for (const clip of [1, undefined]) {
        for (const spoil of [NaN, Infinity, -Infinity]) {
          await assertNoLeak("a guarded training", backend, async () => {
            using bench = new Bench(backend, make(), { clip, guard: true });
            using steady = new Bench(backend, make(), { clip });
            for (const each of [bench, steady]) for (let step = 1; step <= 3; step++) await each.step(step);
            const before = await bench.bits();
            assert.deepEqual(before, await steady.bits(), "finite steps are those without a guard");
            await bench.step(4, spoil);
            assert.deepEqual(await bench.bits(), before, `${spoil} at step 4`);
            await bench.step(5);
            assert.deepEqual(await bench.bits(), before, "a finite step after it");
            bench.optimizer.discard();
            await bench.step(6);
            assert.notDeepEqual(await bench.bits(), before, "the guard was opened again");
          });
        }
      }
    });
  }
}

Deno.test("commit() with a guard demands that the scalars it is given are finite", async () => {
  using backend = loopsBackend({ readSync: false });
  using bench = new Bench(backend, sgd({ learningRate: 0.1 }), { guard: true });
  const before = await bench.bits();
  using loss = fromArray(backend, [Infinity], []);
  for (const name of NAMES) {
    using gradient = fromArray(backend, numbers(SHAPES[name], name, 1), SHAPES[name]);
    bench.optimizer.stage(name, gradient);
  }
  bench.optimizer.commit([loss]);
  assert.deepEqual(await bench.bits(), before);
  bench.optimizer.resetGuard();
  await bench.step(2);
  assert.notDeepEqual(await bench.bits(), before);
});

Deno.test("commit() with a guard selects a large parameter in pieces", async () => {
  using backend = loopsBackend();
  const rule = () => sgd({ learningRate: 0.1 });
  using bench = new Bench(backend, rule(), { guard: true }, ["bias", "large"]);
  using steady = new Bench(backend, rule(), {}, ["bias", "large"]);
  await bench.step(1);
  await steady.step(1);
  const before = await bench.bits();
  assert.deepEqual(before[0], (await steady.bits())[0]);
  await bench.step(2, NaN);
  assert.deepEqual(await bench.bits(), before);
});

Deno.test("stepSquares() gives what gradientNorm() says, and leaves it on the device", async () => {
  using backend = loopsBackend();
  using bench = new Bench(backend, galoreAdamW({ learningRate: 0.01, galore, projected }), { guard: true, clip: 1 });
  assert.throws(() => bench.optimizer.stepSquares(), /Cannot take squares: no gradient is staged/);
  for (const name of NAMES) {
    using gradient = fromArray(backend, numbers(SHAPES[name], name, 1).fill(name === "tall" ? NaN : 2), SHAPES[name]);
    bench.optimizer.stage(name, gradient);
  }
  const { squares, toNorm } = bench.optimizer.stepSquares();
  using _ = squares;
  const expected = await bench.optimizer.gradientNorm();
  bench.optimizer.discard();
  assert.deepEqual(toNorm(await squares.read()), expected);
  assert.deepEqual([expected.nonFinite, expected.kind], [["tall"], "exact"]);
});

Deno.test("a guard keeps a basis out that was found in what is not finite", async () => {
  using backend = loopsBackend({ readSync: false });
  const everyStep = { rank: 2, updateProjGap: 1, basis: polarBasis() };
  const rule = galoreAdamW({ learningRate: 0.01, weightDecay: 0.1, galore: everyStep, projected: /wide|tall/ });
  using bench = new Bench(backend, rule, { clip: 1, guard: true }, ["bias", "wide", "tall"]);
  for (let step = 1; step <= 2; step++) await bench.step(step);
  /** Weights and moments; the bases themselves are spoiled, and with them nothing but this optimizer. */
  const kept = async () => {
    const [weights, leaves] = await bench.bits();
    const tensors = Object.values(leaves).flatMap((leaf) => Object.entries(leaf.tensors));
    return [weights, tensors.filter(([path]) => /[mn]u$/.test(path))];
  };
  const before = await kept();
  await bench.step(3, NaN);
  assert.deepEqual(await kept(), before);
});
