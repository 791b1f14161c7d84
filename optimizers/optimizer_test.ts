/** The driver: accumulation, clipping, what is dropped, what is saved, and what a commit costs. */
import assert from "node:assert/strict";
import { loopsBackend } from "../backends/cpu/loops/mod.ts";
import { type Backend, fromArray, Params } from "../core/mod.ts";
import { rms, rmsError } from "../core/testing/golden.ts";
import { assertNoLeak, peakBytes } from "../core/testing/leaks.ts";
import {
  accumulate,
  adamW,
  finish,
  galore,
  type GaloreOptions,
  identity,
  Optimizer,
  type OptimizerOptions,
  polarBasis,
  route,
  type Routing,
  type Rule,
  scaleByAdam,
  sgd,
} from "./mod.ts";
import { load, numbers, PARABOLA, store, Training } from "./testing/rules.ts";

const SHAPES = { wide: [4, 7], tall: [6, 4], square: [5, 5] } as const;
const SIZE = (name: keyof typeof SHAPES) => SHAPES[name][0] * SHAPES[name][1];
const NAMES = Object.keys(SHAPES) as (keyof typeof SHAPES)[];

/** Weights, an optimizer, and gradients that are functions of a name. */
class Bench implements Disposable {
  readonly params: Params;
  readonly optimizer: Optimizer;

  constructor(readonly backend: Backend, rule: Rule | Routing, options?: OptimizerOptions) {
    this.params = new Params(backend);
    for (const name of NAMES) this.params.set(name, fromArray(backend, numbers(name, SIZE(name)), SHAPES[name]));
    this.optimizer = new Optimizer(this.params, rule, options);
  }

  stage(values: (name: keyof typeof SHAPES) => Float32Array): void {
    for (const name of NAMES) this.stageOne(name, values(name));
  }

  stageOne(name: keyof typeof SHAPES, values: Float32Array): void {
    using gradient = fromArray(this.backend, values, SHAPES[name]);
    this.optimizer.stage(name, gradient);
  }

  async commit(): Promise<void> {
    await this.optimizer.refresh();
    this.optimizer.commit();
  }

  async weights(): Promise<Record<string, number[]>> {
    const out: Record<string, number[]> = {};
    for (const [name, weight] of this.params.entries()) out[name] = [...await weight.read()];
    return out;
  }

  [Symbol.dispose](): void {
    this.optimizer.dispose();
    this.params.dispose();
  }
}

const gradient = (step: number, micro: number) => (name: keyof typeof SHAPES) =>
  numbers(`${name} ${step} ${micro}`, SIZE(name));

/** The mean of micro-batches' gradients, summed in f32 in their order as the device does. */
function meanGradient(step: number, count: number) {
  return (name: keyof typeof SHAPES) => {
    const total = gradient(step, 0)(name);
    for (let micro = 1; micro < count; micro++) {
      gradient(step, micro)(name).forEach((value, i) => total[i] += value);
    }
    return total.map((value) => value / count);
  };
}

const GAP = 3;
const ACCUMULATED: Readonly<Record<string, () => Rule>> = {
  "sgd()": () => sgd({ learningRate: 0.1, momentum: 0.9 }),
  "adamW()": () => adamW({ learningRate: 0.1, weightDecay: 0.1 }),
  "galore()": () => finish(galore(scaleByAdam(), { rank: 2, updateProjGap: GAP }), { learningRate: 0.1 }),
  "galore() of both sides": () =>
    finish(galore(identity(), { rank: 2, updateProjGap: GAP, projType: "full" }), { learningRate: 0.1 }),
  "galore() staggered with polarBasis()": () => {
    const options: GaloreOptions = { rank: 2, updateProjGap: GAP, refresh: "staggered", basis: polarBasis() };
    return finish(galore(scaleByAdam(), options), { learningRate: 0.1 });
  },
};

