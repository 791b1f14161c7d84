/** Deep LoRA: stored numbers, first values, what its view is, and that it leaves as plain LoRA. */
import assert from "node:assert/strict";
import { loopsBackend } from "../backends/cpu/loops/mod.ts";
import { cpuBackend } from "../backends/cpu/mod.ts";
import { backward, noGrad, scope, svd } from "../core/mod.ts";
import { assertClose, assertRms } from "../core/testing/golden.ts";
import { random } from "../core/testing/gradcheck.ts";
import { assertNoLeak } from "../core/testing/leaks.ts";
import {
  collapsedConfig,
  collapseDeepLora,
  DEEP_LORA_TENSORS,
  type DeepLoraConfig,
  deepLoraWeights,
  initDeepLora,
  mergeDeepLora,
  withDeepLora,
} from "./deep_lora.ts";
import { initLlama, llama, llamaLoss } from "./llama.ts";
import { llamaWeights } from "./llama_config.ts";
import { withLora } from "./lora.ts";
import { loadPeft, savePeft } from "./peft.ts";
import { MemoryFolder } from "./safetensors_memory.ts";
import { deepLoraGoldens } from "./testing/deep_lora_goldens.ts";
import { eye, product, transpose } from "./testing/host_matrices.ts";
import { someTokens, stir, tiny } from "./testing/tiny_lora.ts";

deepLoraGoldens("loops", () => loopsBackend());
deepLoraGoldens("loops", () => loopsBackend(), { dtype: "f64", slack: 0.1 });
deepLoraGoldens("wasm", () => cpuBackend({ threads: 1, blas: "off" }));

const FORMS: Readonly<Record<"whole" | "compressed", DeepLoraConfig>> = {
  whole: { r: 3, targets: "all-linear", modulesToSave: ["lm_head"] },
  compressed: { r: 2, targets: "all-linear", compress: true, modulesToSave: ["lm_head"] },
};

/** A gradient for every matrix of the tiny model. */
const gradients: ReadonlyMap<string, Float64Array> = new Map(
  [...llamaWeights(tiny)].filter(([, { shape }]) => shape.length === 2)
    .map(([name, { shape }]) => [name, random(`gradient of ${name}`, shape[0] * shape[1])]),
);

