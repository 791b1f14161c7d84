/** ViT folders: Hugging Face's files there and back, other names, heads and image sizes, and misfits by name. */
import assert from "node:assert/strict";
import { loopsBackend } from "../backends/cpu/loops/mod.ts";
import { type Backend, noGrad, type Params, scope } from "../core/mod.ts";
import { roundTo, takeHost } from "../core/testing/inputs.ts";
import { assertNoLeak } from "../core/testing/leaks.ts";
import { WEIGHTS_FILE } from "./safetensors_index.ts";
import { openSafetensors, writeSafetensors } from "./safetensors.ts";
import { MemoryFolder, memorySource } from "./safetensors_memory.ts";
import { readVit, vitBatch, vitParams } from "./testing/vit_goldens.ts";
import { initVitHead, vitLogits } from "./vit.ts";
import { parseVitConfig, patchGrid, type VitConfig, withVitLabels } from "./vit_config.ts";
import { loadVit, loadVitConfig, saveVit, type VitLoading } from "./vit_folder.ts";
import { resizePositions } from "./vit_positions.ts";

const DATA = new URL("testdata/vit/", import.meta.url);

/** The stored folder, as Hugging Face's files have it. */
function stored(): MemoryFolder {
  const files = ["config.json", WEIGHTS_FILE];
  return new MemoryFolder("stored", files.map((file) => [file, Deno.readFileSync(new URL(file, DATA))]));
}

/** The stored folder with other names for its tensors; undefined leaves one out. */
async function renamed(change: (name: string) => string | undefined): Promise<MemoryFolder> {
  const folder = stored();
  const file = await openSafetensors(memorySource(WEIGHTS_FILE, folder.files.get(WEIGHTS_FILE)!));
  const entries = [...file.tensors].flatMap(([name, { dtype, shape }]) => {
    const other = change(name);
    return other === undefined ? [] : [{ name: other, dtype, shape, bytes: () => file.bytes(name) }];
  });
  const out = new MemoryFolder("other", folder.files);
  await using sink = await out.create(WEIGHTS_FILE);
  await writeSafetensors(sink, entries, { format: "pt" });
  return out;
}

function logits(backend: Backend, params: Params, config: VitConfig): ArrayLike<number> {
  using _ = scope("logits");
  return noGrad(() => vitLogits(params, config, vitBatch(backend, readVit()).pixels)).readSync();
}

Deno.test("loadVit() reads Hugging Face's folder, and reads again what saveVit() wrote of it", async () => {
  using backend = loopsBackend();
  await assertNoLeak("round trip", backend, async () => {
    const { params, config, drawn } = await loadVit(backend, stored());
    using _ = params;
    assert.deepEqual(drawn, []);
    assert.deepEqual(config, readVit().config);
    using expected = vitParams(backend, readVit());
    assert.deepEqual(logits(backend, params, config), logits(backend, expected, config));
    const written = new MemoryFolder("written");
    await saveVit(written, params, config, new Map([["preprocessor_config.json", new Uint8Array([123, 125])]]));
    assert.deepEqual([...written.files.keys()], [WEIGHTS_FILE, "config.json", "preprocessor_config.json"]);
    // names and bytes of every tensor, and the header's metadata
    const bytes = async (folder: MemoryFolder) => {
      const file = await openSafetensors(memorySource("", folder.files.get(WEIGHTS_FILE)!));
      return await Promise.all([...file.tensors].sort().map(async ([name]) => [name, await file.bytes(name)]));
    };
    assert.deepEqual(await bytes(written), await bytes(stored()));
    const json = JSON.parse(await written.text("config.json"));
    assert.deepEqual([json.architectures, json.torch_dtype], [["ViTForImageClassification"], "float32"]);
    assert.deepEqual(await loadVitConfig(written), config);
  });
});

