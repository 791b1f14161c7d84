/** The lens: its last layer is the model, its others are the model with fewer layers, and it keeps nothing. */
import assert from "node:assert/strict";
import { cpuBackend } from "../backends/cpu/mod.ts";
import { loopsBackend } from "../backends/cpu/loops/mod.ts";
import { type Backend, fromArray, noGrad, own, scope } from "../core/mod.ts";
import { assertNoLeak } from "../core/testing/leaks.ts";
import { initLlama, llama } from "./llama.ts";
import { makeLlamaConfig } from "./llama_config.ts";
import { llamaLens, type LogitLens, robertaLens } from "./logit_lens.ts";
import { initRoberta, robertaLogits } from "./roberta.ts";
import { makeRobertaConfig } from "./roberta_config.ts";

const SIZES = { hidden_size: 16, intermediate_size: 24, num_hidden_layers: 3, num_attention_heads: 2 };
const BACKENDS: Readonly<Record<string, () => Backend | Promise<Backend>>> = {
  loops: () => loopsBackend(),
  cpu: () => cpuBackend({ threads: 1, blas: "off" }),
};

async function readAll(lens: LogitLens): Promise<Float32Array[]> {
  const read = [];
  for (let layer = 0; layer < lens.layers; layer++) {
    using scores = lens.read(layer);
    read.push((await scores.read()).slice() as Float32Array);
  }
  return read;
}

function assertNear(actual: ArrayLike<number>, expected: ArrayLike<number>, what: string): void {
  assert.equal(actual.length, expected.length, what);
  for (let i = 0; i < actual.length; i++) {
    assert.ok(Math.abs(actual[i] - expected[i]) < 1e-5, `${what}: ${actual[i]} for ${expected[i]} at ${i}`);
  }
}

for (const [name, open] of Object.entries(BACKENDS)) {
  for (const tied of [false, true]) {
    const head = tied ? "tied" : "of its own";
    Deno.test(`llamaLens() reads each layer as the model that ends there, on ${name}, when the head is ${head}`, async () => {
      using backend = await open();
      const config = makeLlamaConfig({ vocab_size: 23, ...SIZES }, {
        ...{ initializer_range: 0.3, tie_word_embeddings: tied },
      });
      using params = initLlama(backend, config, 1);
      const ids = Int32Array.of(3, 1, 4, 1, 5, 9, 2, 6, 5, 3);
      const places = [0, 3, 4, 9];
      await assertNoLeak("llama lens", backend, async () => {
        const expected: ArrayLike<number>[] = [];
        for (let layers = 1; layers <= 3; layers++) {
          using logits = (() => {
            using forward = scope("by hand");
            const tokens = fromArray(backend, ids, [2, 5]);
            return own(forward.keep(noGrad(() => llama(params, { ...config, num_hidden_layers: layers }, tokens))));
          })();
          const all = await logits.read();
          expected.push(places.flatMap((place) => [...all.subarray(23 * place, 23 * place + 23)].map(Number)));
        }
        using lens = (() => {
          using _ = scope("lens");
          return llamaLens(
            params,
            config,
            fromArray(backend, ids, [2, 5]),
            fromArray(backend, Int32Array.from(places), [4]),
          );
        })();
        const read = await readAll(lens);
        assert.equal(read.length, 3);
        read.forEach((scores, i) => assertNear(scores, expected[i], `layer ${i}`));
      });
    });
  }

  Deno.test(`robertaLens() reads each layer by the classification head, on ${name}`, async () => {
    using backend = await open();
    const config = makeRobertaConfig({ vocab_size: 23, ...SIZES }, {
      initializer_range: 0.3,
      max_position_embeddings: 12,
    });
    using params = initRoberta(backend, config, { seed: 1, head: "classification" });
    const ids = Int32Array.of(0, 5, 7, 2, 0, 9, 2, 1);
    const mask = Uint32Array.of(1, 1, 1, 1, 1, 1, 1, 0);
    const inputs = () => ({ tokens: fromArray(backend, ids, [2, 4]), mask: fromArray(backend, mask, [2, 4], "u32") });
    await assertNoLeak("roberta lens", backend, async () => {
      const expected: ArrayLike<number>[] = [];
      for (let layers = 1; layers <= 3; layers++) {
        using logits = (() => {
          using forward = scope("by hand");
          const shorter = { ...config, num_hidden_layers: layers };
          return own(forward.keep(noGrad(() => robertaLogits(params, shorter, inputs(), "classification"))));
        })();
        expected.push((await logits.read()).slice() as Float32Array);
      }
      using lens = (() => {
        using _ = scope("lens");
        return robertaLens(params, config, inputs());
      })();
      const read = await readAll(lens);
      assert.equal(read.length, 3);
      read.forEach((scores, i) => assertNear(scores, expected[i], `layer ${i}`));
    });
  });
}
