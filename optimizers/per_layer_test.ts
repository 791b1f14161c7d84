/** Per-layer updates: the bits of collected ones in less memory, and nothing in that is not finite; exact clipping. */
import assert from "node:assert/strict";
import { loopsBackend } from "../backends/cpu/loops/mod.ts";
import { cpuBackend } from "../backends/cpu/mod.ts";
import { type Backend, backward, checkpoint, fromArray, matmul, mean, type Params, scope } from "../core/mod.ts";
import { square, tanh, type Tensor } from "../core/mod.ts";
import { assertNoLeak, peakBytes } from "../core/testing/leaks.ts";
import {
  accumulate,
  adamW,
  affine,
  apollo,
  blockwise8bit,
  cosine,
  finish,
  fira,
  galore,
  type GaloreOptions,
  type Optimizer,
  type OptimizerOptions,
  polarBasis,
  type Rule,
  scaleByAdam,
  sgd,
  storeAs,
} from "./mod.ts";
import { GradientBench, normals } from "./testing/bench.ts";
import { PARABOLA, RULES, store, Training } from "./testing/rules.ts";

const learningRate = cosine({ peak: 0.05, warmup: 3, total: 20 });
const GAP5: GaloreOptions = { rank: 2, updateProjGap: 5 };
const eightBit = () => storeAs(blockwise8bit(), scaleByAdam(), { minSize: 0 });

/** Rules that renew bases in steps 1, 6 and 11, or draw them. */
const PROJECTING: Readonly<Record<string, () => Rule>> = {
  "galore()": () => finish(galore(scaleByAdam(), GAP5), { learningRate, weightDecay: 0.1, decayPlacement: "after" }),
  "galore() of both sides, staggered": () =>
    finish(galore(scaleByAdam(), { ...GAP5, projType: "full", refresh: "staggered" }), { learningRate }),
  "galore() of 8 bits, int4 projector, transport": () =>
    finish(galore(eightBit(), { ...GAP5, projector: affine({ bits: 4 }), moments: "transport" }), { learningRate }),
  "galore() lazy on a device's basis": () =>
    finish(galore(scaleByAdam(), { ...GAP5, basis: polarBasis(), lazy: {} }), { learningRate }),
  "fira()": () => finish(fira(scaleByAdam(), GAP5), { learningRate, weightDecay: 0.1 }),
  "apollo()": () => finish(apollo(scaleByAdam(), GAP5), { learningRate }),
};

const BACKENDS: Readonly<Record<string, () => Backend | Promise<Backend>>> = {
  "the loops": () => loopsBackend(),
  "loops that the host cannot see": () => loopsBackend({ readSync: false }),
  "the CPU backend": () => cpuBackend({ threads: 1, blas: "off" }),
};

/** Weights, states and norms after eleven steps. */
async function trained(backend: Backend, rule: Rule, options: OptimizerOptions, steps = 11): Promise<unknown> {
  using training = new Training(backend, PARABOLA, rule, options);
  const norms: unknown[] = [];
  for (let step = 0; step < steps; step++) {
    for (let micro = 0; micro < training.optimizer.microBatches; micro++) await training.stage();
    if (training.optimizer.refreshDue) await training.optimizer.refresh();
    norms.push(await training.optimizer.gradientNorm());
    training.optimizer.commit();
  }
  return [await training.weights(), (await store(training.optimizer.snapshot())).leaves, norms];
}

Deno.test("perLayer gives the bits of collected updates for every rule, with and without clipping", async () => {
  using backend = loopsBackend();
  for (const { name, kind, make } of RULES) {
    const rule = () => make(PARABOLA.rate[kind]);
    for (const clip of [undefined, 1]) {
      await assertNoLeak(name, backend, async () => {
        const expected = await trained(backend, rule(), { clip }, 9);
        assert.deepEqual(
          await trained(backend, rule(), { clip, perLayer: true }, 9),
          expected,
          `${name}, clip ${clip}`,
        );
      });
    }
  }
});

const VARIANTS: readonly OptimizerOptions[] = [
  {},
  { clip: 1 },
  { guard: true },
  { clip: 1, guard: true },
  { clipExact: true },
  { clip: 1, clipExact: true, guard: true },
];

for (const [where, makeBackend] of Object.entries(BACKENDS)) {
  for (const [name, make] of Object.entries(PROJECTING)) {
    Deno.test(`perLayer gives the bits of collected updates for ${name} through three renewals on ${where}`, async () => {
      using backend = await makeBackend();
      for (const options of VARIANTS) {
        for (const microBatches of options.clipExact ? [3] : [1, 3]) {
          await assertNoLeak(name, backend, async () => {
            const rule = () => accumulate(microBatches, make());
            const expected = await trained(backend, rule(), options);
            const layered = await trained(backend, rule(), { ...options, perLayer: true });
            assert.deepEqual(layered, expected, `${JSON.stringify(options)}, ${microBatches} micro-batches`);
          });
        }
      }
    });
  }
}