for (const [form, config] of Object.entries(FORMS)) {
  Deno.test(`initDeepLora() draws factors of epsilon times orthogonal matrices by seed and name, ${form}`, () => {
    using backend = loopsBackend();
    using base = initLlama(backend, tiny, 1);
    using adapter = initDeepLora(base, config, { seed: 2, gradients });
    using again = initDeepLora(base, config, { seed: 2, gradients });
    using other = initDeepLora(base, { ...config, epsilon: 0.5 }, { seed: 3, gradients });
    const heads = ["lm_head.weight"];
    const numFactors = config.compress ? 5 : 3;
    assert.equal(adapter.names().filter((name) => DEEP_LORA_TENSORS.test(name)).length, 14 * numFactors);
    assert.deepEqual(adapter.names().filter((name) => !DEEP_LORA_TENSORS.test(name)), heads);
    for (const [name, tensor] of adapter.entries()) {
      const values = tensor.readSync();
      assert.deepEqual(again.get(name).readSync(), values, name);
      if (heads.includes(name)) {
        assert.deepEqual(values, base.get(name).readSync());
        continue;
      }
      const { start } = deepLoraWeights(base.entries(), config).get(name)!;
      if (start === "corner") continue; // the identity only for square maps; see the test of the first product
      if (start !== "identity") assert.notDeepEqual(other.get(name).readSync().map((x) => x / 500), values, name);
      for (const [params, size] of [[adapter, 1e-3], [other, 0.5]] as const) {
        const [rows, columns] = tensor.shape;
        const factor = params.get(name).readSync();
        const flipped = transpose(factor, rows, columns);
        const gram = rows > columns
          ? product(flipped, factor, [columns, rows, columns])
          : product(factor, flipped, [rows, columns, rows]);
        const scale = start === "subspace" ? 1 : size;
        assertClose(name, gram.map((x) => x / scale ** 2), eye(Math.min(rows, columns)), { rtol: 0, atol: 1e-6 });
      }
    }
    const [first, second] = [0, 1].map((i) =>
      adapter.get(`model.layers.${i}.mlp.up_proj.deep_lora_1.weight`).readSync()
    );
    if (!config.compress) assert.notDeepEqual(first, second);
  });

  Deno.test(`initDeepLora() begins as an isometry of the wider side times epsilon cubed, ${form}`, () => {
    using backend = loopsBackend();
    using base = initLlama(backend, tiny, 1);
    using adapter = initDeepLora(base, { ...config, epsilon: 0.5, targets: ["q_proj", "up_proj", "down_proj"] }, {
      ...{ seed: 2, gradients },
    });
    using collapsed = collapseDeepLora(adapter);
    const r = config.compress ? 4 : 3;
    for (const name of collapsed.names().filter((name) => name.endsWith(".lora_A.weight"))) {
      const [, columns] = collapsed.get(name).shape;
      const B = collapsed.get(name.replace("_A.", "_B."));
      const A = collapsed.get(name).readSync();
      const first = product(B.readSync(), A, [B.shape[0], r, columns]);
      const { values } = svd(first, B.shape[0], columns);
      // the product is a contraction whose largest values are that of an isometry, and it has rank r
      assert.ok(values[0] <= 0.125 * (1 + 1e-5) && values[r - 1] > 1e-3 && values[r] < 1e-7, name);
      if (!config.compress || B.shape[0] === columns) assert.ok(values[r - 1] > 0.125 * (1 - 1e-5), name);
    }
  });

  Deno.test(`initDeepLora() changes a model by next to nothing, and trains every factor at once, ${form}`, async () => {
    using backend = loopsBackend();
    await assertNoLeak("first step", backend, () => {
      using base = initLlama(backend, tiny, 1);
      base.freeze(base.names());
      using adapter = initDeepLora(base, { ...config, modulesToSave: [] }, { seed: 2, gradients });
      using _ = scope("test");
      const tokens = someTokens(backend);
      const view = withDeepLora(base, [{ params: adapter, config }]);
      const [plain, adapted] = [base, view].map((model) => noGrad(() => llama(model, tiny, tokens)).readSync());
      assertRms("logits", adapted, plain, { tolerance: 1e-6 });
      const sizes = new Map<string, number>();
      backward(
        llamaLoss(view, tiny, tokens, tokens),
        (name, gradient) => sizes.set(name, Math.max(...gradient.readSync().map(Math.abs))),
      );
      assert.deepEqual([...sizes.keys()].sort(), adapter.names().sort());
      for (const [name, size] of sizes) assert.ok(size > 0, name);
    });
  });

  Deno.test(`a Deep LoRA adapter is the LoRA adapter that PEFT's files hold, and merges, ${form}`, async () => {
    using backend = loopsBackend();
    await assertNoLeak("as LoRA", backend, async () => {
      using base = initLlama(backend, tiny, 1);
      using adapter = initDeepLora(base, config, { seed: 2, gradients });
      stir(adapter, DEEP_LORA_TENSORS, 0.5);
      using collapsed = collapseDeepLora(adapter);
      const folder = new MemoryFolder("peft");
      await savePeft(folder, collapsed, { lora: collapsedConfig(config), taskType: "CAUSAL_LM" }, base.entries());
      using loaded = await loadPeft(folder, base);
      assert.deepEqual([loaded.lora.r, loaded.lora.alpha], config.compress ? [4, 4] : [3, 3]);
      using merged = mergeDeepLora(base, adapter, config);
      assert.deepEqual(merged.names(), base.names());
      using _ = scope("test");
      const logits = [
        withDeepLora(base, [{ params: adapter, config }]),
        withLora(base, [{ params: loaded.params, config: loaded.lora }]),
        merged,
        base,
      ].map((view) => noGrad(() => llama(view, tiny, someTokens(backend))).readSync());
      assert.deepEqual(logits[1], logits[0]);
      assertRms("merged", logits[2], logits[0], { tolerance: 1e-5 });
      assert.notDeepEqual(logits[3].map(Math.round), logits[0].map(Math.round));
    });
  });

  Deno.test(`layers under Deep LoRA that are recomputed give the same gradients to the bit, ${form}`, () => {
    using backend = loopsBackend();
    using base = initLlama(backend, tiny, 1);
    base.freeze(base.names());
    using adapter = initDeepLora(base, config, { seed: 1, gradients });
    stir(adapter, DEEP_LORA_TENSORS, 0.3);
    const run = (recompute: boolean) => {
      using _ = scope("step");
      const tokens = someTokens(backend);
      const found = new Map<string, unknown>();
      const view = withDeepLora(base, [{ params: adapter, config }]);
      backward(
        llamaLoss(view, tiny, tokens, tokens, { recompute }),
        (name, gradient) => found.set(name, gradient.readSync()),
      );
      return found;
    };
    const [plain, again] = [run(false), run(true)];
    assert.equal(plain.size, adapter.names().length);
    for (const [name, gradient] of plain) assert.deepEqual(again.get(name), gradient, name);
  });
}

