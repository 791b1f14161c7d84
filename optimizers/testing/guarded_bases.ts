/** A guard beside bases that are found without a read, however they are stored, on any backend. Test support. */
import assert from "node:assert/strict";
import type { Backend } from "../../core/mod.ts";
import { assertNoLeak } from "../../core/testing/leaks.ts";
import { registerTest } from "../../core/testing/register.ts";
import {
  affine,
  bfloat16,
  blockwise8bit,
  type Codec,
  finish,
  galore,
  type GaloreOptions,
  type OptimizerOptions,
  polarBasis,
  scaleByAdam,
  storeAs,
} from "../mod.ts";
import { GradientBench } from "./bench.ts";
import { store } from "./snapshots.ts";

const PROJECTORS: Readonly<Record<string, Codec | undefined>> = {
  "f32": undefined,
  "int4": affine({ bits: 4, group: 6 }),
  "bfloat16": bfloat16({ rounding: "nearest" }),
};

/** What a backend's test can say of it. */
interface GuardedOptions {
  /** Why the tests cannot run here, if they cannot. */
  readonly ignore?: string;
  /** Which storages of the basis to try; all by default. */
  readonly projectors?: readonly (keyof typeof PROJECTORS)[];
}

/** Registers a test per storage. */
export function guardedBases(
  name: string,
  makeBackend: () => Backend | Promise<Backend>,
  { ignore, projectors = Object.keys(PROJECTORS) }: GuardedOptions = {},
): void {
  for (const projector of projectors) {
    registerTest(`a guard keeps bases in ${projector} from gradients that are not finite on ${name}`, async () => {
      using backend = await makeBackend();
      for (const perLayer of [false, true]) {
        await assertNoLeak("a guarded training", backend, () => train(backend, PROJECTORS[projector], { perLayer }));
      }
    }, ignore);
  }
}

/** Steps 1 and 5, both renewals, have a gradient that is not finite; the others train. */
async function train(backend: Backend, projector: Codec | undefined, options: OptimizerOptions): Promise<void> {
  const projection: GaloreOptions = { rank: 2, updateProjGap: 2, basis: polarBasis(), projector, moments: "transport" };
  const inner = storeAs(blockwise8bit(), scaleByAdam(), { minSize: 20 });
  const rule = finish(galore(inner, projection), { learningRate: 0.01 });
  using bench = new GradientBench(backend, { v: [4, 3], w: [6, 11] }, rule, { guard: true, ...options });
  /** Every bit of `w` and its state. */
  const bits = async () => {
    const { tensors } = (await store(bench.optimizer.snapshot())).leaves.w;
    return [(await bench.weights()).w, tensors];
  };
  const assertFinite = async (when: string) => {
    for (const values of Object.values(await bench.weights())) {
      assert.ok(Array.from(values).every(Number.isFinite), when);
    }
  };
  const spoiled = (step: number) => {
    const gradients = bench.gradients(step);
    gradients.w[7] = NaN;
    return gradients;
  };
  const start = (await bench.weights()).w;
  await bench.step(spoiled(1)); // the very first basis
  bench.optimizer.discard();
  assert.deepEqual((await bench.weights()).w, start);
  for (let step = 2; step <= 4; step++) await bench.step(bench.gradients(step));
  await assertFinite("after a first step that was not finite");
  const before = await bits();
  assert.notDeepEqual(before[0], start, "it trains from the next renewal on");
  await bench.step(spoiled(5));
  assert.deepEqual(await bits(), before);
  bench.optimizer.discard();
  await bench.step(bench.gradients(6));
  await assertFinite("after a renewal that was not finite");
  assert.notDeepEqual((await bits())[0], before[0]);
}