/** A loss in which `w` is used twice and `v` inside a recomputed part. */
function tiedLoss(params: Params): Tensor {
  const w = params.get("w");
  const v = params.get("v");
  const x = fromArray(params.backend, normals([3, 6], "x"), [3, 6]);
  const hidden = checkpoint((h) => tanh(matmul(h, v)), matmul(x, w));
  return mean(square(matmul(tanh(matmul(hidden, params.get("u"))), w, { transposeB: true })));
}

Deno.test("perLayer waits for the last use of a tied parameter, and for what recomputes", async () => {
  using backend = loopsBackend();
  const run = async (rule: Rule, perLayer: boolean) => {
    using bench = new GradientBench(backend, { w: [6, 6], v: [6, 6], u: [6, 6] }, rule, { perLayer });
    const order: string[] = [];
    for (let step = 0; step < 7; step++) {
      {
        using _ = scope("step");
        backward(tiedLoss(bench.params), (name, gradient) => {
          bench.optimizer.stage(name, gradient);
          order.push(name);
        });
      }
      await bench.optimizer.refresh();
      bench.optimizer.commit();
    }
    return [await bench.weights(), order];
  };
  for (const make of [() => sgd({ learningRate: 0.1, momentum: 0.5 }), ...Object.values(PROJECTING)]) {
    const [weights, order] = await run(make(), true);
    assert.deepEqual([weights, order], await run(make(), false));
    assert.deepEqual((order as string[]).slice(0, 3), ["u", "v", "w"]);
  }
});

const GUARDED: Readonly<Record<string, () => Rule>> = {
  ...PROJECTING,
  "adamW()": () => adamW({ learningRate, weightDecay: 0.1 }),
  "adamW() of 8 bits": () => finish(eightBit(), { learningRate, weightDecay: 0.1 }),
};

for (const [where, makeBackend] of Object.entries(BACKENDS)) {
  Deno.test(`perLayer under a guard lets nothing in from a gradient on that is not finite, on ${where}`, async () => {
    using backend = await makeBackend();
    const shapes = { a: [6, 9], b: [12, 5], c: [4, 4] };
    for (const [name, make] of Object.entries(GUARDED)) {
      await assertNoLeak(name, backend, async () => {
        using bench = new GradientBench(backend, shapes, make(), { guard: true, perLayer: true });
        // a basis follows its own gradient, and transported moments follow the basis
        const isRenewed = (path: string) => /left|right/.test(path) || (/mu/.test(path) && /transport/.test(name));
        const kept = async () => {
          const { leaves } = await store(bench.optimizer.snapshot());
          return Object.fromEntries(
            Object.entries(await bench.weights()).map(([leaf, weight]) => [
              leaf,
              [weight, Object.entries(leaves[leaf].tensors).filter(([path]) => !isRenewed(path))],
            ]),
          );
        };
        for (const bad of [6, 8, 11]) {
          const spoiled = bench.gradients(bad);
          spoiled.b[7] = [NaN, Infinity, -Infinity][bad % 3];
          while (bench.optimizer.step < bad - 1) await bench.step(bench.gradients(bench.optimizer.step + 1));
          const before = await kept();
          await bench.step(spoiled);
          const after = await kept();
          assert.deepEqual([after.b, after.c], [before.b, before.c], `${name} in step ${bad}`);
          bench.optimizer.discard();
          for (const values of Object.values(await bench.weights())) {
            assert.ok(Array.from(values).every(Number.isFinite), `${name} in step ${bad}`);
          }
        }
        const before = await kept();
        await bench.step(bench.gradients(12));
        const after = await kept();
        for (const leaf of ["a", "b", "c"]) {
          assert.notDeepEqual(after[leaf][0], before[leaf][0], `${name}: ${leaf} moves`);
        }
      });
    }
  });
}

const LAYERS = 6;
const WIDTH = 64;
const GRADIENT = 4 * WIDTH * WIDTH;

/** A step of a network of six square layers; what is in use each time that a gradient was handed over. */
function layeredStep(params: Params, optimizer: Optimizer): { name: string; inUse: number; isHeld: boolean }[] {
  const seen: { name: string; inUse: number; isHeld: boolean }[] = [];
  using _ = scope("step");
  let h = fromArray(params.backend, normals([2, WIDTH], "x"), [2, WIDTH]);
  for (const [, weight] of params.entries()) h = tanh(matmul(h, weight));
  backward(mean(square(h)), (name, gradient) => {
    optimizer.stage(name, gradient);
    seen.push({ name, inUse: params.backend.memory().inUse, isHeld: gradient.isShared });
  });
  return seen;
}

