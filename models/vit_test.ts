/** ViT: PyTorch's numbers, image sizes, dropout, recomputation, memory, views and adapters, and initial weights. */
import assert from "node:assert/strict";
import { loopsBackend } from "../backends/cpu/loops/mod.ts";
import { dryBackend, dryFused } from "../backends/dry/mod.ts";
import {
  type Backend,
  backward,
  fromArray,
  keyOf,
  noGrad,
  type Params,
  type ParamsView,
  scope,
  type Tensor,
} from "../core/mod.ts";
import { assertRms, rms } from "../core/testing/golden.ts";
import { random } from "../core/testing/gradcheck.ts";
import { assertNoLeak, peakBytes } from "../core/testing/leaks.ts";
import { adamWPreset, galoreAdamW, Optimizer } from "../optimizers/mod.ts";
import { initLora, type LoraConfig, withLora } from "./lora.ts";
import { initVit, initVitHead, vitEncode, vitFeatures, vitLogits, vitLoss, type VitOptions, vitTokens } from "./vit.ts";
import { makeVitConfig, patchGrid, VIT_PROJECTED, type VitConfig, vitWeights } from "./vit_config.ts";
import { resizePositions } from "./vit_positions.ts";
import { assertVit, GOLDEN_VITS, readVit, runVit, vitBatch, vitGoldens, vitParams } from "./testing/vit_goldens.ts";

vitGoldens("loops", () => loopsBackend());
// what is left over is the rounding of the stored numbers
vitGoldens("loops", () => loopsBackend(), { dtype: "f64", within: { logits: 1e-7, loss: 1e-7, grad: 1e-7 } });
// weights and activations of two and three digits
vitGoldens("loops", () => loopsBackend(), { dtype: "bf16", within: { logits: 3e-2, loss: 1e-2, grad: 6e-2 } });

const tiny = makeVitConfig({
  hidden_size: 12,
  intermediate_size: 20,
  num_hidden_layers: 2,
  num_attention_heads: 3,
}, { image_size: [6, 9], patch_size: 3, num_channels: 2, num_labels: 3 });

/** tiny with dropout. */
const wet: VitConfig = { ...tiny, hidden_dropout_prob: 0.1, attention_probs_dropout_prob: 0.1 };

/** Images of tiny's channels. */
function images(backend: Backend, [height, width]: readonly number[] = [6, 9], B = 2): Tensor {
  return fromArray(backend, Float32Array.from(random("pixels", B * 2 * height * width)), [B, 2, height, width]);
}

function labels(backend: Backend): Tensor {
  return fromArray(backend, Int32Array.of(2, 0), [2]);
}

Deno.test("vitTokens() puts the class token first, patches row by row, and adds a position to each", () => {
  using backend = loopsBackend();
  using params = initVit(backend, tiny, { seed: 0 });
  using _ = scope("test");
  const read = (name: string) => params.get(`vit.embeddings.${name}`).readSync();
  const [first, positions] = [read("cls_token"), read("position_embeddings")];
  const [weight, bias] = ["weight", "bias"].map((part) => read(`patch_embeddings.projection.${part}`));
  const pixels = images(backend);
  const host = pixels.readSync();
  const tokens = vitTokens(params, tiny, pixels).readSync();
  assert.equal(tokens.length, 2 * 7 * 12);
  const expected = Float64Array.from(tokens, (_, at) => {
    const [image, token, d] = [Math.floor(at / 84), Math.floor(at / 12) % 7, at % 12];
    if (token === 0) return first[d] + positions[d];
    const [row, column] = [Math.floor((token - 1) / 3), (token - 1) % 3];
    let sum = bias[d] + positions[token * 12 + d];
    for (let c = 0; c < 2; c++) {
      for (let y = 0; y < 3; y++) {
        for (let x = 0; x < 3; x++) {
          sum += weight[((d * 2 + c) * 3 + y) * 3 + x] *
            host[((image * 2 + c) * 6 + 3 * row + y) * 9 + 3 * column + x];
        }
      }
    }
    return sum;
  });
  assertRms("tokens", tokens, expected, { tolerance: 1e-6 });
});

