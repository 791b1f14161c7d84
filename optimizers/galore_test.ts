/** GaLore itself: what it costs, what it equals, when it renews, and what it refuses. */
import assert from "node:assert/strict";
import { loopsBackend } from "../backends/cpu/loops/mod.ts";
import { fromArray, OutOfMemoryError, Params } from "../core/mod.ts";
import { rmsError } from "../core/testing/golden.ts";
import { assertNoLeak } from "../core/testing/leaks.ts";
import {
  adamW,
  addDecayedWeights,
  type BasisStrategy,
  exactBasis,
  finish,
  flattenState,
  galore,
  galoreAdamW,
  type GaloreOptions,
  galoreSgd,
  galoreShapes,
  gramBasis,
  identity,
  Optimizer,
  polarBasis,
  type RefreshMode,
  route,
  type Rule,
  scaleByAdam,
  sgd,
  stateBytes,
  subspaceBasis,
  trace,
  unflattenState,
} from "./mod.ts";
import { INNER, load, numbers, PARABOLA, PROJ_TYPES, store, Training } from "./testing/rules.ts";

/** A strategy that counts what it is asked. */
function counting(inner: BasisStrategy): { basis: BasisStrategy; asked: string[] } {
  const asked: string[] = [];
  const basis: BasisStrategy = {
    ...inner,
    compute: (gradient, request) => {
      asked.push(`${request.side} ${request.rank} of ${gradient}${request.previous ? " again" : ""}`);
      return inner.compute(gradient, request);
    },
  };
  return { basis, asked };
}

const learningRate = 0.05;

for (const dtype of ["f32", "f64"] as const) {
  for (const projType of PROJ_TYPES) {
    Deno.test(`galore() equals its inner rule when the rank is full, the rule linear, ${projType} in ${dtype}`, async () => {
      using backend = loopsBackend();
      // left and right of a matrix whose other side is shorter have no full rank, as the released SVD is thin
      const problem = projType === "std" ? PARABOLA : { ...PARABOLA, start: { square: PARABOLA.start.square } };
      for (const weightDecay of [0, 0.1]) {
        using plain = new Training(backend, problem, sgd({ learningRate, weightDecay }), { dtype });
        const inner = galore(identity(), { rank: 99, updateProjGap: 3, projType });
        using projected = new Training(backend, problem, finish(inner, { learningRate, weightDecay }), { dtype });
        await plain.steps(10);
        await projected.steps(10);
        const expected = await plain.weights();
        for (const [name, weight] of Object.entries(await projected.weights())) {
          const error = rmsError(weight, expected[name]);
          assert.ok(error <= (dtype === "f32" ? 1e-6 : 1e-13), `${name}: ${error}`);
        }
      }
    });
  }
}

Deno.test("galore() equals momentum when the rank is full and the basis stays", async () => {
  using backend = loopsBackend();
  for (const nesterov of [false, true]) {
    using plain = new Training(backend, PARABOLA, sgd({ learningRate, momentum: 0.7, nesterov }), { dtype: "f64" });
    const inner = galore(trace({ decay: 0.7, nesterov }), { rank: 99, updateProjGap: Infinity });
    using projected = new Training(backend, PARABOLA, finish(inner, { learningRate }), { dtype: "f64" });
    await plain.steps(10);
    await projected.steps(10);
    const expected = await plain.weights();
    for (const [name, weight] of Object.entries(await projected.weights())) {
      assert.ok(rmsError(weight, expected[name]) <= 1e-13, name);
    }
  }
});

Deno.test("galore() over Adam keeps mr + 2nr elements for m <= n, and no byte more", async () => {
  for (const [m, n, rank] of [[4, 7, 2], [5, 5, 3], [4, 6, 9]]) {
    for (const shape of [[m, n], [n, m]]) {
      using backend = loopsBackend();
      using params = new Params(backend);
      params.set("w", fromArray(backend, numbers("w", m * n), shape));
      const rule = finish(galore(scaleByAdam(), { rank }), { learningRate });
      using optimizer = new Optimizer(params, rule);
      optimizer.stage("w", fromArray(backend, numbers("g", m * n), shape));
      await optimizer.refresh();
      optimizer.commit();
      const r = Math.min(rank, m);
      const expected = 4 * (m * r + 2 * n * r);
      const [{ state }] = optimizer.snapshot().leaves.values();
      assert.equal(stateBytes(state), expected, `[${shape}] rank ${rank}`);
      assert.equal(
        backend.memory().inUse,
        4 * m * n * 2 + expected,
        "beside the weight and the gradient that the test made",
      );
    }
  }
});

