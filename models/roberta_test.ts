/** RoBERTa: PyTorch's numbers, positions and padding, dropout, gradients, memory, and initial weights. */
import assert from "node:assert/strict";
import { loopsBackend } from "../backends/cpu/loops/mod.ts";
import { dryBackend, dryFused } from "../backends/dry/mod.ts";
import {
  type Backend,
  backward,
  fromArray,
  type Key,
  keyOf,
  noGrad,
  own,
  Params,
  type ParamsView,
  scope,
  type Tensor,
} from "../core/mod.ts";
import { assertRms, rms, rmsError } from "../core/testing/golden.ts";
import { random } from "../core/testing/gradcheck.ts";
import { roundTo, takeHost } from "../core/testing/inputs.ts";
import { assertNoLeak, peakBytes } from "../core/testing/leaks.ts";
import {
  initRoberta,
  initRobertaHead,
  robertaHidden,
  robertaLogits,
  robertaLoss,
  type RobertaOptions,
  robertaPositions,
} from "./roberta.ts";
import {
  makeRobertaConfig,
  ROBERTA_PROJECTED,
  type RobertaConfig,
  type RobertaHead,
  robertaWeights,
  withLabels,
} from "./roberta_config.ts";
import { assertRoberta, GOLDEN_ROBERTAS, readRoberta, robertaGoldens, runRoberta } from "./testing/roberta_goldens.ts";

robertaGoldens("loops", () => loopsBackend());
// what is left over is the rounding of the stored numbers
robertaGoldens("loops", () => loopsBackend(), { dtype: "f64", within: { logits: 1e-7, loss: 1e-7, grad: 1e-7 } });
// weights and activations of two and three digits
robertaGoldens("loops", () => loopsBackend(), { dtype: "bf16", within: { logits: 3e-2, loss: 1e-2, grad: 6e-2 } });
robertaGoldens("loops", () => loopsBackend(), { dtype: "f16", within: { logits: 4e-3, loss: 2e-3, grad: 1e-2 } });

const tiny = makeRobertaConfig({
  vocab_size: 40,
  hidden_size: 12,
  intermediate_size: 20,
  num_hidden_layers: 2,
  num_attention_heads: 3,
}, { max_position_embeddings: 14, num_labels: 3 });

/** tiny without dropout. */
const still: RobertaConfig = { ...tiny, hidden_dropout_prob: 0, attention_probs_dropout_prob: 0 };

/** Two sequences of 7, the second padded from its fifth place. */
function pair(backend: Backend): { tokens: Tensor; mask: Tensor } {
  const tokens = Int32Array.of(0, 5, 9, 31, 7, 8, 2, 0, 22, 6, 2, 1, 1, 1);
  return {
    tokens: fromArray(backend, tokens, [2, 7]),
    mask: fromArray(backend, Uint32Array.from(tokens, (id) => id === 1 ? 0 : 1), [2, 7]),
  };
}

/** Targets of `pair` for a head. */
function targetsOf(backend: Backend, head: RobertaHead): Tensor {
  const found = new Int32Array(14).fill(-100);
  found.set([4, 9], 1);
  found[8] = 11;
  return head === "masked-lm" ? fromArray(backend, found, [2, 7]) : fromArray(backend, Int32Array.of(2, 0), [2]);
}

Deno.test("robertaPositions() counts tokens from behind the padding's position, which padding has", () => {
  using backend = loopsBackend();
  using _ = scope("test");
  const rows = [[0, 5, 6, 2, 1, 1], [1, 0, 1, 1, 9, 1], [1, 1, 1, 1, 1, 1]];
  const expected = [[2, 3, 4, 5, 1, 1], [1, 2, 1, 1, 3, 1], [1, 1, 1, 1, 1, 1]];
  for (const array of [Int32Array.from(rows.flat()), Uint32Array.from(rows.flat())]) {
    const positions = robertaPositions(fromArray(backend, array, [3, 6]), 1);
    assert.deepEqual(positions.readSync(), Int32Array.from(expected.flat()));
  }
  const others = robertaPositions(fromArray(backend, Int32Array.of(0, 5, 3, 1), [1, 4]), 3);
  assert.deepEqual(others.readSync(), Int32Array.of(4, 5, 3, 6));
  const long = robertaPositions(fromArray(backend, new Int32Array(600), [1, 600]), 1).readSync();
  assert.deepEqual(long, Int32Array.from({ length: 600 }, (_, t) => t + 2));
});

