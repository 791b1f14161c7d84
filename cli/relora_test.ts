/** ReLoRA whole: restarts reach the ranks and floors where LoRA stays at its first, and are the same on WebGPU. */
import assert from "node:assert/strict";
import { cpuBackend, loopsBackend } from "../backends/cpu/mod.ts";
import { webgpuBackend } from "../backends/webgpu/mod.ts";
import { webgpuTest } from "../backends/webgpu/testing.ts";
import { type Backend, backward, fromArray, keyOf, mul, Params, scope, square, sub, sum, svd } from "../core/mod.ts";
import { assertRms } from "../core/testing/golden.ts";
import { random } from "../core/testing/gradcheck.ts";
import { initLora, type LoraConfig, mergeLora, restartLora, withLora } from "../models/mod.ts";
import {
  adamW,
  blockwise8bit,
  finish,
  galore,
  jaggedCosine,
  Optimizer,
  type PruneOptions,
  randomBasis,
  type Rule,
  scaleByAdam,
  sgd,
  storeAs,
} from "../optimizers/mod.ts";

const SIDE = 32;
const CYCLE = 300;
const CYCLES = 3;
const RANK = 4;
const LORA: LoraConfig = { r: RANK, alpha: RANK, targets: ["map"] };

/** Singular values of the change that is to be learned: of rank 12. */
const SPECTRUM = Array.from({ length: CYCLES * RANK }, (_, k) => 6 - 0.4 * k);

/** [SIDE, SIDE] with that spectrum. */
function targetChange(): Float64Array {
  const { left, right } = svd(random("target", SIDE * SIDE), SIDE, SIDE);
  return Float64Array.from(left, (_, at) => {
    const [row, column] = [Math.floor(at / SIDE), at % SIDE];
    return SPECTRUM.reduce((total, value, k) => total + value * left[SIDE * row + k] * right[SIDE * column + k], 0);
  });
}

/** What a matrix of `rank` leaves of the target at best (Eckart & Young 1936), in Frobenius' norm. */
const floorOf = (rank: number) => Math.hypot(...SPECTRUM.slice(rank));

/** Learns the change, with restarts or without. Gives rank of the change and distance from the target after each cycle. */
async function learn(reset: PruneOptions["reset"] | undefined): Promise<{ rank: number; distance: number }[]> {
  using backend = loopsBackend();
  using base = new Params(backend);
  using held = new Params(backend);
  const [start, change] = [random("base", SIDE * SIDE), targetChange()];
  const matrix = (values: Float64Array) => fromArray(backend, values, [SIDE, SIDE], "f64");
  base.set("map.weight", matrix(start));
  base.freeze(base.names());
  // a map of the unit vectors is the weight, transposed
  held.set("unit", matrix(start.map((_, at) => at % (SIDE + 1) === 0 ? 1 : 0)));
  held.set("wanted", matrix(start.map((_, at) => start[transposed(at)] + change[transposed(at)])));
  held.freeze(held.names());
  using adapter = initLora(base, LORA, { seed: 1 });
  const total = CYCLES * CYCLE;
  const restarts = reset ? { restartEvery: CYCLE, restartWarmup: 20 } : { restartEvery: total };
  const learningRate = jaggedCosine({ peak: 0.03, warmup: 10, total, ...restarts });
  using optimizer = new Optimizer(adapter, adamW({ learningRate }));
  const found: { rank: number; distance: number }[] = [];
  for (let step = 1; step <= total; step++) {
    {
      using _ = scope("step");
      const out = withLora(base, [{ params: adapter, config: LORA }]).linear("map", held.get("unit"));
      backward(mul(sum(square(sub(out, held.get("wanted")))), 0.5), optimizer.stage);
    }
    optimizer.commit();
    if (step % CYCLE !== 0) continue;
    using merged = mergeLora(base, adapter, LORA);
    const moved = merged.get("map.weight").readSync().map((value, at) => value - start[at]);
    const { values } = svd(moved, SIDE, SIDE);
    const distance = Math.hypot(...moved.map((value, at) => value - change[at]));
    found.push({ rank: values.filter((value) => value > 1e-9).length, distance });
    if (!reset || step === total) continue;
    restartLora(base, adapter, LORA, { seed: 1, step });
    await optimizer.pruneMoments(adapter.names(), { reset, key: keyOf(step) });
  }
  return found;
}