/** Peak of a settled step, over what is in use before it, and what each stage left. */
async function memoryOf(rule: Rule, options: OptimizerOptions) {
  using backend = loopsBackend();
  const shapes = Object.fromEntries(Array.from({ length: LAYERS }, (_, i) => [`layer${i}`, [WIDTH, WIDTH]]));
  using bench = new GradientBench(backend, shapes, rule, options);
  await bench.step(bench.gradients(1));
  const before = backend.memory().inUse;
  let seen: ReturnType<typeof layeredStep> = [];
  const peak = peakBytes(backend, () => {
    seen = layeredStep(bench.params, bench.optimizer);
    bench.optimizer.commit();
  });
  assert.equal(backend.memory().inUse, before, `a step of ${rule.name} leaves nothing`);
  assert.equal(seen.length, LAYERS);
  return { peak, held: seen.map(({ inUse }) => inUse - before), isHeld: seen.map(({ isHeld }) => isHeld) };
}

Deno.test("perLayer holds one gradient at a time: those of settled parameters are gone during backward", async () => {
  const rules: Readonly<Record<string, () => Rule>> = {
    "adamW()": () => adamW({ learningRate: 0.01 }),
    "adamW() of 8 bits": () => finish(eightBit(), { learningRate: 0.01 }),
    "fira()": () => finish(fira(scaleByAdam(), { rank: 4 }), { learningRate: 0.01 }),
    "apollo()": () => finish(apollo(scaleByAdam(), { rank: 4 }), { learningRate: 0.01 }),
  };
  for (const [name, make] of Object.entries(rules)) {
    const collected = await memoryOf(make(), {});
    const layered = await memoryOf(make(), { perLayer: true });
    assert.ok(collected.held.at(-1)! >= LAYERS * GRADIENT, `${name}: ${collected.held}`);
    assert.ok(layered.held.every((bytes) => bytes < 1.5 * GRADIENT), `${name}: ${layered.held}`);
    assert.deepEqual([new Set(collected.isHeld), new Set(layered.isHeld)], [new Set([true]), new Set([false])]);
    assert.ok(layered.peak <= collected.peak - (LAYERS - 2) * GRADIENT, `${name}: ${layered.peak}, ${collected.peak}`);
  }
});

Deno.test("perLayer with clipping holds of a GaLore matrix what is projected, at a renewal too", async () => {
  const make = () => finish(galore(scaleByAdam(), { rank: 4, updateProjGap: 1 }), { learningRate: 0.01 });
  using backend = loopsBackend();
  const shapes = Object.fromEntries(Array.from({ length: LAYERS }, (_, i) => [`layer${i}`, [WIDTH, WIDTH]]));
  for (const perLayer of [true, false]) {
    using bench = new GradientBench(backend, shapes, make(), { clip: 1, perLayer });
    await bench.step(bench.gradients(1));
    const before = backend.memory().inUse;
    const seen = layeredStep(bench.params, bench.optimizer);
    assert.equal(bench.optimizer.refreshDue, !perLayer, "renewed at once");
    const held = seen.at(-1)!.inUse - before;
    if (perLayer) assert.ok(held < GRADIENT + LAYERS * (4 * 4 * WIDTH + 64) + 8192, `${held}`);
    else assert.ok(held >= LAYERS * GRADIENT, `${held}`);
    await bench.optimizer.refresh();
    bench.optimizer.commit();
  }
});

Deno.test("clipExact takes the norm of the whole mean gradient where the default has that of projections", async () => {
  for (const makeBackend of Object.values(BACKENDS)) {
    using backend = await makeBackend();
    const shapes = { w: [6, 9], v: [12, 5] };
    for (const perLayer of [false, true]) {
      for (const clipExact of [false, true]) {
        const rule = accumulate(3, finish(galore(scaleByAdam(), { ...GAP5, projType: "full" }), { learningRate }));
        using bench = new GradientBench(backend, shapes, rule, { clip: 1, clipExact, perLayer });
        for (let step = 1; step <= 2; step++) {
          const totals = Object.entries(shapes).map(([name, shape]) => {
            const parts = [0, 1, 2].map((micro) => normals(shape, name, "gradient", step, micro));
            return Float64Array.from(parts[0], (_, i) => parts.reduce((total, part) => total + part[i], 0) / 3);
          });
          const exact = Math.sqrt(totals.flatMap((total) => [...total]).reduce((sum, x) => sum + x * x, 0));
          for (let micro = 0; micro < 3; micro++) bench.stage(bench.gradients(step, micro));
          const { norm, kind } = await bench.optimizer.gradientNorm();
          assert.equal(kind, clipExact ? "exact" : "projected");
          if (clipExact) assert.ok(Math.abs(norm / exact - 1) < 1e-6, `${norm}, expected ${exact}`);
          else if (step === 2) assert.ok(norm < 0.9 * exact, `${norm} of ${exact}: a part is projected away`);
          if (bench.optimizer.refreshDue) await bench.optimizer.refresh();
          bench.optimizer.commit();
        }
      }
    }
  }
});