for (const [name, make] of Object.entries(ACCUMULATED)) {
  Deno.test(`accumulate() of ${name} equals one step on the mean gradient, at a refresh and between two`, async () => {
    using backend = loopsBackend();
    for (const clip of [undefined, 0.5]) {
      using whole = new Bench(backend, make(), { clip });
      using parts = new Bench(backend, accumulate(4, make()), { clip });
      for (let step = 1; step <= 2 * GAP + 1; step++) {
        whole.stage(meanGradient(step, 4));
        for (let micro = 0; micro < 4; micro++) {
          assert.equal(parts.optimizer.refreshDue, false, "not before the last micro-batch");
          parts.stage(gradient(step, micro));
        }
        assert.equal(parts.optimizer.refreshDue, whole.optimizer.refreshDue);
        await whole.commit();
        await parts.commit();
        assert.equal(parts.optimizer.step, step, "one step for all micro-batches");
        const [a, b] = [await parts.weights(), await whole.weights()];
        // dividing by 4 is exact, so a sum of whole gradients gives the same bits; one of projected gradients, and
        // a norm of projected gradients, do not
        const isProjected = name.startsWith("galore");
        if (clip === undefined && (!isProjected || step === 1)) assert.deepEqual(a, b);
        else if (clip === undefined || !isProjected) {
          for (const leaf of NAMES) assert.ok(rmsError(a[leaf], b[leaf]) < 1e-6, `${leaf} in step ${step}`);
        }
      }
    }
  });

  Deno.test(`accumulate() of ${name} goes on with the same bits after a restore between micro-batches`, async () => {
    using backend = loopsBackend();
    for (const stopAt of [0, 1, GAP]) {
      using first = new Bench(backend, accumulate(3, make()));
      for (let step = 1; step <= stopAt; step++) {
        for (let micro = 0; micro < 3; micro++) first.stage(gradient(step, micro));
        await first.commit();
      }
      first.stage(gradient(stopAt + 1, 0));
      first.stageOne("tall", gradient(stopAt + 1, 1)("tall"));
      using second = new Bench(backend, accumulate(3, make()));
      load(backend, await store(first.optimizer.snapshot()), second.optimizer);
      for (const [leaf, weight] of first.params.entries()) second.params.get(leaf).write(await weight.read());
      for (const bench of [first, second]) {
        bench.stageOne("wide", gradient(stopAt + 1, 1)("wide"));
        bench.stageOne("square", gradient(stopAt + 1, 1)("square"));
        bench.stage(gradient(stopAt + 1, 2));
        await bench.commit();
        for (let micro = 0; micro < 3; micro++) bench.stage(gradient(stopAt + 2, micro));
        await bench.commit();
      }
      assert.deepEqual(await second.weights(), await first.weights(), `stopped in step ${stopAt + 1}`);
    }
  });
}

Deno.test("commit() names the parameter when a micro-batch is missing or one too many", async () => {
  using backend = loopsBackend();
  using bench = new Bench(backend, accumulate(2, sgd({ learningRate: 0.1 })));
  bench.stage(gradient(1, 0));
  bench.stageOne("wide", gradient(1, 1)("wide"));
  bench.stageOne("square", gradient(1, 1)("square"));
  const before = await bench.weights();
  assert.throws(() => bench.optimizer.commit(), /^RangeError: Cannot commit\(\): "tall" has 1 of 2 micro-batches$/);
  bench.stageOne("tall", gradient(1, 1)("tall"));
  bench.stageOne("tall", gradient(1, 2)("tall"));
  assert.throws(() => bench.optimizer.commit(), /"tall" has 3 of 2 micro-batches/);
  assert.deepEqual(await bench.weights(), before);
  assert.equal(bench.optimizer.step, 0);
});

Deno.test("commit() is an error when nothing is staged or a basis is due", () => {
  using backend = loopsBackend();
  using bench = new Bench(backend, galore(identity(), { rank: 2 }));
  assert.throws(() => bench.optimizer.commit(), /no gradient is staged/);
  bench.stage(gradient(1, 0));
  assert.throws(() => bench.optimizer.commit(), /the basis of "wide" is due; await refresh\(\) first/);
  assert.equal(bench.optimizer.step, 0);
});

