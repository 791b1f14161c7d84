/** Pruned moments: which stay under each kind of reset and rule, however they are stored, and that training goes on. */
import assert from "node:assert/strict";
import { loopsBackend } from "../backends/cpu/loops/mod.ts";
import { cpuBackend } from "../backends/cpu/mod.ts";
import { type Backend, keyOf, Tensor } from "../core/mod.ts";
import { assertNoLeak } from "../core/testing/leaks.ts";
import {
  adafactor,
  adafactorW,
  adamW,
  bfloat16,
  blockwise8bit,
  finish,
  fira,
  galore,
  type PruneOptions,
  type Rule,
  scaleByAdam,
  sgd,
  type State,
  storeAs,
  walkState,
} from "./mod.ts";
import { GradientBench } from "./testing/bench.ts";
import { load, PARABOLA, RULES, store, Training } from "./testing/rules.ts";

const SHAPES = { pruned: [6, 10], other: [5, 4] } as const;
const PRUNED = ["pruned"];
const codes = (rule: Rule) => finish(rule, { learningRate: 0.01 });

/** A bench after some steps of gradients that differ in size. */
async function trained(backend: Backend, rule: Rule, steps = 7): Promise<GradientBench> {
  const bench = new GradientBench(backend, SHAPES, rule);
  for (let step = 1; step <= steps; step++) await bench.step(bench.gradients(step));
  return bench;
}

/** Indices of the `count` largest magnitudes. */
function largest(values: ArrayLike<number>, count: number): number[] {
  const order = Array.from({ length: values.length }, (_, i) => i);
  return order.sort((a, b) => Math.abs(values[b]) - Math.abs(values[a])).slice(0, count).sort((a, b) => a - b);
}

const isNotZero = (values: ArrayLike<number>) => Array.from(values).flatMap((value, i) => value === 0 ? [] : [i]);

Deno.test("pruneMoments() keeps both moments of the elements whose first is largest, to the bit, and no others", async () => {
  using backend = loopsBackend();
  for (const share of [0, 0.5, 0.9, 0.99, 1]) {
    using bench = await trained(backend, adamW({ learningRate: 0.01, weightDecay: 0.1 }));
    const [mu, nu, other] = [
      await bench.read("pruned", "mu"),
      await bench.read("pruned", "nu"),
      await bench.read("other", "nu"),
    ];
    await bench.optimizer.pruneMoments(PRUNED, { reset: "magnitude", share });
    const kept = largest(mu, 60 - Math.round(60 * share));
    for (const [slot, before] of [["mu", mu], ["nu", nu]] as const) {
      const after = await bench.read("pruned", slot);
      assert.deepEqual(isNotZero(after), kept, `${slot} at ${share}`);
      for (const i of kept) assert.equal(after[i], before[i]);
    }
    assert.deepEqual(await bench.read("other", "nu"), other);
    assert.equal(bench.optimizer.step, 7);
  }
});

Deno.test("pruneMoments() keeps the number asked for where all magnitudes are equal", async () => {
  using backend = loopsBackend();
  using bench = new GradientBench(backend, { pruned: [4, 5] }, sgd({ learningRate: 0.1, momentum: 0.9 }));
  await bench.step({ pruned: Float32Array.from({ length: 20 }, (_, i) => i % 2 ? 3 : -3) });
  await bench.optimizer.pruneMoments(PRUNED, { reset: "magnitude", share: 0.7 });
  assert.deepEqual(isNotZero(await bench.read("pruned", "mu")), [0, 1, 2, 3, 4, 5]);
});

Deno.test("pruneMoments() draws what stays from the key and the name, the same of all moments", async () => {
  using backend = loopsBackend();
  const run = async (options: PruneOptions) => {
    using bench = new GradientBench(backend, { one: [40, 50], two: [40, 50] }, adamW({ learningRate: 0.01 }));
    await bench.step(bench.gradients(1));
    await bench.optimizer.pruneMoments(["one", "two"], options);
    const [one, two] = [await bench.read("one", "mu"), await bench.read("two", "mu")];
    assert.deepEqual(isNotZero(await bench.read("one", "nu")), isNotZero(one));
    return [isNotZero(one), isNotZero(two)];
  };
  const [one, two] = await run({ reset: "random", share: 0.9, key: keyOf(3) });
  assert.deepEqual(await run({ reset: "random", share: 0.9, key: keyOf(3) }), [one, two]);
  assert.notDeepEqual(await run({ reset: "random", share: 0.9, key: keyOf(4) }), [one, two]);
  assert.notDeepEqual(one, two);
  // 200 of 2,000 are expected, with a standard deviation of 13
  for (const kept of [one, two]) assert.ok(Math.abs(kept.length - 200) < 60, `${kept.length}`);
  assert.deepEqual(await run({ reset: "random", share: 1 }), [[], []]);
});