Deno.test("galoreShapes() says what galore() keeps, for each side", async () => {
  for (const projType of PROJ_TYPES) {
    for (const shape of [[6, 4], [4, 6], [5, 5]]) {
      for (const rank of [2, 4, 50]) {
        using backend = loopsBackend();
        using params = new Params(backend);
        params.set("w", fromArray(backend, numbers("w", shape[0] * shape[1]), shape));
        const { basis, asked } = counting(gramBasis());
        using optimizer = new Optimizer(params, galore(trace({ decay: 0.9 }), { rank, projType, basis }));
        optimizer.stage("w", fromArray(backend, numbers("g", shape[0] * shape[1]), shape));
        await optimizer.refresh();
        const { bases, projected } = galoreShapes(shape, rank, projType);
        const { tensors } = flattenState(optimizer.snapshot().leaves.get("w")!.state);
        assert.deepEqual(Object.fromEntries([...tensors].map(([path, { shape }]) => [path, shape])), {
          "inner/mu": projected,
          ...Object.fromEntries(bases.map(({ side, shape }) => [side, shape])),
        });
        assert.equal(asked.length, bases.length);
      }
    }
  }
});

Deno.test("galore() renews its basis before steps 1, 1 + gap, 1 + 2 gap and keeps the inner state", async () => {
  using backend = loopsBackend();
  const problem = { ...PARABOLA, start: { tall: PARABOLA.start.tall } };
  const { basis, asked } = counting(gramBasis());
  using training = new Training(
    backend,
    problem,
    finish(galore(scaleByAdam(), { rank: 2, updateProjGap: 4, basis }), {
      learningRate,
    }),
  );
  const renewed: number[] = [];
  for (let step = 1; step <= 10; step++) {
    await training.stage();
    if (training.optimizer.refreshDue) {
      const mu = () => training.optimizer.snapshot().leaves.get("tall")!.state[0] as { inner: { mu: object } };
      const before = mu().inner.mu;
      await training.optimizer.refresh();
      assert.equal(mu().inner.mu, before, "moments are kept");
      assert.equal(training.optimizer.refreshDue, false, "once a step");
      renewed.push(step);
    }
    training.optimizer.commit();
  }
  assert.deepEqual(renewed, [1, 5, 9]);
  assert.deepEqual(asked, ["right 2 of f32[6, 4]", "right 2 of f32[6, 4] again", "right 2 of f32[6, 4] again"]);
});

Deno.test("galore() keeps its first basis when the gap is Infinity", async () => {
  using backend = loopsBackend();
  const { basis, asked } = counting(gramBasis());
  const rule = finish(galore(identity(), { rank: 2, updateProjGap: Infinity, basis }), { learningRate });
  using training = new Training(backend, PARABOLA, rule);
  await training.steps(30);
  assert.equal(asked.length, 3, "one for each matrix");
});

/** Which of `count` matrices renew their bases in each step from 1. */
async function schedule(rule: Parameters<typeof route>[0] | Rule, count: number, steps: number): Promise<string[][]> {
  using backend = loopsBackend();
  using params = new Params(backend);
  for (let i = 0; i < count; i++) params.set(`${i}`, fromArray(backend, numbers(`w${i}`, 6), [2, 3]));
  using optimizer = new Optimizer(params, Array.isArray(rule) ? route(rule) : rule as Rule);
  const renewed: string[][] = [];
  for (let step = 1; step <= steps; step++) {
    for (const [name, weight] of params.entries()) {
      optimizer.stage(name, weight);
    }
    const due = optimizer.refreshDue;
    await optimizer.refresh();
    const leaves = [...optimizer.snapshot().leaves].filter(([, { state }]) => state.renewedAt === step);
    assert.equal(leaves.length > 0, due, `step ${step}`);
    renewed.push(leaves.map(([name]) => name));
    optimizer.commit();
  }
  return renewed;
}

const renewing = (refresh: RefreshMode | undefined, updateProjGap: number) =>
  galore(identity(), { rank: 1, updateProjGap, refresh, basis: gramBasis() });

Deno.test("galore() renews all bases in the same steps together, and one after the other staggered", async () => {
  const all = ["0", "1", "2"];
  for (const refresh of [undefined, "together"] as const) {
    assert.deepEqual(await schedule(renewing(refresh, 4), 3, 9), [all, [], [], [], all, [], [], [], all]);
  }
  // phases 0, 2 and 4
  assert.deepEqual(
    await schedule(renewing("staggered", 6), 3, 14),
    [all, [], [], [], ["2"], [], ["0"], [], ["1"], [], ["2"], [], ["0"], []],
  );
  assert.deepEqual(await schedule(renewing("staggered", 1), 3, 3), [all, all, all], "each in every step");
  for (const refresh of ["together", "staggered"] as const) {
    assert.deepEqual(await schedule(renewing(refresh, Infinity), 3, 9), [all, ...new Array(8).fill([])]);
  }
});

