/** PEFT's files: keys, shapes and settings there and back, by the byte, and every misfit as one line with names. */
import assert from "node:assert/strict";
import { loopsBackend } from "../backends/cpu/loops/mod.ts";
import { type Backend, fromArray, noGrad, type Params, type ParamsView, scope } from "../core/mod.ts";
import { assertNoLeak } from "../core/testing/leaks.ts";
import { initLlama, llama } from "./llama.ts";
import type { LlamaConfig } from "./llama_config.ts";
import { initLora, type LoraConfig, withLora } from "./lora.ts";
import {
  loadPeft,
  PEFT_CONFIG_FILE,
  PEFT_WEIGHTS_FILE,
  type PeftConfig,
  readPeftConfig,
  savePeft,
  writePeftConfig,
} from "./peft.ts";
import { openSafetensors, writeSafetensors } from "./safetensors.ts";
import { MemoryFolder, memorySource } from "./safetensors_memory.ts";
import { llamaParams, readLlama } from "./testing/llama_goldens.ts";
import { initRoberta } from "./roberta.ts";
import { readRoberta } from "./testing/roberta_goldens.ts";
import { goldenAdapter } from "./testing/lora_goldens.ts";
import { tiny } from "./testing/tiny_lora.ts";

function json(folder: MemoryFolder): Record<string, unknown> {
  return JSON.parse(new TextDecoder().decode(folder.files.get(PEFT_CONFIG_FILE)));
}

/** A folder with other settings. */
function configured(folder: MemoryFolder, settings: Record<string, unknown>): MemoryFolder {
  const text = JSON.stringify({ ...json(folder), ...settings });
  return new MemoryFolder("other", [...folder.files, [PEFT_CONFIG_FILE, new TextEncoder().encode(text)]]);
}

/** A folder whose tensors are what `change` makes of them. */
async function rewritten(
  folder: MemoryFolder,
  change: (tensors: Map<string, { shape: readonly number[]; values: Float32Array }>) => void,
): Promise<MemoryFolder> {
  const file = await openSafetensors(memorySource(PEFT_WEIGHTS_FILE, folder.files.get(PEFT_WEIGHTS_FILE)!));
  const tensors = new Map<string, { shape: readonly number[]; values: Float32Array }>();
  for (const [name, { shape }] of file.tensors) {
    tensors.set(name, { shape, values: new Float32Array((await file.bytes(name)).slice().buffer) });
  }
  change(tensors);
  const out = new MemoryFolder("other", folder.files);
  {
    await using sink = await out.create(PEFT_WEIGHTS_FILE);
    const bytes = (values: Float32Array) => () => new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
    await writeSafetensors(
      sink,
      [...tensors].map(([name, { shape, values }]) => ({ name, dtype: "F32", shape, bytes: bytes(values) })),
    );
  }
  return out;
}

/** Demands that loading fails with one line. */
async function refuses(folder: MemoryFolder, base: Params, name: string, message: RegExp): Promise<void> {
  const before = base.backend.memory().live;
  await assert.rejects(loadPeft(folder, base), (error: Error) => {
    assert.equal(error.name, name, error.message);
    assert.match(error.message, message);
    assert.doesNotMatch(error.message, /\n/);
    return true;
  });
  assert.equal(base.backend.memory().live, before);
  assert.equal(folder.numOpen, 0);
}