Deno.test("pruneMoments() sets every moment to 0 under `zero`, also stored, projected and factored ones", async () => {
  const adafactorRule = adafactorW({ learningRate: 0.01, beta1: 0.9, weightDecay: 0.1 });
  const stored = storeAs(blockwise8bit(), scaleByAdam(), { minSize: 0 });
  const cases: Readonly<Record<string, [Rule, readonly string[]]>> = {
    "adafactor": [adafactorRule, ["mu", "row", "column"]],
    "galore": [codes(galore(scaleByAdam(), { rank: 2 })), ["inner/mu", "inner/nu"]],
    "8 bits": [codes(stored), ["mu/absmax", "nu/absmax"]],
    "bfloat16": [codes(storeAs(bfloat16(), scaleByAdam(), { minSize: 0 })), ["mu/values", "nu/values"]],
    "fira of 8 bits": [codes(fira(stored, { rank: 2 })), ["inner/mu/absmax", "inner/nu/absmax"]],
  };
  using backend = loopsBackend();
  for (const [name, [rule, paths]] of Object.entries(cases)) {
    using bench = await trained(backend, rule);
    for (const path of paths) assert.ok(isNotZero(await bench.read("pruned", path)).length > 0, `${name} ${path}`);
    await bench.optimizer.pruneMoments(PRUNED, { reset: "zero" });
    for (const path of paths) assert.deepEqual(isNotZero(await bench.read("pruned", path)), [], `${name} ${path}`);
  }
});

Deno.test("pruneMoments() prunes in the subspace and leaves the basis, its step and Fira's norm", async () => {
  using backend = loopsBackend();
  using bench = await trained(backend, codes(fira(scaleByAdam(), { rank: 3 })));
  const plain = () => {
    const left: [string, unknown][] = [];
    walkState(bench.state("pruned"), (path, value) => path.startsWith("inner/") || left.push([path, value]));
    return left;
  };
  const before = plain();
  const mu = await bench.read("pruned", "inner/mu");
  await bench.optimizer.pruneMoments(PRUNED, { reset: "magnitude", share: 0.8 });
  assert.ok(before.some(([, value]) => value instanceof Tensor));
  plain().forEach(([path, value], i) => assert.ok(value === before[i][1], path)); // the very tensors
  const kept = largest(mu, mu.length - Math.round(0.8 * mu.length));
  for (const slot of ["mu", "nu"]) assert.deepEqual(isNotZero(await bench.read("pruned", `inner/${slot}`)), kept);
});

Deno.test("pruneMoments() multiplies Adafactor's means by the share that is kept, and prunes its momentum", async () => {
  using backend = loopsBackend();
  for (const reset of ["magnitude", "random"] as const) {
    using bench = await trained(backend, adafactor({ learningRate: 0.01, beta1: 0.9 }));
    const [mu, row, column] = [
      await bench.read("pruned", "mu"),
      await bench.read("pruned", "row"),
      await bench.read("pruned", "column"),
    ];
    await bench.optimizer.pruneMoments(PRUNED, { reset, share: 0.75 });
    for (const [slot, means] of [["row", row], ["column", column]] as const) {
      const after = await bench.read("pruned", slot);
      after.forEach((value, i) => assert.equal(value, means[i] * 0.25));
    }
    const kept = isNotZero(await bench.read("pruned", "mu"));
    if (reset === "magnitude") assert.deepEqual(kept, largest(mu, 15));
    else assert.ok(kept.length > 5 && kept.length < 25);
  }
});

Deno.test("pruneMoments() decodes, prunes and encodes moments in fewer bits", async () => {
  using backend = await cpuBackend({ threads: 1, blas: "off" });
  for (const [codec, tolerance] of [[blockwise8bit(), 0.02], [bfloat16(), 0]] as const) {
    using bench = await trained(backend, codes(storeAs(codec, scaleByAdam(), { minSize: 0 })));
    const read = async (slot: "mu" | "nu") => {
      const kind = slot === "mu" ? "signed" : "nonnegative";
      using decoded = codec.decode(bench.state("pruned")[slot] as State, kind);
      return await decoded.read();
    };
    const before = { mu: await read("mu"), nu: await read("nu") };
    await bench.optimizer.pruneMoments(PRUNED, { reset: "magnitude", share: 0.5 });
    const kept = isNotZero(await read("mu"));
    assert.equal(kept.length, 30);
    for (const slot of ["mu", "nu"] as const) {
      const after = await read(slot);
      const most = Math.max(...before[slot].map(Math.abs));
      assert.deepEqual(isNotZero(after), kept, `${codec.name} ${slot}`);
      for (const i of kept) {
        assert.ok(Math.abs(after[i] - before[slot][i]) <= tolerance * most, `${codec.name} ${slot}`);
      }
    }
  }
});