Deno.test("deepLoraWeights() refuses what cannot be adapted, in one line", () => {
  const weights = [...llamaWeights(tiny)].map(([name, { shape }]) => [name, { shape }] as const);
  const refuse = (config: DeepLoraConfig, message: RegExp) =>
    assert.throws(() => deepLoraWeights(weights, config), message);
  refuse({ r: 2, targets: ["embed_tokens"] }, /^TypeError: Cannot adapt "model\.embed_tokens": Deep LoRA is .* linear/);
  refuse(
    { r: 7, compress: true, targets: ["k_proj"] },
    /^RangeError: .* at most its smaller side: got r 7 and shape \[12,24\]/,
  );
  refuse({ r: 2, epsilon: 0, targets: ["k_proj"] }, /^RangeError: .* epsilon must be a number above 0: got 0/);
  refuse({ r: 0, targets: ["k_proj"] }, /r must be a whole number from 1: got 0/);
  refuse({ r: 2, targets: ["nothing"] }, /got "nothing"/);
});

Deno.test("initDeepLora() refuses a compressed form without the gradients that it is made of", () => {
  using backend = loopsBackend();
  using base = initLlama(backend, tiny, 1);
  const before = backend.memory().live;
  for (const given of [undefined, new Map([["model.layers.0.self_attn.q_proj.weight", [1, 2]]])]) {
    const config: DeepLoraConfig = { r: 2, compress: true, targets: ["q_proj"] };
    assert.throws(
      () => initDeepLora(base, config, { seed: 1, gradients: given }),
      /the gradient of "model\.layers\.0\.self_attn\.q_proj\.weight" must have its 576 numbers: got (none|2)/,
    );
  }
  const config: DeepLoraConfig = { r: 2, compress: true, targets: ["q_proj"] };
  const broken = new Map([...gradients].map(([name, values]) => [name, values.with(7, NaN)]));
  assert.throws(() => initDeepLora(base, config, { seed: 1, gradients: broken }), /must be finite: got NaN/);
  assert.equal(backend.memory().live, before);
});

Deno.test("initDeepLora() begins at some orthonormal subspaces when a gradient is 0", () => {
  using backend = loopsBackend();
  using base = initLlama(backend, tiny, 1);
  const zeros = new Map([...gradients].map(([name, values]) => [name, new Float64Array(values.length)]));
  const config: DeepLoraConfig = { r: 2, compress: true, targets: ["q_proj"] };
  using adapter = initDeepLora(base, config, { seed: 1, gradients: zeros });
  const right = adapter.get("model.layers.0.self_attn.q_proj.deep_lora_right.weight").readSync();
  assertClose("right", product(right, transpose(right, 4, 24), [4, 24, 4]), eye(4), { rtol: 0, atol: 1e-6 });
});
