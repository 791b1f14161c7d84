/** Batches of several adapters: equal to single runs, in any order, by either plan, with heads of their own; refusals. */
import assert from "node:assert/strict";
import { loopsBackend } from "../backends/cpu/loops/mod.ts";
import { type Backend, fromArray, noGrad, Params, type ParamsView, scope } from "../core/mod.ts";
import { assertRms } from "../core/testing/golden.ts";
import { random } from "../core/testing/gradcheck.ts";
import { assertNoLeak } from "../core/testing/leaks.ts";
import { plansStacking, withLoraBatch } from "./adapter_batch.ts";
import { groupExamples, joinGroups, takeExamples } from "./adapter_groups.ts";
import { initLlama, llama } from "./llama.ts";
import { type Lora, type LoraConfig, withLora } from "./lora.ts";
import { initRoberta, robertaLogits } from "./roberta.ts";
import { adapterBatchLaws, stirredLora } from "./testing/adapter_batch_laws.ts";
import { readRoberta } from "./testing/roberta_goldens.ts";
import { someTokens, tiny } from "./testing/tiny_lora.ts";

adapterBatchLaws("loops", () => loopsBackend());

/** One linear map with a bias and adapters of these ranks. */
function oneMap(backend: Backend, [output, input]: readonly [number, number], ranks: readonly number[]) {
  const base = new Params(backend);
  base.set("map.weight", fromArray(backend, Float32Array.from(random("weight", output * input)), [output, input]));
  base.set("map.bias", fromArray(backend, Float32Array.from(random("bias", output)), [output]));
  base.freeze(base.names());
  return { base, adapters: ranks.map((r, i) => stirredLora(base, { r, alpha: 2 * r + i, targets: ["map"] }, i)) };
}

function input(backend: Backend, shape: readonly number[]) {
  return fromArray(backend, Float32Array.from(random("x", shape.reduce((a, b) => a * b))), shape);
}

const PLANS = {
  "stacked groups of one size": { rows: [0, 1, 2, 2, 1, 0], tokens: 5, width: 8, ranks: [2, 2, 2], stacked: true },
  "stacked groups filled up": { rows: [2, 0, 2, -1, 2, 1], tokens: 5, width: 8, ranks: [3, 1, 2], stacked: true },
  "a loop, where filling up costs more": {
    ...{ rows: [0, ...new Array(15).fill(1)], tokens: 160, width: 64, ranks: [8, 8], stacked: false },
  },
  "a loop over the only group that has factors": { rows: [-1, 0, -1], tokens: 2, width: 8, ranks: [2], stacked: false },
};

for (const [plan, { rows, tokens, width, ranks, stacked }] of Object.entries(PLANS)) {
  Deno.test(`withLoraBatch() equals single runs within 1e-6, by ${plan}`, async () => {
    using backend = loopsBackend();
    await assertNoLeak(plan, backend, () => {
      const { base, adapters } = oneMap(backend, [width + 1, width], ranks);
      using _ = scope("test");
      const x = input(backend, [rows.length, tokens, width]);
      const members = groupExamples(rows, ranks.length).filter(({ adapter }) => adapter >= 0).map((group) => {
        const [A, B] = ["A", "B"].map((part) => adapters[group.adapter].params.get(`map.lora_${part}.weight`));
        return { ...group, factors: { A, B } };
      });
      assert.equal(plansStacking(members, x.shape), stacked);
      const mixed = withLoraBatch(base, adapters, rows).linear("map", x).readSync();
      const size = tokens * (width + 1);
      for (const [example, row] of rows.entries()) {
        const view = row < 0 ? base : withLora(base, [adapters[row]]);
        const alone = view.linear("map", takeExamples(x, [example])).readSync();
        const actual = mixed.subarray(example * size, (example + 1) * size);
        assertRms(`example ${example}`, actual, alone, { tolerance: 1e-6 });
      }
      for (const params of [base, ...adapters.map((adapter) => adapter.params)]) params.dispose();
    });
  });
}

Deno.test("a shuffled batch gives the shuffled results", () => {
  using backend = loopsBackend();
  const { base, adapters } = oneMap(backend, [6, 8], [2, 3]);
  using _ = scope("test");
  const x = input(backend, [5, 4, 8]);
  const rows = [0, 1, -1, 1, 0];
  const order = [3, 0, 4, 2, 1];
  const out = withLoraBatch(base, adapters, rows).linear("map", x);
  const view = withLoraBatch(base, adapters, order.map((example) => rows[example]));
  assert.deepEqual(view.linear("map", takeExamples(x, order)).readSync(), takeExamples(out, order).readSync());
});

