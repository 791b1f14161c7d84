/** PEFT's files of HiRA: keys, shapes and settings there and back, products of one rank less, and every misfit by name. */
import assert from "node:assert/strict";
import { loopsBackend } from "../backends/cpu/loops/mod.ts";
import { type Backend, matmul, noGrad, type Params, scope } from "../core/mod.ts";
import { assertRms } from "../core/testing/golden.ts";
import { assertNoLeak } from "../core/testing/leaks.ts";
import { type Flora, type FloraConfig, withFlora } from "./flora.ts";
import { type HiraConfig, hiraTensors, loadHira, readHiraConfig, saveHira, writeHiraConfig } from "./hira.ts";
import { initLlama, llama } from "./llama.ts";
import { initLora } from "./lora.ts";
import { loadPeft, PEFT_CONFIG_FILE, PEFT_WEIGHTS_FILE, savePeft } from "./peft.ts";
import { initRoberta } from "./roberta.ts";
import { openSafetensors } from "./safetensors.ts";
import { MemoryFolder, memorySource } from "./safetensors_memory.ts";
import { stirredFlora } from "./testing/flora_laws.ts";
import { readRoberta } from "./testing/roberta_goldens.ts";
import { someTokens, tiny } from "./testing/tiny_lora.ts";

const Q = "model.layers.0.self_attn.q_proj";
const KEY = `base_model.model.${Q}`;

async function shapesOf(folder: MemoryFolder): Promise<Record<string, readonly number[]>> {
  const file = await openSafetensors(memorySource(PEFT_WEIGHTS_FILE, folder.files.get(PEFT_WEIGHTS_FILE)!));
  return Object.fromEntries([...file.tensors].map(([name, { shape }]) => [name, shape]));
}

function json(folder: MemoryFolder): Record<string, unknown> {
  return JSON.parse(new TextDecoder().decode(folder.files.get(PEFT_CONFIG_FILE)));
}

/** A folder with other settings. */
function configured(folder: MemoryFolder, settings: Record<string, unknown>): MemoryFolder {
  const text = JSON.stringify({ ...json(folder), ...settings });
  return new MemoryFolder("other", [...folder.files, [PEFT_CONFIG_FILE, new TextEncoder().encode(text)]]);
}

async function saved(adapter: Flora & { readonly params: Params }, base: Params, use: Partial<HiraConfig> = {}) {
  const folder = new MemoryFolder("adapter");
  await saveHira(folder, adapter.params, { flora: adapter.config, ...use }, base.entries());
  return folder;
}

function logits(backend: Backend, base: Params, adapter: Flora) {
  using _ = scope("logits");
  return noGrad(() => llama(withFlora(base, [adapter]), tiny, someTokens(backend))).readSync();
}

const KINDS: Readonly<Record<string, FloraConfig>> = {
  "a list": { r: 2, targets: ["q_proj", "up_proj"], dropout: 0.05 },
  "an expression": { r: 2, targets: /model\.layers\.[01]\.mlp\.(up|down)_proj/ },
  "whole modules": { r: 2, targets: ["q_proj"], modulesToSave: ["lm_head"] },
  "every linear map": { r: 2, targets: "all-linear" },
};

for (const [kind, config] of Object.entries(KINDS)) {
  Deno.test(`saveHira() and loadHira() give the same adapter again, to the bit, with ${kind}`, async () => {
    using backend = loopsBackend();
    await assertNoLeak(kind, backend, async () => {
      using base = initLlama(backend, tiny, 1);
      const adapter = stirredFlora(base, config, 1);
      const folder = await saved(adapter, base, { taskType: "CAUSAL_LM", baseModel: "tiny" });
      using loaded = await loadHira(folder, base);
      assert.deepEqual(loaded.params.names(), adapter.params.names());
      for (const [name, tensor] of loaded.params.entries()) {
        assert.deepEqual(tensor.readSync(), adapter.params.get(name).readSync(), name);
      }
      assert.deepEqual([loaded.taskType, loaded.baseModel], ["CAUSAL_LM", "tiny"]);
      assert.deepEqual([loaded.flora.r, loaded.flora.dropout], [2, config.dropout ?? 0]);
      adapter.params.dispose();
    });
  });
}

Deno.test("saveHira() writes PEFT's keys and settings", async () => {
  using backend = loopsBackend();
  using base = initLlama(backend, tiny, 1);
  const adapter = stirredFlora(base, { r: 3, targets: ["q_proj"], modulesToSave: ["lm_head"], dropout: 0.1 }, 1);
  const folder = await saved(adapter, base, { taskType: "CAUSAL_LM" });
  assert.deepEqual(await shapesOf(folder), {
    "base_model.model.lm_head.weight": [40, 24],
    [`${KEY}.hira_A`]: [3, 24],
    [`${KEY}.hira_B`]: [24, 3],
    [`${KEY.replace("0", "1")}.hira_A`]: [3, 24],
    [`${KEY.replace("0", "1")}.hira_B`]: [24, 3],
  });
  const { peft_type, task_type, r, hira_dropout, target_modules, modules_to_save, init_weights } = json(folder);
  assert.deepEqual(
    { peft_type, task_type, r, hira_dropout, target_modules, modules_to_save, init_weights },
    {
      ...{ peft_type: "HIRA", task_type: "CAUSAL_LM", r: 3, hira_dropout: 0.1, target_modules: ["q_proj"] },
      ...{ modules_to_save: ["lm_head"], init_weights: true },
    },
  );
  adapter.params.dispose();
});

