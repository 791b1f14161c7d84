/** Visual prompts' maths: places, depths, first values, projection, dropout, gradients, recomputation and memory. */
import assert from "node:assert/strict";
import { loopsBackend } from "../backends/cpu/loops/mod.ts";
import {
  type Backend,
  backward,
  concat,
  fromArray,
  keyOf,
  linear,
  noGrad,
  own,
  Params,
  type ParamsView,
  scope,
  slice,
  type Tensor,
} from "../core/mod.ts";
import { assertRms, rms } from "../core/testing/golden.ts";
import { random } from "../core/testing/gradcheck.ts";
import { assertNoLeak, peakBytes } from "../core/testing/leaks.ts";
import { goldenPrompts, readVit, vitBatch, vitParams } from "./testing/vit_goldens.ts";
import {
  initVisualPrompts,
  insertPrompts,
  visualPromptBound,
  type VisualPromptConfig,
  type VisualPrompts,
  visualPromptWeights,
} from "./visual_prompts.ts";
import { initVit, vitEncode, vitLogits, vitLoss, type VitOptions, vitTokens } from "./vit.ts";
import { type VitConfig, vitConfig, vitWeights, withVitLabels } from "./vit_config.ts";

const SHALLOW = readVit("vpt_shallow");
const DEEP = readVit("vpt_deep");
const { config: model } = SHALLOW;

/** Logits of the stored model on the stored images. */
function logits(backend: Backend, base: ParamsView, options: VitOptions = {}, config: VitConfig = model) {
  using _ = scope("logits");
  return noGrad(() => vitLogits(base, config, vitBatch(backend, SHALLOW).pixels, options)).readSync() as Float32Array;
}

/** A tensor as a parameter: its own memory, out of every scope. */
function copy(x: Tensor): Tensor {
  return own(fromArray(x.backend, x.readSync(), x.shape, x.dtype));
}

/** The prompts of a task in another order. */
function reordered({ params, config }: VisualPrompts & { params: Params }, order: readonly number[]): VisualPrompts & {
  params: Params;
} {
  const other = new Params(params.backend);
  for (const [name, tensor] of params.entries()) {
    using _ = scope("reordered");
    const parts = order.map((p) => slice(tensor, [undefined, { start: p, end: p + 1 }]));
    other.set(name, name.endsWith("prompt_embeddings") ? copy(noGrad(() => concat(parts, 1))) : copy(tensor));
  }
  return { params: other, config };
}

Deno.test("prompts change nothing by their order, shallow or deep, nor by standing behind the patches", () => {
  using backend = loopsBackend();
  using base = vitParams(backend, SHALLOW);
  for (const stored of [SHALLOW, DEEP]) {
    const prompts = goldenPrompts(backend, stored);
    const other = reordered(prompts, [3, 0, 4, 2, 1]);
    using _prompts = prompts.params;
    using _other = other.params;
    const expected = logits(backend, base, { prompts });
    assertRms("reordered", logits(backend, base, { prompts: other }), expected, { tolerance: 1e-6 });
    assert.ok(rms(expected.map((value, i) => value - logits(backend, base)[i])) > 0.1, "prompts matter");
  }
  const prompts = goldenPrompts(backend, SHALLOW);
  using _prompts = prompts.params;
  using _ = scope("test");
  noGrad(() => {
    const tokens = vitTokens(base, model, vitBatch(backend, SHALLOW).pixels);
    const last = concat([tokens, concat([0, 1].map(() => prompts.params.get("prompt_embeddings")), 0)], 1);
    const first = (x: Tensor) => concat([slice(x, [undefined, { end: 1 }])], 1).readSync();
    const expected = first(vitEncode(base, model, tokens, { prompts }));
    assertRms("behind", first(vitEncode(base, model, last)), expected, { tolerance: 1e-6 });
  });
});

Deno.test("no prompts are the backbone, and shallow prompts are deep ones where there is one layer", () => {
  using backend = loopsBackend();
  using base = vitParams(backend, SHALLOW);
  using none = initVisualPrompts(backend, model, { deep: true, numTokens: 0 }, { seed: 1 });
  assert.deepEqual(none.names(), ["classifier.weight", "classifier.bias"]);
  none.get("classifier.weight").write(base.get("classifier.weight").readSync());
  none.get("classifier.bias").write(base.get("classifier.bias").readSync());
  const bare: VisualPrompts = { params: none, config: { deep: true, numTokens: 0 } };
  assert.deepEqual(logits(backend, base, { prompts: bare }), logits(backend, base));
  const one = { ...model, num_hidden_layers: 1 };
  const [shallow, deep] = [false, true].map((deep) => {
    const config = { deep, numTokens: 5 };
    const params = initVisualPrompts(backend, one, config, { seed: 1 });
    using _ = params;
    assert.deepEqual(params.names().length, 3);
    return logits(backend, base, { prompts: { params, config } }, one);
  });
  assert.deepEqual(deep, shallow);
});