Deno.test("an adapter of PEFT's comes back with its bytes, names, shapes and settings", async () => {
  using backend = loopsBackend();
  await assertNoLeak("round trip", backend, async () => {
    using base = llamaParams(backend, readLlama("mha"));
    const stored = goldenAdapter();
    using adapter = await loadPeft(stored, base);
    assert.deepEqual([adapter.taskType, adapter.baseModel], ["CAUSAL_LM", "llama/mha"]);
    assert.deepEqual([adapter.lora.r, adapter.lora.alpha, adapter.lora.targets], [4, 8, ["q_proj", "v_proj"]]);
    const written = new MemoryFolder("written");
    await savePeft(written, adapter.params, adapter, base.entries());
    assert.deepEqual(json(written), json(stored));
    assert.deepEqual(await tensorsOf(written), await tensorsOf(stored));
    const raw = written.files.get(PEFT_WEIGHTS_FILE)!;
    const length = Number(new DataView(raw.buffer).getBigUint64(0, true));
    const header = JSON.parse(new TextDecoder().decode(raw.subarray(8, 8 + length)));
    assert.deepEqual(header.__metadata__, { format: "pt" });
    delete header.__metadata__;
    const names = Object.keys(header);
    assert.deepEqual(names, [...names].sort());
    // sorted, without holes, to the file's last byte
    const end = names.reduce(
      (at, name) => (assert.equal(header[name].data_offsets[0], at), header[name].data_offsets[1]),
      0,
    );
    assert.equal(8 + length + end, raw.length);
  });
});

async function tensorsOf(folder: MemoryFolder) {
  const file = await openSafetensors(memorySource(PEFT_WEIGHTS_FILE, folder.files.get(PEFT_WEIGHTS_FILE)!));
  const tensors: Record<string, unknown> = {};
  for (const [name, { dtype, shape }] of file.tensors) tensors[name] = { dtype, shape, bytes: await file.bytes(name) };
  return tensors;
}

const KINDS: Readonly<Record<string, LoraConfig>> = {
  DoRA: { r: 2, alpha: 4, targets: ["q_proj"], dora: true, dropout: 0.05 },
  rsLoRA: { r: 2, alpha: 4, targets: /model\.layers\.[01]\.mlp\.(up|down)_proj/, rslora: true },
  "whole modules": { r: 2, alpha: 4, targets: ["q_proj"], modulesToSave: ["lm_head"] },
  "an embedding table": { r: 2, alpha: 4, targets: ["embed_tokens"] },
  "every linear map": { r: 2, alpha: 4, targets: "all-linear" },
};

for (const [kind, lora] of Object.entries(KINDS)) {
  Deno.test(`savePeft() and loadPeft() give the same model again under PEFT's keys, with ${kind}`, async () => {
    using backend = loopsBackend();
    using base = initLlama(backend, tiny, 1);
    using adapter = initLora(base, lora, { seed: 1 });
    for (const tensor of [...adapter.entries()].map(([, tensor]) => tensor)) {
      tensor.write(tensor.readSync().map((value, i) => value + 0.1 * Math.cos(i)) as Float32Array);
    }
    const folder = new MemoryFolder("adapter");
    await savePeft(folder, adapter, { lora, taskType: "CAUSAL_LM", baseModel: "tiny" }, base.entries());
    const q = "base_model.model.model.layers.0.self_attn.q_proj";
    const keys: Readonly<Record<string, [number, string[]]>> = {
      DoRA: [6, [`${q}.lora_A.weight`, `${q}.lora_B.weight`, `${q}.lora_magnitude_vector`]],
      rsLoRA: [8, ["base_model.model.model.layers.1.mlp.down_proj.lora_B.weight"]],
      "whole modules": [5, ["base_model.model.lm_head.weight"]],
      "an embedding table": [2, ["A", "B"].map((part) => `base_model.model.model.embed_tokens.lora_embedding_${part}`)],
      "every linear map": [28, [`${q.replace("q_", "o_")}.lora_A.weight`]],
    };
    const tensors = await tensorsOf(folder);
    assert.equal(Object.keys(tensors).length, keys[kind][0]);
    for (const key of keys[kind][1]) assert.ok(key in tensors, key);
    using loaded = await loadPeft(folder, base);
    assert.deepEqual(loaded.params.names(), adapter.names());
    if (lora.targets !== "all-linear") {
      const { modulesToSave = [], dropout = 0, rslora = false, dora = false, targets } = lora;
      const isPattern = targets instanceof RegExp;
      const expected = { ...lora, modulesToSave, dropout, rslora, dora };
      assert.deepEqual({ ...loaded.lora, ...isPattern && { targets } }, expected);
    }
    assert.deepEqual(logits(backend, base, loaded), logits(backend, base, { params: adapter, lora }));
  });
}