Deno.test("clipExact scales by the whole gradient's norm: a step is that of one batch of the mean", async () => {
  using backend = loopsBackend();
  const make = () => finish(galore(scaleByAdam(), GAP5), { learningRate: 0.01 });
  using parts = new GradientBench(backend, { w: [6, 9] }, accumulate(4, make()), { clip: 0.1, clipExact: true });
  using whole = new GradientBench(backend, { w: [6, 9] }, make(), { clip: 0.1 });
  for (let step = 1; step <= 7; step++) {
    // of equal micro-batches the sums and means are exact
    for (let micro = 0; micro < 4; micro++) parts.stage(parts.gradients(step));
    await parts.optimizer.refresh();
    parts.optimizer.commit();
    await whole.step(whole.gradients(step));
  }
  const [a, b] = [(await parts.weights()).w, (await whole.weights()).w];
  for (let i = 0; i < a.length; i++) assert.ok(Math.abs(a[i] - b[i]) < 1e-6, `${a[i]}, ${b[i]}`);
});

Deno.test("perLayer refuses a snapshot and a second gradient amid a step, and goes on after discard() and restore()", async () => {
  using backend = loopsBackend();
  const make = () =>
    new GradientBench(backend, { a: [6, 9], b: [4, 4] }, adamW({ learningRate: 0.01 }), { perLayer: true });
  using bench = make();
  await bench.step(bench.gradients(1));
  const stored = await store(bench.optimizer.snapshot());
  using other = make();
  await other.resume(bench, stored);
  const { a, b } = bench.gradients(2);
  bench.stage({ a });
  assert.throws(
    () => bench.optimizer.snapshot(),
    /^RangeError: Cannot take a snapshot: the update of "a" is done, commit\(\) is not$/,
  );
  assert.throws(
    () => bench.stage({ a }),
    /^RangeError: Cannot stage "a": its update of this step is done; commit\(\) first$/,
  );
  bench.optimizer.discard();
  assert.equal(bench.optimizer.step, 1);
  bench.optimizer.snapshot();
  bench.stage({ a });
  // what was settled is forgotten with the step
  const taken = other.optimizer.snapshot();
  bench.optimizer.restore({
    step: 1,
    leaves: new Map([...taken.leaves].map(([name, leaf]) => [name, leaf])),
  });
  bench.stage({ a, b });
  bench.optimizer.commit();
  assert.equal(bench.optimizer.step, 2);
});

for (const rounding of ["nearest", "stochastic", "master"] as const) {
  Deno.test(`perLayer gives the bits of collected updates to 16-bit weights that round by ${rounding}`, async () => {
    using backend = await cpuBackend({ threads: 1, blas: "off" });
    for (const [name, make] of Object.entries(GUARDED)) {
      const run = async (perLayer: boolean) => {
        const options = { dtype: "bf16", rounding, perLayer, guard: true } as const;
        using bench = new GradientBench(backend, { w: [6, 11], v: [5, 4] }, make(), options);
        for (let step = 1; step <= 7; step++) await bench.step(bench.gradients(step));
        return [await bench.weights(), (await store(bench.optimizer.snapshot())).leaves];
      };
      await assertNoLeak(name, backend, async () => assert.deepEqual(await run(true), await run(false), name));
    }
  });
}

for (const [name, make] of Object.entries(PROJECTING)) {
  Deno.test(`perLayer of ${name} goes on with the same bits after a restore at every step`, async () => {
    using backend = loopsBackend();
    for (const clip of [undefined, 1]) {
      const bench = () => new GradientBench(backend, { w: [6, 11], v: [5, 4] }, make(), { clip, perLayer: true });
      using whole = bench();
      for (let step = 1; step <= 8; step++) await whole.step(whole.gradients(step));
      const expected = [await whole.weights(), await store(whole.optimizer.snapshot())];
      using going = bench();
      for (let stopAt = 1; stopAt < 8; stopAt++) {
        await going.step(going.gradients(stopAt));
        using resumed = bench();
        // with clipping in the middle of the next step: renewed, and waiting for the norm
        const { w, v } = going.gradients(stopAt + 1);
        if (clip) going.stage({ w });
        await resumed.resume(going, await store(going.optimizer.snapshot()));
        going.optimizer.discard();
        await resumed.step(clip ? { v } : { w, v });
        for (let step = stopAt + 2; step <= 8; step++) await resumed.step(resumed.gradients(step));
        assert.deepEqual(
          [await resumed.weights(), await store(resumed.optimizer.snapshot())],
          expected,
          `after ${stopAt}`,
        );
      }
    }
  });
}