Deno.test("deep prompts that repeat what shallow ones become give the same bits for that image, and only for it", () => {
  using backend = loopsBackend();
  using base = vitParams(backend, SHALLOW);
  const shallow = goldenPrompts(backend, SHALLOW);
  using _shallow = shallow.params;
  using params = new Params(backend);
  using _ = scope("test");
  noGrad(() => {
    const image = slice(vitBatch(backend, SHALLOW).pixels, [{ end: 1 }]);
    const later: Tensor[] = [];
    const onLayer = (output: Tensor, layer: number) => {
      if (layer < 2) later.push(copy(concat([slice(output, [undefined, { start: 1, end: 6 }])], 0)));
    };
    const expected = vitLogits(base, model, image, { prompts: shallow, onLayer }).readSync();
    params.set("deep_prompt_embeddings", own(concat(later, 0)));
    later.forEach((tensor) => tensor.dispose());
    for (const [name, tensor] of shallow.params.entries()) params.set(name, copy(tensor));
    const deep: VisualPrompts = { params, config: { deep: true, numTokens: 5 } };
    assert.deepEqual(vitLogits(base, model, image, { prompts: deep }).readSync(), expected);
    const both = [deep, shallow].map((prompts) => logits(backend, base, { prompts }).subarray(5));
    assert.notDeepEqual(both[0], both[1]);
  });
});

Deno.test("initVisualPrompts() draws the paper's uniform prompts, and either head", () => {
  using backend = loopsBackend();
  const config: VisualPromptConfig = { deep: true, numTokens: 50 };
  const base16 = withVitLabels(vitConfig("vit-base-16"), 100);
  assert.equal(visualPromptBound(base16, config), 0.0625);
  using task = initVisualPrompts(backend, base16, config, { seed: 1, head: "vpt" });
  assert.deepEqual(task.names(), [...visualPromptWeights(base16, config).keys()]);
  assert.deepEqual(task.get("deep_prompt_embeddings").shape, [11, 50, 768]);
  for (const name of ["prompt_embeddings", "deep_prompt_embeddings"]) {
    const values = task.get(name).readSync() as Float32Array;
    assert.ok(values.every((value) => Math.abs(value) <= 0.0625), name);
    assert.ok(Math.abs(rms(values) ** 2 / (0.0625 ** 2 / 3) - 1) < 0.02, name);
    assert.ok(Math.abs(values.reduce((a, b) => a + b, 0) / values.length) < 0.001, name);
  }
  const read = (params: Params, name: string) => params.get(name).readSync() as Float32Array;
  // kaiming-normal over the 100 outputs, and a prior of 0.01
  assert.ok(Math.abs(rms(read(task, "classifier.weight")) / Math.sqrt(2 / 100) - 1) < 0.01);
  assert.ok(read(task, "classifier.bias").every((value) => value === Math.fround(-Math.log(99))));
  using usual = initVisualPrompts(backend, base16, config, { seed: 1 });
  assert.ok(Math.abs(rms(read(usual, "classifier.weight")) / 0.02 - 1) < 0.01);
  assert.ok(read(usual, "classifier.bias").every((value) => value === 0));
  assert.deepEqual(read(usual, "prompt_embeddings"), read(task, "prompt_embeddings"));
  using other = initVisualPrompts(backend, base16, config, { seed: 2 });
  assert.notDeepEqual(read(other, "prompt_embeddings"), read(task, "prompt_embeddings"));
  const narrow: VisualPromptConfig = { deep: false, numTokens: 4, project: 10 };
  using projected = initVisualPrompts(backend, base16, narrow, { seed: 1 });
  assert.ok(Math.abs(rms(read(projected, "prompt_proj.weight")) / Math.sqrt(2 / 768) - 1) < 0.03);
  const bias = read(projected, "prompt_proj.bias");
  assert.ok(bias.every((value) => Math.abs(value) <= 1 / Math.sqrt(10)) && rms(bias) > 0.15);
  // the bound is of the width of the prompts themselves
  assert.equal(visualPromptBound(base16, narrow), Math.sqrt(6 / (768 + 10)));
});