Deno.test("robertaLogits() gives a sequence the same scores alone and padded beside a longer one", () => {
  using backend = loopsBackend();
  using params = initRoberta(backend, still, { seed: 0, head: "classification" });
  using _ = scope("test");
  const batch = pair(backend);
  const run = (tokens: Tensor, mask?: Tensor) =>
    noGrad(() => robertaLogits(params, still, { tokens, mask }, "classification")).readSync();
  const together = run(batch.tokens, batch.mask);
  const alone = run(fromArray(backend, Int32Array.of(0, 22, 6, 2), [1, 4]));
  assertRms("logits", together.subarray(3), alone, { tolerance: 1e-6 });
  assert.ok(rmsError(run(batch.tokens).subarray(3), alone) > 1e-4, "the mask matters");
});

Deno.test("robertaLoss() gives the padding's rows no gradient from the look-up, attended to or not", () => {
  using backend = loopsBackend();
  for (const head of ["classification", "masked-lm"] as const) {
    using params = initRoberta(backend, still, { seed: 0, head });
    using _ = scope("test");
    const rows = new Map<string, number[]>();
    const { tokens } = pair(backend);
    const loss = robertaLoss(params, still, { tokens }, { head, targets: targetsOf(backend, head) });
    backward(loss, (name, gradient) => {
      const values = gradient.readSync();
      if (!/(word|position)_embeddings/.test(name)) return;
      rows.set(name.split(".")[2], [1, 2].map((row) => rms(values.subarray(row * 12, row * 12 + 12))));
    });
    const [word, position] = ["word_embeddings", "position_embeddings"].map((name) => rows.get(name)!);
    assert.equal(position[0], 0, head);
    assert.ok(position[1] > 0 && word[1] > 0, head);
    // the tied output matrix has a gradient of its own
    assert.equal(word[0] > 0, head === "masked-lm", head);
  }
});

Deno.test("robertaLoss() has the gradient of its values in f64, dropout included", () => {
  using backend = loopsBackend();
  const score = withLabels(tiny, "score");
  for (const [config, head] of [[tiny, "masked-lm"], [tiny, "classification"], [score, "classification"]] as const) {
    using params = new Params(backend);
    const weights = new Map<string, Float64Array<ArrayBuffer>>();
    for (const [name, { shape }] of robertaWeights(config, head)) {
      const size = shape.reduce((product, extent) => product * extent, 1);
      const values = random(name, size).map((value) =>
        0.5 * value + (/(Layer|layer_)[Nn]orm.weight/.test(name) ? 1 : 0)
      );
      weights.set(name, Float64Array.from(values));
      params.set(name, own(fromArray(backend, weights.get(name)!, shape, "f64")));
    }
    const lossOf = () => {
      const targets = config === score
        ? fromArray(backend, Float64Array.of(0.3, -1), [2], "f64")
        : targetsOf(backend, head);
      return robertaLoss(params, config, pair(backend), { head, targets, dropoutKey: keyOf(5) });
    };
    const slopes = new Map<string, number>();
    const directions = new Map([...weights].map(([name, { length }]) => [name, random(`${name} direction`, length)]));
    {
      using _ = scope("backward");
      backward(lossOf(), (name, gradient) => {
        const direction = directions.get(name)!;
        slopes.set(name, Array.from(gradient.readSync()).reduce((sum, g, i) => sum + g * direction[i], 0));
      });
    }
    const moved = (name: string, by: number) => {
      using _ = scope("moved");
      const direction = directions.get(name)!;
      params.get(name).write(weights.get(name)!.map((value, i) => value + by * direction[i]));
      const loss = noGrad(lossOf).readSync()[0];
      params.get(name).write(weights.get(name)!);
      return loss;
    };
    for (const name of weights.keys()) {
      const numeric = (moved(name, 1e-5) - moved(name, -1e-5)) / 2e-5;
      const error = Math.abs(numeric - slopes.get(name)!);
      assert.ok(error <= 1e-8 + 1e-6 * Math.abs(numeric), `${head} ${name}: ${slopes.get(name)} for ${numeric}`);
    }
  }
});

