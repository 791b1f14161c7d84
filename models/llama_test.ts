/** LLaMA: PyTorch's numbers, generation with a cache, stretched positions, memory, and initial weights. */
import assert from "node:assert/strict";
import { loopsBackend } from "../backends/cpu/loops/mod.ts";
import { dryBackend, dryFused } from "../backends/dry/mod.ts";
import { type Backend, backward, fromArray, noGrad, own, scope, slice, type Tensor } from "../core/mod.ts";
import { assertClose, assertRms, rms } from "../core/testing/golden.ts";
import { roundTo, takeHost } from "../core/testing/inputs.ts";
import { assertNoLeak, peakBytes } from "../core/testing/leaks.ts";
import { KeyValueCache } from "./key_value_cache.ts";
import { initLlama, llama, llamaLoss, type LlamaOptions, ropeFrequencies } from "./llama.ts";
import { type LlamaConfig, llamaWeights, makeLlamaConfig } from "./llama_config.ts";
import { assertLlama, GOLDEN_LLAMAS, llamaGoldens, llamaParams, readLlama, runLlama } from "./testing/llama_goldens.ts";

llamaGoldens("loops", () => loopsBackend());
// what is left over is the rounding of the stored numbers
llamaGoldens("loops", () => loopsBackend(), { dtype: "f64", logits: 1e-7, loss: 1e-7, gradient: 1e-7 });
// weights and activations of two and three digits
llamaGoldens("loops", () => loopsBackend(), { dtype: "bf16", logits: 2e-2, loss: 2e-3, gradient: 5e-2 });
llamaGoldens("loops", () => loopsBackend(), { dtype: "f16", logits: 2e-3, loss: 2e-4, gradient: 1e-2 });

Deno.test("llama() gives the same bits when layers are recomputed, with tied embeddings too", async () => {
  using backend = loopsBackend();
  for (const folder of ["mha", "gqa"]) {
    const model = readLlama(folder);
    const expected = await runLlama(backend, model);
    const actual = await runLlama(backend, model, { recompute: true });
    assertLlama(actual, model, { logits: 1e-5, loss: 1e-6, gradient: 1e-5 });
    assert.deepEqual(actual, expected);
  }
});

for (const folder of GOLDEN_LLAMAS) {
  Deno.test(`llama() in bf16 gives matmul weights their gradients in f32, recomputed to the bit, for ${folder}`, async () => {
    using backend = loopsBackend();
    const model = readLlama(folder);
    const plain = await assertNoLeak(folder, backend, () => runLlama(backend, model, { dtype: "bf16" }));
    for (const [name, dtype] of plain.dtypes) {
      const isTied = name === "model.embed_tokens.weight" && model.config.tie_word_embeddings;
      assert.equal(dtype, isTied || /(_proj|lm_head)\.weight$/.test(name) ? "f32" : "bf16", name);
    }
    const recomputed = await assertNoLeak(
      `${folder} recomputed`,
      backend,
      () => runLlama(backend, model, { dtype: "bf16", recompute: true }),
    );
    assert.deepEqual(recomputed, plain);
  });
}

Deno.test("llama() in 16 bits keeps to the contract of kernels and fused entries", async () => {
  for (const dtype of ["bf16", "f16"] as const) {
    for (const fused of [{}, dryFused()]) {
      for (const recompute of [false, true]) {
        using backend = dryBackend({ fused });
        await runLlama(backend, readLlama("gqa"), { dtype, recompute });
        assert.equal(backend.memory().live, 0);
      }
    }
  }
});

const tiny = makeLlamaConfig({
  vocab_size: 40,
  hidden_size: 24,
  intermediate_size: 40,
  num_hidden_layers: 3,
  num_attention_heads: 4,
}, { num_key_value_heads: 2, max_position_embeddings: 16 });

/** [B, T] tokens that differ. */
function someTokens(backend: Backend, B: number, T: number, vocabulary: number): Tensor {
  return fromArray(backend, Int32Array.from({ length: B * T }, (_, i) => (i * i + 3 * i + 1) % vocabulary), [B, T]);
}

Deno.test("llama() with a cache gives the logits of the full forward, however the tokens are split", async () => {
  using backend = loopsBackend();
  const model = readLlama("gqa");
  const { config } = model;
  const [B, T] = [2, 12];
  await assertNoLeak("generation", backend, async () => {
    using params = llamaParams(backend, model);
    for (const split of [[12], [5, 7], [4, 1, 1, 1, 3, 1, 1], new Array(12).fill(1)]) {
      using cache = new KeyValueCache(backend, config.num_hidden_layers, T, {
        batch: B,
        groups: config.num_key_value_heads,
        headSize: config.head_dim,
      });
      const run = (start: number, end: number, useCache: boolean) => {
        using step = scope("generate");
        const tokens = slice(someTokens(backend, B, T, config.vocab_size), [undefined, { start, end }]);
        return own(step.keep(noGrad(() => llama(params, config, tokens, useCache ? cache : undefined))));
      };
      const all = await takeHost(run(0, T, false));
      let start = 0;
      for (const length of split) {
        assert.equal(cache.length, start);
        const part = await takeHost(run(start, start + length, true));
        const V = config.vocab_size;
        const expected = Float64Array.from(part, (_, i) => {
          const [b, rest] = [Math.floor(i / (length * V)), i % (length * V)];
          return all[(b * T + start) * V + rest];
        });
        assertRms(`${split} at ${start}`, part, expected, { tolerance: 1e-6 });
        start += length;
      }
      assert.throws(() => run(0, 1, true), /^RangeError: Cannot extend a cache of 12 positions to 13$/);
    }
  });
});

