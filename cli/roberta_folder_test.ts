/** RoBERTa folders: Hugging Face's are read, ours are written, heads are drawn anew, and what does not fit is named. */
import assert from "node:assert/strict";
import { loopsBackend } from "../backends/cpu/mod.ts";
import type { Params } from "../core/mod.ts";
import { assertNoLeak } from "../core/testing/leaks.ts";
import { rms } from "../core/testing/golden.ts";
import {
  fromFloat32,
  initRoberta,
  initRobertaHead,
  makeRobertaConfig,
  type RobertaHead,
  robertaWeights,
  withLabels,
  writeWeights,
} from "../models/mod.ts";
import { MemoryFolder } from "../models/safetensors_memory.ts";
import { assertRoberta, GOLDEN_ROBERTAS, readRoberta, runRoberta } from "../models/testing/roberta_goldens.ts";
import { saveModel } from "./checkpoint.ts";
import { loadRoberta, loadRobertaConfig } from "./roberta_folder.ts";

/** A folder of `testdata/roberta` in memory. */
function stored(name: string): MemoryFolder {
  const files = ["config.json", "model.safetensors"].map((file) => {
    const url = new URL(`../models/testdata/roberta/${name}/${file}`, import.meta.url);
    return [file, Deno.readFileSync(url)] as const;
  });
  return new MemoryFolder(name, files);
}

/** A folder with these values under these names. */
async function folderOf(values: ReadonlyMap<string, readonly [readonly number[], Float32Array]>, config: unknown) {
  const folder = new MemoryFolder("made");
  const entries = [...values].map(([name, [shape, data]]) =>
    ({ name, dtype: "F32", shape, bytes: () => fromFloat32(data, "F32") }) as const
  );
  await writeWeights(folder, entries);
  folder.files.set("config.json", new TextEncoder().encode(JSON.stringify(config)));
  return folder;
}

function valuesOf(params: Params): Map<string, readonly [readonly number[], Float32Array<ArrayBuffer>]> {
  return new Map(
    [...params.entries()].map(([name, tensor]) => [name, [tensor.shape, Float32Array.from(tensor.readSync())]]),
  );
}

const SMALL = {
  model_type: "roberta",
  vocab_size: 30,
  hidden_size: 8,
  intermediate_size: 12,
  num_hidden_layers: 1,
  num_attention_heads: 2,
  max_position_embeddings: 10,
  type_vocab_size: 1,
};
const small = makeRobertaConfig(SMALL);

for (const name of GOLDEN_ROBERTAS) {
  Deno.test(`loadRoberta() reads Hugging Face's ${name}, and reads again what saveModel() wrote of it`, async () => {
    using backend = loopsBackend();
    const model = readRoberta(name);
    const { head } = model;
    const written = new MemoryFolder("written");
    {
      const { params, config, drawn } = await loadRoberta(backend, stored(name), { head });
      using loaded = params;
      assert.deepEqual([config, drawn], [model.config, []]);
      for (const [weight, { data }] of model.weights) assert.deepEqual(loaded.get(weight).readSync(), data, weight);
      await saveModel(written, loaded, config, new Map([["vocab.json", new TextEncoder().encode("{}")]]));
    }
    assert.deepEqual([...written.files.keys()].sort(), ["config.json", "model.safetensors", "vocab.json"]);
    const json = JSON.parse(await written.text("config.json"));
    const expected = head === "masked-lm" ? "RobertaForMaskedLM" : "RobertaForSequenceClassification";
    assert.deepEqual([json.architectures, json.torch_dtype], [[expected], "float32"]);
    const again = await loadRoberta(backend, written, { head });
    using params = again.params;
    const values = valuesOf(params);
    const weights = new Map([...values].map(([weight, [shape, data]]) => [weight, { shape, data }]));
    assertRoberta(await runRoberta(backend, { ...model, config: again.config, weights }), model, model.tolerance);
    assert.equal(written.numOpen, 0);
  });
}