Deno.test("robertaHidden() drops under its key alone, and at each place that the configuration names", () => {
  using backend = loopsBackend();
  using params = initRoberta(backend, tiny, { seed: 0, head: "classification" });
  using _ = scope("test");
  const logits = (config: RobertaConfig, seed?: number) => {
    const options = seed === undefined ? {} : { dropoutKey: keyOf(seed) };
    return noGrad(() => robertaLogits(params, config, pair(backend), "classification", options)).readSync();
  };
  assert.deepEqual(logits(tiny), logits(still));
  assert.deepEqual(logits(still, 1), logits(still));
  assert.deepEqual(logits(tiny, 1), logits(tiny, 1));
  assert.notDeepEqual(logits(tiny, 1), logits(tiny, 2));
  const none: RobertaConfig = { ...still, classifier_dropout: 0 };
  for (
    const rates of [{ hidden_dropout_prob: 0.5 }, { attention_probs_dropout_prob: 0.5 }, { classifier_dropout: 0.5 }]
  ) {
    assert.notDeepEqual(logits({ ...none, ...rates }, 1), logits(none), JSON.stringify(rates));
  }
  assert.deepEqual(
    logits({ ...still, classifier_dropout: 0.3, hidden_dropout_prob: 0 }, 1),
    logits({ ...still, classifier_dropout: 0.3 }, 1),
  );
});

Deno.test("robertaLogits() draws each place of each layer from a key of its own, and evaluation draws nothing", () => {
  using backend = loopsBackend();
  const keys: string[] = [];
  const { randomBits } = backend.kernels;
  Object.assign(backend.kernels, {
    randomBits(key: Key, out: Tensor) {
      keys.push(key.join());
      randomBits.call(backend.kernels, key, out);
    },
  });
  using params = initRoberta(backend, tiny, { seed: 0, head: "classification" });
  using _ = scope("test");
  noGrad(() => robertaLogits(params, tiny, pair(backend), "classification"));
  assert.equal(keys.length, 0);
  noGrad(() => robertaLogits(params, tiny, pair(backend), "classification", { dropoutKey: keyOf(1) }));
  // embeddings; attention's weights, its output and the feed-forward of two layers; both sides of the head's dense map
  assert.equal(keys.length, 1 + 3 * 2 + 2);
  assert.equal(new Set(keys).size, keys.length);
});

Deno.test("robertaLogits() with dropout has the logits without as its mean", () => {
  using backend = loopsBackend();
  // one place at a time, the only one from which logits are linear: before the last map
  const config: RobertaConfig = { ...still, classifier_dropout: 0.4 };
  using params = initRoberta(backend, config, { seed: 0, head: "classification" });
  using _ = scope("test");
  const run = (options: RobertaOptions) =>
    noGrad(() => robertaLogits(params, config, pair(backend), "classification", options)).readSync();
  const mean = new Float64Array(6);
  for (let seed = 0; seed < 400; seed++) {
    run({ dropoutKey: keyOf(seed) }).forEach((value: number, i: number) => mean[i] += value / 400);
  }
  const plain = run({});
  const spread = rms(Float64Array.from(run({ dropoutKey: keyOf(1) }), (value, i) => value - plain[i]));
  assert.ok(rms(mean.map((value, i) => value - plain[i])) < 0.25 * spread, `${mean} for ${plain}`);
});

