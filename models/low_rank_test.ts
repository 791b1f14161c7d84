/** Factorised weights: products, gradients, first values, merging, memory, and a whole model against its merged one. */
import assert from "node:assert/strict";
import { loopsBackend } from "../backends/cpu/loops/mod.ts";
import {
  type Backend,
  backward,
  fromArray,
  linear,
  matmul,
  noGrad,
  own,
  Params,
  type ParamsView,
  scope,
  svd,
  type Tensor,
} from "../core/mod.ts";
import { assertClose, assertRms, rms } from "../core/testing/golden.ts";
import { gradcheck, random } from "../core/testing/gradcheck.ts";
import { float, layOut, takeHost } from "../core/testing/inputs.ts";
import { assertNoLeak } from "../core/testing/leaks.ts";
import { initLlama, llama, llamaLoss } from "./llama.ts";
import { llamaFlopsPerToken, llamaWeights, makeLlamaConfig } from "./llama_config.ts";
import {
  factorise,
  initLowRank,
  LOW_RANK_FACTORS,
  lowRankWeights,
  mergedWeights,
  mergeLowRank,
  withLowRank,
} from "./low_rank.ts";

const tiny = makeLlamaConfig({
  vocab_size: 40,
  hidden_size: 24,
  intermediate_size: 40,
  num_hidden_layers: 2,
  num_attention_heads: 4,
}, { num_key_value_heads: 2, max_position_embeddings: 16 });

/** A map of 6 to 5 by factors of rank 2, with a bias, and a plain one. */
function twoMaps(backend: Backend): Params {
  const params = new Params(backend);
  params.set("a.up.lowrank_B.weight", fromArray(backend, random("B", 10), [5, 2]));
  params.set("a.up.lowrank_A.weight", fromArray(backend, random("A", 12), [2, 6]));
  params.set("a.up.bias", fromArray(backend, random("bias", 5), [5]));
  params.set("a.head.weight", fromArray(backend, random("head", 15), [3, 5]));
  return params;
}

function someTokens(backend: Backend, B: number, T: number): Tensor {
  return fromArray(backend, Int32Array.from({ length: B * T }, (_, i) => (i * i + 3 * i + 1) % 40), [B, T]);
}

Deno.test("withLowRank() multiplies by the explicit product, with biases, and leaves other maps alone", () => {
  using backend = loopsBackend();
  using params = twoMaps(backend);
  using _ = scope("test");
  const x = fromArray(backend, random("x", 24), [2, 2, 6]);
  const [B, A, bias] = ["B", "A", "bias"].map((name) => random(name, { B: 10, A: 12, bias: 5 }[name]!));
  const W = Float64Array.from(
    { length: 30 },
    (_, i) => B[2 * Math.floor(i / 6)] * A[i % 6] + B[2 * Math.floor(i / 6) + 1] * A[6 + i % 6],
  );
  const view = withLowRank(params).at("a");
  const hidden = view.linear("up", x);
  const expected = linear(x, fromArray(backend, W, [5, 6]), fromArray(backend, bias, [5]));
  assert.deepEqual(hidden.shape, [2, 2, 5]);
  assertClose("factors", hidden.readSync(), expected.readSync(), { rtol: 1e-12, atol: 1e-14 });
  const head = view.linear("head", hidden).readSync();
  assert.deepEqual(head, linear(hidden, params.get("a.head.weight")).readSync());
  assert.throws(() => view.linear("down", x), /^TypeError: Cannot find parameter "a.down.weight"/);
});

Deno.test("withLowRank() has the gradients of finite differences, for x and both factors", async () => {
  using backend = loopsBackend();
  const specs = [float([3, 6]), float([5, 2]), float([2, 6])];
  const inputs = specs.map((spec, i) => layOut(spec, `low-rank linear ${i}`, "contiguous"));
  await gradcheck("low-rank linear", backend, inputs, (x, B, A) => {
    const factors: ParamsView = {
      backend,
      get: (name) => name === "up.lowrank_B.weight" ? B : A,
      has: (name) => LOW_RANK_FACTORS.test(name),
      at: () => factors,
      linear: () => x,
    };
    return withLowRank(factors).linear("up", x);
  });
});