Deno.test("vitLogits() takes epsilon from the configuration, and is a linear map of vitFeatures()", () => {
  using backend = loopsBackend();
  const model = readVit();
  using params = vitParams(backend, model);
  using _ = scope("test");
  const { pixels } = vitBatch(backend, model);
  const run = (config: VitConfig) => noGrad(() => vitLogits(params, config, pixels)).readSync();
  const plain = run(model.config);
  assert.notDeepEqual(run({ ...model.config, layer_norm_eps: 1e-2 }), plain);
  const features = noGrad(() => vitFeatures(params, model.config, pixels));
  assert.deepEqual(features.shape, [2, 48]);
  assert.deepEqual(params.linear("classifier", features).readSync(), plain);
});

Deno.test("vitLogits() takes images of other sizes when it is asked to, with positions in between", () => {
  using backend = loopsBackend();
  using params = initVit(backend, tiny, { seed: 0 });
  using _ = scope("test");
  const [small, large] = [images(backend), images(backend, [9, 12])];
  const run = (view: ParamsView, config: VitConfig, pixels: Tensor, interpolatePositions = true) =>
    noGrad(() => vitLogits(view, config, pixels, { interpolatePositions })).readSync();
  assert.deepEqual(run(params, tiny, small), run(params, tiny, small, false));
  // the same as a model whose table was resized
  const other: VitConfig = { ...tiny, image_size: [9, 12] };
  using resized = initVit(backend, other, { seed: 0 });
  const name = "vit.embeddings.position_embeddings";
  const table = resizePositions(params.get(name), patchGrid(tiny), patchGrid(other));
  resized.get(name).write(noGrad(() => table).readSync());
  assert.deepEqual(run(params, tiny, large), run(resized, other, large, false));
});

Deno.test("vitLoss() trains positions through their interpolation", () => {
  using backend = loopsBackend();
  using params = initVit(backend, tiny, { seed: 0 });
  using _ = scope("test");
  const seen: string[] = [];
  const pixels = images(backend, [9, 12]);
  backward(
    vitLoss(params, tiny, pixels, { targets: labels(backend), interpolatePositions: true }),
    (name, gradient) => {
      if (name.endsWith("position_embeddings")) assert.ok(rms(gradient.readSync()) > 1e-6);
      seen.push(name);
    },
  );
  assert.deepEqual(seen.sort(), params.names().sort());
});

Deno.test("vitLogits() and vitLoss() refuse images and targets that are not the model's", () => {
  using backend = loopsBackend();
  using params = initVit(backend, tiny, { seed: 0 });
  using _ = scope("test");
  const run = (shape: number[], options: VitOptions = {}) => () =>
    vitLogits(params, tiny, fromArray(backend, new Float32Array(shape.reduce((a, b) => a * b)), shape), options);
  assert.throws(run([2, 2, 9, 6]), {
    name: "RangeError",
    message: "Cannot run ViT: expected pixels [2, 2, 6, 9]: got f32[2, 2, 9, 6]",
  });
  assert.throws(run([1, 3, 6, 9]), /expected pixels \[1, 2, 6, 9\]: got f32\[1, 3, 6, 9\]$/);
  assert.throws(run([2, 6, 9]), /expected pixels/);
  const message = /expected pixels \[1, 2, height, width\] with sides in patches of 3: got f32\[1, 2, 6, 8\]$/;
  assert.throws(run([1, 2, 6, 8], { interpolatePositions: true }), message);
  const loss = (targets: Tensor) => () => vitLoss(params, tiny, images(backend), { targets });
  const scores = fromArray(backend, Float32Array.of(1, 2), [2]);
  assert.throws(loss(scores), /^TypeError: Cannot score in vitLoss\(\): expected targets i32\[2\]: got f32\[2\]$/);
  assert.throws(loss(fromArray(backend, Int32Array.of(1), [1])), /expected targets i32\[2\]: got i32\[1\]$/);
});

