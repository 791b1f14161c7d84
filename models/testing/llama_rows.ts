/**
 * LLaMA over rows of different lengths against each row alone: prompts in parts, rows that end, and the tokens after them.
 * Any backend's test can register it.
 */
import assert from "node:assert/strict";
import { type Backend, fromArray, noGrad, own, type Params, scope, type Tensor } from "../../core/mod.ts";
import { assertRms } from "../../core/testing/golden.ts";
import { takeHost } from "../../core/testing/inputs.ts";
import { assertNoLeak } from "../../core/testing/leaks.ts";
import { registerTest } from "../../core/testing/register.ts";
import { KeyValueCache } from "../key_value_cache.ts";
import { initLlama, llama, type LlamaOptions } from "../llama.ts";
import { type LlamaConfig, makeLlamaConfig } from "../llama_config.ts";

const SIZES = {
  vocab_size: 40,
  hidden_size: 24,
  intermediate_size: 40,
  num_hidden_layers: 2,
  num_attention_heads: 4,
};

/** A configuration with grouped heads and enough spread for a wrong position to show. */
export const ROWS_CONFIG: LlamaConfig = makeLlamaConfig(SIZES, {
  num_key_value_heads: 2,
  max_position_embeddings: 16,
  initializer_range: 0.3,
});

const { vocab_size: V } = ROWS_CONFIG;

/** Tokens of a row, other ones in each. */
export function rowOf(row: number, length: number): number[] {
  return Array.from({ length }, (_, i) => (row * 7 + i * i + 3 * i + 1) % V);
}

/** Logits of rows of one length. */
export function rowLogits(
  params: Params,
  rows: readonly (readonly number[])[],
  cache?: KeyValueCache,
  options?: LlamaOptions,
): Tensor {
  using forward = scope("rows");
  const tokens = fromArray(params.backend, Int32Array.from(rows.flat()), [rows.length, rows[0].length]);
  return own(forward.keep(noGrad(() => llama(params, ROWS_CONFIG, tokens, cache, options))));
}

/** The logits of a row's last `count` tokens, by a forward pass of its own without a cache. */
async function alone(params: Params, ids: readonly number[], count: number): Promise<Float64Array> {
  const all = await takeHost(rowLogits(params, [ids]));
  return Float64Array.from(all.slice((ids.length - count) * V));
}

/** Registers the test. */
export function llamaRows(
  name: string,
  makeBackend: () => Backend | Promise<Backend>,
  { dtype = "f32" as "f32" | "bf16", tolerance = 5e-6, ignore = undefined as string | undefined } = {},
): void {
  const title = `${name} ${dtype}: llama() gives rows of different lengths the logits that each has alone`;
  registerTest(title, async () => {
    using backend = await makeBackend();
    using params = initLlama(backend, ROWS_CONFIG, 1, dtype);
    await assertNoLeak("a padded batch", backend, () => checkRows(params, tolerance));
  }, ignore);
}

async function checkRows(params: Params, tolerance: number): Promise<void> {
  const lengths = [3, 9, 1, 6];
  const rows = lengths.map((length, row) => rowOf(row, length));
  const longest = Math.max(...lengths);
  const padding = lengths.map((length) => longest - length);
  using cache = new KeyValueCache(params.backend, 2, 16, { batch: 4, groups: 2, headSize: 6, padding });
  const padded = rows.map((ids, i) => [...new Array<number>(padding[i]).fill(5), ...ids]);
  // the prompt in two parts: the first is padding alone in two rows, the second begins inside the padding of one
  const [first, rest] = [4, longest - 4];
  await takeHost(rowLogits(params, padded.map((ids) => ids.slice(0, first)), cache));
  const prompt = await takeHost(rowLogits(params, padded.map((ids) => ids.slice(first)), cache));
  for (const [row, ids] of rows.entries()) {
    const count = Math.min(ids.length, rest);
    const end = (row + 1) * rest * V;
    assertRms(`row ${row}`, prompt.slice(end - count * V, end), await alone(params, ids, count), { tolerance });
  }
  let going = [0, 1, 2, 3];
  for (const places of [[0, 1, 2, 3], [0, 1, 3], [2, 0], [1]]) {
    going = places.map((place) => going[place]);
    cache.keep(places);
    assert.equal(cache.batch, going.length);
    for (const row of going) rows[row].push((row * 5 + rows[row].length) % V);
    const next = await takeHost(rowLogits(params, going.map((row) => rows[row].slice(-1)), cache, { last: true }));
    for (const [place, row] of going.entries()) {
      const expected = await alone(params, rows[row], 1);
      assertRms(`row ${row} of ${going}`, next.slice(place * V, (place + 1) * V), expected, { tolerance });
    }
  }
}
