/** Parameters in 16 bits: how changes reach them, what is kept beside them, and that it survives a checkpoint. */
import assert from "node:assert/strict";
import { loopsBackend } from "../backends/cpu/mod.ts";
import { type Backend, bytesFor, cast, fromArray, keyOf, normal, own, Params, sizeOf } from "../core/mod.ts";
import {
  adamW,
  finish,
  galore,
  Optimizer,
  type OptimizerOptions,
  type Rounding,
  type Rule,
  scaleByAdam,
  sgd,
} from "./mod.ts";
import { load, store } from "./testing/rules.ts";

const SHAPES = { wide: [6, 10], odd: [7] } as const;
const NAMES = ["wide", "odd"] as const;

class Bench implements Disposable {
  readonly params: Params;
  readonly optimizer: Optimizer;

  constructor(
    readonly backend: Backend,
    rule: Rule,
    options: OptimizerOptions = {},
    readonly dtype: "f32" | "bf16" = "bf16",
    value?: number,
  ) {
    this.params = new Params(backend);
    NAMES.forEach((name, i) => {
      const size = sizeOf(SHAPES[name]);
      const values = value === undefined ? normal(keyOf(i), size) : new Float32Array(size).fill(value);
      // both begin at values that bf16 holds
      using rounded = cast(fromArray(backend, values, SHAPES[name]), "bf16");
      this.params.set(name, own(dtype === "bf16" ? rounded.retained() : cast(rounded, "f32")));
    });
    this.optimizer = new Optimizer(this.params, rule, options);
  }

  async step(step: number, of: "f32" | "bf16" = "f32", value?: number): Promise<void> {
    for (const name of NAMES) {
      const values = normal(keyOf(100 * step + name.length), sizeOf(SHAPES[name]));
      if (value !== undefined) values.fill(value);
      using whole = fromArray(this.backend, values, SHAPES[name]);
      using gradient = cast(whole, of);
      this.optimizer.stage(name, gradient);
    }
    if (this.optimizer.refreshDue) await this.optimizer.refresh();
    this.optimizer.commit();
  }

  /** Weights as bits of bf16. */
  async bits(): Promise<Record<string, number[]>> {
    const out: Record<string, number[]> = {};
    for (const [name, weight] of this.params.entries()) {
      using halved = cast(weight.retained(), "bf16");
      out[name] = [...await halved.read()];
    }
    return out;
  }

  [Symbol.dispose](): void {
    this.optimizer.dispose();
    this.params.dispose();
  }
}

const RULES: Readonly<Record<string, () => Rule>> = {
  "sgd()": () => sgd({ learningRate: 0.1, momentum: 0.9, weightDecay: 0.1 }),
  "adamW()": () => adamW({ learningRate: 0.01, weightDecay: 0.1, decayPlacement: "after" }),
};
const galored = () =>
  finish(galore(scaleByAdam(), { rank: 2, updateProjGap: 3 }), { learningRate: 0.01, weightDecay: 0.1 });

for (const [name, make] of Object.entries(RULES)) {
  Deno.test(`${name} with a master copy gives the weights of an f32 run, rounded`, async () => {
    using backend = loopsBackend();
    using halved = new Bench(backend, make(), { rounding: "master", clip: 3 });
    using whole = new Bench(backend, make(), { clip: 3 }, "f32");
    for (let step = 1; step <= 6; step++) {
      for (const bench of [halved, whole]) await bench.step(step);
      assert.deepEqual(await halved.bits(), await whole.bits(), `step ${step}`);
    }
    const { leaves } = halved.optimizer.snapshot();
    assert.deepEqual(await leaves.get("wide")!.master!.read(), await whole.params.get("wide").read());
  });
}

Deno.test("stochastic rounding is right on average where the nearest value never moves", async () => {
  using backend = loopsBackend();
  const moved = async (rounding: Rounding, seed: number) => {
    using bench = new Bench(backend, sgd({ learningRate: 1 }), { rounding, seed }, "bf16", 1);
    for (let step = 1; step <= 64; step++) await bench.step(step, "f32", -(2 ** -11)); // a sixteenth of a bf16 at 1
    using weight = cast(bench.params.get("wide"), "f32");
    const values = await weight.read() as Float32Array;
    return values.reduce((sum, value) => sum + value - 1, 0) / values.length;
  };
  assert.equal(await moved("nearest", 0), 0);
  const expected = 64 * 2 ** -11;
  for (const seed of [0, 1]) {
    const mean = await moved("stochastic", seed);
    assert.ok(Math.abs(mean / expected - 1) < 0.15, `${mean} of ${expected}`);
  }
});