Deno.test("visualPromptWeights() counts what the paper's table counts for ViT-B/16", () => {
  const base16 = vitConfig("vit-base-16");
  const size = ({ shape }: { readonly shape: readonly number[] }) => shape.reduce((a, b) => a * b, 1);
  const count = (config: VisualPromptConfig, only: RegExp) =>
    [...visualPromptWeights(withVitLabels(base16, 100), config)].filter(([name]) => only.test(name))
      .reduce((sum, [, spec]) => sum + size(spec), 0);
  const encoder = [...vitWeights(base16)].filter(([name]) => name.startsWith("vit."))
    .reduce((sum, [, spec]) => sum + size(spec), 0);
  const deep = count({ deep: true, numTokens: 50 }, /prompt/);
  assert.deepEqual([encoder, deep, count({ deep: false, numTokens: 50 }, /prompt/)], [85_798_656, 460_800, 38_400]);
  assert.equal((100 * deep / encoder).toFixed(2), "0.54");
  assert.equal(count({ deep: true, numTokens: 10 }, /prompt/), 92_160);
  // prompts N P D, and C labels of D weights and a bias
  assert.equal(count({ deep: true, numTokens: 50 }, /(?:)/), 12 * 50 * 768 + 100 * 769);
  assert.equal(count({ deep: true, numTokens: 50, project: 64 }, /(?:)/), 12 * 50 * 64 + 768 * 65 + 100 * 769);
});

Deno.test("visualPromptWeights() refuses settings out of their range", () => {
  const cases: readonly (readonly [Partial<VisualPromptConfig>, RegExp])[] = [
    [{ numTokens: -1 }, /numTokens must be a whole number from 0: got -1$/],
    [{ numTokens: 2.5 }, /numTokens must be a whole number from 0: got 2.5$/],
    [{ dropout: 1 }, /dropout must be in \[0, 1\): got 1$/],
    [{ project: 0 }, /project must be a whole number from 1: got 0$/],
  ];
  for (const [setting, message] of cases) {
    assert.throws(() => visualPromptWeights(model, { deep: true, numTokens: 3, ...setting }), (error: Error) => {
      assert.equal(error.name, "RangeError");
      assert.match(error.message, /^Cannot make prompts: /);
      assert.match(error.message, message);
      return true;
    });
  }
});

Deno.test("insertPrompts() projects by one map that all layers share", () => {
  using backend = loopsBackend();
  using base = vitParams(backend, DEEP);
  const config: VisualPromptConfig = { deep: true, numTokens: 4, project: 6 };
  using narrow = initVisualPrompts(backend, model, config, { seed: 1 });
  using wide = new Params(backend);
  for (const [name, tensor] of narrow.entries()) {
    using _ = scope("wide");
    if (name.startsWith("prompt_proj")) continue;
    const [weight, bias] = ["weight", "bias"].map((part) => narrow.get(`prompt_proj.${part}`));
    wide.set(name, copy(name.startsWith("classifier") ? tensor : noGrad(() => linear(tensor, weight, bias))));
  }
  const expected = logits(backend, base, { prompts: { params: wide, config: { deep: true, numTokens: 4 } } });
  const actual = logits(backend, base, { prompts: { params: narrow, config } });
  assertRms("projected", actual, expected, { tolerance: 1e-6 });
});

Deno.test("insertPrompts() drops prompts alone, for each image and layer anew, and keeps their mean", () => {
  using backend = loopsBackend();
  const config: VisualPromptConfig = { deep: true, numTokens: 5, dropout: 0.4 };
  const { params } = goldenPrompts(backend, DEEP);
  using _params = params;
  using _ = scope("test");
  const x = fromArray(backend, Float32Array.from(random("x", 2 * 9 * 48)), [2, 9, 48]);
  const run = (index: number, seed?: number) =>
    noGrad(() => insertPrompts(x, index, { params, config }, seed === undefined ? undefined : keyOf(seed)));
  const split = (y: Tensor) =>
    [0, 1].map((image) => y.readSync().slice(image * y.shape[1] * 48, (image + 1) * y.shape[1] * 48));
  const [plain, first, later] = [run(0), run(0, 1), run(1, 1)];
  assert.deepEqual([plain.shape, later.shape], [[2, 14, 48], [2, 9, 48]]);
  for (const [image, dropped] of split(first).entries()) {
    const whole = split(plain)[image];
    let zeros = 0;
    for (let i = 0; i < whole.length; i++) {
      const isPrompt = i >= 48 && i < 6 * 48;
      if (isPrompt && dropped[i] === 0) zeros++;
      else assert.ok(Math.abs(dropped[i] - (isPrompt ? whole[i] / 0.6 : whole[i])) <= 1e-6, `${i}`);
    }
    assert.ok(Math.abs(zeros / 240 - 0.4) < 0.12, `${zeros} of 240`);
  }
  const zeros = (values: ArrayLike<number>) => Array.from(values).slice(48, 6 * 48).map((value) => value === 0).join();
  const masks = [...split(first), ...split(later), ...split(run(0, 2))].map(zeros);
  assert.equal(new Set(masks).size, masks.length);
});

