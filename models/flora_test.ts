/** FLoRA's maths: PyTorch's numbers, explicit weights, first values, the rank that training reaches, dropout, refusals. */
import assert from "node:assert/strict";
import { loopsBackend } from "../backends/cpu/loops/mod.ts";
import {
  type Backend,
  backward,
  cast,
  fromArray,
  keyOf,
  mean,
  mul,
  noGrad,
  Params,
  type ParamsView,
  scope,
  square,
  sub,
  svd,
} from "../core/mod.ts";
import { assertRms } from "../core/testing/golden.ts";
import { gradcheck, random } from "../core/testing/gradcheck.ts";
import { float, layOut } from "../core/testing/inputs.ts";
import { assertNoLeak, peakBytes } from "../core/testing/leaks.ts";
import { takeExamples } from "./adapter_groups.ts";
import { type FloraConfig, floraWeights, initFlora, withFlora } from "./flora.ts";
import { plansWeights } from "./flora_product.ts";
import { hiraTensors } from "./hira.ts";
import { initLlama, llama, llamaLoss } from "./llama.ts";
import { floraGoldens } from "./testing/flora_goldens.ts";
import { floraLaws, stirredFlora } from "./testing/flora_laws.ts";
import { product } from "./testing/host_matrices.ts";
import { someTokens, tiny } from "./testing/tiny_lora.ts";

floraGoldens("loops", () => loopsBackend());
floraLaws("loops", () => loopsBackend());

/** A linear map with a bias. */
function oneMap(backend: Backend, rows: number, columns: number, dtype: "f32" | "f64" | "bf16" = "f32"): Params {
  using _ = scope("map");
  const base = new Params(backend);
  const wide = dtype === "f64" ? "f64" : "f32";
  base.set("map.weight", cast(fromArray(backend, random("weight", rows * columns), [rows, columns], wide), dtype));
  base.set("map.bias", cast(fromArray(backend, random("bias", rows), [rows], wide), dtype));
  base.freeze(base.names());
  return base;
}

function input(backend: Backend, shape: readonly number[]) {
  return fromArray(backend, Float32Array.from(random("x", shape.reduce((a, b) => a * b))), shape);
}

Deno.test("initFlora() changes nothing at first: to the bit in the residual form, to rounding in the product form", async () => {
  using backend = loopsBackend();
  await assertNoLeak("first step", backend, () => {
    using base = initLlama(backend, tiny, 1);
    base.freeze(base.names());
    using _ = scope("test");
    const tokens = someTokens(backend);
    const expected = noGrad(() => llama(base, tiny, tokens)).readSync();
    const kinds: Partial<FloraConfig>[] = [{}, { form: "product" }, { form: "product", reduction: "mean" }];
    for (const kind of kinds) {
      const config: FloraConfig = { r: 3, targets: "all-linear", modulesToSave: ["lm_head"], ...kind };
      using adapter = initFlora(base, config, { seed: 2 });
      const view = withFlora(base, [{ params: adapter, config }]);
      const actual = noGrad(() => llama(view, tiny, tokens)).readSync();
      if (config.form === "product") assertRms("logits", actual, expected, { tolerance: 1e-6 });
      else assert.deepEqual(actual, expected);
      const arrived: string[] = [];
      backward(llamaLoss(view, tiny, tokens, tokens, { recompute: true }), (name) => arrived.push(name));
      assert.deepEqual(arrived.sort(), adapter.names().sort());
    }
  });
});