Deno.test("Optimizer() refuses rules that accumulate differently, and a clip that is no norm", () => {
  using backend = loopsBackend();
  using params = new Params(backend);
  params.set("a", fromArray(backend, [1], [1]));
  params.set("b", fromArray(backend, [1], [1]));
  const rule = sgd({ learningRate: 0.1 });
  const before = backend.memory().live;
  assert.throws(
    () => new Optimizer(params, route([[/a/, accumulate(2, rule)], [/b/, rule]])),
    /Cannot mix rules that accumulate 2 and 1 micro-batches/,
  );
  for (const clip of [0, -1, NaN]) assert.throws(() => new Optimizer(params, rule, { clip }), /Cannot clip to norm/);
  assert.throws(() => accumulate(0, rule), /0 micro-batches/);
  assert.throws(() => accumulate(1.5, rule), /1.5 micro-batches/);
  assert.equal(backend.memory().live, before);
});

Deno.test("Optimizer() freezes what is routed to null, and steps over a parameter without a gradient", async () => {
  using backend = loopsBackend();
  using bench = new Bench(backend, route([[/wide/, null], [/(?:)/, sgd({ learningRate: 0.1 })]]));
  assert.deepEqual(NAMES.map((name) => bench.params.isFrozen(name)), [true, false, false]);
  const before = await bench.weights();
  bench.stageOne("wide", gradient(1, 0)("wide"));
  bench.stageOne("tall", gradient(1, 0)("tall"));
  bench.optimizer.commit();
  const after = await bench.weights();
  assert.deepEqual([after.wide, after.square], [before.wide, before.square]);
  assert.notDeepEqual(after.tall, before.tall);
});

Deno.test("Optimizer() tells a rule the place of each parameter among those that share it", () => {
  using backend = loopsBackend();
  const told: string[] = [];
  const watching = (label: string): Rule => {
    const inner = sgd({ learningRate: 0.1 });
    return {
      ...inner,
      init: (spec) => (told.push(`${label} ${spec.name} ${spec.index}/${spec.count}`), inner.init(spec)),
    };
  };
  using _all = new Bench(backend, watching("all"));
  using _some = new Bench(backend, route([[/wide/, null], [/(?:)/, watching("some")]]));
  using _each = new Bench(backend, route([[/tall/, watching("one")], [/(?:)/, watching("rest")]]));
  assert.deepEqual(told, [
    ...["all wide 0/3", "all tall 1/3", "all square 2/3"],
    ...["some tall 0/2", "some square 1/2"],
    ...["rest wide 0/2", "one tall 0/1", "rest square 1/2"],
  ]);
});

Deno.test("clip scales as torch.nn.utils.clip_grad_norm_ does: by clip / (norm + 1e-6), never up", async () => {
  using backend = loopsBackend();
  for (const [clip, factor] of [[1, 1 / (5 + 1e-6)], [4.999, 4.999 / (5 + 1e-6)], [5.1, 1], [1e9, 1]]) {
    using params = new Params(backend);
    params.set("a", fromArray(backend, [0, 0], [2]));
    params.set("b", fromArray(backend, [0], [1]));
    using optimizer = new Optimizer(params, sgd({ learningRate: 1 }), { clip });
    for (const [name, values] of [["a", [3, 0]], ["b", [-4]]] as const) {
      using staged = fromArray(backend, values, [values.length]);
      optimizer.stage(name, staged);
    }
    assert.deepEqual(await optimizer.gradientNorm(), { norm: 5, kind: "exact", nonFinite: [] });
    optimizer.commit();
    const moved = [...await params.get("a").read(), ...await params.get("b").read()];
    [-3, 0, 4].forEach((value, i) => {
      assert.ok(Math.abs(moved[i] - value * factor) <= 1e-6 * Math.abs(value), `${moved} by ${factor}`);
      if (factor === 1) assert.equal(moved[i], value);
    });
  }
});