Deno.test("llama() in bf16 with a cache gives the logits of the full forward", async () => {
  using backend = loopsBackend();
  const config: LlamaConfig = { ...tiny, num_hidden_layers: 2 };
  await assertNoLeak("generation", backend, async () => {
    using params = initLlama(backend, config, 1, "bf16");
    using cache = new KeyValueCache(backend, 2, 8, { batch: 1, groups: 2, headSize: 6 });
    const run = (start: number, end: number, use?: KeyValueCache) => {
      using step = scope("generate");
      const tokens = slice(someTokens(backend, 1, 8, 40), [undefined, { start, end }]);
      return own(step.keep(noGrad(() => llama(params, config, tokens, use))));
    };
    const all = await takeHost(run(0, 8));
    for (const [start, end] of [[0, 5], [5, 6], [6, 8]]) {
      const part = await takeHost(run(start, end, cache));
      assertRms(`${start} to ${end}`, part, all.subarray(start * 40, end * 40), { tolerance: 1e-2 });
    }
  });
});

Deno.test("llama() refuses more positions than the model has, counting those in the cache", () => {
  using backend = loopsBackend();
  using params = initLlama(backend, tiny, 0);
  using cache = new KeyValueCache(backend, 3, 32, { batch: 1, groups: 2, headSize: 6 });
  using _ = scope("test");
  const run = (T: number, use?: KeyValueCache) => noGrad(() => llama(params, tiny, someTokens(backend, 1, T, 40), use));
  const message = "Cannot run llama(): 17 positions exceed max_position_embeddings 16";
  assert.throws(() => run(17), { name: "RangeError", message });
  run(16, cache);
  assert.equal(cache.length, 16);
  assert.throws(() => run(1, cache), { name: "RangeError", message });
});

Deno.test("llama() is causal: a later token changes no earlier logits", () => {
  using backend = loopsBackend();
  using params = initLlama(backend, tiny, 0);
  using _ = scope("test");
  const ids = Int32Array.from({ length: 8 }, (_, i) => i);
  const logits = (tokens: Int32Array) =>
    noGrad(() => llama(params, tiny, fromArray(backend, tokens, [1, 8]))).readSync();
  const [before, after] = [logits(ids), logits(ids.with(5, 30))];
  assert.deepEqual(after.subarray(0, 5 * 40), before.subarray(0, 5 * 40));
  assert.notDeepEqual(after.subarray(5 * 40), before.subarray(5 * 40));
});

Deno.test("llama() uses biases where the configuration has them", () => {
  using backend = loopsBackend();
  const config: LlamaConfig = { ...tiny, attention_bias: true, mlp_bias: true };
  using params = initLlama(backend, config, 0);
  using _ = scope("test");
  const tokens = someTokens(backend, 2, 5, 40);
  const arrived = new Set<string>();
  backward(llamaLoss(params, config, tokens, tokens), (name, gradient) => {
    arrived.add(name);
    if (name.endsWith("v_proj.bias")) assert.ok(rms(gradient.readSync()) > 1e-5, name);
  });
  assert.deepEqual([...arrived].sort(), [...llamaWeights(config).keys()].sort());
  assert.ok(arrived.has("model.layers.2.mlp.down_proj.bias"));
});

/** Rotation per position by the formulas of Hugging Face's modeling_rope_utils.py. */
function stretched(config: LlamaConfig, factor: number, [low, high, context]: readonly number[]): number[] {
  return Array.from({ length: config.head_dim / 2 }, (_, i) => {
    const frequency = 1 / config.rope_theta ** (2 * i / config.head_dim);
    const wavelength = 2 * Math.PI / frequency;
    if (wavelength > context / low) return frequency / factor;
    if (wavelength < context / high) return frequency;
    const smooth = (context / wavelength - low) / (high - low);
    return (1 - smooth) * frequency / factor + smooth * frequency;
  });
}