Deno.test("robertaLoss() gives the same bits when layers are recomputed, dropout included", async () => {
  using backend = loopsBackend();
  for (const folder of GOLDEN_ROBERTAS) {
    const model = readRoberta(folder);
    const expected = await runRoberta(backend, model);
    const actual = await runRoberta(backend, model, { recompute: true });
    assertRoberta(actual, model, model.tolerance);
    assert.deepEqual(actual, expected);
    const wet = { ...model, config: { ...model.config, hidden_dropout_prob: 0.1, attention_probs_dropout_prob: 0.1 } };
    const dropped = await runRoberta(backend, wet, { dropoutKey: keyOf(3) });
    assert.deepEqual(await runRoberta(backend, wet, { dropoutKey: keyOf(3), recompute: true }), dropped);
    assert.notDeepEqual(dropped.loss, expected.loss);
  }
});

Deno.test("robertaLoss() has its gradients when the batch is gone before layers are recomputed", () => {
  using backend = loopsBackend();
  using params = initRoberta(backend, tiny, { seed: 0, head: "classification" });
  using _ = scope("test");
  const gradientsOf = (recompute: boolean) => {
    const loss = (() => {
      using forward = scope("forward");
      const targets = targetsOf(backend, "classification");
      return forward.keep(robertaLoss(params, tiny, pair(backend), { head: "classification", targets, recompute }));
    })();
    const gradients = new Map<string, ArrayLike<number>>();
    backward(loss, (name, gradient) => gradients.set(name, gradient.readSync().slice()));
    return gradients;
  };
  assert.deepEqual(gradientsOf(true), gradientsOf(false));
});

Deno.test("robertaLoss() in 16 bits keeps to the contract of kernels and fused entries", async () => {
  for (const dtype of ["bf16", "f16"] as const) {
    for (const fused of [{}, dryFused()]) {
      for (const folder of GOLDEN_ROBERTAS) {
        using backend = dryBackend({ fused });
        await runRoberta(backend, readRoberta(folder), { dtype, recompute: folder === "mlm" });
        assert.equal(backend.memory().live, 0);
      }
    }
  }
});

Deno.test("robertaLoss() refuses more tokens than positions, and targets that are not the head's", () => {
  using backend = loopsBackend();
  using params = initRoberta(backend, tiny, { seed: 0, head: "classification" });
  using _ = scope("test");
  const tokens = (T: number) => fromArray(backend, new Int32Array(T).fill(7), [1, T]);
  noGrad(() => robertaHidden(params, tiny, { tokens: tokens(12) }));
  assert.throws(() => robertaHidden(params, tiny, { tokens: tokens(13) }), {
    name: "RangeError",
    message: "Cannot run RoBERTa: 13 tokens exceed the 12 positions: max_position_embeddings is 14",
  });
  const score = withLabels(tiny, "score");
  const [classes, scores] = [fromArray(backend, Int32Array.of(1), [1]), fromArray(backend, Float32Array.of(1), [1])];
  const loss = (config: RobertaConfig, head: RobertaHead, targets: Tensor) => () =>
    robertaLoss(params, config, { tokens: tokens(4) }, { head, targets });
  assert.throws(
    loss(tiny, "classification", scores),
    /^TypeError: Cannot score in robertaLoss\(\): expected targets i32\[1\]: got .*f32/,
  );
  assert.throws(loss(score, "classification", classes), /expected targets f32\[1\]: got .*i32/);
  assert.throws(loss(tiny, "masked-lm", classes), /expected targets i32\[1, 4\]: got /);
});

Deno.test("robertaHidden() asks the view for every linear map, and a frozen encoder costs no gradient", () => {
  using backend = loopsBackend();
  using params = initRoberta(backend, tiny, { seed: 0, head: "classification" });
  using _ = scope("test");
  const asked = new Set<string>();
  const view: ParamsView = params.decorated({
    linear(name, x, plain) {
      asked.add(`${name}.weight`);
      return plain.linear(name, x);
    },
  });
  params.freeze(params.names().filter((name) => name.startsWith("roberta.")));
  const arrived: string[] = [];
  const loss = robertaLoss(view, tiny, pair(backend), {
    head: "classification",
    targets: targetsOf(backend, "classification"),
    dropoutKey: keyOf(1),
  });
  backward(loss, (name) => arrived.push(name));
  const head = ["bias", "weight"].flatMap((part) => [`classifier.dense.${part}`, `classifier.out_proj.${part}`]);
  assert.deepEqual(arrived.sort(), head.sort());
  const projected = params.names().filter((name) => ROBERTA_PROJECTED.test(name));
  assert.deepEqual([...asked].sort(), [...projected, "classifier.dense.weight", "classifier.out_proj.weight"].sort());
  assert.equal(projected.length, 6 * 2);
});

