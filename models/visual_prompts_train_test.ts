/** Training prompts: what a frozen backbone does not cost, that it keeps its bits, and tasks that share it. */
import assert from "node:assert/strict";
import { loopsBackend } from "../backends/cpu/loops/mod.ts";
import { type Backend, backward, fromArray, type Node, noGrad, type Params, scope } from "../core/mod.ts";
import { random } from "../core/testing/gradcheck.ts";
import { adamWPreset, Optimizer } from "../optimizers/mod.ts";
import { initVisualPrompts, type VisualPromptConfig, type VisualPrompts } from "./visual_prompts.ts";
import { initVit, vitLogits, vitLoss } from "./vit.ts";
import { makeVitConfig } from "./vit_config.ts";

const model = makeVitConfig({
  hidden_size: 16,
  intermediate_size: 24,
  num_hidden_layers: 3,
  num_attention_heads: 2,
}, { image_size: 8, patch_size: 4, num_channels: 1, num_labels: 3 });

const config: VisualPromptConfig = { deep: true, numTokens: 4 };

function batch(backend: Backend) {
  return {
    pixels: fromArray(backend, Float32Array.from(random("pixels", 6 * 64)), [6, 1, 8, 8]),
    targets: fromArray(backend, Int32Array.of(0, 1, 2, 2, 1, 0), [6]),
  };
}

/** Counts, for each input that backward asks a vjp for, by the leaf's name, "activation" or "frozen". */
function countVjps(root: Node): Map<string, number> {
  const counts = new Map<string, number>();
  const seen = new Set<Node>();
  const stack = [root];
  for (let node = stack.pop(); node; node = stack.pop()) {
    if (seen.has(node)) continue;
    seen.add(node);
    const { inputs, vjp } = node;
    stack.push(...inputs.filter((input) => input !== undefined));
    if (!vjp) continue;
    const counted: typeof vjp = (gradient, saved) =>
      vjp(gradient, saved).map((thunk, i) => () => {
        const what = inputs[i] ? inputs[i].leafName ?? "activation" : "frozen";
        counts.set(what, (counts.get(what) ?? 0) + 1);
        return thunk?.();
      });
    Object.assign(node, { vjp: counted });
  }
  return counts;
}

/** The vjps that one step runs. */
function vjpsOf(backend: Backend, base: Params, prompts?: VisualPrompts): Map<string, number> {
  using _ = scope("step");
  const { pixels, targets } = batch(backend);
  const loss = vitLoss(base, model, pixels, { targets, prompts });
  const counts = countVjps(loss.node!);
  backward(loss, () => {});
  return counts;
}

const ofLeaves = (counts: Map<string, number>) => [...counts.keys()].filter((what) => what !== "activation").sort();

Deno.test("a frozen backbone's gradients are never computed: no vjp is called for any of its weights", () => {
  using backend = loopsBackend();
  using base = initVit(backend, model, { seed: 1 });
  const full = vjpsOf(backend, base);
  assert.deepEqual(ofLeaves(full), base.names().sort());
  base.freeze(base.names());
  const calls = [config, { ...config, deep: false }, { ...config, numTokens: 0 }].map((settings) => {
    using params = initVisualPrompts(backend, model, settings, { seed: 2 });
    const counts = vjpsOf(backend, base, { params, config: settings });
    assert.deepEqual(ofLeaves(counts), params.names().sort());
    return counts.get("activation")!;
  });
  // a linear probe differentiates nothing before the head
  assert.ok(calls[2] < 20 && calls[1] > 200, calls.join());
  assert.ok(calls[1] < full.get("activation")!, `${calls} of ${full.get("activation")}`);
});

Deno.test("a frozen backbone costs no optimizer memory: AdamW's states are two numbers for each of the task's", () => {
  using backend = loopsBackend();
  using base = initVit(backend, model, { seed: 1 });
  base.freeze(base.names());
  using task = initVisualPrompts(backend, model, config, { seed: 2 });
  // layers, prompts and width; labels
  assert.equal(task.size, 3 * 4 * 16 + 3 * (16 + 1));
  const before = backend.memory().inUse;
  using optimizer = new Optimizer(task, adamWPreset({ learningRate: 1e-3 }));
  const states = backend.memory().inUse - before;
  assert.ok(states >= 8 * task.size && states < 8.2 * task.size + 64 * task.names().length, `${states}`);
  assert.equal(optimizer.snapshot().leaves.size, task.names().length);
});

/** Trains a task; its losses. */
function train(backend: Backend, base: Params, prompts: VisualPrompts & { params: Params }, steps = 20): number[] {
  using optimizer = new Optimizer(prompts.params, adamWPreset({ learningRate: 0.03 }));
  return Array.from({ length: steps }, () => {
    using _ = scope("step");
    const { pixels, targets } = batch(backend);
    const loss = vitLoss(base, model, pixels, { targets, prompts, recompute: true });
    backward(loss, optimizer.stage);
    optimizer.commit();
    return loss.readSync()[0];
  });
}

for (const settings of [config, { ...config, deep: false }, { ...config, project: 6 }]) {
  Deno.test(`prompts learn with ${JSON.stringify(settings)}, and the backbone keeps its bits`, () => {
    using backend = loopsBackend();
    using base = initVit(backend, model, { seed: 1 });
    base.freeze(base.names());
    const before = base.names().map((name) => base.get(name).readSync());
    using params = initVisualPrompts(backend, model, settings, { seed: 2 });
    const first = new Map([...params.entries()].map(([name, tensor]) => [name, tensor.readSync()]));
    const losses = train(backend, base, { params, config: settings });
    assert.ok(losses[19] < losses[0] - 0.1, losses.join(" "));
    base.names().forEach((name, i) => assert.deepEqual(base.get(name).readSync(), before[i], name));
    for (const [name, tensor] of params.entries()) assert.notDeepEqual(tensor.readSync(), first.get(name), name);
  });
}

Deno.test("tasks that share a backbone do not hear of each other, whichever is active", () => {
  using backend = loopsBackend();
  using base = initVit(backend, model, { seed: 1 });
  base.freeze(base.names());
  using first = initVisualPrompts(backend, model, config, { seed: 2 });
  const one = { params: first, config };
  const logits = (prompts?: VisualPrompts) => {
    using _ = scope("logits");
    return noGrad(() => vitLogits(base, model, batch(backend).pixels, { prompts })).readSync();
  };
  train(backend, base, one, 3);
  const [plain, own] = [logits(), logits(one)];
  assert.notDeepEqual(own, plain);
  using second = initVisualPrompts(backend, model, { deep: false, numTokens: 2 }, { seed: 3 });
  train(backend, base, { params: second, config: { deep: false, numTokens: 2 } }, 3);
  assert.deepEqual(logits(one), own);
  assert.deepEqual(logits(), plain);
});