Deno.test("initFlora() draws by seed and name, and its product form adds up to 1 with parts that differ", () => {
  using backend = loopsBackend();
  using base = oneMap(backend, 40, 30);
  const config: FloraConfig = { r: 4, targets: ["map"] };
  using adapter = initFlora(base, config, { seed: 1 });
  using other = initFlora(base, config, { seed: 2 });
  const A = adapter.get("map.flora_A").readSync();
  assert.ok(Math.max(...A.map(Math.abs)) <= 1 / Math.sqrt(30) && Math.max(...A.map(Math.abs)) > 0.17);
  assert.notDeepEqual(A, other.get("map.flora_A").readSync());
  assert.ok(adapter.get("map.flora_B").readSync().every((value) => value === 0));
  using ones = initFlora(base, { ...config, form: "product" }, { seed: 1 });
  assert.ok(ones.get("map.flora_A").readSync().every((value) => value === 1));
  const B = ones.get("map.flora_B").readSync();
  for (let row = 0; row < 40; row++) {
    const parts = Float64Array.from(B.slice(4 * row, 4 * row + 4));
    assert.ok(Math.abs(parts.reduce((a, b) => a + b, 0) - 1) < 1e-6);
    assert.ok(new Set(parts).size === 4 && parts.every((part) => Math.abs(4 * part - 1) < 0.6));
  }
  using equal = initFlora(base, { ...config, form: "product" }, { seed: 1, spread: 0 });
  assert.ok(equal.get("map.flora_B").readSync().every((value) => value === 0.25));
});

/** Singular values of M = B A, or 1 + B A, after training towards another weight, as shares of the largest. */
function trainedSpectrum(backend: Backend, config: FloraConfig, spread?: number): number[] {
  const [rows, columns] = [8, 6];
  using base = oneMap(backend, rows, columns, "f64");
  using adapter = initFlora(base, config, { seed: 1, spread });
  const x = random("x", 16 * columns);
  const target = random("target", 16 * rows);
  for (let step = 0; step < 150; step++) {
    using _ = scope("step");
    const view = withFlora(base, [{ params: adapter, config }]);
    const error = sub(
      view.linear("map", fromArray(backend, x, [16, columns], "f64")),
      fromArray(backend, target, [16, rows], "f64"),
    );
    backward(mean(square(error)), (name, gradient) => {
      const tensor = adapter.get(name);
      const g = gradient.readSync();
      tensor.write(Float64Array.from(tensor.readSync(), (value, i) => value - 0.3 * g[i]));
    });
  }
  const [A, B] = ["A", "B"].map((factor) => adapter.get(`map.flora_${factor}`).readSync());
  const M = product(B, A, [rows, config.r, columns]).map((value) => config.form === "product" ? value : value + 1);
  const { values } = svd(M, rows, columns);
  return Array.from(values, (value) => value / values[0]);
}

Deno.test("equal parts keep M at rank 1 for ever; parts set apart, or the residual form, reach their rank", () => {
  using backend = loopsBackend();
  const config: FloraConfig = { r: 3, targets: ["map"], form: "product" };
  for (const reduction of ["sum", "mean"] as const) {
    const equal = trainedSpectrum(backend, { ...config, reduction }, 0);
    assert.ok(equal[1] < 1e-6, `sigma 2 of ${equal[1]}`);
    const apart = trainedSpectrum(backend, { ...config, reduction });
    assert.ok(apart[2] > 1e-3 && apart[3] < 1e-12, apart.join());
  }
  const residual = trainedSpectrum(backend, { ...config, form: "residual" });
  assert.ok(residual[3] > 1e-3 && residual[4] < 1e-12, residual.join());
});

Deno.test("withFlora() has the gradients of finite differences for x, A and B, with dropout and without", async () => {
  using backend = loopsBackend();
  using base = oneMap(backend, 5, 6, "f64");
  for (const form of ["product", "residual"] as const) {
    const config: FloraConfig = { r: 2, targets: ["map"], dropout: 0.3, form, reduction: "mean" };
    for (const [rows, dropoutKey] of [[2, undefined], [2, keyOf(5)], [60, undefined], [60, keyOf(5)]] as const) {
      assert.equal(plansWeights({ rows, parts: form === "product" ? 2 : 3, rank: 2 }), rows === 60);
      const inputs = [float([rows, 6]), float([2, 6]), float([5, 2])].map((spec, i) =>
        layOut(spec, `flora ${i}`, "contiguous")
      );
      await gradcheck("flora", backend, inputs, (x, A, B) => {
        const params = {
          get: (name: string) => name.endsWith("_A") ? A : B,
          has: (name: string) => /flora_[AB]/.test(name),
        };
        return withFlora(base, [{ params: params as ParamsView, config }], undefined, { dropoutKey }).linear("map", x);
      });
    }
  }
});

