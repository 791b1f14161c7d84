/**
 * Twelve training steps of a tiny LLaMA against PyTorch's AdamW and the released GaLore code, its AdamW and its
 * Adafactor, on any backend.
 *
 * `testdata/golden.json` says what made the numbers and how a tolerance is read. GaLore runs are judged with the
 * stored projections handed in, and, where signs cannot matter, with our own bases as well. With equal gradients the
 * bases of a later refresh agree up to sign alone, so `gap5` runs are judged with stored ones only.
 */
import assert from "node:assert/strict";
import { backward, fromArray, own, Params, scope, type Tensor } from "../../core/mod.ts";
import type { Backend } from "../../core/mod.ts";
import { type GoldenTensor, rms } from "../../core/testing/golden.ts";
import { registerTest } from "../../core/testing/register.ts";
import { llamaLoss } from "../../models/mod.ts";
import {
  type BasisStrategy,
  exactBasis,
  gramBasis,
  Optimizer,
  route,
  type Routing,
  type Rule,
  subspaceBasis,
} from "../mod.ts";
import {
  BATCHES,
  CONFIG,
  FILE,
  type GoldenRun,
  plainRule,
  presetName,
  presetOf,
  PROJECTED,
  projectedRule,
  START,
  tensorsOf,
  type Tolerance,
} from "./golden_runs.ts";

/** Further from the reference than this share of a weight's norm fails, whatever the file recommends. */
const SHARE_OF_NORM = 1e-4;

const OWN_BASES: Readonly<Record<string, () => BasisStrategy>> = {
  "subspaceBasis()": subspaceBasis,
  "subspaceBasis() without its exact path": () => subspaceBasis({ gramBelow: 0, iterations: 16 }),
  "gramBasis()": gramBasis,
  "exactBasis()": exactBasis,
};

/** What a backend's test can say of it. */
interface GoldenOptions {
  /** Why the tests cannot run here, if they cannot. */
  readonly ignore?: string;
  /** The bound on the losses, relative, where the file's recommendation is for a CPU. */
  readonly loss?: number;
  /** Names of the runs to follow; all by default. */
  readonly runs?: RegExp;
  /** Which of our own bases to try; all by default. */
  readonly bases?: readonly string[];
}

function within(tolerance: Tolerance, loss = tolerance.loss): Tolerance {
  return { ...tolerance, loss };
}

/** Registers a test per run of the file, and per basis. */
export function optimizerGoldens(
  name: string,
  makeBackend: () => Backend | Promise<Backend>,
  { ignore, loss, runs = /(?:)/, bases = Object.keys(OWN_BASES) }: GoldenOptions = {},
): void {
  for (const [run, settings] of Object.entries(FILE.runs).filter(([run]) => runs.test(run))) {
    const rules = presetName(settings);
    registerTest(`${rules} follows ${run} for ${FILE.steps} steps on ${name}`, async () => {
      using backend = await makeBackend();
      const stored = tensorsOf(run);
      const routing = settings.galore ? injected(settings, stored) : { rule: plainRule(settings), done: () => {} };
      await judge(backend, routing.rule, stored, within(settings.recommended_tolerance, loss));
      routing.done();
    }, ignore);
    const tolerance = settings.recommended_tolerance_own_svd;
    // bigrank takes every vector, and those of close singular values are anyone's choice
    if (!settings.galore || !tolerance || /gap5|bigrank/.test(run)) continue;
    for (const [basis, make] of Object.entries(OWN_BASES).filter(([basis]) => bases.includes(basis))) {
      registerTest(`${rules} follows ${run} when ${basis} finds the basis on ${name}`, async () => {
        using backend = await makeBackend();
        await judge(backend, presetOf(settings, make()), tensorsOf(run), within(tolerance, loss));
      }, ignore);
    }
  }
}

/** A rule per matrix, whose basis is the stored one. `done` checks that each refresh took place. */
function injected(run: GoldenRun, stored: ReadonlyMap<string, GoldenTensor>): { rule: Routing; done: () => void } {
  const bases = [...START.keys()].filter((name) => PROJECTED.test(name))
    .map((name) => ({ name, ...storedBasis(name, run, stored) }));
  const routes = bases.map(({ name, basis }) =>
    [new RegExp(`^${RegExp.escape(name)}$`), projectedRule(run, basis)] as const
  );
  const done = () => bases.forEach(({ name, left }) => assert.equal(left(), 0, `${name}: refreshes that did not come`));
  return { rule: route([...routes, [/(?:)/, plainRule(run)]]), done };
}

