/**
 * What a batch of several adapters must be: each example as if it ran alone, with the gradients of that. Any backend's test
 * can register it.
 */
import assert from "node:assert/strict";
import {
  type Backend,
  backward,
  contiguous,
  fromArray,
  mul,
  noGrad,
  own,
  Params,
  type ParamsView,
  scope,
  slice,
  sum,
  type Tensor,
} from "../../core/mod.ts";
import { assertRms } from "../../core/testing/golden.ts";
import { random } from "../../core/testing/gradcheck.ts";
import { takeHost } from "../../core/testing/inputs.ts";
import { registerTest } from "../../core/testing/register.ts";
import { withLoraBatch } from "../adapter_batch.ts";
import { initLlama, llama } from "../llama.ts";
import { initLora, type Lora, type LoraConfig, withLora } from "../lora.ts";
import { tiny } from "./tiny_lora.ts";

/** An adapter of its own for a model, away from its first values. */
export function stirredLora(base: Params, config: LoraConfig, seed: number): Lora & { readonly params: Params } {
  const params = initLora(base, config, { seed });
  for (const [name, tensor] of params.entries()) {
    tensor.write(Float32Array.from(random(`${name} ${seed}`, tensor.size), (value) => 0.1 * value));
  }
  return { params, config };
}

/** Registers the tests. */
export function adapterBatchLaws(
  name: string,
  makeBackend: () => Backend | Promise<Backend>,
  { tolerance = 1e-6, ignore = undefined as string | undefined } = {},
): void {
  registerTest(
    `${name}: a LLaMA gives each example of a batch of several adapters what it gives it alone`,
    async () => {
      using backend = await makeBackend();
      using base = initLlama(backend, tiny, 1);
      const config: LoraConfig = { r: 2, alpha: 4, targets: "all-linear" };
      const one = stirredLora(base, config, 1);
      const two = stirredLora(base, { ...config, r: 5, targets: ["q_proj", "up_proj", "lm_head"] }, 2);
      const adapters = [one, two];
      const rows = [1, -1, 0, 1, 1, 0];
      const tokens = () =>
        fromArray(backend, Int32Array.from({ length: 30 }, (_, i) => (i * i + 3 * i + 1) % tiny.vocab_size), [6, 5]);
      const mixed = logits(tokens, (view) => view, withLoraBatch(base, adapters, rows));
      const alone = rows.map((row, example) =>
        logits(
          tokens,
          (all) => slice(all, [{ start: example, end: example + 1 }]),
          row < 0 ? base : withLora(base, [adapters[row]]),
        )
      );
      const [actual, ...expected] = await Promise.all([mixed, ...alone].map(takeHost));
      const size = actual.length / rows.length;
      for (const [example, values] of expected.entries()) {
        assertRms(`example ${example}`, actual.slice(example * size, (example + 1) * size), values, { tolerance });
      }
      for (const { params } of adapters) params.dispose();
    },
    ignore,
  );

  registerTest(
    `${name}: a batch of several adapters gives x and each adapter the gradients of single runs`,
    async () => {
      using backend = await makeBackend();
      using base = new Params(backend);
      base.set("map.weight", fromArray(backend, Float32Array.from(random("weight", 9 * 7)), [9, 7]));
      base.set("map.bias", fromArray(backend, Float32Array.from(random("bias", 9)), [9]));
      base.freeze(base.names());
      const config: LoraConfig = { r: 3, alpha: 6, targets: ["map"] };
      const adapters = [1, 2].map((seed) => stirredLora(base, { ...config, r: 2 + seed }, seed));
      const rows = [1, 0, -1, 1];
      const run = (start: number, end: number, view: ParamsView) => gradientsOf(backend, view, start, end);
      const mixed = run(0, 4, withLoraBatch(base, adapters, rows));
      const alone = rows.map((row, example) =>
        run(example, example + 1, row < 0 ? base : withLora(base, [adapters[row]]))
      );
      // what the sink heard of equal names comes from examples of different adapters, kept apart by rank
      const totals = new Map<string, Float64Array>();
      for (const gradients of alone) {
        for (const [key, tensor] of gradients) {
          const values = await takeHost(tensor);
          const total = totals.get(key) ?? new Float64Array(values.length);
          totals.set(key, total.map((value, i) => value + values[i]));
        }
      }
      assert.deepEqual([...mixed.keys()].sort(), [...totals.keys()].sort());
      assert.equal(mixed.size, 5);
      for (const [key, tensor] of mixed) {
        assertRms(key, await takeHost(tensor), totals.get(key)!, { tolerance: 3 * tolerance });
      }
      for (const { params } of adapters) params.dispose();
    },
    ignore,
  );
}

function logits(tokens: () => Tensor, pick: (tokens: Tensor) => Tensor, view: ParamsView): Tensor {
  using inner = scope("logits");
  return own(inner.keep(noGrad(() => llama(view, tiny, pick(tokens())))));
}

/** Gradients of examples `start` .. `end` - 1 by name and shape, under a cotangent that is a function of the example. */
function gradientsOf(backend: Backend, view: ParamsView, start: number, end: number): Map<string, Tensor> {
  using inputs = new Params(backend);
  using _ = scope("gradients");
  const drawn = (name: string, width: number) =>
    fromArray(backend, Float32Array.from(random(name, 4 * 3 * width)), [4, 3, width]);
  inputs.set("x", drawn("x", 7));
  const held = new Map<string, Tensor>();
  const out = view.linear("map", slice(inputs.get("x"), [{ start, end }]));
  backward(sum(mul(out, slice(drawn("cotangent", 9), [{ start, end }]))), (name, gradient) => {
    held.set(`${name} ${gradient.shape}`, own(contiguous(gradient).retained()));
  });
  return held;
}