Deno.test("galore() staggered gives every step its even share, and each matrix a renewal a gap", async () => {
  for (const [count, gap] of [[20, 7], [5, 12], [8, 8], [9, 2]]) {
    const renewed = (await schedule(renewing("staggered", gap), count, 1 + 4 * gap)).slice(1);
    // for half a gap nothing is renewed again, so that the first intervals are a gap long on average
    const settled = Math.ceil(gap / 2);
    for (const [index, names] of renewed.entries()) {
      const least = index < settled ? 0 : Math.floor(count / gap);
      assert.ok(names.length >= least && names.length <= Math.ceil(count / gap), `step ${index + 2}`);
    }
    assert.deepEqual(renewed.slice(0, Math.floor(gap / 2) - 1).flat(), []);
    for (let from = settled; from + gap <= renewed.length; from++) {
      const names = renewed.slice(from, from + gap).flat();
      assert.deepEqual(names.sort(), Array.from({ length: count }, (_, i) => `${i}`).sort());
    }
  }
});

Deno.test("galore() staggers the matrices of each rule among themselves", async () => {
  const renewed = await schedule([[/[01]/, renewing("staggered", 4)], [/(?:)/, renewing("staggered", 4)]], 4, 7);
  // two and two: phases 0 and 2
  assert.deepEqual(renewed, [["0", "1", "2", "3"], [], ["1", "3"], [], ["0", "2"], [], ["1", "3"]]);
});

Deno.test("galore() staggered goes on in its rhythm and with the same bits after a restore between renewals", async () => {
  using backend = loopsBackend();
  const make = (refresh: RefreshMode) => {
    const options: GaloreOptions = { rank: 2, updateProjGap: 6, refresh, basis: polarBasis() };
    return new Training(backend, PARABOLA, finish(galore(scaleByAdam(), options), { learningRate }));
  };
  const phases = ({ optimizer }: Training) =>
    [...optimizer.snapshot().leaves.values()].map(({ state }) => (state[0] as { phase: number }).phase);
  for (const stopAt of [1, 3, 4, 8]) {
    using first = make("staggered");
    await first.steps(stopAt);
    // the rhythm is the state's, whatever the options say by then
    for (const refresh of ["staggered", "together"] as const) {
      using second = make(refresh);
      for (const [name, weight] of Object.entries(await first.weights())) second.params.get(name).write(weight);
      load(backend, await store(first.optimizer.snapshot()), second.optimizer);
      assert.deepEqual(phases(second), [0, 2, 4]);
      using reference = make("staggered");
      await reference.steps(stopAt + 9);
      await second.steps(9);
      assert.deepEqual(await second.weights(), await reference.weights(), `stopped after ${stopAt}`);
    }
  }
});

Deno.test("galore() restores a state from before there were phases as together", async () => {
  using backend = loopsBackend();
  const make = () => new Training(backend, PARABOLA, galore(identity(), { rank: 2, refresh: "staggered" }));
  using first = make();
  await first.steps(1);
  const stored = JSON.parse(JSON.stringify((await store(first.optimizer.snapshot())).leaves.tall.values));
  assert.equal(delete stored.phase, true);
  const { state } = first.optimizer.snapshot().leaves.get("tall")!;
  assert.equal(unflattenState(state, flattenState(state).tensors, stored).phase, 0);
});

Deno.test("galore() multiplies its change by scale alone", async () => {
  using backend = loopsBackend();
  const problem = { ...PARABOLA, start: { wide: PARABOLA.start.wide } };
  const changeOf = async (options: Partial<GaloreOptions>) => {
    using training = new Training(backend, problem, galore(scaleByAdam(), { rank: 2, ...options }), { dtype: "f64" });
    const before = (await training.weights()).wide;
    await training.steps(1);
    return Float64Array.from((await training.weights()).wide, (value, i) => value - before[i]);
  };
  const whole = await changeOf({});
  const quarter = await changeOf({ scale: 0.25 });
  assert.ok(rmsError(quarter.map((value) => 4 * value), whole) < 1e-12);
});

Deno.test("galore() gives equal trajectories whichever strategy finds a well-determined basis", async () => {
  using backend = loopsBackend();
  const run = async (basis: BasisStrategy) => {
    const rule = finish(galore(trace({ decay: 0.9 }), { rank: 2, updateProjGap: Infinity, basis }), { learningRate });
    using training = new Training(backend, PARABOLA, rule);
    await training.steps(6);
    return await training.weights();
  };
  const expected = await run(exactBasis());
  const others: [BasisStrategy, number][] = [
    [gramBasis(), 1e-5],
    [subspaceBasis({ gramBelow: 0, iterations: 40 }), 1e-5],
    [polarBasis({ iterations: 40 }), 1e-2], // its rows hold a thousandth of noise
  ];
  for (const [basis, most] of others) {
    for (const [name, weight] of Object.entries(await run(basis))) {
      assert.ok(rmsError(weight, expected[name]) < most, `${basis.name}: ${name} ${rmsError(weight, expected[name])}`);
    }
  }
});