Deno.test("changed weights and scaled inputs give one result: the plan is a matter of cost", () => {
  using backend = loopsBackend();
  using base = oneMap(backend, 9, 7);
  for (const form of ["product", "residual"] as const) {
    const config: FloraConfig = { r: 3, targets: ["map"], form };
    const adapter = stirredFlora(base, config, 1);
    using _ = scope("test");
    const x = input(backend, [40, 7]);
    const view = withFlora(base, [adapter]);
    const many = view.linear("map", x).readSync();
    const few = Array.from(
      { length: 20 },
      (_, i) => [...view.linear("map", takeExamples(x, [2 * i, 2 * i + 1])).readSync()],
    );
    assertRms(form, few.flat(), many, { tolerance: 1e-6 });
    adapter.params.dispose();
  }
  const plans = [[1, 1], [4, 8], [8, 8], [1000, 1]].map(([rows, parts]) => plansWeights({ rows, parts, rank: parts }));
  assert.deepEqual(plans, [false, false, true, false]);
  assert.equal(plansWeights({ rows: 8, parts: 8, rank: 8, adapters: 8 }), false);
});

Deno.test("a shuffled batch gives the shuffled results", () => {
  using backend = loopsBackend();
  using base = oneMap(backend, 9, 7);
  const adapters = [1, 2, 4].map((r) => stirredFlora(base, { r, targets: ["map"], form: "product" }, r));
  using _ = scope("test");
  const x = input(backend, [6, 2, 7]);
  const [rows, order] = [[0, 2, 1, 1, 0, 2], [3, 0, 4, 2, 1, 5]];
  const out = withFlora(base, adapters, rows).linear("map", x);
  const view = withFlora(base, adapters, order.map((example) => rows[example]));
  assert.deepEqual(view.linear("map", takeExamples(x, order)).readSync(), takeExamples(out, order).readSync());
  for (const { params } of adapters) params.dispose();
});

Deno.test("an adapter that all examples share is not copied for each of them", () => {
  using backend = loopsBackend();
  using base = oneMap(backend, 64, 64);
  const config: FloraConfig = { r: 2, targets: ["map"], form: "product" };
  const adapters = [1, 2].map((seed) => stirredFlora(base, config, seed));
  const run = (rows?: readonly number[]) =>
    peakBytes(backend, () => {
      using _ = scope("peak");
      withFlora(base, rows ? adapters : [adapters[0]], rows).linear("map", input(backend, [16, 1, 64]));
    });
  const copies = 4 * 16 * config.r * (64 + 64);
  assert.ok(run() + copies <= run(Array.from({ length: 16 }, (_, i) => i % 2)));
  for (const { params } of adapters) params.dispose();
});

