/** Tasks' files: tensors and settings there and back by the byte, sizes, and every misfit as one line with names. */
import assert from "node:assert/strict";
import { loopsBackend } from "../backends/cpu/loops/mod.ts";
import { type Backend, noGrad, type Params, scope } from "../core/mod.ts";
import { assertNoLeak } from "../core/testing/leaks.ts";
import { openSafetensors, writeSafetensors } from "./safetensors.ts";
import { MemoryFolder, memorySource } from "./safetensors_memory.ts";
import { readVit, vitBatch, vitParams } from "./testing/vit_goldens.ts";
import { initVisualPrompts, type VisualPromptConfig, type VisualPrompts } from "./visual_prompts.ts";
import {
  loadVisualPrompts,
  readVisualPromptConfig,
  saveVisualPrompts,
  VISUAL_PROMPTS_CONFIG_FILE as CONFIG,
  VISUAL_PROMPTS_WEIGHTS_FILE as WEIGHTS,
  writeVisualPromptConfig,
} from "./visual_prompts_file.ts";
import { vitLogits } from "./vit.ts";
import { parseVitConfig, type VitConfig, vitConfig, withVitLabels } from "./vit_config.ts";

const { config: model } = readVit();
const LABELS = ["ant", "bee", "cat"];
const task = withVitLabels(model, LABELS);
const DEEP: VisualPromptConfig = { deep: true, numTokens: 5, dropout: 0.1 };

/** A task's folder, with random numbers in every tensor. */
async function written(backend: Backend, prompts: VisualPromptConfig): Promise<MemoryFolder> {
  using params = initVisualPrompts(backend, task, prompts, { seed: 1, head: "vpt" });
  const folder = new MemoryFolder("mine");
  await saveVisualPrompts(folder, params, { prompts, labels: LABELS, baseModel: "google/vit-base-patch16-224-in21k" });
  return folder;
}

async function tensorsOf(folder: MemoryFolder) {
  const file = await openSafetensors(memorySource(WEIGHTS, folder.files.get(WEIGHTS)!));
  const read = async ([name, { dtype, shape }]: [string, { dtype: "F32" | string; shape: readonly number[] }]) =>
    [name, { dtype, shape, bytes: await file.bytes(name) }] as const;
  return new Map(await Promise.all([...file.tensors].map(read)));
}

function logits(backend: Backend, base: Params, prompts: VisualPrompts, config: VitConfig) {
  using _ = scope("logits");
  return noGrad(() => vitLogits(base, config, vitBatch(backend, readVit()).pixels, { prompts })).readSync();
}

const KINDS: Readonly<Record<string, readonly [VisualPromptConfig, readonly string[]]>> = {
  "deep prompts": [DEEP, ["deep_prompt_embeddings", "prompt_embeddings"]],
  "shallow prompts": [{ deep: false, numTokens: 2, dropout: 0 }, ["prompt_embeddings"]],
  "projected prompts": [
    { deep: true, numTokens: 3, dropout: 0, project: 7 },
    ["deep_prompt_embeddings", "prompt_embeddings", "prompt_proj.bias", "prompt_proj.weight"],
  ],
  "no prompts": [{ deep: false, numTokens: 0, dropout: 0 }, []],
};

for (const [kind, [prompts, names]] of Object.entries(KINDS)) {
  Deno.test(`saveVisualPrompts() and loadVisualPrompts() give the same scores again, with ${kind}`, async () => {
    using backend = loopsBackend();
    await assertNoLeak("round trip", backend, async () => {
      using base = vitParams(backend, readVit());
      using params = initVisualPrompts(backend, task, prompts, { seed: 1 });
      const folder = new MemoryFolder("task");
      await saveVisualPrompts(folder, params, { prompts, labels: LABELS });
      assert.deepEqual([...folder.files.keys()].sort(), [CONFIG, WEIGHTS]);
      assert.deepEqual([...(await tensorsOf(folder)).keys()].sort(), [
        "classifier.bias",
        "classifier.weight",
        ...names,
      ]);
      using loaded = await loadVisualPrompts(backend, folder, model);
      assert.deepEqual([loaded.prompts, loaded.labels, loaded.baseModel], [prompts, LABELS, undefined]);
      assert.deepEqual(loaded.params.names(), params.names());
      assert.deepEqual([loaded.config.num_labels, loaded.config.id2label[2]], [3, "cat"]);
      const expected = logits(backend, base, { params, config: prompts }, task);
      assert.equal(expected.length, 2 * 3);
      assert.deepEqual(
        logits(backend, base, { params: loaded.params, config: loaded.prompts }, loaded.config),
        expected,
      );
      // by the byte: four a number, and a header
      const bytes = folder.files.get(WEIGHTS)!;
      const header = Number(new DataView(bytes.buffer).getBigUint64(0, true));
      assert.equal(bytes.length, 8 + header + 4 * params.size);
      const again = new MemoryFolder("again");
      await saveVisualPrompts(again, loaded.params, loaded);
      assert.deepEqual(again.files, folder.files);
    });
  });
}