Deno.test("pruneMoments() never leaves a first moment alone, which a gradient of 0 would divide by eps", async () => {
  using backend = loopsBackend();
  using bench = new GradientBench(backend, { pruned: [1, 2] }, adamW({ learningRate: 0.01 }));
  // the first element has the larger mean, the second the larger square
  for (let step = 0; step < 20; step++) await bench.step({ pruned: [1, step % 2 ? 10 : -10] });
  const before = await bench.weights();
  await bench.optimizer.pruneMoments(PRUNED, { reset: "magnitude", share: 0.5 });
  await bench.step({ pruned: [0, 0] });
  const after = await bench.weights();
  assert.ok(Math.abs(after.pruned[0] - before.pruned[0]) < 0.02, `moved by ${after.pruned[0] - before.pruned[0]}`);
  assert.equal(after.pruned[1], before.pruned[1]);
});

Deno.test("every rule goes on after pruneMoments() of each kind, with the same bits from saved bytes", async () => {
  using backend = loopsBackend();
  // the side that is projected, and the schedule, are nothing to it
  for (const rule of RULES.filter(({ name }) => !/ (reverse_std|left|right)$| under \w+\(/.test(name))) {
    await assertNoLeak(rule.name, backend, async () => {
      const make = () => new Training(backend, PARABOLA, rule.make(PARABOLA.rate[rule.kind]), { clip: 3 });
      using training = make();
      const losses: number[] = [];
      for (const reset of ["zero", "magnitude", "random"] as const) {
        losses.push(...await training.steps(4));
        await training.optimizer.pruneMoments(training.params.names(), { reset, share: 0.9, key: keyOf(1) });
      }
      using again = make();
      for (const [name, weight] of Object.entries(await training.weights())) again.params.get(name).write(weight);
      load(backend, await store(training.optimizer.snapshot()), again.optimizer);
      losses.push(...await training.steps(10));
      await again.steps(10);
      assert.ok(losses.every(Number.isFinite), rule.name);
      const last = losses[losses.length - 1];
      assert.ok(last < losses[0], `${rule.name}: the loss went from ${losses[0]} to ${last}`);
      assert.deepEqual(await again.weights(), await training.weights(), rule.name);
    });
  }
});

Deno.test("pruneMoments() lets a 16-bit parameter under a master copy be written anew", async () => {
  using backend = loopsBackend();
  const options = { dtype: "bf16", rounding: "master" } as const;
  using bench = new GradientBench(backend, { pruned: [1, 2] }, sgd({ learningRate: 1, momentum: 0.5 }), options);
  await bench.step({ pruned: [1, 1] });
  bench.params.get("pruned").write(Uint16Array.of(0x4080, 0x4100)); // 4 and 8
  await bench.optimizer.pruneMoments(PRUNED, { reset: "zero" });
  await bench.step({ pruned: [1, 2] });
  assert.deepEqual([...(await bench.weights()).pruned], [0x4040, 0x40c0]); // 3 and 6
});

Deno.test("pruneMoments() refuses a parameter that is not trained, a share that is none, and to work amid a step", async () => {
  using backend = loopsBackend();
  using bench = await trained(backend, adamW({ learningRate: 0.01 }));
  await assert.rejects(bench.optimizer.pruneMoments(["nothing"], { reset: "zero" }), {
    name: "RangeError",
    message: 'Cannot prune the moments of "nothing": it is not trained',
  });
  for (const share of [-0.1, 1.5, NaN]) {
    await assert.rejects(bench.optimizer.pruneMoments(PRUNED, { reset: "random", share }), {
      name: "RangeError",
      message: `Cannot prune moments: expected a share in [0, 1], got ${share}`,
    });
  }
  bench.stage(bench.gradients(8));
  await assert.rejects(bench.optimizer.pruneMoments(PRUNED, { reset: "zero" }), {
    name: "RangeError",
    message: 'Cannot prune the moments of "pruned" amid a step: commit() first',
  });
});