Deno.test("clip counts the 1e-6 beside a norm as small as it", () => {
  using backend = loopsBackend();
  using params = new Params(backend);
  params.set("w", fromArray(backend, [0], [1]));
  using optimizer = new Optimizer(params, sgd({ learningRate: 1 }), { clip: 1e-6 });
  using gradient = fromArray(backend, [3e-6], [1]);
  optimizer.stage("w", gradient);
  optimizer.commit();
  const [moved] = params.get("w").readSync();
  assert.ok(Math.abs(moved / -0.75e-6 - 1) < 1e-5, `${moved}`);
});

Deno.test("clip takes the norm of the mean gradient when micro-batches are accumulated", async () => {
  using backend = loopsBackend();
  using whole = new Bench(backend, sgd({ learningRate: 1 }));
  using parts = new Bench(backend, accumulate(4, sgd({ learningRate: 1 })), { clip: 0.5 });
  whole.stage(meanGradient(1, 4));
  for (let micro = 0; micro < 4; micro++) parts.stage(gradient(1, micro));
  const norm = (await whole.optimizer.gradientNorm()).norm;
  const { norm: accumulated, kind } = await parts.optimizer.gradientNorm();
  assert.ok(Math.abs(accumulated / norm - 1) < 1e-6);
  assert.equal(kind, "exact", "whole gradients were added up");
  const before = await parts.weights();
  parts.optimizer.commit();
  const after = await parts.weights();
  const moved = NAMES.flatMap((name) => after[name].map((value, i) => value - before[name][i]));
  assert.ok(Math.abs(rms(moved) * Math.sqrt(moved.length) - 0.5) < 1e-5, "the step has the clipped length");
});

Deno.test("gradientNorm() is exact for galore, whose gradients are projected, in every step", async () => {
  using backend = loopsBackend();
  const rule = () => finish(galore(identity(), { rank: 1, updateProjGap: GAP }), { learningRate: 0.1 });
  using bench = new Bench(backend, rule(), { clip: 1 });
  using accumulating = new Bench(backend, accumulate(2, rule()));
  for (let step = 1; step <= GAP + 1; step++) {
    bench.stage(gradient(step, 0));
    const all = NAMES.flatMap((name) => [...gradient(step, 0)(name)]);
    const expected = rms(all) * Math.sqrt(all.length);
    for (const when of ["before", "after"]) {
      const { norm, kind } = await bench.optimizer.gradientNorm();
      assert.equal(kind, "exact");
      assert.ok(Math.abs(norm / expected - 1) < 1e-6, `${when} the refresh of step ${step}`);
      await bench.optimizer.refresh();
    }
    bench.optimizer.commit();
    for (let micro = 0; micro < 2; micro++) accumulating.stage(gradient(step, 0));
    await accumulating.optimizer.refresh();
    const { norm, kind } = await accumulating.optimizer.gradientNorm();
    assert.equal(kind, "projected");
    assert.ok(norm > 0 && norm < expected, "a projected norm is the shorter one");
    accumulating.optimizer.commit();
  }
});

Deno.test("gradientNorm() lists exactly the parameters whose gradient is not finite, and changes nothing", async () => {
  using backend = loopsBackend();
  for (
    const rule of [adamW({ learningRate: 0.1 }), finish(galore(scaleByAdam(), { rank: 2 }), { learningRate: 0.1 })]
  ) {
    using skipping = new Bench(backend, rule, { clip: 1 });
    using steady = new Bench(backend, rule, { clip: 1 });
    for (const bench of [skipping, steady]) {
      bench.stage(gradient(1, 0));
      await bench.commit();
    }
    const before = [await skipping.weights(), await store(skipping.optimizer.snapshot())];
    await assertNoLeak("a step that is skipped", backend, async () => {
      skipping.stage((name) => gradient(2, 0)(name).fill(name === "tall" ? NaN : name === "wide" ? Infinity : 1, 3, 4));
      const { nonFinite, norm } = await skipping.optimizer.gradientNorm();
      assert.deepEqual(nonFinite, ["wide", "tall"]);
      assert.ok(!Number.isFinite(norm));
      skipping.optimizer.discard();
    });
    assert.deepEqual([await skipping.weights(), await store(skipping.optimizer.snapshot())], before);
    assert.deepEqual(await skipping.optimizer.gradientNorm(), { norm: 0, kind: "exact", nonFinite: [] });
    for (const bench of [skipping, steady]) {
      bench.stage(gradient(3, 0));
      await bench.commit();
    }
    assert.deepEqual(await skipping.weights(), await steady.weights(), "as if the bad step had not been");
  }
});

