/** Checkpoints in bf16: bits go out and come back as they are, master copies too. */
import assert from "node:assert/strict";
import { loopsBackend } from "../backends/cpu/mod.ts";
import { type Backend, cast, fromArray, type HostArray, keyOf, normal, type Params } from "../core/mod.ts";
import { byteTokenizer } from "../data/mod.ts";
import { initLlama, openWeights } from "../models/mod.ts";
import { adamW, Optimizer, type Rounding } from "../optimizers/mod.ts";
import { loadModel, loadOptimizer, readWeight, saveModel, saveTraining } from "./checkpoint.ts";
import { writeFolderDurably } from "./durable.ts";
import { FileFolder } from "./files.ts";
import { tinyConfig, Workspace } from "./testing/workspace.ts";

const config = tinyConfig();

async function bitsOf(params: Params): Promise<Map<string, HostArray>> {
  const bits = new Map<string, HostArray>();
  for (const [name, tensor] of params.entries()) bits.set(name, await tensor.read());
  return bits;
}

function optimizerOf(params: Params, rounding: Rounding): Optimizer {
  return new Optimizer(params, adamW({ learningRate: 0.01, weightDecay: 0.1 }), { rounding, seed: 3, clip: 1 });
}

async function step(backend: Backend, params: Params, optimizer: Optimizer, index: number): Promise<void> {
  for (const [name, { shape, size }] of params.entries()) {
    using whole = fromArray(backend, normal(keyOf(index), size), shape);
    using gradient = cast(whole, "bf16");
    optimizer.stage(name, gradient);
  }
  optimizer.commit();
  await Promise.resolve();
}

for (const rounding of ["stochastic", "master"] as const) {
  Deno.test(`a bf16 checkpoint goes on to the same bits when weights round by ${rounding}`, async () => {
    await using _ = await Workspace.open();
    using backend = loopsBackend();
    using params = initLlama(backend, config, 1, "bf16");
    using optimizer = optimizerOf(params, rounding);
    for (let i = 1; i <= 2; i++) await step(backend, params, optimizer, i);
    await writeFolderDurably(".", "saved", async (writer) => {
      await saveModel(writer, params, config, byteTokenizer().files);
      await saveTraining(writer, optimizer, { step: 2, sequences: 0, tokens: 0, kernelPath: "loops", identity: {} });
    });
    const folder = new FileFolder("saved");
    const json = JSON.parse(await folder.text("config.json"));
    assert.equal(json.torch_dtype, "bfloat16");
    using again = initLlama(backend, config, 2, "bf16");
    {
      await using weights = await openWeights(folder);
      assert.deepEqual(new Set(weights.names.map((name) => weights.info(name).dtype)), new Set(["BF16"]));
      for (const [name, tensor] of again.entries()) tensor.write(await readWeight(weights, name, tensor.dtype));
    }
    using second = optimizerOf(again, rounding);
    await loadOptimizer(folder, second, backend);
    assert.deepEqual(await bitsOf(again), await bitsOf(params));
    for (let i = 3; i <= 4; i++) {
      await step(backend, params, optimizer, i);
      await step(backend, again, second, i);
    }
    assert.deepEqual(await bitsOf(again), await bitsOf(params));
  });
}

Deno.test("loadModel() gives bf16 as it is stored, and rounds or widens what is stored otherwise", async () => {
  await using _ = await Workspace.open();
  using backend = loopsBackend();
  using halved = initLlama(backend, config, 1, "bf16");
  using whole = initLlama(backend, config, 1);
  await writeFolderDurably(".", "halved", (writer) => saveModel(writer, halved, config, byteTokenizer().files));
  await writeFolderDurably(".", "whole", (writer) => saveModel(writer, whole, config, byteTokenizer().files));
  const bits = await bitsOf(halved);
  for (const folder of ["halved", "whole"]) {
    const { params } = await loadModel(backend, new FileFolder(folder), "bf16");
    using loaded = params;
    assert.deepEqual(await bitsOf(loaded), bits, folder);
  }
  const { params } = await loadModel(backend, new FileFolder("halved"));
  using widened = params;
  const values = await bitsOf(widened);
  const name = "lm_head.weight";
  const expected = Float32Array.from(bits.get(name)!, (code) => new Float32Array(Uint32Array.of(code << 16).buffer)[0]);
  assert.deepEqual(values.get(name), expected);
});