Deno.test("initRoberta() draws each weight from the seed and its name, and leaves the padding's rows 0", async () => {
  using backend = loopsBackend();
  using params = initRoberta(backend, tiny, { seed: 7, head: "masked-lm" });
  using again = initRoberta(backend, tiny, { seed: 7, head: "classification" });
  assert.deepEqual(params.names(), [...robertaWeights(tiny, "masked-lm").keys()]);
  for (const [name, tensor] of params.entries()) {
    const values = tensor.readSync();
    if (again.has(name)) assert.deepEqual(again.get(name).readSync(), values, name);
    if (name.endsWith(".bias")) assert.ok(values.every((value) => value === 0), name);
    else if (tensor.shape.length === 1) assert.ok(values.every((value) => value === 1), name);
    else assert.ok(Math.abs(rms(values) / 0.02 - 1) < 0.25, name);
    if (!/(word|position)_embeddings/.test(name)) continue;
    assert.ok([...values].every((value, i) => (value === 0) === (i >= 12 && i < 24)), name);
  }
  using head = initRobertaHead(backend, tiny, { seed: 7, head: "classification", dtype: "bf16" });
  assert.deepEqual(head.names(), again.names().filter((name) => name.startsWith("classifier.")));
  for (const [name, tensor] of head.entries()) {
    const expected = roundTo("bf16", await takeHost(again.get(name).retained()));
    assert.deepEqual(await takeHost(tensor.retained()), expected, name);
  }
});

/** One forward and backward whose gradients are dropped. */
function step(backend: Backend, config: RobertaConfig, [B, T]: readonly number[], options: RobertaOptions): void {
  using params = initRoberta(backend, config, { seed: 0, head: "classification" });
  using _ = scope("step");
  const tokens = fromArray(backend, Int32Array.from({ length: B * T }, (_, i) => 2 + i * 7 % 38), [B, T]);
  const mask = fromArray(backend, new Uint32Array(B * T).fill(1), [B, T]);
  const targets = fromArray(backend, new Int32Array(B), [B]);
  backward(robertaLoss(params, config, { tokens, mask }, { head: "classification", targets, ...options }), () => {});
}

Deno.test("a step of robertaLoss() leaves no memory behind, and needs less when layers are recomputed", async () => {
  using backend = loopsBackend();
  const dropoutKey = keyOf(1);
  for (const options of [{}, { dropoutKey }, { dropoutKey, recompute: true }]) {
    await assertNoLeak(JSON.stringify(options), backend, () => step(backend, tiny, [2, 8], options));
  }
  await assertNoLeak("forward alone", backend, () => {
    using params = initRoberta(backend, tiny, { seed: 0, head: "masked-lm" });
    using _ = scope("evaluate");
    robertaLoss(params, tiny, pair(backend), { head: "masked-lm", targets: targetsOf(backend, "masked-lm") });
  });
  const growth = (recompute: boolean) => {
    const [four, eight] = [4, 8].map((num_hidden_layers) =>
      peakBytes(backend, () => step(backend, { ...tiny, num_hidden_layers }, [4, 12], { dropoutKey, recompute }))
    );
    return eight - four;
  };
  const layer = [...robertaWeights({ ...tiny, num_hidden_layers: 1 }, "classification")]
    .filter(([name]) => name.includes(".layer.0."))
    .reduce((bytes, [, { shape }]) => bytes + 4 * shape.reduce((product, extent) => product * extent, 1), 0);
  const input = 4 * 4 * 12 * tiny.hidden_size;
  assert.ok(
    growth(true) <= 4 * (layer + input),
    `${growth(true)} bytes for 4 layers of ${layer} and inputs of ${input}`,
  );
  assert.ok(growth(false) > 4 * (layer + 10 * input), `${growth(false)} bytes without recomputing`);
});