Deno.test("vitLogits() drops under its key alone, and at each place that the configuration names", () => {
  using backend = loopsBackend();
  using params = initVit(backend, tiny, { seed: 0 });
  using _ = scope("test");
  const logits = (config: VitConfig, seed?: number) => {
    const options = seed === undefined ? {} : { dropoutKey: keyOf(seed) };
    return noGrad(() => vitLogits(params, config, images(backend), options)).readSync();
  };
  assert.deepEqual(logits(wet), logits(tiny));
  assert.deepEqual(logits(tiny, 1), logits(tiny));
  assert.deepEqual(logits(wet, 1), logits(wet, 1));
  assert.notDeepEqual(logits(wet, 1), logits(wet, 2));
  for (const rates of [{ hidden_dropout_prob: 0.5 }, { attention_probs_dropout_prob: 0.5 }]) {
    assert.notDeepEqual(logits({ ...tiny, ...rates }, 1), logits(tiny), JSON.stringify(rates));
  }
  const draws: string[] = [];
  const { randomBits } = backend.kernels;
  Object.assign(backend.kernels, {
    randomBits(...[key, out]: Parameters<typeof randomBits>) {
      draws.push(key.join());
      randomBits.call(backend.kernels, key, out);
    },
  });
  logits(wet, 1);
  // embeddings; attention's weights, its output and the feed-forward of two layers, each from a key of its own
  assert.equal(new Set(draws).size, 1 + 3 * 2);
  assert.equal(draws.length, 1 + 3 * 2);
});

Deno.test("vitLoss() gives the same bits when layers are recomputed, dropout included", async () => {
  using backend = loopsBackend();
  for (const run of GOLDEN_VITS) {
    const model = readVit(run);
    const expected = await runVit(backend, model);
    const actual = await runVit(backend, model, { recompute: true });
    assertVit(actual, model, model.tolerance);
    assert.deepEqual(actual, expected);
  }
  const model = readVit();
  const dropped = {
    ...model,
    config: { ...model.config, hidden_dropout_prob: 0.1, attention_probs_dropout_prob: 0.1 },
  };
  const key = { dropoutKey: keyOf(3) };
  const expected = await runVit(backend, dropped, key);
  assert.deepEqual(await runVit(backend, dropped, { ...key, recompute: true }), expected);
});

Deno.test("vitLoss() in 16 bits keeps to the contract of kernels and fused entries", async () => {
  for (const dtype of ["bf16", "f16"] as const) {
    for (const fused of [{}, dryFused()]) {
      for (const run of GOLDEN_VITS) {
        using backend = dryBackend({ fused });
        await runVit(backend, readVit(run), { dtype, recompute: run === "vpt_deep" });
        assert.equal(backend.memory().live, 0);
      }
    }
  }
});

Deno.test("vitLogits() asks the view for every linear map, and tells of each layer's output", () => {
  using backend = loopsBackend();
  using params = initVit(backend, tiny, { seed: 0 });
  using _ = scope("test");
  const asked: string[] = [];
  const view: ParamsView = params.decorated({
    linear(name, x, plain) {
      asked.push(`${name}.weight`);
      return plain.linear(name, x);
    },
  });
  const shapes: string[] = [];
  const onLayer = (output: Tensor, layer: number) => void shapes.push(`${layer}: ${output.shape}`);
  noGrad(() => vitLogits(view, tiny, images(backend), { onLayer }));
  const projected = params.names().filter((name) => VIT_PROJECTED.test(name));
  assert.deepEqual(asked.sort(), [...projected, "classifier.weight"].sort());
  assert.equal(projected.length, 6 * 2);
  assert.deepEqual(shapes, ["0: 2,7,12", "1: 2,7,12"]);
});

Deno.test("LoRA on every linear map of a ViT leaves out patches and head, and learns beside a frozen base", async () => {
  using backend = loopsBackend();
  using base = initVit(backend, tiny, { seed: 0 });
  base.freeze(base.names());
  const config: LoraConfig = { r: 2, alpha: 4, targets: "all-linear", modulesToSave: ["classifier"] };
  using adapter = initLora(base, config, { seed: 1 });
  const adapted = [...vitWeights(tiny).keys()].filter((name) => VIT_PROJECTED.test(name))
    .flatMap((name) => ["A", "B"].map((part) => name.replace(/weight$/, `lora_${part}.weight`)));
  assert.deepEqual(adapter.names().sort(), [...adapted, "classifier.weight", "classifier.bias"].sort());
  const view = withLora(base, [{ params: adapter, config }]);
  using optimizer = new Optimizer(adapter, adamWPreset({ learningRate: 1e-2 }));
  const losses = await train(backend, view, optimizer, 12);
  assert.ok(losses[11] < losses[0] - 0.1, losses.join(" "));
});

