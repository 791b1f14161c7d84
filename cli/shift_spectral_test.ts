/** The spectral explanation against changes that are known: truncations, angles, ranks, and the loss of a map by hand. */
import assert from "node:assert/strict";
import { loopsBackend } from "../backends/cpu/mod.ts";
import { fromArray, keyOf, normal, type Params, scope, svd } from "../core/mod.ts";
import { assertNoLeak } from "../core/testing/leaks.ts";
import { initLlama, LLAMA_PROJECTED, llamaLens } from "../models/mod.ts";
import {
  comparedMaps,
  effectiveRank,
  energyWithin,
  explain,
  groupMoments,
  principalAngles,
  referenceShift,
} from "./shift_spectral.ts";
import type { ShiftSubject } from "./shift_subject.ts";
import { tinyShiftConfig } from "./testing/tiny_shift.ts";

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
    const maps = comparedMaps(base, SUBJECT as ShiftSubject);
    assert.equal(maps.length, 14);
    const shifts = await referenceShift(maps, reference, base);
    assert.deepEqual([1, 2, 3].map((rank) => energyWithin(shifts, rank)!.toFixed(4)), ["0.6429", "0.9286", "1.0000"]);
    using moments = groupMoments(SUBJECT as ShiftSubject, reference);
    for (const rank of [0, 1, 2, 3]) {
      using model = initLlama(backend, config, 1);
      shift(model, rank);
      const found = await explain(shifts, model, { base, reference, moments });
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
  using moments = groupMoments(SUBJECT as ShiftSubject, reference);
  const shifts = await referenceShift(comparedMaps(base, SUBJECT as ShiftSubject), reference, base);
  const { predictedExcess } = await explain(shifts, model, { base, reference, moments });
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
