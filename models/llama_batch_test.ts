/** LLaMA over rows of different lengths: padding in front that nobody sees, and rows that leave. */
import assert from "node:assert/strict";
import { loopsBackend } from "../backends/cpu/loops/mod.ts";
import { takeHost } from "../core/testing/inputs.ts";
import { KeyValueCache } from "./key_value_cache.ts";
import { initLlama } from "./llama.ts";
import { llamaRows, rowLogits, rowOf, ROWS_CONFIG } from "./testing/llama_rows.ts";

const { vocab_size: V } = ROWS_CONFIG;

llamaRows("loops", () => loopsBackend());
llamaRows("loops", () => loopsBackend(), { dtype: "bf16", tolerance: 3e-2 });

Deno.test("llama() scores the last position alone when asked", async () => {
  using backend = loopsBackend();
  using params = initLlama(backend, ROWS_CONFIG, 1);
  const rows = [rowOf(0, 7), rowOf(1, 7)];
  const all = await takeHost(rowLogits(params, rows));
  const last = await takeHost(rowLogits(params, rows, undefined, { last: true }));
  assert.deepEqual([...last], [...all.slice(6 * V, 7 * V), ...all.slice(13 * V)]);
});

Deno.test("llama() counts a row's positions without its padding", () => {
  using backend = loopsBackend();
  using params = initLlama(backend, ROWS_CONFIG, 1);
  using cache = new KeyValueCache(backend, 2, 20, { batch: 2, groups: 2, headSize: 6, padding: [2, 3] });
  rowLogits(params, [rowOf(0, 18), rowOf(1, 18)], cache).dispose();
  const message = "Cannot run llama(): 17 positions exceed max_position_embeddings 16";
  assert.throws(() => rowLogits(params, [[1], [2]], cache), { name: "RangeError", message });
});

Deno.test("KeyValueCache() refuses a padding that is not one number a row", () => {
  using backend = loopsBackend();
  for (const padding of [[1], [1, -1]]) {
    assert.throws(
      () => new KeyValueCache(backend, 2, 8, { batch: 2, groups: 2, headSize: 6, padding }),
      /^RangeError: Cannot pad a cache: each of 2 rows must have a number from 0: got \[1/,
    );
  }
});