Deno.test("stochastic rounding is a function of seed, name and step", async () => {
  using backend = loopsBackend();
  const run = async (seed: number | undefined) => {
    using bench = new Bench(backend, sgd({ learningRate: 0.1 }), { seed });
    for (let step = 1; step <= 3; step++) await bench.step(step);
    return await bench.bits();
  };
  const first = await run(undefined);
  assert.deepEqual(await run(0), first, "0 is the default");
  assert.notDeepEqual(await run(1), first);
  using bench = new Bench(backend, sgd({ learningRate: 1 }), {}, "bf16", 1);
  await bench.step(1, "f32", -(2 ** -9)); // a quarter: up or down by name and place
  const once = await bench.bits();
  assert.notDeepEqual(once.wide.slice(0, 7), once.odd, "the names draw apart");
});

Deno.test("gradients of 16-bit parameters are held in f32, whole or projected, and so are states", async () => {
  using backend = loopsBackend();
  for (const  of of["f32", "bf16"] as const) {
    using bench = new Bench(backend, adamW({ learningRate: 0.01 }));
    const stored = async () => (await store(bench.optimizer.snapshot())).leaves.wide;
    using gradient = cast(fromArray(backend, normal(keyOf(1), 60), SHAPES.wide), of);
    bench.optimizer.stage("wide", gradient);
    const { staged, square, tensors } = await stored();
    const found = [staged, square, ...Object.values(tensors)].map((tensor) => tensor!.dtype);
    assert.deepEqual(new Set(found), new Set(["f32"]));
  }
});

for (const rounding of ["stochastic", "master"] as const) {
  Deno.test(`Optimizer() goes on from saved bytes with the same bits when it rounds by ${rounding}`, async () => {
    using backend = loopsBackend();
    const rule = () => sgd({ learningRate: 0.1, momentum: 0.5 });
    using first = new Bench(backend, rule(), { rounding, seed: 5 });
    for (let step = 1; step <= 3; step++) await first.step(step, "bf16");
    using second = new Bench(backend, rule(), { rounding, seed: 5 });
    for (const [name, weight] of first.params.entries()) second.params.get(name).write(await weight.read());
    load(backend, await store(first.optimizer.snapshot()), second.optimizer);
    for (const bench of [first, second]) for (let step = 4; step <= 6; step++) await bench.step(step, "bf16");
    assert.deepEqual(await second.bits(), await first.bits());
    assert.deepEqual(await store(second.optimizer.snapshot()), await store(first.optimizer.snapshot()));
  });
}

for (const rounding of ["nearest", "stochastic", "master"] as const) {
  Deno.test(`a guard leaves 16-bit parameters as they are when they round by ${rounding}`, async () => {
    using backend = loopsBackend({ readSync: false });
    using bench = new Bench(backend, sgd({ learningRate: 0.1, weightDecay: 0.1 }), { rounding, guard: true });
    await bench.step(1);
    const before = [await bench.bits(), (await store(bench.optimizer.snapshot())).leaves];
    await bench.step(2, "bf16", NaN);
    await bench.step(3);
    assert.deepEqual([await bench.bits(), (await store(bench.optimizer.snapshot())).leaves], before);
  });
}

Deno.test("galore projects bf16 gradients in f32, and the master copy counts four bytes a weight", async () => {
  using backend = loopsBackend();
  using params = new Params(backend);
  using start = cast(fromArray(backend, normal(keyOf(1), 60), [6, 10]), "bf16");
  params.set("wide", start.retained());
  using optimizer = new Optimizer(params, galored(), { rounding: "master", clip: 1 });
  for (let step = 1; step <= 4; step++) {
    using gradient = cast(fromArray(backend, normal(keyOf(step), 60), [6, 10]), "bf16");
    optimizer.stage("wide", gradient);
    if (optimizer.refreshDue) await optimizer.refresh();
    const { staged } = optimizer.snapshot().leaves.get("wide")!;
    assert.deepEqual([staged!.dtype, staged!.shape], ["f32", [2, 10]]);
    optimizer.commit();
  }
  const { master } = optimizer.snapshot().leaves.get("wide")!;
  assert.equal(bytesFor(master!.dtype, master!.size), 4 * 60);
});