Deno.test("loadRoberta() draws the head that a folder has not got, and reads the one that it has", async () => {
  using backend = loopsBackend();
  await assertNoLeak("loading", backend, async () => {
    const folder = stored("mlm");
    const config = withLabels(await loadRobertaConfig(folder), ["no", "maybe", "yes", "always"]);
    const { params, drawn } = await loadRoberta(backend, folder, { head: "classification", config, headSeed: 3 });
    using tuned = params;
    using head = initRobertaHead(backend, config, { seed: 3, head: "classification" });
    assert.deepEqual(drawn, head.names());
    assert.deepEqual(tuned.names(), [...robertaWeights(config, "classification").keys()]);
    for (const [name, tensor] of tuned.entries()) {
      const expected = head.has(name) ? head.get(name).readSync() : readRoberta("mlm").weights.get(name)!.data;
      assert.deepEqual(tensor.readSync(), expected, name);
    }
    assert.ok(rms(tuned.get("classifier.out_proj.weight").readSync()) > 0.01);
    const saved = new MemoryFolder("tuned");
    await saveModel(saved, tuned, config, new Map());
    assert.deepEqual(await loadRobertaConfig(saved), config);
    const again = await loadRoberta(backend, saved, { head: "classification", headSeed: 4 });
    using second = again.params;
    assert.deepEqual(again.drawn, []);
    assert.deepEqual(valuesOf(second), valuesOf(tuned));
  });
});

Deno.test("loadRoberta() reads old names of norms, and leaves pooler, positions and duplicates aside", async () => {
  using backend = loopsBackend();
  using params = initRoberta(backend, small, { seed: 1, head: "masked-lm" });
  const values = valuesOf(params);
  const table = values.get("roberta.embeddings.word_embeddings.weight")!;
  const old = new Map([...values].map(([name, value]) => {
    const renamed = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta");
    return [renamed, value] as const;
  }));
  old.set("lm_head.decoder.weight", table);
  old.set("lm_head.decoder.bias", values.get("lm_head.bias")!);
  old.set("roberta.pooler.dense.weight", [[8, 8], new Float32Array(64)]);
  old.set("roberta.pooler.dense.bias", [[8], new Float32Array(8)]);
  old.set("roberta.embeddings.position_ids", [[1, 10], new Float32Array(10)]);
  const folder = await folderOf(old, SMALL);
  const { params: read } = await loadRoberta(backend, folder, { head: "masked-lm" });
  using loaded = read;
  assert.deepEqual(valuesOf(loaded), values);
  const { params: halved } = await loadRoberta(backend, folder, { head: "classification", headSeed: 1, dtype: "bf16" });
  using tuned = halved;
  assert.deepEqual(tuned.names(), [...robertaWeights(small, "classification").keys()]);
  for (const [name, tensor] of tuned.entries()) assert.equal(tensor.dtype, "bf16", name);
});

Deno.test("loadRoberta() replaces a head when it is told to, by another than that seed gives first", async () => {
  using backend = loopsBackend();
  const folder = stored("classify");
  const config = withLabels(await loadRobertaConfig(folder), ["no", "yes"]);
  await assertNoLeak("replacing", backend, async () => {
    const loading = { head: "classification", config, headSeed: 3, replaceHead: true } as const;
    const { params, drawn } = await loadRoberta(backend, folder, loading);
    using tuned = params;
    using first = initRobertaHead(backend, config, { seed: 3, head: "classification" });
    assert.deepEqual(drawn, first.names());
    assert.deepEqual(tuned.get("classifier.out_proj.weight").shape, [2, 48]);
    for (const [name, tensor] of tuned.entries()) {
      if (drawn.includes(name)) {
        if (name.endsWith(".weight")) assert.notDeepEqual(tensor.readSync(), first.get(name).readSync(), name);
      } else assert.deepEqual(tensor.readSync(), readRoberta("classify").weights.get(name)!.data, name);
    }
  });
});