Deno.test("galore() names the parameter when its gradient is not finite, and leaves it as it was", async () => {
  using backend = loopsBackend();
  await assertNoLeak("a failed refresh", backend, async () => {
    for (const projType of ["std", "full"] as const) {
      for (const basis of [gramBasis(), exactBasis(), subspaceBasis({ gramBelow: 0 })]) {
        for (const bad of [NaN, Infinity, -Infinity]) {
          using training = new Training(backend, PARABOLA, galore(identity(), { rank: 2, basis, projType }));
          await training.stage();
          training.optimizer.discard();
          const gradient = numbers("g", 24);
          gradient[17] = bad;
          using staged = fromArray(backend, gradient, [6, 4]);
          training.optimizer.stage("tall", staged);
          await assert.rejects(
            training.optimizer.refresh(),
            /^RangeError: Cannot renew the basis of "tall": Cannot find a basis: the gradient is not finite$/,
          );
          training.optimizer.discard();
          assert.equal((await training.steps(2)).length, 2, "it goes on after discard()");
        }
      }
    }
  });
});

Deno.test("galore() frees the first side's basis when the second side's fails, and passes other errors on", async () => {
  using backend = loopsBackend();
  const failing: BasisStrategy = {
    ...gramBasis(),
    compute: (gradient, request) => {
      if (request.side === "right") throw new OutOfMemoryError(2, 1, 2);
      return gramBasis().compute(gradient, request);
    },
  };
  await assertNoLeak("a failed refresh", backend, async () => {
    const rule = galore(identity(), { rank: 2, basis: failing, projType: "full" });
    using training = new Training(backend, PARABOLA, rule);
    await training.stage();
    await assert.rejects(training.optimizer.refresh(), OutOfMemoryError);
  });
});

Deno.test("galore() refuses what it cannot project", () => {
  using backend = loopsBackend();
  assert.throws(() => galore(identity(), { rank: 0 }), /rank 0: expected at least 1/);
  assert.throws(() => galore(identity(), { rank: 2.5 }), /rank 2.5/);
  assert.throws(() => galore(identity(), { rank: 2, updateProjGap: 0 }), /every 0 steps/);
  assert.throws(() => galore(identity(), { rank: 2, updateProjGap: NaN }), /every NaN steps/);
  assert.throws(() => galore(galore(identity(), { rank: 2 }), { rank: 1 }), /Cannot project galore in galore\(\)/);
  using params = new Params(backend);
  params.set("matrix", fromArray(backend, numbers("w", 6), [2, 3]));
  params.set("norm", fromArray(backend, [1, 2, 3], [3]));
  const before = backend.memory();
  assert.throws(
    () => new Optimizer(params, galore(scaleByAdam(), { rank: 2 })),
    /Cannot project "norm": expected a matrix, got f32\[3\]/,
  );
  assert.deepEqual(backend.memory().live, before.live, "the state made before the error is freed");
});

Deno.test("galore() takes rules of the gradient alone, by type", () => {
  // never called: only its types count
  const refused = () => {
    // @ts-expect-error weight decay reads the parameter
    galore(addDecayedWeights(0.1), { rank: 2 });
    // @ts-expect-error and so may a whole optimizer
    galore(adamW({ learningRate: 0.1 }), { rank: 2 });
    // @ts-expect-error a rank is needed
    galore(identity(), {});
  };
  void refused;
  for (const { make } of Object.values(INNER)) galore(make(), { rank: 2 });
});

Deno.test("galoreAdamW() projects the named matrices and no others", () => {
  using backend = loopsBackend();
  using params = new Params(backend);
  params.set("a.proj.weight", fromArray(backend, numbers("w", 6), [2, 3]));
  params.set("norm", fromArray(backend, [1, 2, 3], [3]));
  for (const make of [galoreAdamW, galoreSgd]) {
    const routing = make({ learningRate, projected: /proj/, galore: { rank: 1 } });
    using optimizer = new Optimizer(params, routing);
    assert.equal(optimizer.learningRate, learningRate);
    const sides = [...optimizer.snapshot().leaves].map(([name, { state }]) =>
      `${name}: ${(state[0] as { side?: string }).side}`
    );
    assert.deepEqual(sides, ["a.proj.weight: left", "norm: undefined"]);
  }
});
