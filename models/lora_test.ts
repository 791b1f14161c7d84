/** LoRA's maths: PyTorch's numbers, first values, scales, gradients, DoRA, dropout and recomputation. */
import assert from "node:assert/strict";
import { loopsBackend } from "../backends/cpu/loops/mod.ts";
import {
  type Backend,
  backward,
  fromArray,
  keyOf,
  linear,
  mul,
  noGrad,
  own,
  Params,
  type ParamsView,
  scope,
  sum,
  type Tensor,
} from "../core/mod.ts";
import { assertClose, assertRms, readGolden, rms } from "../core/testing/golden.ts";
import { gradcheck, random } from "../core/testing/gradcheck.ts";
import { float, layOut, takeHost } from "../core/testing/inputs.ts";
import { assertNoLeak } from "../core/testing/leaks.ts";
import { initLlama, llama, llamaLoss } from "./llama.ts";
import { initLora, type LoraConfig, loraScale, withLora } from "./lora.ts";
import { someTokens, stir, tiny } from "./testing/tiny_lora.ts";
import { loraGoldens } from "./testing/lora_goldens.ts";

loraGoldens("loops", () => loopsBackend());
loraGoldens("loops", () => loopsBackend(), { dtype: "f64", slack: 0.1 });

/** Weights by name with random numbers. */
function randomParams(backend: Backend, shapes: Readonly<Record<string, number[]>>, dtype: "f32" | "f64" = "f32") {
  const params = new Params(backend);
  for (const [name, shape] of Object.entries(shapes)) {
    params.set(name, fromArray(backend, random(name, shape.reduce((a, b) => a * b, 1)), shape, dtype));
  }
  return params;
}

Deno.test("withLora() gives PyTorch's map and gradients for one linear map with a bias", async () => {
  using backend = loopsBackend();
  const golden = readGolden(new URL("testdata/adapters/lora_linear.safetensors", import.meta.url));
  const tensor = (name: string) => fromArray(backend, golden.get(name)!.data, golden.get(name)!.shape);
  await assertNoLeak("lora linear", backend, async () => {
    using base = new Params(backend);
    using adapter = new Params(backend);
    for (const name of ["weight", "bias"]) base.set(`map.${name}`, tensor(name));
    base.freeze(base.names());
    for (const name of ["lora_A", "lora_B"]) adapter.set(`map.${name}.weight`, tensor(name));
    using inputs = new Params(backend);
    inputs.set("x", tensor("x"));
    const held = new Map<string, Tensor>();
    const y = (() => {
      using step = scope("step");
      const view = withLora(base, [{ params: adapter, config: { r: 5, alpha: 8, targets: ["map"] } }]);
      const out = view.linear("map", inputs.get("x"));
      backward(sum(mul(out, tensor("cotangent"))), (name, gradient) => held.set(name, gradient.retained()));
      return own(step.keep(out));
    })();
    assertRms("y", await takeHost(y), golden.get("y")!.data, { tolerance: 3e-6 });
    assert.deepEqual([...held.keys()].sort(), ["map.lora_A.weight", "map.lora_B.weight", "x"]);
    for (const [name, gradient] of held) {
      const stored = golden.get(`grad.${name.replace(/^map\.|\.weight$/g, "")}`)!.data;
      assertRms(name, await takeHost(gradient), stored, { tolerance: 3e-6 });
    }
  });
});

Deno.test("initLora() changes nothing at first, and A has no gradient yet, in LoRA, rsLoRA and DoRA", async () => {
  using backend = loopsBackend();
  await assertNoLeak("first step", backend, () => {
    using base = initLlama(backend, tiny, 1);
    base.freeze(base.names());
    using _ = scope("test");
    const tokens = someTokens(backend);
    const expected = noGrad(() => llama(base, tiny, tokens)).readSync();
    for (const kind of [{}, { rslora: true }, { dora: true }]) {
      const config: LoraConfig = { r: 3, alpha: 6, targets: "all-linear", ...kind };
      using adapter = initLora(base, config, { seed: 2 });
      const view = withLora(base, [{ params: adapter, config }]);
      const actual = noGrad(() => llama(view, tiny, tokens)).readSync();
      if (config.dora) assertRms("logits", actual, expected, { tolerance: 1e-6 });
      else assert.deepEqual(actual, expected);
      const arrived = new Set<string>();
      backward(llamaLoss(view, tiny, tokens, tokens), (name, gradient) => {
        arrived.add(name);
        const size = rms(gradient.readSync());
        if (name.includes("lora_A")) assert.equal(size, 0, name);
        else assert.ok(size > 0, name);
      });
      assert.deepEqual([...arrived].sort(), adapter.names().sort());
      assert.equal(adapter.names().some((name) => name.endsWith("q_proj.lora_magnitude_vector")), "dora" in kind);
    }
  });
});