function logits(backend: Backend, base: Params, { params, lora }: { params: ParamsView; lora: LoraConfig }) {
  using _ = scope("logits");
  const tokens = fromArray(backend, Int32Array.from({ length: 12 }, (_, i) => (7 * i) % 40), [2, 6]);
  return noGrad(() => llama(withLora(base, [{ params, config: lora }]), tiny, tokens)).readSync();
}

Deno.test("an adapter of a RoBERTa classifier carries its head, whether its list says so or not", async () => {
  using backend = loopsBackend();
  const config = readRoberta("classify").config;
  using base = initRoberta(backend, config, { seed: 1, head: "classification" });
  const lora: LoraConfig = { r: 2, alpha: 4, targets: ["query", "value"], modulesToSave: ["classifier"] };
  using adapter = initLora(base, lora, { seed: 1 });
  const folder = new MemoryFolder("adapter");
  await savePeft(folder, adapter, { lora, taskType: "SEQ_CLS" }, base.entries());
  const keys = Object.keys(await tensorsOf(folder));
  const layers = config.num_hidden_layers;
  assert.equal(keys.length, 4 * layers + 4);
  for (const name of ["roberta.encoder.layer.0.attention.self.query.lora_A.weight", "classifier.out_proj.bias"]) {
    assert.ok(keys.includes(`base_model.model.${name}`), name);
  }
  for (const modules_to_save of [null, ["classifier"], ["classifier", "score"]]) {
    using loaded = await loadPeft(configured(folder, { modules_to_save }), base);
    assert.deepEqual(loaded.params.names(), adapter.names());
    assert.deepEqual(loaded.lora.modulesToSave, ["classifier"]);
  }
});

Deno.test("loadPeft() reads half precision as f32 and gives whole modules the base's dtype", async () => {
  using backend = loopsBackend();
  using base = initLlama(backend, tiny, 1, "bf16");
  const lora: LoraConfig = { r: 2, alpha: 4, targets: ["q_proj"], modulesToSave: ["lm_head"] };
  using adapter = initLora(base, lora, { seed: 1, dtype: "bf16" });
  const folder = new MemoryFolder("adapter");
  await savePeft(folder, adapter, { lora }, base.entries());
  using loaded = await loadPeft(folder, base);
  const dtypes = new Set([...loaded.params.entries()].map(([name, { dtype }]) => `${/lora/.test(name)} ${dtype}`));
  assert.deepEqual(dtypes, new Set(["true f32", "false bf16"]));
  assert.deepEqual(loaded.params.get("lm_head.weight").readSync(), base.get("lm_head.weight").readSync());
});