Deno.test("a task of ViT-B/16 with 10 deep prompts takes 400 kB, where the model takes 343 MB", async () => {
  using backend = loopsBackend();
  const base16 = withVitLabels(vitConfig("vit-base-16"), 10);
  const prompts: VisualPromptConfig = { deep: true, numTokens: 10 };
  using params = initVisualPrompts(backend, base16, prompts, { seed: 1 });
  const folder = new MemoryFolder("task");
  await saveVisualPrompts(folder, params, { prompts, labels: Object.values(base16.id2label) });
  const bytes = folder.files.get(WEIGHTS)!.length;
  assert.equal(params.size, 92_160 + 10 * 769);
  assert.ok(bytes > 399_400 && bytes < 400_000, `${bytes}`);
});

Deno.test("a task in 16 bits is stored in 16 bits, and read as f32 or as it is", async () => {
  using backend = loopsBackend();
  using params = initVisualPrompts(backend, task, DEEP, { seed: 1, dtype: "bf16" });
  const folder = new MemoryFolder("task");
  await saveVisualPrompts(folder, params, { prompts: DEEP, labels: LABELS });
  assert.deepEqual(new Set([...(await tensorsOf(folder)).values()].map(({ dtype }) => dtype)), new Set(["BF16"]));
  using wide = await loadVisualPrompts(backend, folder, model);
  assert.equal(wide.params.get("prompt_embeddings").dtype, "f32");
  using same = await loadVisualPrompts(backend, folder, model, { dtype: "bf16" });
  assert.deepEqual(same.params.get("prompt_embeddings").readSync(), params.get("prompt_embeddings").readSync());
});

/** Demands that loading fails with one line and leaves nothing behind. */
async function refuses(
  backend: Backend,
  folder: MemoryFolder,
  message: RegExp,
  base: VitConfig = model,
): Promise<void> {
  await assertNoLeak(`${message}`, backend, async () => {
    await assert.rejects(loadVisualPrompts(backend, folder, base), (error: Error) => {
      assert.match(`${error.name}: ${error.message}`, message);
      assert.doesNotMatch(error.message, /\n/);
      return true;
    });
  });
  assert.equal(folder.numOpen, 0);
}

/** A folder with other settings. */
function configured(folder: MemoryFolder, settings: Record<string, unknown>): MemoryFolder {
  const json = JSON.parse(new TextDecoder().decode(folder.files.get(CONFIG)));
  const text = JSON.stringify({ ...json, ...settings });
  return new MemoryFolder("other", [...folder.files, [CONFIG, new TextEncoder().encode(text)]]);
}

/** A folder with other tensors. */
async function rewritten(
  folder: MemoryFolder,
  change: (tensors: Awaited<ReturnType<typeof tensorsOf>>) => void,
): Promise<MemoryFolder> {
  const tensors = await tensorsOf(folder);
  change(tensors);
  const out = new MemoryFolder("other", folder.files);
  await using sink = await out.create(WEIGHTS);
  const entries = [...tensors].map(([name, { dtype, shape, bytes }]) => ({
    name,
    dtype: dtype as "F32",
    shape,
    bytes: () => bytes,
  }));
  await writeSafetensors(sink, entries);
  return out;
}

