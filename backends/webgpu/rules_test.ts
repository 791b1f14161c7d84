/**
 * Rules on WebGPU beside the CPU, from equal state: two steps on the CPU, its state and weights carried over, one update
 * on both. Optimizer state loads across backends, and an update differs by rounding alone.
 */
import assert from "node:assert/strict";
import { rms } from "../../core/testing/golden.ts";
import {
  adafactorW,
  adamW,
  affine,
  apollo,
  bfloat16,
  blockwise8bit,
  finish,
  fira,
  galore,
  type GradientRule,
  gramBasis,
  type Rule,
  scaleByAdam,
  scaleByMuon,
  sgd,
  storeAs,
} from "../../optimizers/mod.ts";
import { GradientBench } from "../../optimizers/testing/bench.ts";
import { store } from "../../optimizers/testing/snapshots.ts";
import { cpuBackend } from "../cpu/mod.ts";
import { webgpuBackend } from "./mod.ts";
import { webgpuTest } from "./testing.ts";

const SHAPES = { wide: [96, 160], tall: [160, 96] } as const;
const LEARNING_RATE = 0.01;
const GALORE = { rank: 48, updateProjGap: 100, scale: 0.25, basis: gramBasis() };

const whole = (rule: GradientRule) => finish(rule, { learningRate: LEARNING_RATE, weightDecay: 0.1 });
const eightBit = () => storeAs(blockwise8bit(), scaleByAdam());

const FLOAT: Readonly<Record<string, () => Rule>> = {
  "sgd with momentum": () => sgd({ learningRate: LEARNING_RATE, momentum: 0.9 }),
  "adamW": () => adamW({ learningRate: LEARNING_RATE, weightDecay: 0.1 }),
  "adafactor": () => adafactorW({ learningRate: LEARNING_RATE, beta1: 0.9, scaleParameter: false }),
  "muon": () => whole(scaleByMuon()),
  "galore(adam)": () => whole(galore(scaleByAdam(), GALORE)),
  "galore(adam) with an int4 projector": () =>
    whole(galore(scaleByAdam(), { ...GALORE, projector: affine({ bits: 4 }) })),
  "fira": () => whole(fira(scaleByAdam(), GALORE)),
  "apollo": () => whole(apollo(scaleByAdam(), { rank: 48 })),
};

/** Moments within a code of each other, the update as it is. */
const STORED: Readonly<Record<string, () => Rule>> = {
  "adamW in 8 bits": () => whole(eightBit()),
  "galore(adam in 8 bits)": () => whole(galore(eightBit(), GALORE)),
  "adam in bf16": () => whole(storeAs(bfloat16(), scaleByAdam())),
};

for (const [name, make] of Object.entries({ ...FLOAT, ...STORED })) {
  webgpuTest(`an update of ${name} on webgpu is the CPU's from equal state`, async () => {
    using cpu = await cpuBackend({ threads: 1 });
    using gpu = await webgpuBackend();
    using before = new GradientBench(cpu, SHAPES, make());
    for (const step of [1, 2]) await before.step(before.gradients(step));
    const start = await before.weights();
    const snapshot = await store(before.optimizer.snapshot());
    const after: Record<string, ArrayLike<number>>[] = [];
    for (const backend of [cpu, gpu]) {
      using bench = new GradientBench(backend, SHAPES, make());
      await bench.resume(before, snapshot);
      await bench.step(bench.gradients(3));
      after.push(await bench.weights());
    }
    for (const [param, values] of Object.entries(after[0])) {
      const change = rms(Float64Array.from(values, (x, i) => x - start[param][i]));
      const apart = rms(Float64Array.from(values, (x, i) => x - after[1][param][i]));
      assert.ok(change > 1e-5, `${param} hardly moves: ${change}`);
      const floor = 1e-7 * rms(Float64Array.from(start[param])); // weights are rounded to f32
      assert.ok(apart <= floor + 1e-6 * change, `${param}: ${apart / change} of its change apart`);
    }
  });
}
