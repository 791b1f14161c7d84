/** Adapters on WebGPU: PyTorch's numbers of a LoRA in PEFT's files, and DoRA with dropout as the CPU has it. */
import assert from "node:assert/strict";
import { type Backend, backward, fromArray, keyOf, mean, mul, Params, scope, type Tensor } from "../../core/mod.ts";
import { assertRms } from "../../core/testing/golden.ts";
import { random } from "../../core/testing/gradcheck.ts";
import { takeHost } from "../../core/testing/inputs.ts";
import { type LoraConfig, withLora } from "../../models/mod.ts";
import { loraGoldens } from "../../models/testing/lora_goldens.ts";
import { loopsBackend } from "../cpu/loops/mod.ts";
import { webgpuBackend } from "./mod.ts";
import { noWebgpu as ignore, webgpuTest } from "./testing.ts";

loraGoldens("webgpu", () => webgpuBackend(), { slack: 10, ignore });

const SHAPES = { weight: [33, 70], bias: [33], "lora_A.weight": [5, 70], "lora_B.weight": [33, 5] };
const config: LoraConfig = { r: 5, alpha: 10, targets: ["map"], dora: true, dropout: 0.1 };

/** Gradients of one DoRA map, on the host. */
async function gradients(backend: Backend): Promise<Map<string, Float64Array>> {
  const tensor = (name: string, shape: readonly number[]) =>
    fromArray(backend, Float32Array.from(random(name, shape.reduce((a, b) => a * b, 1))), shape);
  using base = new Params(backend);
  using adapter = new Params(backend);
  for (const [name, shape] of Object.entries(SHAPES)) {
    (name.startsWith("lora") ? adapter : base).set(`map.${name}`, tensor(name, shape));
  }
  base.freeze(base.names());
  adapter.set("map.lora_magnitude_vector", tensor("magnitudes", [33]));
  const held = new Map<string, Tensor>();
  {
    using _ = scope("step");
    const view = withLora(base, [{ params: adapter, config }], { dropoutKey: keyOf(1) });
    const out = view.linear("map", tensor("x", [3, 31, 70]));
    backward(mean(mul(out, tensor("cotangent", [3, 31, 33]))), (name, gradient) => held.set(name, gradient.retained()));
  }
  const numbers = new Map<string, Float64Array>();
  for (const [name, gradient] of held) numbers.set(name, await takeHost(gradient));
  return numbers;
}

webgpuTest("webgpu: a DoRA map with dropout has the CPU's gradients", async () => {
  using cpu = loopsBackend();
  using gpu = await webgpuBackend();
  const expected = await gradients(cpu);
  const actual = await gradients(gpu);
  assert.deepEqual([...actual.keys()].sort(), ["A.weight", "B.weight", "magnitude_vector"].map((t) => `map.lora_${t}`));
  for (const [name, numbers] of expected) assertRms(name, actual.get(name)!, numbers, { tolerance: 1e-5 });
});
