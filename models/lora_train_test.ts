/** Training adapters: what a frozen base does not cost, and every kind of rule over an adapter's parameters. */
import assert from "node:assert/strict";
import { loopsBackend } from "../backends/cpu/loops/mod.ts";
import { type Backend, backward, foldIn, fromArray, keyOf, own, type Params, scope } from "../core/mod.ts";
import { takeHost } from "../core/testing/inputs.ts";
import {
  adafactorPreset,
  adamWPreset,
  blockwise8bit,
  finish,
  galoreAdamW,
  muonPreset,
  Optimizer,
  type Routing,
  type Rule,
  scaleByAdam,
  storeAs,
} from "../optimizers/mod.ts";
import { initLlama, llamaLoss } from "./llama.ts";
import { llamaWeights } from "./llama_config.ts";
import { initLora, type LoraConfig, loraWeights, withLora } from "./lora.ts";
import { tiny } from "./testing/tiny_lora.ts";

const config: LoraConfig = { r: 4, alpha: 8, targets: "all-linear", dropout: 0.1 };

/** A backend that writes down the shape of every matrix product. */
function watched(backend: Backend, shapes: string[]): Backend {
  const kernels = Object.create(backend.kernels) as Backend["kernels"];
  Object.defineProperty(kernels, "matmul", {
    value: (...[a, b, out, options]: Parameters<Backend["kernels"]["matmul"]>) => {
      shapes.push(out.shape.join());
      backend.kernels.matmul(a, b, out, options);
    },
  });
  return new Proxy(backend, {
    get(target, key) {
      if (key === "kernels") return kernels;
      const value = Reflect.get(target, key);
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
}

Deno.test("a frozen base costs no gradient: backward forms none, and hears of the adapter's leaves alone", () => {
  const shapes: string[] = [];
  using backend = watched(loopsBackend(), shapes);
  using base = initLlama(backend, tiny, 1);
  const run = (view: Parameters<typeof llamaLoss>[0]) => {
    using _ = scope("step");
    const tokens = fromArray(backend, Int32Array.from({ length: 14 }, (_, i) => (i * i + 1) % 40), [2, 7]);
    const loss = llamaLoss(view, tiny, tokens, tokens);
    shapes.length = 0;
    const heard: string[] = [];
    backward(loss, (name) => heard.push(name));
    return { heard: heard.sort(), products: [...shapes] };
  };
  const matrices = [...llamaWeights(tiny)].filter(([name, { shape }]) => shape.length === 2 && !/embed/.test(name));
  const ofWeights = new Set(matrices.map(([, { shape }]) => shape.join()));
  const full = run(base);
  assert.equal(full.products.filter((shape) => ofWeights.has(shape)).length, matrices.length);
  base.freeze(base.names());
  const late: LoraConfig = { ...config, targets: /model\.layers\.1\..*_proj/ };
  const products = [config, late].map((settings) => {
    using adapter = initLora(base, settings, { seed: 1 });
    const lora = run(withLora(base, [{ params: adapter, config: settings }]));
    assert.deepEqual(lora.heard, adapter.names().sort());
    assert.deepEqual(lora.products.filter((shape) => ofWeights.has(shape)), []);
    return lora.products.length;
  });
  // below the lowest adapter nothing runs: the activations' gradients of a whole layer are missing
  assert.ok(products[1] < 0.55 * products[0], products.join());
});

Deno.test("a frozen base costs no optimizer memory: AdamW's states are two numbers for each of the adapter's", () => {
  using backend = loopsBackend();
  using base = initLlama(backend, tiny, 1);
  base.freeze(base.names());
  using adapter = initLora(base, config, { seed: 1 });
  const numbers = [...loraWeights(llamaWeights(tiny), config).values()]
    .reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0);
  assert.equal(adapter.size, numbers);
  const before = backend.memory().inUse;
  using optimizer = new Optimizer(adapter, adamWPreset({ learningRate: 1e-3 }));
  const states = backend.memory().inUse - before;
  assert.ok(
    states >= 8 * numbers && states < 8.2 * numbers + 64 * adapter.names().length,
    `${states} of ${8 * numbers}`,
  );
  assert.equal(optimizer.snapshot().leaves.size, adapter.names().length);
});

const RULES: Readonly<Record<string, Rule | Routing>> = {
  adamw: adamWPreset({ learningRate: 1e-2 }),
  "adamw with 8-bit states": finish(storeAs(blockwise8bit(), scaleByAdam(), { minSize: 64 }), {
    learningRate: 1e-2,
  }),
  "galore_adamw of a higher rank": galoreAdamW({
    learningRate: 1e-2,
    projected: /lora_[AB]/,
    galore: { rank: 8, scale: 1, updateProjGap: 2 },
  }),
  adafactor: adafactorPreset({ learningRate: 1e-2 }),
  muon: muonPreset({ learningRate: 1e-2, hidden: /lora_[AB]/ }),
};

for (const [name, rule] of Object.entries(RULES)) {
  for (const dora of [false, true]) {
    Deno.test(`${dora ? "DoRA" : "LoRA"} learns under ${name}, and the base keeps its bits`, async () => {
      using backend = loopsBackend();
      using base = initLlama(backend, tiny, 1);
      base.freeze(base.names());
      const before = base.names().map((weight) => base.get(weight).readSync());
      const settings: LoraConfig = { ...config, dora, modulesToSave: ["lm_head"] };
      using adapter = initLora(base, settings, { seed: 1 });
      using optimizer = new Optimizer(adapter, rule, { clip: 1 });
      const losses: number[] = [];
      for (let step = 0; step < 8; step++) {
        losses.push(await trainStep(backend, base, adapter, { settings, optimizer }));
      }
      assert.ok(losses[7] < losses[0] - 0.05, losses.join(" "));
      base.names().forEach((weight, i) => assert.deepEqual(base.get(weight).readSync(), before[i], weight));
    });
  }
}

async function trainStep(
  backend: Backend,
  base: Params,
  adapter: Params,
  { settings, optimizer }: { readonly settings: LoraConfig; readonly optimizer: Optimizer },
): Promise<number> {
  const loss = (() => {
    using step = scope("step");
    const tokens = fromArray(backend, Int32Array.from({ length: 14 }, (_, i) => (i * i + 1) % 40), [2, 7]);
    const targets = fromArray(backend, Int32Array.from({ length: 14 }, (_, i) => ((i + 1) * (i + 1) + 1) % 40), [2, 7]);
    const view = withLora(base, [{ params: adapter, config: settings }], {
      dropoutKey: foldIn(keyOf(7), optimizer.step),
    });
    const mean = llamaLoss(view, tiny, tokens, targets, { recompute: true });
    backward(mean, optimizer.stage);
    return own(step.keep(mean));
  })();
  if (optimizer.refreshDue) await optimizer.refresh();
  optimizer.commit();
  return (await takeHost(loss))[0];
}