Deno.test("adapters that bring a classifier of their own, and DoRA, run by groups of one RoBERTa batch", () => {
  using backend = loopsBackend();
  const config = readRoberta("classify").config;
  using base = initRoberta(backend, config, { seed: 1, head: "classification" });
  const lora: LoraConfig = { r: 2, alpha: 4, targets: ["query", "value"], modulesToSave: ["classifier"] };
  const adapters = [lora, { ...lora, dora: true }, { ...lora, modulesToSave: [] }].map((settings, i) =>
    stirredLora(base, settings, i)
  );
  using _ = scope("test");
  const rows = [1, 0, 2, -1, 0];
  const ids = Int32Array.from({ length: 30 }, (_, i) => 3 + (5 * i * i + i) % (config.vocab_size - 3));
  const scores = (view: ParamsView, from = 0, to = rows.length) => {
    const tokens = fromArray(backend, ids.slice(6 * from, 6 * to), [to - from, 6]);
    return noGrad(() => robertaLogits(view, config, { tokens }, "classification")).readSync();
  };
  const mixed = scores(withLoraBatch(base, adapters, rows));
  const width = mixed.length / rows.length;
  for (const [i, row] of rows.entries()) {
    const alone = scores(row < 0 ? base : withLora(base, [adapters[row]]), i, i + 1);
    assertRms(`example ${i}`, mixed.subarray(i * width, (i + 1) * width), alone, { tolerance: 1e-6 });
  }
  const [first, ...others] = new Set(rows).values().map((row) =>
    mixed.slice(rows.indexOf(row) * width).slice(0, width)
  );
  for (const other of others) assert.notDeepEqual(other, first);
});

Deno.test("withLoraBatch() of one adapter alone is that adapter's view, to the bit, and of none the base", () => {
  using backend = loopsBackend();
  using base = initLlama(backend, tiny, 1);
  const adapter = stirredLora(base, { r: 2, alpha: 4, targets: ["embed_tokens", "q_proj"] }, 1);
  using _ = scope("test");
  const logits = (view: ParamsView) => noGrad(() => llama(view, tiny, someTokens(backend))).readSync();
  assert.deepEqual(logits(withLoraBatch(base, [adapter], [0, 0])), logits(withLora(base, [adapter])));
  assert.equal(withLoraBatch(base, [adapter], [-1, -1]), base);
});

Deno.test("withLoraBatch() refuses in one line what cannot differ by example", () => {
  using backend = loopsBackend();
  using base = initLlama(backend, tiny, 1);
  const q = { r: 2, alpha: 4, targets: ["q_proj"] };
  const tables = stirredLora(base, { r: 2, alpha: 4, targets: ["embed_tokens"] }, 1);
  const norms = stirredLora(base, { ...q, modulesToSave: ["model.norm"] }, 1);
  using _ = scope("test");
  const run = (adapters: readonly Lora[], rows: readonly number[]) => () =>
    noGrad(() => llama(withLoraBatch(base, adapters, rows), tiny, someTokens(backend)));
  for (const [adapter, name] of [[tables, "model.embed_tokens"], [norms, "model.norm"]] as const) {
    assert.throws(run([adapter], [0, -1]), {
      name: "TypeError",
      message:
        `Cannot read "${name}.weight" for a batch of several adapters: only linear maps can differ by example: ` +
        "got adapter 0, which changes it",
    });
  }
  const factors = stirredLora(base, q, 1);
  const view = withLoraBatch(base, [factors], [0, -1]);
  assert.throws(() => view.get("model.layers.0.self_attn.q_proj.weight"), /^TypeError: Cannot read .*got adapter 0/);
  assert.throws(run([factors], [0, -1, 0]), /^TypeError: Cannot apply .*: expected 3 examples: got f32\[2, 7, 24\]$/);
  for (const row of [-2, 1, 0.5, NaN]) {
    assert.throws(run([factors], [0, row]), {
      name: "RangeError",
      message: "Cannot adapt a batch: each example has an adapter from 0 to 0, or -1 for none: " +
        `got ${row} for example 1`,
    });
  }
});

Deno.test("withLoraBatch() refuses heads of different sizes in one batch", () => {
  using backend = loopsBackend();
  const { base, adapters } = oneMap(backend, [6, 8], [2]);
  using wider = new Params(backend);
  wider.set("map.weight", fromArray(backend, new Float32Array(32), [4, 8]));
  using _ = scope("test");
  const head = { params: wider, config: { r: 2, alpha: 2, targets: ["other"], modulesToSave: ["map"] } };
  using inputs = new Params(backend);
  inputs.set("x", input(backend, [2, 8]));
  using plain = new Params(backend);
  plain.set("map.weight", fromArray(backend, new Float32Array(48), [6, 8]));
  assert.throws(() => withLoraBatch(plain, [adapters[0], head], [1, 0]).linear("map", inputs.get("x")), {
    name: "RangeError",
    message: 'Cannot apply "map" to a batch of several adapters: their outputs must be of one size: got 6 and 4',
  });
  base.dispose();
});

Deno.test("groupExamples() and joinGroups() take a batch apart by adapter and put it together again", () => {
  using backend = loopsBackend();
  using _ = scope("test");
  const rows = [2, -1, 0, 2, -1, 0, 0];
  const groups = groupExamples(rows, 3);
  assert.deepEqual(groups, [
    { adapter: -1, examples: [1, 4] },
    { adapter: 0, examples: [2, 5, 6] },
    { adapter: 2, examples: [0, 3] },
  ]);
  const x = input(backend, [7, 2, 3]);
  assert.deepEqual(
    joinGroups(groups.map(({ examples }) => takeExamples(x, examples)), groups).readSync(),
    x.readSync(),
  );
});
