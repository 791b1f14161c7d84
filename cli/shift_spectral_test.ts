/** The spectral explanation against changes that are known: truncations, angles, ranks, and the loss of a map by hand. */
import assert from "node:assert/strict";
import { loopsBackend } from "../backends/cpu/mod.ts";
import { type Backend, fromArray, keyOf, normal, Params, scope, svd } from "../core/mod.ts";
import { assertNoLeak } from "../core/testing/leaks.ts";
import { initLlama, initRoberta, LLAMA_PROJECTED, llamaLens, ROBERTA_PROJECTED, robertaLens } from "../models/mod.ts";
import {
  comparedMaps,
  effectiveRank,
  energyWithin,
  explain,
  principalAngles,
  referenceShift,
} from "./shift_spectral.ts";
import type { ShiftSubject } from "./shift_subject.ts";
import { tinyRobertaConfig } from "./testing/tiny_roberta.ts";
import { addNoise, tinyShiftConfig } from "./testing/tiny_shift.ts";

const config = tinyShiftConfig();
const TOKENS = [3, 1, 4, 1, 5, 9, 2, 6];

function near(actual: number | null | undefined, expected: number, slack = 1e-4): void {
  assert.ok(
    typeof actual === "number" && Math.abs(actual - expected) <= slack * Math.max(1, Math.abs(expected)),
    `${actual} is not ${expected}`,
  );
}

/** Two sequences of four tokens, one of each of two groups; the last token of the second is padding. */
const SUBJECT: Pick<ShiftSubject, "probes" | "batches" | "projected"> = {
  projected: LLAMA_PROJECTED,
  probes: {
    ...{ groupNames: ["a", "b"], groups: Int32Array.of(0, 1), choices: [], labels: new Int32Array(), positive: 1 },
  },
  batches: [{
    rows: [{ item: 0, target: 1, isWanted: true }],
    owners: Int32Array.of(0, 0, 0, 0, 1, 1, 1, -1),
    lens: (view) => {
      using _ = scope("test");
      const tokens = fromArray(view.backend, Int32Array.from(TOKENS), [2, 4]);
      return llamaLens(view, config, tokens, fromArray(view.backend, Int32Array.of(0), [1]));
    },
  }],
};

const MAP = "model.layers.0.self_attn.q_proj";
const [ROWS, COLUMNS] = [32, 32];
const VALUES = [3, 2, 1];

/** Adds the leading `rank` of three known directions to a map. */
function shift(params: Params, rank: number): void {
  const [left, right] = [7, 8].map((seed) => svd(normal(keyOf(seed), ROWS * COLUMNS), ROWS, COLUMNS).left);
  const weight = params.get(`${MAP}.weight`);
  const values = Array.from(weight.readSync(), Number);
  for (let k = 0; k < rank; k++) {
    for (let i = 0; i < ROWS * COLUMNS; i++) {
      values[i] += VALUES[k] * left[Math.floor(i / COLUMNS) * COLUMNS + k] * right[i % COLUMNS * COLUMNS + k];
    }
  }
  weight.write(Float32Array.from(values));
}

Deno.test("explain() finds what a truncation of the shift lacks, and that its directions are the shift's", async () => {
  using backend = loopsBackend();
  using base = initLlama(backend, config, 1);
  using reference = initLlama(backend, config, 1);
  shift(reference, 3);
  await assertNoLeak("explanation", backend, async () => {
    const maps = comparedMaps(base, SUBJECT);
    assert.equal(maps.length, 14);
    const shifts = await referenceShift(maps, reference, base);
    assert.deepEqual([1, 2, 3].map((rank) => energyWithin(shifts, rank)!.toFixed(4)), ["0.6429", "0.9286", "1.0000"]);
    for (const rank of [0, 1, 2, 3]) {
      using model = initLlama(backend, config, 1);
      shift(model, rank);
      const found = await explain(shifts, model, { base, reference, subject: SUBJECT });
      const left = VALUES.slice(rank).reduce((sum, value) => sum + value ** 2, 0) / 14;
      near(found.missing, left);
      near(found.leastMissing, left);
      assert.equal(found.rank, rank);
      if (rank === 0) assert.deepEqual([found.effectiveRank, found.overlap], [null, null]);
      else near(found.overlap, 1, 1e-3);
      for (const { module, rank: own } of found.maps) assert.equal(own, module === MAP ? rank : 0, module);
    }
  });
});