Deno.test("a model of factors gives the logits and, by the chain rule, the gradients of the merged model", async () => {
  using backend = loopsBackend();
  await assertNoLeak("factors", backend, async () => {
    using params = initLowRank(backend, tiny, { seed: 3, rank: 6 });
    using merged = mergeLowRank(params);
    const view = withLowRank(params);
    const factors = await numbersOf(backend, view);
    const whole = await numbersOf(backend, merged);
    assertRms("logits", factors.logits, whole.logits, { tolerance: 1e-6 });
    const recomputed = await numbersOf(backend, view, true);
    assert.deepEqual(recomputed.gradients, factors.gradients);
    assert.deepEqual([...factors.gradients.keys()].sort(), params.names().sort());
    for (const [name, gradient] of factors.gradients) {
      const module = name.replace(LOW_RANK_FACTORS, "");
      const plain = whole.gradients.get(module === name ? name : `${module}.weight`)!;
      const expected = module === name ? plain : await chained(params, module, plain, name.includes("_B."));
      assertRms(name, gradient, expected, { tolerance: 1e-5 });
    }
  });
});

/** Logits and gradients of a model on the host. */
async function numbersOf(backend: Backend, view: ParamsView, recompute = false) {
  const arrived: [string, Tensor][] = [];
  let logits: Tensor;
  {
    using step = scope("numbers");
    const tokens = someTokens(backend, 2, 8);
    logits = own(step.keep(noGrad(() => llama(view, tiny, tokens))));
    backward(llamaLoss(view, tiny, tokens, tokens, { recompute }), (name, gradient) => {
      arrived.push([name, gradient.retained()]);
    });
  }
  const gradients = new Map<string, Float64Array>();
  for (const [name, gradient] of arrived) gradients.set(name, await takeHost(gradient));
  return { logits: await takeHost(logits), gradients };
}

/** dL/dB = dL/dW A^T, or dL/dA = B^T dL/dW. */
async function chained(params: Params, module: string, gradient: Float64Array, isB: boolean): Promise<Float64Array> {
  const [B, A] = ["B", "A"].map((factor) => params.get(`${module}.lowrank_${factor}.weight`));
  let out: Tensor;
  {
    using inner = scope("chain rule");
    const G = fromArray(params.backend, Float32Array.from(gradient), [B.shape[0], A.shape[1]]);
    out = own(inner.keep(noGrad(() => isB ? matmul(G, A, { transposeB: true }) : matmul(B, G, { transposeA: true }))));
  }
  return await takeHost(out);
}

Deno.test("mergeLowRank() gives plain weights of its own under Hugging Face's names, in their order", async () => {
  using backend = loopsBackend();
  await assertNoLeak("merge", backend, async () => {
    using params = initLowRank(backend, tiny, { seed: 3, rank: 6 });
    using merged = mergeLowRank(params);
    assert.deepEqual(merged.names(), [...llamaWeights(tiny).keys()]);
    for (const [name, { shape }] of llamaWeights(tiny)) assert.deepEqual(merged.get(name).shape, shape, name);
    const before = await takeHost(merged.get("model.norm.weight").retained());
    params.get("model.norm.weight").write(new Float32Array(24).fill(7));
    assert.deepEqual(await takeHost(merged.get("model.norm.weight").retained()), before);
    using again = mergeLowRank(merged);
    for (const name of merged.names()) assert.deepEqual(again.get(name).readSync(), merged.get(name).readSync(), name);
  });
});

Deno.test("mergedWeights() makes a weight when it is asked for, and no more", async () => {
  using backend = loopsBackend();
  using params = initLowRank(backend, tiny, { seed: 3, rank: 6, dtype: "bf16" });
  await assertNoLeak("merged weights", backend, () => {
    const before = backend.memory().inUse;
    for (const { name, shape, dtype, make } of mergedWeights(params)) {
      assert.equal(backend.memory().inUse, before);
      using weight = make();
      assert.deepEqual([weight.shape, weight.dtype, dtype], [shape, "bf16", "bf16"], name);
    }
  });
});

