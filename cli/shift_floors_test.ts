/**
 * What low rank cannot learn, where it is known exactly: a linear teacher whose shift is large for a majority (rank 4, singular
 * values 2 to 1.5) and small for a minority (rank 4, 0.8 to 0.5, a fifth of the loss), each in directions of its own. An adapter
 * of rank r ends at Eckart and Young's floor, and gives the minority nothing before the majority is done; GaLore gives it all,
 * unless its basis is never renewed. Then the same under a softmax, by the shift that is captured.
 */
import assert from "node:assert/strict";
import { cpuBackend } from "../backends/cpu/mod.ts";
import {
  backward,
  fromArray,
  keyOf,
  linear,
  log,
  mul,
  neg,
  noGrad,
  normal,
  own,
  Params,
  type ParamsView,
  scope,
  softmax,
  sub,
  sum,
  sumOfSquares,
  svd,
  type Tensor,
} from "../core/mod.ts";
import { klDivergence, logSoftmax, shiftCapture } from "../data/mod.ts";
import { initLora, type LoraConfig, withLora } from "../models/mod.ts";
import { adamWPreset, cosine, finish, galore, Optimizer, type Rule, scaleByAdam } from "../optimizers/mod.ts";

const D = 32;
const MAJORITY = [2, 11 / 6, 5 / 3, 1.5];
const MINORITY = [0.8, 0.7, 0.6, 0.5];
/** A group's shift has its first direction here among the columns of a basis; its inputs span half of that basis. */
const FIRST = { majority: 0, minority: 16 };
const SHARE = { majority: 0.8, minority: 0.2 };

const energy = (values: readonly number[]) => values.reduce((total, value) => total + value ** 2, 0);

/** The columns of a random basis, row-major [size, size]. */
function basis(seed: number, size: number): Float64Array {
  return svd(normal(keyOf(seed), size * size), size, size).left;
}

/** A teacher's map before and after its shift, [rows, D] row-major, and the directions of inputs. */
interface Teacher {
  readonly rows: number;
  readonly before: Float32Array<ArrayBuffer>;
  readonly after: Float32Array<ArrayBuffer>;
  /** Columns are directions. */
  readonly directions: Float64Array;
}

function makeTeacher(rows: number): Teacher {
  const [outputs, directions] = [basis(1, rows), basis(2, D)];
  const before = normal(keyOf(3), rows * D, 0, 0.2);
  const after = before.slice();
  for (const [values, row, column] of [[MAJORITY, 0, FIRST.majority], [MINORITY, 4, FIRST.minority]] as const) {
    for (const [k, value] of values.entries()) {
      for (let i = 0; i < rows * D; i++) {
        const [at, input] = [Math.floor(i / D), i % D];
        after[i] += value * outputs[at * rows + row + k] * directions[input * D + column + k];
      }
    }
  }
  return { rows, before, after, directions };
}

/** What is trained, how it is seen, and by which rule. */
interface Method {
  readonly trained: Params;
  readonly view: ParamsView;
  readonly rule: Rule;
  readonly steps: number;
}

function lora(base: Params, r: number, seed = 1): Method {
  const config: LoraConfig = { r, alpha: r, targets: ["map"] };
  base.freeze(base.names());
  const trained = initLora(base, config, { seed });
  const rule = adamWPreset({ learningRate: cosine({ peak: 0.05, total: 300 }) });
  return { trained, view: withLora(base, [{ params: trained, config }]), rule, steps: 300 };
}

function projected(base: Params, rank: number, updateProjGap: number): Method {
  const learningRate = cosine({ peak: 0.05, total: 1500 });
  const rule = finish(galore(scaleByAdam(), { rank, updateProjGap }), { learningRate });
  return { trained: base, view: base, rule, steps: 1500 };
}

function full(base: Params): Method {
  const rule = adamWPreset({ learningRate: cosine({ peak: 0.05, total: 500 }) });
  return { trained: base, view: base, rule, steps: 500 };
}

/** The outputs [inputs, rows] of a map that a method has trained from the teacher's before to its after. */
async function train(
  teacher: Teacher,
  inputs: Float32Array<ArrayBuffer>,
  make: (base: Params) => Method,
  lossOf: (outputs: Tensor, expected: Tensor) => Tensor,
): Promise<Float64Array> {
  using backend = await cpuBackend({ threads: 1, blas: "off" });
  using base = new Params(backend);
  const { rows, before, after } = teacher;
  base.set("map.weight", fromArray(backend, before, [rows, D]));
  const { trained, view, rule, steps } = make(base);
  using x = fromArray(backend, inputs, [inputs.length / D, D]);
  using expected = detached(() => linear(x, fromArray(backend, after, [rows, D])));
  using optimizer = new Optimizer(trained, rule);
  for (let step = 0; step < steps; step++) {
    {
      using _ = scope("step");
      backward(lossOf(view.linear("map", x), expected), optimizer.stage);
    }
    if (optimizer.refreshDue) await optimizer.refresh();
    optimizer.commit();
  }
  using outputs = detached(() => view.linear("map", x));
  if (trained !== base) trained.dispose();
  return Float64Array.from(await outputs.read());
}

function detached(make: () => Tensor): Tensor {
  using inner = scope("detached");
  return own(inner.keep(noGrad(make)));
}

const TEACHER = makeTeacher(D);

/** Every direction once, each group's half with its share of the loss: a group's loss is what its half has left, squared. */
function linearInputs(): Float32Array<ArrayBuffer> {
  return Float32Array.from({ length: D * D }, (_, i) => {
    const direction = Math.floor(i / D);
    const share = direction < FIRST.minority ? SHARE.majority : SHARE.minority;
    return Math.sqrt(share) * TEACHER.directions[i % D * D + direction];
  });
}