Deno.test("loadVisualPrompts() refuses a task that is for another model, fits in part, or is not finite", async () => {
  using backend = loopsBackend();
  const good = await written(backend, DEEP);
  const wider = parseVitConfig({ ...model, hidden_size: 64 });
  await refuses(
    backend,
    good,
    /^TypeError: Cannot load "prompt_embeddings": expected f32\[1, 5, 64\] \(1, num_tokens, hidden_size\), got f32\[1, 5, 48\]$/,
    wider,
  );
  const taller = parseVitConfig({ ...model, num_hidden_layers: 6 });
  await refuses(
    backend,
    good,
    /^TypeError: Cannot load "deep_prompt_embeddings": expected f32\[5, 5, 48\] \(layers - 1, .*got f32\[2, 5, 48\]$/,
    taller,
  );
  const misfits: readonly (readonly [Record<string, unknown>, RegExp])[] = [
    [{ deep: false }, /^RangeError: Cannot load weights of prompts other: expected 3 tensors: got 1 extra \("deep_/],
    [{ project: 48 }, /got 2 missing \("prompt_proj.weight", "prompt_proj.bias"\)$/],
    [{ num_tokens: 0 }, /expected 2 tensors: got 2 extra/],
    [{ num_tokens: 6 }, /^TypeError: .*expected f32\[1, 6, 48\]/],
    [{ labels: ["a", "b"] }, /^TypeError: Cannot load "classifier.weight": expected f32\[2, 48\] \(num_labels/],
  ];
  for (const [settings, message] of misfits) await refuses(backend, configured(good, settings), message);
  const renamed = await rewritten(good, (tensors) => {
    tensors.set("head.weight", tensors.get("classifier.weight")!);
    tensors.delete("classifier.weight");
  });
  await refuses(
    backend,
    renamed,
    /expected 4 tensors: got 1 missing \("classifier.weight"\) and 1 extra \("head.weight"\)$/,
  );
  for (const value of [NaN, -Infinity]) {
    const poisoned = await rewritten(good, (tensors) => {
      const { bytes } = tensors.get("deep_prompt_embeddings")!;
      new DataView(bytes.buffer, bytes.byteOffset).setFloat32(4 * 7, value, true);
    });
    const message = `^RangeError: Cannot load "deep_prompt_embeddings": .*finite: got ${value} at 7$`;
    await refuses(backend, poisoned, new RegExp(message));
  }
});

Deno.test("loadVisualPrompts() names the file that is missing or unreadable", async () => {
  using backend = loopsBackend();
  const good = await written(backend, DEEP);
  const without = (file: string, ...more: [string, Uint8Array][]) =>
    new MemoryFolder("mine", [...[...good.files].filter(([name]) => name !== file), ...more]);
  await refuses(
    backend,
    without(CONFIG),
    /^SyntaxError: Cannot read mine: a task must have prompt_config.json: got none$/,
  );
  await refuses(
    backend,
    without(WEIGHTS),
    /^SyntaxError: Cannot read mine: a task must have prompts.safeten.*: got none$/,
  );
  const broken = without("", [CONFIG, new TextEncoder().encode('{"deep":')]);
  await refuses(backend, broken, /^SyntaxError: Cannot read prompt_config.json: it must be JSON: got /);
  const cut = without("", [WEIGHTS, good.files.get(WEIGHTS)!.subarray(0, 300)]);
  await refuses(backend, cut, /^SyntaxError: Cannot read prompts.safetensors: /);
});

const REFUSED: readonly (readonly [Record<string, unknown>, string])[] = [
  [{ method: "LORA" }, `method must be "VPT": got "\\"LORA\\""`],
  [{ method: undefined }, `method must be "VPT": got nothing`],
  [{ locations: "add" }, `a key must be one of method, deep, num_tokens, dropout, project, base_model, labels: got`],
  [{ deep: "yes" }, "deep must be true or false: got"],
  [{ num_tokens: -1 }, `num_tokens must be a whole number from 0: got "-1"`],
  [{ dropout: 1 }, `dropout must be in [0, 1): got "1"`],
  [{ project: 0 }, "project must be a whole number from 1, or null: got"],
  [{ base_model: 3 }, "base_model must be a name: got"],
  [{ labels: ["one"] }, "labels must be two names or more: got"],
  [{ labels: [1, 2] }, "labels must be two names or more: got"],
];

for (const [keys, message] of REFUSED) {
  Deno.test(`readVisualPromptConfig() refuses ${JSON.stringify(keys)}`, () => {
    const json = { ...writeVisualPromptConfig({ prompts: DEEP, labels: LABELS }), ...keys };
    assert.throws(() => readVisualPromptConfig(json), (error: Error) => {
      assert.equal(error.name, "SyntaxError");
      assert.ok(error.message.startsWith(`Cannot read prompt_config.json: ${message}`), error.message);
      return true;
    });
  });
}

Deno.test("readVisualPromptConfig() reads what writeVisualPromptConfig() writes, and its defaults", () => {
  const file = { prompts: { ...DEEP, project: 9 }, labels: LABELS, baseModel: "base" };
  assert.deepEqual(readVisualPromptConfig(writeVisualPromptConfig(file)), file);
  const least = readVisualPromptConfig({ method: "VPT", deep: false, num_tokens: 3, labels: ["a", "b"] });
  assert.deepEqual(least, { prompts: { deep: false, numTokens: 3, dropout: 0 }, labels: ["a", "b"] });
  for (const odd of [null, [], "VPT"]) assert.throws(() => readVisualPromptConfig(odd), /it must be an object/);
});