Deno.test("vitLogits() with prompts stands as in evaluation but for the prompts, whatever the model's own rates", () => {
  using backend = loopsBackend();
  using base = vitParams(backend, DEEP);
  const { params, config } = goldenPrompts(backend, DEEP);
  using _ = params;
  const wet = { ...model, hidden_dropout_prob: 0.3, attention_probs_dropout_prob: 0.3 };
  const run = (dropout: number, seed?: number) =>
    logits(backend, base, {
      prompts: { params, config: { ...config, dropout } },
      ...seed !== undefined && { dropoutKey: keyOf(seed) },
    }, wet);
  assert.deepEqual(run(0, 1), run(0));
  assert.deepEqual(run(0.2), run(0));
  assert.notDeepEqual(run(0.2, 1), run(0));
  assert.notDeepEqual(run(0.2, 1), run(0.2, 2));
});

Deno.test("prompts have the gradient of their loss in f64, with projection and dropout", () => {
  using backend = loopsBackend();
  using base = vitParams(backend, DEEP, "f64");
  base.freeze(base.names());
  const config: VisualPromptConfig = { deep: true, numTokens: 3, project: 7, dropout: 0.25 };
  using params = new Params(backend);
  const weights = new Map<string, Float64Array<ArrayBuffer>>();
  for (const [name, { shape }] of visualPromptWeights(model, config)) {
    weights.set(name, Float64Array.from(random(name, shape.reduce((a, b) => a * b, 1)), (value) => 0.5 * value));
    params.set(name, own(fromArray(backend, weights.get(name)!, shape, "f64")));
  }
  const lossOf = (recompute = false) => {
    const { pixels, targets } = vitBatch(backend, DEEP, "f64");
    return vitLoss(base, model, pixels, { targets, prompts: { params, config }, dropoutKey: keyOf(5), recompute });
  };
  const gradients = [false, true].map((recompute) => {
    using _ = scope("backward");
    const found = new Map<string, Float64Array>();
    backward(lossOf(recompute), (name, gradient) => found.set(name, gradient.readSync().slice() as Float64Array));
    return found;
  });
  assert.deepEqual(gradients[1], gradients[0], "recomputed");
  assert.deepEqual([...gradients[0].keys()].sort(), [...weights.keys()].sort());
  for (const [name, values] of weights) {
    const direction = random(`${name} direction`, values.length);
    const moved = (by: number) => {
      using _ = scope("moved");
      params.get(name).write(values.map((value, i) => value + by * direction[i]));
      const loss = noGrad(() => lossOf()).readSync()[0];
      params.get(name).write(values);
      return loss;
    };
    const numeric = (moved(1e-5) - moved(-1e-5)) / 2e-5;
    const analytic = gradients[0].get(name)!.reduce((sum, g, i) => sum + g * direction[i], 0);
    assert.ok(Math.abs(numeric - analytic) <= 1e-8 + 1e-6 * Math.abs(numeric), `${name}: ${analytic} for ${numeric}`);
  }
});

Deno.test("f32 prompts and head stand beside a base in 16 bits, and get f32 gradients", () => {
  using backend = loopsBackend();
  const config: VisualPromptConfig = { deep: true, numTokens: 3 };
  using base = initVit(backend, model, { seed: 1, dtype: "bf16" });
  base.freeze(base.names());
  using params = initVisualPrompts(backend, model, config, { seed: 2 });
  using _ = scope("step");
  const { pixels, targets } = vitBatch(backend, DEEP);
  const dtypes: string[] = [];
  const loss = vitLoss(base, model, pixels, { targets, prompts: { params, config } });
  backward(loss, (name, { dtype }) => dtypes.push(`${name} ${dtype}`));
  assert.deepEqual(dtypes.sort(), params.names().map((name) => `${name} f32`).sort());
});

Deno.test("a step with prompts leaves no memory behind, and needs less when layers are recomputed", async () => {
  using backend = loopsBackend();
  const config: VisualPromptConfig = { deep: true, numTokens: 3, project: 5, dropout: 0.1 };
  using base = vitParams(backend, DEEP);
  base.freeze(base.names());
  const step = (recompute: boolean) => {
    using params = initVisualPrompts(backend, model, config, { seed: 1 });
    using _ = scope("step");
    const { pixels, targets } = vitBatch(backend, DEEP);
    const prompts = { params, config };
    backward(vitLoss(base, model, pixels, { targets, prompts, dropoutKey: keyOf(1), recompute }), () => {});
  };
  for (const recompute of [false, true]) await assertNoLeak(`${recompute}`, backend, () => step(recompute));
  const [plain, lean] = [false, true].map((recompute) => peakBytes(backend, () => step(recompute)));
  assert.ok(lean < 0.8 * plain, `${lean} of ${plain} bytes`);
});