for (const reduction of ["sum", "mean"] as const) {
  Deno.test(`a product of rank r is a file of rank r + 1 with no loss, as a ${reduction}`, async () => {
    using backend = loopsBackend();
    await assertNoLeak(reduction, backend, async () => {
      using base = initLlama(backend, tiny, 1);
      const config: FloraConfig = { r: 3, targets: ["q_proj", "down_proj"], form: "product", reduction };
      const adapter = stirredFlora(base, config, 1);
      const folder = await saved(adapter, base);
      assert.equal(json(folder).r, 4);
      assert.deepEqual((await shapesOf(folder))[`${KEY}.hira_B`], [24, 4]);
      using loaded = await loadHira(folder, base);
      const expected = logits(backend, base, adapter);
      assertRms("residual", logits(backend, base, { ...loaded, config: loaded.flora }), expected, { tolerance: 2e-6 });
      using product = await loadHira(folder, base, { form: "product" });
      assert.deepEqual([product.flora.r, product.flora.form, product.flora.reduction], [3, "product", "sum"]);
      for (const [name, tensor] of product.params.entries()) {
        const share = name.endsWith("_B") && reduction === "mean" ? Math.fround(1 / 3) : 1;
        const ours = adapter.params.get(name).readSync();
        assert.deepEqual(tensor.readSync(), Float32Array.from(ours, (value) => value * share), name);
      }
      using tensors = hiraTensors(adapter.params, config);
      using _ = scope("B A");
      const whole = matmul(tensors.get(`${Q}.hira_B`), tensors.get(`${Q}.hira_A`)).readSync();
      const less = matmul(product.params.get(`${Q}.flora_B`), product.params.get(`${Q}.flora_A`)).readSync();
      assertRms("1 + B A", whole.map((value) => value + 1), less, { tolerance: 1e-6 });
      adapter.params.dispose();
    });
  });
}

Deno.test("an adapter of a RoBERTa classifier carries its head, whether its list says so or not", async () => {
  using backend = loopsBackend();
  const config = readRoberta("classify").config;
  using base = initRoberta(backend, config, { seed: 1, head: "classification" });
  const adapter = stirredFlora(base, { r: 2, targets: ["query", "value"], modulesToSave: ["classifier"] }, 1);
  const folder = await saved(adapter, base, { taskType: "SEQ_CLS" });
  for (const modules_to_save of [null, ["classifier"], ["classifier", "score"]]) {
    using loaded = await loadHira(configured(folder, { modules_to_save, target_modules: null }), base, {
      modelType: "roberta",
    });
    assert.deepEqual(loaded.params.names(), adapter.params.names());
    assert.deepEqual(loaded.flora.modulesToSave, ["classifier"]);
  }
});

Deno.test("loadHira() refuses another kind, another model and what is no product, in one line", async () => {
  using backend = loopsBackend();
  using base = initLlama(backend, tiny, 1);
  const adapter = stirredFlora(base, { r: 2, targets: ["q_proj"] }, 1);
  const folder = await saved(adapter, base);
  const before = backend.memory().live;
  const refuses = async (given: MemoryFolder, message: RegExp, options = {}) => {
    await assert.rejects(loadHira(given, base, options), (error: Error) => {
      assert.match(`${error}`, message);
      assert.doesNotMatch(error.message, /\n/);
      return true;
    });
    assert.deepEqual([backend.memory().live, given.numOpen], [before, 0]);
  };
  await refuses(configured(folder, { peft_type: "LORA" }), /^SyntaxError: Cannot read .*peft_type must be "HIRA": got/);
  await refuses(configured(folder, { rank_pattern: { q: 4 } }), /rank_pattern is not offered: got/);
  await refuses(configured(folder, { fan_in_fan_out: true }), /fan_in_fan_out is not offered: got "true"$/);
  await refuses(configured(folder, { hira_dropout: "some" }), /hira_dropout must be a number: got/);
  await refuses(configured(folder, { r: 3 }), /^TypeError: Cannot load .*: expected f32\[3, 24\] \(r, input\), got/);
  await refuses(configured(folder, { target_modules: ["query"] }), /^RangeError: Cannot fit the adapter to the model/);
  await refuses(configured(folder, { target_modules: ["v_proj"] }), /4 missing \(".*hira_A", .* and 4 extra/);
  await refuses(
    configured(folder, { target_modules: ["embed_tokens"] }),
    /^TypeError: Cannot adapt .*FLoRA is offered/,
  );
  await refuses(folder, /^RangeError: Cannot read ".*hira_A" as a product: its last part must be 1 .* at 0$/, {
    form: "product",
  });
  const lora = { r: 2, alpha: 2, targets: ["q_proj"] };
  using factors = initLora(base, lora, { seed: 1 });
  const other = new MemoryFolder("lora");
  await savePeft(other, factors, { lora }, base.entries());
  await assert.rejects(loadPeft(folder, base), /peft_type must be "LORA": got "\\"HIRA\\""$/);
  await assert.rejects(loadHira(other, base), /peft_type must be "HIRA": got "\\"LORA\\""$/);
});

Deno.test("readHiraConfig() takes PEFT's defaults, and writeHiraConfig() spells out every linear map", () => {
  const least = readHiraConfig({ peft_type: "HIRA", future_key: 1 }, "llama");
  assert.deepEqual(least, {
    flora: { r: 32, form: "residual", reduction: "sum", dropout: 0, targets: ["q_proj", "v_proj"], modulesToSave: [] },
  });
  using backend = loopsBackend();
  using base = initLlama(backend, tiny, 1);
  const flora: FloraConfig = { r: 2, targets: "all-linear" };
  assert.equal((writeHiraConfig({ flora }, base.entries()).target_modules as string[]).length, 14);
});