Deno.test("loadVit() takes names without vit., and leaves pooler and mask token aside", async () => {
  using backend = loopsBackend();
  const bare = await renamed((name) => name.startsWith("classifier") ? undefined : name.replace(/^vit\./, ""));
  const { params, drawn } = await loadVit(backend, bare, { headSeed: 3 });
  using _ = params;
  assert.deepEqual(drawn, ["classifier.weight", "classifier.bias"]);
  const { weights, config } = readVit();
  for (const name of params.names()) {
    if (name.startsWith("vit.")) assert.deepEqual(params.get(name).readSync(), weights.get(name)!.data, name);
  }
  using fresh = initVitHead(backend, config, { seed: 3 });
  assert.deepEqual(params.get("classifier.weight").readSync(), fresh.get("classifier.weight").readSync());
  // one layer's maps under the names of what is left aside
  const more = await renamed((name) =>
    name === "classifier.weight" ? "pooler.dense.weight" : name === "classifier.bias" ? "embeddings.mask_token" : name
      .replace(/^vit\./, "")
  );
  using backbone = (await loadVit(backend, more, { head: "none" })).params;
  assert.deepEqual(backbone.names(), params.names().filter((name) => name.startsWith("vit.")));
  const written = new MemoryFolder("backbone");
  await saveVit(written, backbone, config);
  assert.deepEqual(JSON.parse(await written.text("config.json")).architectures, ["ViTModel"]);
  using again = (await loadVit(backend, written, { head: "none" })).params;
  assert.deepEqual(again.names(), backbone.names());
});

Deno.test("loadVit() draws a new head for other labels, and rounds to 16 bits", async () => {
  using backend = loopsBackend();
  const config = withVitLabels(readVit().config, ["a", "b", "c"]);
  const loaded = await loadVit(backend, stored(), { config, head: "new", headSeed: 1, dtype: "bf16" });
  using params = loaded.params;
  assert.deepEqual(params.get("classifier.weight").shape, [3, 48]);
  assert.equal(loaded.drawn.length, 2);
  const name = "vit.encoder.layer.1.output.dense.weight";
  const expected = roundTo("bf16", readVit().weights.get(name)!.data);
  assert.deepEqual(await takeHost(params.get(name).retained()), expected);
});

Deno.test("loadVit() makes it a model for another image size", async () => {
  using backend = loopsBackend();
  const { params, config } = await loadVit(backend, stored(), { imageSize: 32 });
  using _ = params;
  assert.deepEqual([config.image_size, patchGrid(config)], [32, [4, 4]]);
  using _test = scope("test");
  using plain = vitParams(backend, readVit());
  const name = "vit.embeddings.position_embeddings";
  const table = noGrad(() => resizePositions(plain.get(name), [3, 5], [4, 4]));
  assert.deepEqual(params.get(name).readSync(), table.readSync());
  assert.deepEqual(params.get(name).shape, [1, 17, 48]);
});

Deno.test("loadVit() names what does not fit, in one line, and leaves nothing behind", async () => {
  using backend = loopsBackend();
  const refuses = async (folder: MemoryFolder, message: RegExp, loading: VitLoading = {}) => {
    await assertNoLeak(`${message}`, backend, async () => {
      await assert.rejects(loadVit(backend, folder, loading), (error: Error) => {
        assert.match(`${error.name}: ${error.message}`, message);
        assert.doesNotMatch(error.message, /\n/);
        return true;
      });
    });
    assert.equal(folder.numOpen, 0);
  };
  const bare = await renamed((name) => name.startsWith("classifier") ? undefined : name);
  await refuses(bare, /^RangeError: .* 2 missing \("classifier.weight", "classifier.bias"\)$/);
  const typo = await renamed((name) => name.replace("layernorm_before.bias", "layernorm_before.beta"));
  await refuses(typo, /^RangeError: .* 3 missing \(.*\) and 3 extra \(.*layernorm_before.beta/);
  const half = await renamed((name) => name === "classifier.weight" ? undefined : name);
  await refuses(half, /^RangeError: .* 1 extra \("classifier.bias"\)$/, { headSeed: 1 });
  const wider = parseVitConfig({ ...readVit().config, intermediate_size: 81 });
  await refuses(stored(), /^TypeError: .*expected f32\[81, 48\] \(intermediate_size, .*got f32\[80, 48\]$/, {
    config: wider,
  });
  const three = withVitLabels(readVit().config, 3);
  await refuses(stored(), /^TypeError: Cannot load "classifier.weight": expected f32\[3, 48\]/, { config: three });
  await refuses(stored(), /^RangeError: Cannot load stored: a new head needs a headSeed: got none$/, { head: "new" });
  await refuses(stored(), /^RangeError: Cannot build ViT: patches of 8 pixels do not fill/, { imageSize: 20 });
  await refuses(new MemoryFolder("none"), /^SyntaxError: Cannot load none: it has no config.json$/);
  const text = (json: string) => new MemoryFolder("odd", [["config.json", new TextEncoder().encode(json)]]);
  await refuses(text("{"), /^SyntaxError: Cannot read odd\/config.json: /);
  await refuses(text("[]"), /^SyntaxError: Cannot read odd\/config.json: expected an object$/);
});