Deno.test("galoreAdamW() projects the matrices of VIT_PROJECTED, and a ViT learns", async () => {
  using backend = loopsBackend();
  using params = initVit(backend, tiny, { seed: 0 });
  const rule = galoreAdamW({
    learningRate: 1e-2,
    projected: VIT_PROJECTED,
    galore: { rank: 4, scale: 1, updateProjGap: 5 },
  });
  using optimizer = new Optimizer(params, rule);
  const losses = await train(backend, params, optimizer, 12);
  assert.ok(losses[11] < losses[0] - 0.1, losses.join(" "));
});

async function train(backend: Backend, view: ParamsView, optimizer: Optimizer, steps: number): Promise<number[]> {
  const losses: number[] = [];
  for (let step = 0; step < steps; step++) {
    {
      using _ = scope("step");
      const loss = vitLoss(view, tiny, images(backend), { targets: labels(backend) });
      backward(loss, optimizer.stage);
      losses.push(loss.readSync()[0]);
    }
    if (optimizer.refreshDue) await optimizer.refresh();
    optimizer.commit();
  }
  return losses;
}

Deno.test("initVit() draws each weight from the seed and its name, the head's too when it is drawn alone", () => {
  using backend = loopsBackend();
  using params = initVit(backend, tiny, { seed: 7 });
  assert.deepEqual(params.names(), [...vitWeights(tiny).keys()]);
  for (const [name, tensor] of params.entries()) {
    const values = tensor.readSync();
    if (name.endsWith(".bias")) assert.ok(values.every((value) => value === 0), name);
    else if (tensor.shape.length === 1) assert.ok(values.every((value) => value === 1), name);
    else assert.ok(Math.abs(rms(values) / 0.02 - 1) < 0.5, name);
  }
  using head = initVitHead(backend, tiny, { seed: 7, dtype: "bf16" });
  assert.deepEqual(head.names(), ["classifier.weight", "classifier.bias"]);
  const [drawn, trained] = [head, params].map((one) => [...one.get("classifier.weight").readSync()]);
  // another head than the one that a model of this seed was trained with, and in 16 bits
  const cosine = drawn.reduce((sum, value, i) => sum + value * trained[i], 0) /
    (rms(drawn) * rms(trained) * drawn.length);
  assert.ok(Math.abs(cosine) < 0.5, `${cosine}`);
  assert.equal(head.get("classifier.weight").dtype, "bf16");
});

/** One forward and backward whose gradients are dropped. */
function step(backend: Backend, params: Params, config: VitConfig, options: VitOptions): void {
  using _ = scope("step");
  backward(vitLoss(params, config, images(backend), { targets: labels(backend), ...options }), () => {});
}

Deno.test("a step of vitLoss() leaves no memory behind, and needs less when layers are recomputed", async () => {
  using backend = loopsBackend();
  const dropoutKey = keyOf(1);
  for (const options of [{}, { dropoutKey }, { dropoutKey, recompute: true }]) {
    await assertNoLeak(JSON.stringify(options), backend, () => {
      using params = initVit(backend, wet, { seed: 0 });
      step(backend, params, wet, options);
    });
  }
  await assertNoLeak("forward alone", backend, () => {
    using params = initVit(backend, tiny, { seed: 0 });
    using _ = scope("evaluate");
    const tokens = vitTokens(params, tiny, images(backend));
    vitEncode(params, tiny, tokens);
    // the encoder's input is the caller's
    assert.ok(tokens.readSync().every(Number.isFinite));
  });
  const growth = (recompute: boolean) => {
    const [four, eight] = [4, 8].map((num_hidden_layers) => {
      const config = { ...tiny, num_hidden_layers };
      using params = initVit(backend, config, { seed: 0 });
      return peakBytes(backend, () => step(backend, params, config, { recompute }));
    });
    return eight - four;
  };
  const input = 4 * 2 * 7 * 12;
  assert.ok(growth(true) <= 4 * 2 * input, `${growth(true)} bytes for 4 layers' inputs of ${input}`);
  assert.ok(growth(false) > 4 * 10 * input, `${growth(false)} bytes without recomputing`);
});