Deno.test("loadRoberta() takes names without roberta., as RobertaModel saves them", async () => {
  using backend = loopsBackend();
  using params = initRoberta(backend, small, { seed: 1, head: "classification" });
  const values = valuesOf(params);
  const bare = [...values].filter(([name]) => name.startsWith("roberta."))
    .map(([name, value]) =>
      [name.replace("roberta.", "").replace("LayerNorm.weight", "LayerNorm.gamma"), value] as const
    );
  const pooler = ["pooler.dense.bias", [[8], new Float32Array(8)]] as const;
  for (const head of ["masked-lm", "classification"] as const) {
    const folder = await folderOf(new Map([...bare, pooler]), SMALL);
    const { params: read, drawn } = await loadRoberta(backend, folder, { head, headSeed: 1 });
    using loaded = read;
    assert.deepEqual(drawn, loaded.names().filter((name) => !name.startsWith("roberta.")));
    for (const [name, [, data]] of values) {
      if (name.startsWith("roberta.")) assert.deepEqual(loaded.get(name).readSync(), data, name);
    }
  }
  const headed = await folderOf(
    new Map([...bare, ...[...values].filter(([name]) => name.startsWith("classifier."))]),
    SMALL,
  );
  using loaded = (await loadRoberta(backend, headed, { head: "classification" })).params;
  assert.deepEqual(valuesOf(loaded), values);
});

Deno.test("loadRoberta() refuses a folder that is not exactly the model, by name", async () => {
  using backend = loopsBackend();
  const refuse = async (
    folder: MemoryFolder,
    message: RegExp,
    head: RobertaHead = "classification",
    headSeed?: number,
  ) => {
    await assertNoLeak(
      `${message}`,
      backend,
      () => assert.rejects(loadRoberta(backend, folder, { head, headSeed }), message),
    );
    assert.equal(folder.numOpen, 0);
  };
  await refuse(
    stored("mlm"),
    /^RangeError: Cannot load weights of mlm: expected .* got 4 missing \("classifier.dense.weight", /,
  );
  await refuse(stored("classify"), /5 missing \("lm_head.dense.weight"/, "masked-lm");
  const config = withLabels(await loadRobertaConfig(stored("classify")), ["no", "yes"]);
  await assert.rejects(
    loadRoberta(backend, stored("classify"), { head: "classification", config, replaceHead: true }),
    /^RangeError: Cannot load classify: a new head needs a headSeed: got none$/,
  );
  await assert.rejects(
    loadRoberta(backend, stored("classify"), { head: "classification", config, headSeed: 1 }),
    /^TypeError: Cannot load "classifier.out_proj.weight": expected .*2, 48.*num_labels, hidden_size.*got .*3, 48/,
  );
  using params = initRoberta(backend, small, { seed: 1, head: "classification" });
  const values = valuesOf(params);
  const changed = async (change: (copy: typeof values) => void) => {
    const copy = new Map(values);
    change(copy);
    return await folderOf(copy, SMALL);
  };
  await refuse(
    await changed((copy) => copy.set("roberta.encoder.layer.1.output.dense.bias", [[8], new Float32Array(8)])),
    /got 1 extra \("roberta.encoder.layer.1.output.dense.bias"\)/,
  );
  const half = await changed((copy) => copy.delete("classifier.dense.bias"));
  await refuse(half, /got 1 missing \("classifier.dense.bias"\)/, "classification", 1);
  await refuse(
    await changed((copy) => copy.set("roberta.embeddings.position_embeddings.weight", [[9, 8], new Float32Array(72)])),
    /Cannot load "roberta.embeddings.position_embeddings.weight": expected .*10, 8.*max_position_embeddings.*9, 8/,
  );
  const twice = await changed((copy) =>
    copy.set("roberta.embeddings.LayerNorm.gamma", copy.get("roberta.embeddings.LayerNorm.weight")!)
  );
  await refuse(twice, /got 1 extra \("roberta.embeddings.LayerNorm.gamma"\)/);
  const llama = stored("mlm");
  llama.files.set("config.json", new TextEncoder().encode(`{"model_type": "llama"}`));
  await refuse(llama, /^SyntaxError: Cannot load config.json: expected model_type "roberta", got "llama"$/);
  llama.files.set("config.json", new TextEncoder().encode("{"));
  await refuse(llama, /^SyntaxError: Cannot read mlm\/config.json: /);
  llama.files.delete("config.json");
  await refuse(llama, /^SyntaxError: Cannot load mlm: it has no config.json$/);
});