Deno.test("loadPeft() lists keys that match nothing and keys that are missing", async () => {
  using backend = loopsBackend();
  using base = llamaParams(backend, readLlama("mha"));
  const good = goldenAdapter();
  const key = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";
  const typo = await rewritten(good, (tensors) => {
    tensors.set(key.replace("lora_A", "lora_a"), tensors.get(key)!);
    tensors.delete(key);
  });
  const lists =
    /^Cannot load weights of adapter other: expected 8 tensors: got 1 missing \(".*lora_A.weight"\) and 1 extra \(".*lora_a.weight"\)$/;
  await refuses(typo, base, "RangeError", lists);
  await refuses(configured(good, { target_modules: ["q_proj"] }), base, "RangeError", /got 4 extra \(".*v_proj.lora_A/);
  await refuses(configured(good, { use_dora: true }), base, "RangeError", /got 4 missing \(".*magnitude_vector/);
  await refuses(
    configured(good, { task_type: "SEQ_CLS", modules_to_save: ["lm_head"] }),
    base,
    "RangeError",
    /1 missing \(".*lm_head/,
  );
});

Deno.test("loadPeft() refuses an adapter for another model, and numbers that are not finite, in one line", async () => {
  using backend = loopsBackend();
  using base = llamaParams(backend, readLlama("mha"));
  const good = goldenAdapter();
  const roberta = configured(good, { target_modules: ["query", "value"] });
  await refuses(
    roberta,
    base,
    "RangeError",
    /^Cannot fit the adapter to the model: .*got "query", "value", the model has /,
  );
  const other: LlamaConfig = { ...readLlama("mha").config, hidden_size: 32, head_dim: 8, num_hidden_layers: 1 };
  using smaller = initLlama(backend, other, 1);
  await refuses(good, smaller, "RangeError", /expected 4 tensors: got 4 extra \(".*layers.1/);
  using narrow = initLlama(backend, { ...other, num_hidden_layers: 2 }, 1);
  await refuses(good, narrow, "TypeError", /^Cannot load ".*": expected f32\[4, 32\] \(r, input\), got f32\[4, 64\]$/);
  for (const value of [NaN, Infinity]) {
    const poisoned = await rewritten(good, (tensors) => void ([...tensors.values()][3].values[5] = value));
    const key = Object.keys(await tensorsOf(poisoned))[3];
    await refuses(poisoned, base, "RangeError", new RegExp(`^Cannot load "${key}": .*finite: got ${value} at 5$`));
  }
});

Deno.test("loadPeft() accepts copies of the model's own tables beside an adapter, and no others", async () => {
  using backend = loopsBackend();
  using base = initLlama(backend, tiny, 1);
  const lora: LoraConfig = { r: 2, alpha: 4, targets: ["embed_tokens"] };
  using adapter = initLora(base, lora, { seed: 1 });
  const folder = new MemoryFolder("adapter");
  await savePeft(folder, adapter, { lora }, base.entries());
  const key = "base_model.model.model.embed_tokens.base_layer.weight";
  const values = base.get("model.embed_tokens.weight").readSync() as Float32Array;
  using loaded = await loadPeft(await rewritten(folder, (all) => all.set(key, { shape: [40, 24], values })), base);
  assert.deepEqual(loaded.params.names(), adapter.names());
  const changed = await rewritten(folder, (all) => all.set(key, { shape: [40, 24], values: values.with(30, 9) }));
  await refuses(changed, base, "RangeError", /base_layer.weight": the copied table must be .*: got 9 for .* at 30$/);
  const resized = new Float32Array(41 * 24);
  const longer = await rewritten(folder, (all) => all.set(key, { shape: [41, 24], values: resized }));
  await refuses(longer, base, "RangeError", /must be the model's own: got f32\[41, 24\] for f32\[40, 24\]$/);
});

Deno.test("loadPeft() refuses a whole table beside an adapter where it is the output matrix as well", async () => {
  using backend = loopsBackend();
  using untied = initLlama(backend, tiny, 1);
  const lora: LoraConfig = { r: 2, alpha: 4, targets: ["q_proj"], modulesToSave: ["embed_tokens"] };
  using adapter = initLora(untied, lora, { seed: 1 });
  const folder = new MemoryFolder("adapter");
  await savePeft(folder, adapter, { lora }, untied.entries());
  using loaded = await loadPeft(folder, untied);
  assert.ok(loaded.params.has("model.embed_tokens.weight"));
  using tied = initLlama(backend, { ...tiny, tie_word_embeddings: true }, 1);
  await refuses(
    folder,
    tied,
    "TypeError",
    /^Cannot adapt "model.embed_tokens": an adapted table must not be the output/,
  );
});

Deno.test("loadPeft() names the file that is missing or unreadable, and never a pickled one", async () => {
  using backend = loopsBackend();
  using base = llamaParams(backend, readLlama("mha"));
  const without = (file: string, ...more: [string, Uint8Array][]) =>
    new MemoryFolder("mine", [...[...goldenAdapter().files].filter(([name]) => name !== file), ...more]);
  await refuses(without(PEFT_CONFIG_FILE), base, "SyntaxError", /^Cannot read mine: .*adapter_config.json: got none$/);
  await refuses(without(PEFT_WEIGHTS_FILE), base, "SyntaxError", /^Cannot read mine: .*model.safetensors: got none$/);
  const pickled = without(PEFT_WEIGHTS_FILE, ["adapter_model.bin", new Uint8Array(4)]);
  await refuses(pickled, base, "SyntaxError", /got only adapter_model.bin, which is pickled; convert it$/);
  const broken = without("", [PEFT_CONFIG_FILE, new TextEncoder().encode('{"r": 4,')]);
  await refuses(broken, base, "SyntaxError", /^Cannot read adapter_config.json: it must be JSON: got /);
});

Deno.test("readPeftConfig() takes PEFT's defaults, and what a task adds", () => {
  const least = readPeftConfig({ peft_type: "LORA" }, "llama");
  const plain = { r: 8, alpha: 8, dropout: 0, rslora: false, dora: false, modulesToSave: [] };
  assert.deepEqual(least, { lora: { ...plain, targets: ["q_proj", "v_proj"] } } satisfies PeftConfig);
  assert.deepEqual(readPeftConfig({ peft_type: "LORA" }, "roberta").lora.targets, ["query", "value"]);
  const head = readPeftConfig({ peft_type: "LORA", task_type: "SEQ_CLS", target_modules: ["query"], future_key: 1 });
  assert.deepEqual(head.lora.modulesToSave, ["classifier", "score"]);
  assert.equal(readPeftConfig({ peft_type: "LORA", target_modules: "all-linear" }).lora.targets, "all-linear");
});

Deno.test("writePeftConfig() writes an expression as it is, and names where a reader could match otherwise", () => {
  const weights = [["a.query.weight", { shape: [2, 2] }], ["a.Key.weight", { shape: [2, 2] }]] as const;
  const written = (targets: LoraConfig["targets"]) =>
    writePeftConfig({ lora: { r: 1, alpha: 1, targets } }, weights).target_modules;
  assert.equal(written(/a\.(query|Key)/u), "a\\.(query|Key)");
  assert.deepEqual(written(/a\.KEY/i), ["a.Key"]);
  assert.deepEqual(written("all-linear"), ["a.query", "a.Key"]);
  assert.deepEqual(written(["Key"]), ["Key"]);
});

Deno.test("readPeftConfig() refuses what it would have to ignore", () => {
  const refused: [Record<string, unknown>, RegExp][] = [
    [{ peft_type: "IA3" }, /^Cannot read adapter_config.json: peft_type must be "LORA": got "\\"IA3\\""$/],
    [{ peft_type: undefined }, /peft_type must be "LORA": got nothing$/],
    [{ bias: "all" }, /bias is not offered: got "\\"all\\""$/],
    [{ fan_in_fan_out: true }, /fan_in_fan_out is not offered: got "true"$/],
    [{ rank_pattern: { q_proj: 4 } }, /rank_pattern is not offered: got /],
    [{ alpha_pattern: { q_proj: 4 } }, /alpha_pattern is not offered/],
    [{ layers_to_transform: [1] }, /layers_to_transform is not offered: got "\[1\]"$/],
    [{ init_lora_weights: "pissa" }, /init_lora_weights must leave the base model unchanged: got "\\"pissa\\""$/],
    [{ target_modules: [] }, /target_modules must name a module: got "\[\]"$/],
    [{ target_modules: null }, /target_modules must name a module: got nothing$/],
    [{ target_modules: "(" }, /target_modules must be an expression that JavaScript reads/],
    [{ modules_to_save: "head" }, /modules_to_save must be a list of names: got "\\"head\\""$/],
    [{ r: "8" }, /r must be a number: got "\\"8\\""$/],
    [{ task_type: "DANCE" }, /task_type must be one of CAUSAL_LM, SEQ_CLS, /],
  ];
  for (const [settings, message] of refused) {
    const fields = { peft_type: "LORA", target_modules: ["q_proj"], ...settings };
    assert.throws(() => readPeftConfig(fields), { name: "SyntaxError", message });
  }
  for (const value of [null, [], 3]) assert.throws(() => readPeftConfig(value), /it must be an object: got/);
});