Deno.test("initLora() draws A uniform within 1/sqrt(in) by seed and name, in the dtype asked for", () => {
  using backend = loopsBackend();
  using base = randomParams(backend, { "a.weight": [8, 400], "b.weight": [8, 400], "norm.weight": [8] });
  const config: LoraConfig = { r: 16, alpha: 16, targets: ["a", "b"], modulesToSave: ["norm"] };
  using adapter = initLora(base, config, { seed: 3 });
  using again = initLora(base, config, { seed: 3 });
  using other = initLora(base, config, { seed: 4 });
  using half = initLora(base, config, { seed: 3, dtype: "bf16" });
  const A = adapter.get("a.lora_A.weight").readSync();
  assert.ok(Math.max(...A.map(Math.abs)) <= 0.05 && Math.max(...A.map(Math.abs)) > 0.0499);
  assert.ok(Math.abs(rms(A) / (0.05 / Math.sqrt(3)) - 1) < 0.02);
  assert.deepEqual(again.get("a.lora_A.weight").readSync(), A);
  assert.notDeepEqual(other.get("a.lora_A.weight").readSync(), A);
  assert.notDeepEqual(adapter.get("b.lora_A.weight").readSync(), A);
  assert.equal(rms(adapter.get("a.lora_B.weight").readSync()), 0);
  assert.deepEqual(adapter.get("norm.weight").readSync(), base.get("norm.weight").readSync());
  adapter.get("norm.weight").write(new Float32Array(8));
  assert.deepEqual(base.get("norm.weight").readSync(), half.get("norm.weight").readSync());
  assert.deepEqual([half.get("a.lora_A.weight").dtype, half.get("norm.weight").dtype], ["bf16", "f32"]);
});

Deno.test("withLora() scales by alpha / r, or by alpha / sqrt(r) with rslora", () => {
  assert.equal(loraScale({ r: 16, alpha: 8, targets: [] }), 0.5);
  assert.equal(loraScale({ r: 16, alpha: 8, targets: [], rslora: true }), 2);
});

Deno.test("withLora() has the gradients of finite differences for x, A and B", async () => {
  using backend = loopsBackend();
  const specs = [float([3, 6]), float([2, 6]), float([5, 2])];
  const inputs = specs.map((spec, i) => layOut(spec, `lora ${i}`, "contiguous"));
  using base = randomParams(backend, { "map.weight": [5, 6], "map.bias": [5] }, "f64");
  base.freeze(base.names());
  const config: LoraConfig = { r: 2, alpha: 3, targets: ["map"], dropout: 0.3 };
  for (const dropoutKey of [undefined, keyOf(5)]) {
    await gradcheck("lora", backend, inputs, (x, A, B) => {
      const params = {
        get: (name: string) => name.includes("_A") ? A : B,
        has: (name: string) => /lora_[AB]/.test(name),
      };
      return withLora(base, [{ params: params as ParamsView, config }], { dropoutKey }).linear("map", x);
    });
  }
});

Deno.test("DoRA scales rows by magnitudes over norms, with no gradient through the norms", () => {
  using backend = loopsBackend();
  using base = randomParams(backend, { "map.weight": [5, 6], "map.bias": [5] }, "f64");
  base.freeze(base.names());
  const config: LoraConfig = { r: 2, alpha: 3, targets: ["map"], dora: true };
  using adapter = randomParams(backend, {
    "map.lora_A.weight": [2, 6],
    "map.lora_B.weight": [5, 2],
    "map.lora_magnitude_vector": [5],
  }, "f64");
  using _ = scope("test");
  const x = fromArray(backend, random("x", 18), [3, 6], "f64");
  const cotangent = random("cotangent", 15);
  const [W, A, B, m] = ["map.weight", ...adapter.names()].map((name, i) =>
    Array.from((i === 0 ? base : adapter).get(name).readSync())
  );
  const adapted = W.map((w, i) =>
    w + 1.5 * (B[2 * Math.floor(i / 6)] * A[i % 6] + B[2 * Math.floor(i / 6) + 1] * A[6 + i % 6])
  );
  const share = m.map((value, row) => value / Math.hypot(...adapted.slice(6 * row, 6 * row + 6)));
  const out = withLora(base, [{ params: adapter, config }]).linear("map", x);
  const scaled = fromArray(backend, adapted.map((w, i) => share[Math.floor(i / 6)] * w), [5, 6], "f64");
  const expected = linear(x, scaled, base.get("map.bias")).readSync();
  assertClose("dora", out.readSync(), expected, { rtol: 1e-12, atol: 1e-13 });
  const gradients = gradientsUnder(out, cotangent);
  // with constant shares it is plain LoRA under a cotangent that the shares have scaled
  const plain = withLora(base, [{ params: adapter, config: { ...config, dora: false } }]).linear("map", x);
  const chained = gradientsUnder(plain, cotangent.map((value, i) => value * share[i % 5]));
  for (const name of ["map.lora_A.weight", "map.lora_B.weight"]) {
    assertClose(name, gradients.get(name)!, chained.get(name)!, { rtol: 1e-11, atol: 1e-12 });
  }
  const whole = linear(x, fromArray(backend, adapted, [5, 6], "f64")).readSync();
  const ofMagnitudes = m.map((value, row) =>
    [0, 1, 2].reduce((total, i) => total + cotangent[5 * i + row] * whole[5 * i + row] * share[row] / value, 0)
  );
  assertClose("m", gradients.get("map.lora_magnitude_vector")!, ofMagnitudes, { rtol: 1e-11, atol: 1e-12 });
});