/** Hands out the stored projections of one matrix in the order of its refreshes. */
function storedBasis(name: string, run: GoldenRun, stored: ReadonlyMap<string, GoldenTensor>) {
  const isFull = run.galore!.proj_type === "full";
  const steps = [...run.projector_refresh_before_steps!];
  const queues = { left: [...steps], right: [...steps] };
  const basis: BasisStrategy = {
    name: "stored",
    options: {},
    // deno-lint-ignore require-yield -- nothing to wait for
    *compute({ backend, shape }, { side, rank }) {
      const step = queues[side].shift();
      assert.ok(step !== undefined, `${name}: a refresh more than expected`);
      const { data, shape: [rows, columns] } = stored.get(`proj${step}.${isFull ? `${side}.` : ""}${name}`)!;
      const d = shape[side === "left" ? 0 : 1];
      assert.deepEqual([rows, columns], side === "left" ? [d, rank] : [rank, d], `${name}: shape of the projection`);
      const values = side === "right" ? data : Float32Array.from(
        { length: rank * d },
        (_, i) => data[(i % d) * rank + Math.floor(i / d)],
      );
      return own(fromArray(backend, values as Float32Array, [rank, d]));
    },
  };
  const left = () => Math.min(queues.left.length, queues.right.length);
  return { basis, left };
}

/** Trains and compares every loss and snapshot. */
async function judge(
  backend: Backend,
  rule: Rule | Routing,
  stored: ReadonlyMap<string, GoldenTensor>,
  tolerance: Tolerance,
): Promise<void> {
  using params = new Params(backend);
  for (const [name, { shape, data }] of START) params.set(name, fromArray(backend, data, shape));
  using optimizer = new Optimizer(params, rule);
  const losses = stored.get("loss")!.data;
  for (let step = 1; step <= FILE.steps; step++) {
    const loss = trainStep(params, optimizer, step);
    if (optimizer.refreshDue) await optimizer.refresh();
    optimizer.commit();
    const [value] = await loss.read();
    loss.dispose();
    const error = Math.abs(value / losses[step - 1] - 1);
    assert.ok(error <= tolerance.loss, `loss of step ${step}: ${value}, expected ${losses[step - 1]} (${error})`);
    const snapshot = FILE.snapshots_after_steps.find((after) => after === step);
    if (snapshot) await compareWeights(params, stored, snapshot, tolerance[`step${snapshot}`]);
  }
}

function trainStep(params: Params, optimizer: Optimizer, step: number): Tensor {
  using inner = scope("train step");
  const { batch, seq } = FILE;
  const part = (name: string) => BATCHES.get(name)!.data.subarray((step - 1) * batch * seq, step * batch * seq);
  const labels = part("labels");
  // the file's labels stand under their own tokens, as Hugging Face's; ours are the tokens after each position
  const targets = Int32Array.from(labels, (_, i) => i % seq === seq - 1 ? -100 : labels[i + 1]);
  const [x, y] = [part("input_ids"), targets].map((data) => fromArray(params.backend, data, [batch, seq]));
  const loss = llamaLoss(params, CONFIG, x, y);
  backward(loss, optimizer.stage);
  return inner.keep(loss);
}

/** The file's criterion, and the share of the weight's norm. */
async function compareWeights(
  params: Params,
  stored: ReadonlyMap<string, GoldenTensor>,
  step: number,
  tolerance: number,
): Promise<void> {
  const difference = (a: ArrayLike<number>, b: ArrayLike<number>) => rms(Float64Array.from(a, (x, i) => x - b[i]));
  const referenceOf = (name: string) => stored.get(`step${step}.${name}`)!.data;
  const moves = new Map(params.names().map((name) => [name, difference(referenceOf(name), START.get(name)!.data)]));
  const floor = 0.01 * Math.max(...moves.values());
  for (const [name, tensor] of params.entries()) {
    const error = difference(await tensor.read(), referenceOf(name));
    const share = error / Math.max(moves.get(name)!, floor);
    const where = `${name} after step ${step}`;
    assert.ok(share <= tolerance, `${where}: off by ${share.toExponential(2)} of its movement, expected ${tolerance}`);
    const ofNorm = error / rms(referenceOf(name));
    assert.ok(ofNorm <= SHARE_OF_NORM, `${where}: off by ${ofNorm.toExponential(2)} of its norm`);
  }
}