Deno.test("dropout hides the input from what W x changes by alone, in both forms, by the key and the module", () => {
  using backend = loopsBackend();
  using base = oneMap(backend, 9, 7);
  const config: FloraConfig = { r: 2, targets: ["map"], form: "product", dropout: 0.4 };
  const adapter = stirredFlora(base, config, 1);
  using hira = hiraTensors(adapter.params, config);
  using residual = new Params(backend);
  for (const [name, tensor] of hira.entries()) residual.set(name.replace("hira", "flora"), tensor.retained());
  using _ = scope("test");
  for (const rows of [3, 100]) {
    const run = (seed?: number) =>
      withFlora(base, [adapter], undefined, seed === undefined ? {} : { dropoutKey: keyOf(seed) })
        .linear("map", input(backend, [rows, 7])).readSync();
    const whole = { params: residual, config: { ...config, r: 3, form: "residual" as const } };
    const same = withFlora(base, [whole], undefined, { dropoutKey: keyOf(1) }).linear("map", input(backend, [rows, 7]));
    assertRms("residual", run(1), same.readSync(), { tolerance: 2e-6 });
    assert.deepEqual(run(1), run(1));
    assert.notDeepEqual(run(1), run(2));
    assert.notDeepEqual(run(1), run());
  }
  using none = initFlora(base, { ...config, form: "residual" }, { seed: 1 });
  const start = { params: none, config: { ...config, form: "residual" as const } };
  const x = input(backend, [3, 7]);
  const out = withFlora(base, [start], undefined, { dropoutKey: keyOf(1) }).linear("map", x);
  assert.deepEqual(out.readSync(), base.linear("map", x).readSync());
  adapter.params.dispose();
});

Deno.test("f32 adapters of a 16-bit base keep its dtype in the results, and theirs in the gradients", () => {
  using backend = loopsBackend();
  using base = oneMap(backend, 9, 7, "bf16");
  for (const form of ["product", "residual"] as const) {
    for (const rows of [2, 64]) {
      const config: FloraConfig = { r: 2, targets: ["map"], form };
      const adapters = [1, 2].map((seed) => stirredFlora(base, config, seed));
      using _ = scope("test");
      const x = cast(input(backend, [2, rows / 2, 7]), "bf16");
      for (const view of [withFlora(base, [adapters[0]]), withFlora(base, adapters, [0, 1])]) {
        const out = view.linear("map", x);
        assert.equal(out.dtype, "bf16");
        backward(mean(mul(cast(out, "f32"), 1)), (name, gradient) => assert.equal(gradient.dtype, "f32", name));
      }
      for (const { params } of adapters) params.dispose();
    }
  }
});

Deno.test("withFlora() and floraWeights() refuse in one line", () => {
  using backend = loopsBackend();
  using base = initLlama(backend, tiny, 1);
  const config: FloraConfig = { r: 2, targets: ["q_proj"] };
  const adapter = stirredFlora(base, config, 1);
  const q = "model.layers.0.self_attn.q_proj.weight";
  assert.throws(
    () => withFlora(base, [adapter, adapter]),
    /^RangeError: Cannot adapt a batch: rows must say .*: got 2$/,
  );
  assert.throws(() => withFlora(base, [adapter], [0, 1]), /^RangeError: Cannot adapt a batch: .* got 1 for example 1$/);
  assert.throws(
    () => withFlora(base, [adapter], [0, -1], { dropoutKey: keyOf(1) }),
    /^RangeError: Cannot drop inputs of/,
  );
  assert.throws(
    () => withFlora(base, [adapter]).get(q),
    /^TypeError: Cannot read ".*q_proj.weight": a map with an adapter/,
  );
  assert.throws(() => withFlora(base, [adapter], [0, -1]).get(q), /^TypeError: Cannot read .*: only linear maps can/);
  assert.equal(withFlora(base, [adapter], [-1, -1]), base);
  const weights = (changed: Partial<FloraConfig>) => () => floraWeights(base.entries(), { ...config, ...changed });
  assert.throws(
    weights({ targets: ["embed_tokens"] }),
    /^TypeError: Cannot adapt "model.embed_tokens": FLoRA is offered/,
  );
  assert.throws(weights({ targets: ["query"] }), /^RangeError: Cannot fit the adapter to the model: .*got "query"/);
  assert.throws(weights({ r: 0 }), /^RangeError: Cannot make an adapter: r must be .*: got 0$/);
  assert.throws(weights({ dropout: 1 }), /dropout must be in \[0, 1\): got 1$/);
  adapter.params.dispose();
});