const transposed = (at: number) => SIDE * (at % SIDE) + Math.floor(at / SIDE);

for (const reset of ["zero", "magnitude", "random"] as const) {
  Deno.test(`ReLoRA's change grows by a rank a cycle down to the Eckart-Young floors, moments pruned by ${reset}`, async () => {
    const found = await learn(reset);
    assert.deepEqual(found.map(({ rank }) => rank), [4, 8, 12]);
    for (const [i, { distance }] of found.entries()) {
      const floor = floorOf(RANK * (i + 1));
      assert.ok(distance >= floor - 1e-9, `cycle ${i + 1}: ${distance} is below the floor ${floor}`);
      assert.ok(distance <= floor + (i < 2 ? 1e-5 : 2e-3), `cycle ${i + 1}: ${distance} for a floor of ${floor}`);
    }
  });
}

Deno.test("LoRA stays at the floor of its rank in as many steps as ReLoRA's three cycles", async () => {
  const found = await learn(undefined);
  assert.deepEqual(found.map(({ rank }) => rank), [4, 4, 4]);
  assert.ok(Math.abs(found[2].distance - floorOf(RANK)) < 1e-8, `${found[2].distance}`);
});

const TINY: LoraConfig = { r: 3, alpha: 6, targets: ["map"] };
const whole = (rule: Parameters<typeof finish>[0]) => finish(rule, { learningRate: 0.02 });
const DEVICE_RULES: Readonly<Record<string, () => Rule>> = {
  "adamW": () => adamW({ learningRate: 0.02, weightDecay: 0.01 }),
  "adam in 8 bits": () => whole(storeAs(blockwise8bit(), scaleByAdam(), { minSize: 0 })),
  "galore on drawn bases": () => whole(galore(scaleByAdam(), { rank: 2, basis: randomBasis() })),
  "sgd with momentum": () => sgd({ learningRate: 0.02, momentum: 0.9 }),
};

/** Base and factors after some steps and two restarts. */
async function restarted(backend: Backend, rule: Rule, guard: boolean): Promise<Map<string, Float32Array>> {
  const tensor = (name: string, shape: readonly number[]) =>
    fromArray(backend, Float32Array.from(random(name, shape[0] * shape[1])), shape);
  using base = new Params(backend);
  base.set("map.weight", tensor("weight", [17, 21]));
  base.freeze(base.names());
  using adapter = initLora(base, TINY, { seed: 1 });
  using optimizer = new Optimizer(adapter, rule, { guard });
  for (let step = 1; step <= 8; step++) {
    {
      using _ = scope("step");
      const out = withLora(base, [{ params: adapter, config: TINY }]).linear("map", tensor(`x ${step}`, [9, 21]));
      backward(sum(square(sub(out, tensor(`y ${step}`, [9, 17])))), optimizer.stage);
    }
    if (optimizer.refreshDue) await optimizer.refresh();
    optimizer.commit();
    if (step % 3 !== 0) continue;
    restartLora(base, adapter, TINY, { seed: 1, step });
    await optimizer.pruneMoments(adapter.names(), { reset: "random", share: 0.5, key: keyOf(step) });
  }
  const found = new Map<string, Float32Array>();
  for (const [name, weight] of [...base.entries(), ...adapter.entries()]) {
    found.set(name, Float32Array.from(await weight.read()));
  }
  return found;
}

webgpuTest(
  "webgpu: ReLoRA restarts in between steps as it does on the CPU, under stored and projected moments",
  async () => {
    using cpu = await cpuBackend({ threads: 1, blas: "off" });
    using gpu = await webgpuBackend();
    for (const [name, make] of Object.entries(DEVICE_RULES)) {
      const expected = await restarted(cpu, make(), false);
      const actual = await restarted(gpu, make(), true);
      for (const [tensor, values] of expected) {
        assertRms(`${name}: ${tensor}`, actual.get(tensor)!, values, { tolerance: 1e-3 });
      }
    }
    assert.equal(gpu.memory().live, 0);
  },
);
