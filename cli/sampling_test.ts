/** Text token by token: a prompt in a batch goes on as it does alone, whatever its company and however long it grows. */
import assert from "node:assert/strict";
import { loopsBackend } from "../backends/cpu/mod.ts";
import { fromArray, keyOf, noGrad, own, type Params, type ParamsView, scope, type Tensor } from "../core/mod.ts";
import { takeHost } from "../core/testing/inputs.ts";
import { assertNoLeak } from "../core/testing/leaks.ts";
import { initLlama, llama } from "../models/mod.ts";
import { generateBatch, generateTokens, type SamplingOptions } from "./sampling.ts";
import { tinyConfig } from "./testing/workspace.ts";

const CONFIG = tinyConfig({ max_position_embeddings: 24, initializer_range: 0.2 });
const PROMPTS = [[65, 66, 67], Array.from({ length: 23 }, (_, i) => 60 + 2 * i), [100], [40, 41, 42, 43, 44, 45]];
const GREEDY: SamplingOptions = { tokens: 30, temperature: 0, topK: 0, seed: 1 };

async function alone(params: Params, prompt: readonly number[], options: SamplingOptions): Promise<number[]> {
  return await Array.fromAsync(generateTokens(params.backend, params, CONFIG, prompt, options));
}

async function together(params: Params, prompts: readonly number[][], options: SamplingOptions): Promise<number[][]> {
  const texts: number[][] = prompts.map(() => []);
  const seen: (readonly number[])[] = [];
  const model = {
    backend: params.backend,
    config: CONFIG,
    view: (rows: readonly number[]) => (seen.push(rows), params),
  };
  const keyed = prompts.map((ids) => ({ ids, key: keyOf(options.seed) }));
  for await (const { prompt, token } of generateBatch(model, keyed, options)) texts[prompt].push(token);
  assert.deepEqual(seen[0], prompts.map((_, i) => i));
  return texts;
}

Deno.test("generateBatch() continues prompts as each goes on alone, past the model's positions", async () => {
  using backend = loopsBackend();
  using params = initLlama(backend, CONFIG, 3);
  for (const temperature of [0, 1.5]) {
    await assertNoLeak("a batch", backend, async () => {
      const options = { ...GREEDY, temperature };
      const texts = await together(params, PROMPTS, options);
      for (const [i, prompt] of PROMPTS.entries()) {
        assert.equal(texts[i].length, 30);
        assert.deepEqual(texts[i], await alone(params, prompt, options));
      }
    });
  }
});

Deno.test("generateBatch() ends each text at its own end token and goes on with the others", async () => {
  using backend = loopsBackend();
  using params = initLlama(backend, CONFIG, 3);
  const whole = await together(params, PROMPTS, { ...GREEDY, temperature: 1.5 });
  const stop = [whole[0][2], whole[2][9], whole[3][0]];
  const texts = await together(params, PROMPTS, { ...GREEDY, temperature: 1.5, stop });
  for (const [i, text] of whole.entries()) {
    const end = text.findIndex((token) => stop.includes(token));
    assert.deepEqual(texts[i], end < 0 ? text : text.slice(0, end));
  }
  const lengths = texts.map(({ length }) => length);
  assert.ok(lengths[3] === 0 && new Set(lengths).size >= 3, `${lengths}`);
});

Deno.test("generateBatch() makes a token of every text by one forward pass", async () => {
  using backend = loopsBackend();
  using params = initLlama(backend, CONFIG, 3);
  let passes = 0;
  const linear = (name: string, x: Tensor, plain: ParamsView) => {
    if (name === "lm_head") passes++;
    return plain.linear(name, x);
  };
  const view = params.decorated({ linear });
  const keyed = PROMPTS.map((ids) => ({ ids: ids.slice(0, 9), key: keyOf(1) }));
  const tokens = await Array.fromAsync(
    generateBatch({ backend, config: CONFIG, view: () => view }, keyed, { ...GREEDY, tokens: 12 }),
  );
  assert.deepEqual([tokens.length, passes], [4 * 12, 12]);
});

Deno.test("generateBatch() refuses an empty prompt", async () => {
  using params = initLlama(loopsBackend(), CONFIG, 3);
  await assert.rejects(() => together(params, [[1], []], GREEDY), /^RangeError: Cannot generate from an empty prompt$/);
});

Deno.test("generateTokens() takes the likeliest token of a bf16 model", async () => {
  using backend = loopsBackend();
  using params = initLlama(backend, CONFIG, 3, "bf16");
  const [token] = await alone(params, PROMPTS[0], { ...GREEDY, tokens: 1 });
  const last = (await takeHost(wholeLogits(params, PROMPTS[0]))).slice(-CONFIG.vocab_size);
  assert.equal(last[token], Math.max(...last));
});

function wholeLogits(params: Params, ids: readonly number[]): Tensor {
  using forward = scope("by hand");
  const tokens = fromArray(params.backend, Int32Array.from(ids), [1, ids.length]);
  return own(forward.keep(noGrad(() => llama(params, CONFIG, tokens))));
}