function gradientsUnder(out: Tensor, cotangent: Float64Array): Map<string, Float64Array> {
  const gradients = new Map<string, Float64Array>();
  const weights = fromArray(out.backend, cotangent, out.shape, "f64");
  backward(sum(mul(out, weights)), (name, gradient) => gradients.set(name, Float64Array.from(gradient.readSync())));
  return gradients;
}

Deno.test("dropout changes the adapter's input alone, by the key and the module, and nothing without a key", () => {
  using backend = loopsBackend();
  using base = randomParams(backend, { "one.weight": [4, 4], "two.weight": [4, 4] });
  base.get("two.weight").write(base.get("one.weight").readSync());
  for (const dora of [false, true]) {
    const config: LoraConfig = { r: 4, alpha: 4, dropout: 0.5, targets: ["one", "two"], dora };
    using adapter = initLora(base, config, { seed: 1 });
    stir(adapter, /two\.lora_[AB]/);
    for (const part of ["A", "B"]) {
      adapter.get(`one.lora_${part}.weight`).write(adapter.get(`two.lora_${part}.weight`).readSync());
    }
    using _ = scope("test");
    const x = fromArray(backend, Float32Array.from(random("x", 256)), [64, 4]);
    const run = (module: string, seed?: number) =>
      withLora(base, [{ params: adapter, config }], seed === undefined ? {} : { dropoutKey: keyOf(seed) })
        .linear(module, x).readSync();
    assert.deepEqual(run("one"), run("two"));
    assert.deepEqual(run("one", 1), run("one", 1));
    assert.notDeepEqual(run("one", 1), run("one", 2));
    assert.notDeepEqual(run("one", 1), run("two", 1));
    assert.notDeepEqual(run("one", 1), run("one"));
    stir(adapter, /_B/, 0);
    if (!dora) assert.deepEqual(run("one", 1), run("one"));
    else assertRms("no change to see", run("one", 1), run("one"), { tolerance: 1e-6 });
  }
});

Deno.test("DoRA with dropout keeps the whole plain product: only its change sees the dropped input", () => {
  using backend = loopsBackend();
  using base = randomParams(backend, { "map.weight": [6, 6], "map.bias": [6] });
  const config: LoraConfig = { r: 6, alpha: 6, targets: ["map"], dropout: 0.4 };
  const options = { dropoutKey: keyOf(9) };
  using zero = randomParams(backend, { "map.weight": [6, 6] });
  zero.get("map.weight").write(new Float32Array(36));
  using identity = initLora(zero, config, { seed: 1 });
  const eye = Float32Array.from({ length: 36 }, (_, i) => i % 7 === 0 ? 1 : 0);
  for (const name of identity.names()) identity.get(name).write(eye);
  using adapter = initLora(base, { ...config, dora: true }, { seed: 1 });
  stir(adapter, /./);
  using _ = scope("test");
  const x = fromArray(backend, Float32Array.from(random("x", 48)), [8, 6]);
  const dropped = withLora(zero, [{ params: identity, config }], options).linear("map", x);
  assert.ok(dropped.readSync().some((value) => value === 0));
  const actual = withLora(base, [{ params: adapter, config: { ...config, dora: true } }], options).linear("map", x);
  // W x + b + (m / n - 1) W d + m / n B A d
  const dora = withLora(base, [{ params: adapter, config: { ...config, dora: true } }]).linear("map", dropped);
  const [whole, ofDropped] = [x, dropped].map((input) => base.linear("map", input).readSync());
  const expected = dora.readSync().map((value, i) => value - ofDropped[i] + whole[i]);
  assertRms("output", actual.readSync(), expected, { tolerance: 1e-6 });
});

Deno.test("layers that are recomputed drop the same inputs: the gradients are the same to the bit", () => {
  using backend = loopsBackend();
  using base = initLlama(backend, tiny, 1);
  base.freeze(base.names());
  for (const dora of [false, true]) {
    const config: LoraConfig = { r: 2, alpha: 4, dropout: 0.2, targets: "all-linear", dora };
    using adapter = initLora(base, config, { seed: 1 });
    stir(adapter, /_B/, 0.2);
    const run = (recompute: boolean) => {
      using _ = scope("step");
      const tokens = someTokens(backend);
      const gradients = new Map<string, unknown>();
      const view = withLora(base, [{ params: adapter, config }], { dropoutKey: keyOf(3) });
      const loss = llamaLoss(view, tiny, tokens, tokens, { recompute });
      backward(loss, (name, gradient) => gradients.set(name, gradient.readSync().slice()));
      return [gradients, loss.readSync()];
    };
    assert.deepEqual(run(true), run(false));
  }
});