Deno.test("ropeFrequencies() stretches positions as rope_scaling says", () => {
  const config: LlamaConfig = { ...tiny, head_dim: 64, rope_theta: 500000 };
  const plain = ropeFrequencies(config);
  assertClose("default", plain, stretched(config, 1, [1, 4, 8192]), { rtol: 1e-14, atol: 0 });
  const linear = ropeFrequencies({ ...config, rope_scaling: { rope_type: "linear", factor: 4 } });
  assertClose("linear", linear, plain.map((frequency) => frequency / 4), { rtol: 1e-14, atol: 0 });
  const llama3 = ropeFrequencies({
    ...config,
    rope_scaling: {
      rope_type: "llama3",
      factor: 8,
      low_freq_factor: 1,
      high_freq_factor: 4,
      original_max_position_embeddings: 8192,
    },
  });
  const expected = stretched(config, 8, [1, 4, 8192]);
  assertClose("llama3", llama3, expected, { rtol: 1e-13, atol: 0 });
  const ratios = expected.map((frequency, i) => plain[i] / frequency);
  assert.ok(ratios.some((ratio) => ratio > 1.01 && ratio < 7.99), "some waves are blended");
  assert.ok(Math.abs(ratios[0] - 1) < 1e-12 && Math.abs(ratios[31] - 8) < 1e-12);
});

Deno.test("llama() rotates as rope_scaling says", () => {
  using backend = loopsBackend();
  using params = initLlama(backend, tiny, 3);
  using _ = scope("test");
  const scaled: LlamaConfig = { ...tiny, rope_scaling: { rope_type: "linear", factor: 2 } };
  const tokens = someTokens(backend, 1, 6, 40);
  const logits = (config: LlamaConfig) => noGrad(() => llama(params, config, tokens)).readSync();
  assert.notDeepEqual(logits(scaled), logits(tiny));
});

Deno.test("initLlama() draws each weight from the seed and its name", () => {
  using backend = loopsBackend();
  using first = initLlama(backend, tiny, 7);
  using again = initLlama(backend, tiny, 7);
  using other = initLlama(backend, tiny, 8);
  assert.deepEqual(first.names(), [...llamaWeights(tiny).keys()]);
  for (const [name, tensor] of first.entries()) {
    assert.deepEqual(again.get(name).readSync(), tensor.readSync(), name);
    const values = tensor.readSync();
    if (tensor.shape.length === 1) assert.ok(values.every((value) => value === 1), name);
    else {
      assert.notDeepEqual(other.get(name).readSync(), values, name);
      assert.ok(Math.abs(rms(values) / 0.02 - 1) < 0.15, name);
    }
  }
  const weight = (layer: number) => first.get(`model.layers.${layer}.mlp.up_proj.weight`).readSync();
  assert.notDeepEqual(weight(0), weight(1));
});

Deno.test("initLlama() in 16 bits rounds the same numbers to nearest", async () => {
  using backend = loopsBackend();
  using single = initLlama(backend, tiny, 7);
  for (const dtype of ["bf16", "f16"] as const) {
    using params = initLlama(backend, tiny, 7, dtype);
    assert.deepEqual(params.names(), single.names());
    for (const [name, tensor] of params.entries()) {
      assert.equal(tensor.dtype, dtype, name);
      const values = await takeHost(tensor.retained());
      assert.deepEqual(values, roundTo(dtype, await takeHost(single.get(name).retained())), name);
    }
  }
});

/** One forward and backward whose gradients are dropped. */
function step(backend: Backend, config: LlamaConfig, shape: readonly [number, number], options: LlamaOptions): void {
  using params = initLlama(backend, config, 0);
  using _ = scope("step");
  const tokens = someTokens(backend, ...shape, config.vocab_size);
  backward(llamaLoss(params, config, tokens, tokens, options), () => {});
}

Deno.test("a training step of llama() leaves no memory behind", async () => {
  using backend = loopsBackend();
  for (const recompute of [false, true]) {
    await assertNoLeak(`recompute ${recompute}`, backend, () => step(backend, tiny, [2, 8], { recompute }));
  }
  await assertNoLeak("forward alone", backend, () => {
    using params = initLlama(backend, tiny, 0);
    using _ = scope("evaluate");
    const tokens = someTokens(backend, 2, 8, 40);
    llamaLoss(params, tiny, tokens, tokens);
  });
});

Deno.test("llama() needs less memory when layers are recomputed: the peak no longer grows by their activations", () => {
  using backend = loopsBackend();
  const peak = (layers: number, recompute: boolean) => {
    const config: LlamaConfig = { ...tiny, num_hidden_layers: layers };
    return peakBytes(backend, () => step(backend, config, [4, 16], { recompute }));
  };
  const [plain, recomputed] = [false, true].map((recompute) => peak(8, recompute) - peak(4, recompute));
  const weights = [...llamaWeights({ ...tiny, num_hidden_layers: 1, vocab_size: 0 }).values()]
    .reduce((bytes, { shape }) => bytes + 4 * shape.reduce((product, extent) => product * extent, 1), 0);
  const input = 4 * 4 * 16 * tiny.hidden_size;
  assert.ok(
    recomputed <= 4 * (weights + input),
    `${recomputed} bytes for 4 layers of ${weights} bytes, inputs ${input}`,
  );
  assert.ok(plain > 4 * (weights + 10 * input), `${plain} bytes without recomputing`);
});