Deno.test("lowRankWeights() has R (rows + columns) weights a target, its rank cut to the smaller side", () => {
  const whole = llamaWeights(tiny);
  for (const [rank, kept, isTarget] of [[4, 4, /_proj\./], [99, 99, /_proj\./], [4, 4, /mlp/]] as const) {
    const weights = lowRankWeights(tiny, { rank, ...isTarget.source === "mlp" && { targets: isTarget } });
    let expected = 0;
    for (const [name, { shape: [rows, columns = 0] }] of whole) {
      const R = Math.min(kept, rows, columns);
      expected += isTarget.test(name) ? R * (rows + columns) : rows * Math.max(1, columns);
    }
    const size = [...weights.values()].reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0);
    assert.equal(size, expected, `rank ${rank}`);
  }
  assert.deepEqual(lowRankWeights(tiny, { rank: 4 }).get("model.layers.1.mlp.up_proj.lowrank_A.weight")?.shape, [
    4,
    24,
  ]);
  assert.throws(() => lowRankWeights(tiny, { rank: 0 }), /^RangeError: Cannot factorise weights: .*: got 0$/);
});

Deno.test("initLowRank() gives products of the whole model's scale, and the other weights to the bit", () => {
  using backend = loopsBackend();
  using whole = initLlama(backend, tiny, 7);
  for (const rank of [1, 6, 24]) {
    using params = initLowRank(backend, tiny, { seed: 7, rank });
    using again = initLowRank(backend, tiny, { seed: 7, rank });
    using merged = mergeLowRank(params);
    let [sum, count] = [0, 0];
    for (const [name, tensor] of merged.entries()) {
      const values = tensor.readSync();
      if (!/_proj\./.test(name)) assert.deepEqual(values, whole.get(name).readSync(), name);
      else [sum, count] = [sum + values.length * rms(values) ** 2, count + values.length];
    }
    for (const [name, tensor] of params.entries()) {
      assert.deepEqual(again.get(name).readSync(), tensor.readSync(), name);
    }
    // fewer numbers of chance at a low rank
    assert.ok(Math.abs(Math.sqrt(sum / count) / 0.02 - 1) < (rank === 1 ? 0.2 : 0.06), `rank ${rank}`);
  }
});

Deno.test("llamaFlopsPerToken() counts the factors that multiply", () => {
  const factors = lowRankWeights(tiny, { rank: 4 });
  const saved = [...llamaWeights(tiny)].filter(([name]) => /_proj\./.test(name))
    .reduce((sum, [, { shape: [rows, columns] }]) => sum + rows * columns - 4 * (rows + columns), 0);
  assert.equal(llamaFlopsPerToken(tiny, 8) - llamaFlopsPerToken(tiny, 8, factors), 6 * saved);
});

Deno.test("factorise() gives the nearest product of its rank, balanced, and keeps the other weights", async () => {
  using backend = loopsBackend();
  using params = new Params(backend);
  params.set("a.mlp.up_proj.weight", fromArray(backend, random("W", 7 * 5), [7, 5]));
  params.set("norm.weight", fromArray(backend, random("n", 5), [5]));
  const W = await params.get("a.mlp.up_proj.weight").read() as Float32Array;
  const { values } = svd(W, 7, 5);
  const energy = (from: number) => values.slice(from).reduce((sum, value) => sum + value * value, 0);
  const { params: factors, kept } = await factorise(params, { rank: 2, targets: /up_proj/ });
  using _ = factors;
  assert.ok(Math.abs(kept - (1 - energy(2) / energy(0))) < 1e-6);
  assert.deepEqual(factors.names(), [
    "a.mlp.up_proj.lowrank_B.weight",
    "a.mlp.up_proj.lowrank_A.weight",
    "norm.weight",
  ]);
  using merged = mergeLowRank(factors);
  const product = await merged.get("a.mlp.up_proj.weight").read() as Float32Array;
  const lost = product.reduce((sum, value, i) => sum + (value - W[i]) ** 2, 0);
  assert.ok(Math.abs(lost - energy(2)) < 1e-5 * energy(0), `${lost}, ${energy(2)}`);
  const squares = await Promise.all(["B", "A"].map(async (one) => {
    const factor = await factors.get(`a.mlp.up_proj.lowrank_${one}.weight`).read() as Float32Array;
    return factor.reduce((sum, value) => sum + value * value, 0);
  }));
  assert.ok(Math.abs(squares[0] - squares[1]) < 1e-5 * squares[0]);
  await assert.rejects(() => factorise(params, { rank: 0 }), /the rank must be a whole number from 1: got 0/);
});