/** Both groups' losses, and what of the shift is missing: their sum. */
async function linearLosses(make: (base: Params) => Method) {
  const inputs = linearInputs();
  const outputs = await train(TEACHER, inputs, make, (y, expected) => sumOfSquares(sub(y, expected)));
  const losses = [0, 0];
  for (let i = 0; i < D * D; i++) {
    const [direction, row] = [Math.floor(i / D), i % D];
    let expected = 0;
    for (let k = 0; k < D; k++) expected += inputs[direction * D + k] * TEACHER.after[row * D + k];
    const isMinority = direction >= FIRST.minority;
    losses[Number(isMinority)] += (outputs[i] - expected) ** 2 / (isMinority ? SHARE.minority : SHARE.majority);
  }
  const [majority, minority] = losses;
  return { majority, minority, missing: majority + minority };
}

function near(actual: number, expected: number, what: string, slack = 0.01): void {
  const room = slack * Math.max(expected, 0.1);
  assert.ok(Math.abs(actual - expected) <= room, `${what}: ${actual}, expected ${expected} within ${room}`);
}

const SHIFT = [...MAJORITY, ...MINORITY];

for (const r of [1, 2, 4, 6, 8]) {
  Deno.test(`an adapter leaves what Eckart and Young leave of a shift when its rank is ${r} of 8`, async () => {
    const { majority, minority, missing } = await linearLosses((base) => lora(base, r));
    near(missing, energy(SHIFT.slice(r)), "missing");
    near(majority, energy(MAJORITY.slice(r)), "majority");
    near(minority, energy(MINORITY.slice(Math.max(0, r - 4))), "minority");
    if (r === 4) near(minority, energy(MINORITY), "the minority's loss, unchanged");
  });
}

for (const rank of [1, 2, 4]) {
  Deno.test(`GaLore learns all of a shift of rank 8 when it renews a basis of rank ${rank}`, async () => {
    const { majority, minority, missing } = await linearLosses((base) => projected(base, rank, 50));
    assert.ok(majority < 0.1 && minority < 0.1 && missing < 0.1, `${majority}, ${minority}`);
  });
}

Deno.test("GaLore leaves what an adapter of its rank leaves when it never renews its basis", async () => {
  const { majority, minority, missing } = await linearLosses((base) => projected(base, 4, Infinity));
  near(missing, energy(MINORITY), "missing");
  near(minority, energy(MINORITY), "minority");
  assert.ok(majority < 0.01, `${majority}`);
});

Deno.test("whole fine-tuning leaves nothing of a shift", async () => {
  const { missing } = await linearLosses(full);
  assert.ok(missing < 1e-4, `${missing}`);
});

const CLASSES = 8;
const COUNTS = { majority: 160, minority: 40 };

/** Shift capture of both groups under a softmax of 8 classes, learned by distillation. */
async function captures(make: (base: Params) => Method): Promise<[majority: number, minority: number]> {
  const teacher = makeTeacher(CLASSES);
  const inputs = new Float32Array((COUNTS.majority + COUNTS.minority) * D);
  const drawn = normal(keyOf(5), inputs.length / 2);
  for (let i = 0; i < inputs.length; i++) {
    const item = Math.floor(i / D);
    const first = item < COUNTS.majority ? FIRST.majority : FIRST.minority;
    for (let k = 0; k < 16; k++) inputs[i] += drawn[item * 16 + k] * teacher.directions[i % D * D + first + k];
  }
  const outputs = await train(teacher, inputs, make, (y, expected) => {
    return mul(
      neg(sum(mul(noGrad(() => softmax(expected)), log(softmax(y))))),
      1 / (COUNTS.majority + COUNTS.minority),
    );
  });
  const logits = (map: ArrayLike<number>, item: number) =>
    Array.from({ length: CLASSES }, (_, row) => {
      let sum = 0;
      for (let k = 0; k < D; k++) sum += inputs[item * D + k] * map[row * D + k];
      return sum;
    });
  const sums = [[0, 0], [0, 0]];
  for (let item = 0; item < COUNTS.majority + COUNTS.minority; item++) {
    const of = sums[Number(item >= COUNTS.majority)];
    const reference = logSoftmax(logits(teacher.after, item));
    of[0] += klDivergence(reference, logSoftmax(outputs.subarray(item * CLASSES, (item + 1) * CLASSES)));
    of[1] += klDivergence(reference, logSoftmax(logits(teacher.before, item)));
  }
  return sums.map(([toCandidate, toBase]) => shiftCapture(toCandidate, toBase)!) as [number, number];
}

Deno.test("the captured shift is 0 of the base and 1 of whole fine-tuning, and the minority's grows with the rank", async () => {
  const untouched = await captures((base) => ({ ...full(base), steps: 0 }));
  for (const capture of untouched) assert.ok(Math.abs(capture) < 1e-5, `${untouched}`);
  for (const capture of await captures(full)) assert.ok(capture > 0.99, `${capture}`);
  const byRank = [];
  for (const r of [1, 2, 4, 7]) byRank.push(await captures((base) => lora(base, r)));
  const [majority, minority] = [byRank.map(([one]) => one), byRank.map(([, other]) => other)];
  for (let i = 1; i < byRank.length; i++) {
    assert.ok(majority[i] > majority[i - 1] - 0.01 && minority[i] > minority[i - 1], `${majority}; ${minority}`);
  }
  assert.ok(majority[0] > 0.2 && minority[0] < 0.2 && majority[3] > 0.99 && minority[3] > 0.97, `${byRank.join("; ")}`);
  const [, ofGalore] = await captures((base) => projected(base, 1, 50));
  assert.ok(ofGalore > 0.97, `${ofGalore}`);
});