Deno.test("discard() drops micro-batches, so that the next ones count from the first", async () => {
  using backend = loopsBackend();
  using bench = new Bench(backend, accumulate(2, sgd({ learningRate: 0.1 })));
  using fresh = new Bench(backend, accumulate(2, sgd({ learningRate: 0.1 })));
  bench.stage(gradient(9, 0));
  bench.optimizer.discard();
  for (const each of [bench, fresh]) {
    for (let micro = 0; micro < 2; micro++) each.stage(gradient(1, micro));
    each.optimizer.commit();
  }
  assert.deepEqual(await bench.weights(), await fresh.weights());
});

Deno.test("refresh() and gradientNorm() work where the host cannot see the memory", async () => {
  using backend = loopsBackend({ readSync: false });
  using training = new Training(backend, PARABOLA, finish(galore(scaleByAdam(), { rank: 2 }), { learningRate: 0.1 }), {
    clip: 1,
  });
  await training.steps(3);
  await training.stage();
  assert.ok((await training.optimizer.gradientNorm()).norm > 0);
});

Deno.test("restore() refuses another set of parameters", () => {
  using backend = loopsBackend();
  using bench = new Bench(backend, sgd({ learningRate: 0.1 }));
  const { step, leaves } = bench.optimizer.snapshot();
  const other = new Map(leaves);
  other.delete("tall");
  assert.throws(() => bench.optimizer.restore({ step, leaves: other }), /1 parameters missing, 0 unknown: tall/);
  other.set("head", leaves.get("tall")!);
  assert.throws(() => bench.optimizer.restore({ step, leaves: other }), /1 parameters missing, 1 unknown: tall, head/);
});

Deno.test("restore() of an optimizer's own snapshot changes nothing", async () => {
  using backend = loopsBackend();
  using training = new Training(backend, PARABOLA, adamW({ learningRate: 0.1 }), { clip: 1 });
  await training.steps(2);
  await training.stage();
  training.optimizer.restore(training.optimizer.snapshot());
  await training.commit();
  assert.equal(training.optimizer.step, 3);
});

Deno.test("restore() drops what was staged before", async () => {
  using backend = loopsBackend();
  using training = new Training(backend, PARABOLA, sgd({ learningRate: 0.1 }), { clip: 1 });
  const stored = await store(training.optimizer.snapshot());
  await training.stage();
  load(backend, stored, training.optimizer);
  assert.equal((await training.optimizer.gradientNorm()).norm, 0);
  assert.throws(() => training.optimizer.commit(), /no gradient is staged/);
});

Deno.test("commit() holds temporaries of one parameter at a time", () => {
  const size = 1000;
  const peakOf = (count: number, decayPlacement: "before" | "after") => {
    using backend = loopsBackend();
    using params = new Params(backend);
    for (let i = 0; i < count; i++) params.set(`${i}`, fromArray(backend, numbers(`${i}`, size), [size]));
    using optimizer = new Optimizer(params, adamW({ learningRate: 0.1, weightDecay: 0.1, decayPlacement }), {
      clip: 1,
    });
    for (const name of params.names()) optimizer.stage(name, params.get(name));
    return peakBytes(backend, () => optimizer.commit()) / (4 * size);
  };
  for (const decayPlacement of ["before", "after"] as const) {
    const one = peakOf(1, decayPlacement);
    assert.ok(peakOf(12, decayPlacement) < one + 1, "in units of a parameter");
  }
});