/** The input of the first layer's query map by hand: the normed embedding of each token. */
function inputsByHand(params: Params): number[][] {
  const table = params.get("model.embed_tokens.weight").readSync();
  return TOKENS.map((token) => {
    const row = Array.from(table.subarray(token * COLUMNS, (token + 1) * COLUMNS), Number);
    const size = Math.sqrt(row.reduce((sum, value) => sum + value ** 2, 0) / COLUMNS + config.rms_norm_eps);
    return row.map((value) => value / size); // the norm's weights are 1
  });
}

Deno.test("explain() predicts a group's excess loss as the mean square of what a map's outputs lack on its inputs", async () => {
  using backend = loopsBackend();
  using base = initLlama(backend, config, 1);
  using reference = initLlama(backend, config, 1);
  shift(reference, 3);
  using model = initLlama(backend, config, 1);
  shift(model, 1);
  const shifts = await referenceShift(comparedMaps(base, SUBJECT), reference, base);
  const { predictedExcess } = await explain(shifts, model, { base, reference, subject: SUBJECT });
  const [before, after] = [model, reference].map((params) => params.get(`${MAP}.weight`).readSync());
  const squares = inputsByHand(reference).map((x) => {
    let total = 0;
    for (let row = 0; row < ROWS; row++) {
      const lacking = x.reduce((sum, value, k) => {
        return sum + value * (Number(after[row * COLUMNS + k]) - Number(before[row * COLUMNS + k]));
      }, 0);
      total += lacking ** 2;
    }
    return total;
  });
  const mean = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;
  near(predictedExcess[0], mean(squares.slice(0, 4)));
  near(predictedExcess[1], mean(squares.slice(4, 7)));
});

/** Three tokens of one group and two of another for a RoBERTa. */
const robertaConfig = tinyRobertaConfig();
const SENTENCES: typeof SUBJECT = {
  ...{ projected: ROBERTA_PROJECTED, probes: SUBJECT.probes },
  batches: [{
    rows: [{ item: 0, target: 1, isWanted: true }],
    owners: Int32Array.of(0, 0, 0, 1, 1, -1),
    lens: (view) => {
      using _ = scope("test");
      return robertaLens(view, robertaConfig, {
        tokens: fromArray(view.backend, Int32Array.of(0, 7, 2, 0, 2, 1), [2, 3]),
        mask: fromArray(view.backend, Int32Array.of(1, 1, 1, 1, 1, 0), [2, 3], "u32"),
      });
    },
  }],
};

function drawRoberta(backend: Backend): Params {
  return initRoberta(backend, robertaConfig, { seed: 1, head: "classification" });
}

Deno.test("explain() tells a changed bias from a changed matrix", async () => {
  using backend = loopsBackend();
  using base = drawRoberta(backend);
  using reference = drawRoberta(backend);
  using biased = drawRoberta(backend);
  using both = drawRoberta(backend);
  for (const params of [biased, both]) {
    for (const [i, [name, tensor]] of [...params.entries()].entries()) {
      if (name.endsWith(".bias") && ROBERTA_PROJECTED.test(name.replace(/bias$/, "weight"))) {
        tensor.write(normal(keyOf(i), tensor.size));
      }
    }
  }
  const query = "roberta.encoder.layer.0.attention.self.query.weight";
  for (const params of [reference, both]) {
    const weight = params.get(query);
    weight.write(Float32Array.from(weight.readSync() as Float32Array, (value, i) => value + (i === 5 ? 2 : 0)));
  }
  const maps = comparedMaps(base, SENTENCES);
  assert.equal(maps.length, 12);
  const still = await referenceShift(maps, biased, base);
  assert.ok(still.every(({ energy }) => energy < 1e-10), `${still.map(({ energy }) => energy)}`);
  assert.equal(energyWithin(still, 1), undefined);
  assert.equal((await explain(still, biased, { base, reference: biased, subject: SENTENCES })).missing, null);
  const shifts = await referenceShift(maps, reference, base);
  near(shifts[0].energy, 4);
  near(energyWithin(shifts, 1), 1);
  const found = await explain(shifts, both, { base, reference, subject: SENTENCES });
  near(found.missing, 0);
  assert.equal(found.rank, 1);
  for (const excess of found.predictedExcess) near(excess, 0, 1e-8);
});

Deno.test("explain() gives a model that has moved by rounding alone no rank and no part of the shift", async () => {
  using backend = loopsBackend();
  using base = initLlama(backend, config, 1);
  using reference = initLlama(backend, config, 1);
  using model = initLlama(backend, config, 1);
  shift(reference, 3);
  addNoise(model, 1e-9);
  const shifts = await referenceShift(comparedMaps(base, SUBJECT), reference, base);
  const found = await explain(shifts, model, { base, reference, subject: SUBJECT });
  assert.ok(found.maps.some(({ energy }) => energy > 0));
  assert.deepEqual([found.rank, found.effectiveRank, found.overlap], [0, null, null]);
  near(found.missing, 1);
});

Deno.test("referenceShift() has the singular values and directions of an SVD, of tall and of wide maps", async () => {
  using backend = loopsBackend();
  using base = new Params(backend);
  using reference = new Params(backend);
  const maps = [{ module: "tall", rows: 40, columns: 24 }, { module: "wide", rows: 24, columns: 40 }];
  for (const { module, rows, columns } of maps) {
    const [before, change] = [1, 2].map((seed) => normal(keyOf(seed), rows * columns));
    const after = before.map((value, i) => value + change[i]);
    for (const [params, values] of [[base, before], [reference, after]] as const) {
      params.set(`${module}.weight`, fromArray(backend, values, [rows, columns]));
    }
  }
  for (const { module, rows, columns, directions } of await referenceShift(maps, reference, base)) {
    const [before, after] = [base, reference].map((params) => params.get(`${module}.weight`).readSync());
    const expected = svd(Float64Array.from(after, (value, i) => Number(value) - Number(before[i])), rows, columns);
    for (const [i, value] of directions!.values.entries()) near(value, expected.values[i], 1e-5);
    const angles = [
      ...principalAngles(directions!.left, expected.left, rows, 4),
      ...principalAngles(directions!.right, expected.right, columns, 4),
    ];
    for (const angle of angles) near(angle, 0, 1e-2);
  }
});

Deno.test("explain() holds no more for many groups than for two", async () => {
  using backend = loopsBackend();
  using base = initLlama(backend, config, 1);
  using reference = initLlama(backend, config, 1);
  shift(reference, 3);
  const shifts = await referenceShift(comparedMaps(base, SUBJECT), reference, base);
  const peakOf = async (groups: number) => {
    const probes = { ...SUBJECT.probes, groupNames: Array.from({ length: groups }, (_, i) => `${i}`) };
    const before = backend.memory().inUse;
    backend.resetPeak();
    const { predictedExcess } = await explain(shifts, base, { base, reference, subject: { ...SUBJECT, probes } });
    assert.equal(predictedExcess.length, groups);
    return backend.memory().peak - before;
  };
  const [few, many] = [await peakOf(2), await peakOf(52)];
  // a second moment of the smallest map would be 4 kB a group
  assert.ok(many - few < 50 * 1000, `${many} and ${few} bytes`);
});

Deno.test("principalAngles() of planes by hand", () => {
  // the plane of x and y, and one turned by 30 degrees about x
  const [cosine, sine] = [Math.cos(Math.PI / 6), Math.sin(Math.PI / 6)];
  const plane = [1, 0, 0, 1, 0, 0];
  const turned = [1, 0, 0, cosine, 0, sine];
  const [small, large] = principalAngles(plane, turned, 3, 2);
  near(small, 0, 1e-6);
  near(large, 30, 1e-6);
  // another basis of the same plane
  const mixed = [cosine, -sine, sine * cosine, cosine * cosine, sine * sine, cosine * sine];
  assert.deepEqual(principalAngles(plane, mixed, 3, 2).map((angle) => angle.toFixed(4)), ["0.0000", "30.0000"]);
  assert.deepEqual(principalAngles(plane, turned, 3, 0), []);
});

Deno.test("effectiveRank() is the number of equal values, and little more than 1 for one that outweighs the rest", () => {
  near(effectiveRank([2, 2, 2, 0]), 3);
  assert.equal(effectiveRank([0, 0]), 0);
  const lopsided = effectiveRank([1, 0.001]);
  assert.ok(lopsided > 1 && lopsided < 1.01, `${lopsided}`);
});
